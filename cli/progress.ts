/**
 * The progress line on a terminal. It is drawn by hand, because libraries for that
 * read environment variables, for which Deno would require a permission.
 */
import { isatty } from "node:tty";
import type { StreamBuffer } from "../mod.ts";
import { stderr } from "./log.ts";
import type { Mode } from "./options.ts";
import type { SpoolFile } from "./spool_file.ts";

/** How often the line is drawn, in ms. */
const INTERVAL = 200;
/** Returns to the beginning of the line, and erases it. */
const ERASE = "\r\x1b[K";

/**
 * Draws the line on standard error, if that is a terminal and the command is not
 * quiet.
 *
 * @param isTerminal Whether standard error is a terminal.
 * @returns Whether the line is shown, and a function that erases it.
 */
export function showProgress(
  { out, mode, start, info, quiet, spool }: {
    readonly out: StreamBuffer;
    readonly mode: Mode;
    /** Where in the object `out` begins, in bytes. */
    readonly start: number;
    /** Has the size of the object in bytes, if it is known. */
    readonly info: { readonly size: number } | undefined;
    readonly quiet: boolean;
    readonly spool: Pick<SpoolFile, "progress"> | undefined;
  },
  isTerminal = isatty(2),
): { shown: boolean; stop: () => void } {
  if (quiet || !isTerminal) {
    return { shown: false, stop: () => {} };
  }
  const begin = performance.now();
  const rateOf = (bytes: number) =>
    1_000 * bytes / (performance.now() - begin || 1);
  const line = () => {
    if (spool !== undefined) {
      const { spooled, settled } = spool.progress;
      return spoolLine({ spooled, settled, rate: rateOf(settled) });
    }
    const { bytesDelivered } = out.stats;
    return progressLine({
      done: start + bytesDelivered,
      size: info?.size,
      rate: rateOf(bytesDelivered),
      // An upload in one request is acknowledged only as a whole.
      verb: mode === "upload" ? "handed over" : "acknowledged",
    });
  };
  const draw = () => stderr.write(ERASE + line());
  const timer = setInterval(() => {
    if (stderr.isIdle) draw();
  }, INTERVAL);
  return {
    shown: true,
    stop: () => {
      clearInterval(timer);
      draw();
      stderr.write(ERASE);
    },
  };
}

/** "1.0 MB of 2.5 MB acknowledged, 0.5 MB/s, 3s left"; `rate` is in bytes per second. */
export function progressLine(
  { done, size, rate, verb }: {
    readonly done: number;
    readonly size: number | undefined;
    readonly rate: number;
    readonly verb: string;
  },
): string {
  const total = size ? ` of ${megabytes(size)} MB` : "";
  const left = size !== undefined && rate > 0
    ? `, ${duration(Math.max(size - done, 0) / rate)} left`
    : "";
  return `${megabytes(done)} MB${total} ${verb}, ${
    megabytes(rate)
  } MB/s${left}`;
}

/** "2.0 MB spooled, 1.5 MB delivered, 0.5 MB/s"; `rate` is in bytes per second. */
export function spoolLine(
  { spooled, settled, rate }: {
    readonly spooled: number;
    readonly settled: number;
    readonly rate: number;
  },
): string {
  return `${megabytes(spooled)} MB spooled, ${
    megabytes(settled)
  } MB delivered, ${megabytes(rate)} MB/s`;
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** Seconds, rounded up, as "59s", "59m 59s" or "100h 00m". */
export function duration(seconds: number): string {
  const two = (number: number) => `${number}`.padStart(2, "0");
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60)];
  if (hours > 0) return `${hours}h ${two(minutes % 60)}m`;
  return minutes > 0 ? `${minutes}m ${two(whole % 60)}s` : `${whole}s`;
}
