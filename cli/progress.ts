/**
 * The progress line on a terminal. It is drawn by hand, because libraries for that
 * read environment variables, for which Deno would require a permission.
 */
import type { StreamBuffer } from "../mod.ts";
import { stderr } from "./log.ts";
import type { Mode } from "./options.ts";

/** How often the line is drawn, in ms. */
const INTERVAL = 200;
/** Returns to the beginning of the line, and erases it. */
const ERASE = "\r\x1b[K";

/**
 * Draws the line on standard error, if that is a terminal and the command is not
 * quiet.
 *
 * @returns Whether the line is shown, and a function that erases it.
 */
export function showProgress(
  { out, mode, start, info, quiet }: {
    readonly out: StreamBuffer;
    readonly mode: Mode;
    /** Where in the object `out` begins, in bytes. */
    readonly start: number;
    /** Has the size of the object in bytes, if it is known. */
    readonly info: { readonly size: number } | undefined;
    readonly quiet: boolean;
  },
): { shown: boolean; stop: () => void } {
  if (quiet || !Deno.stderr.isTerminal()) {
    return { shown: false, stop: () => {} };
  }
  const begin = performance.now();
  const draw = () => {
    const { bytesDelivered } = out.stats;
    stderr.write(
      ERASE + progressLine({
        done: start + bytesDelivered,
        size: info?.size,
        rate: 1_000 * bytesDelivered / (performance.now() - begin || 1),
        // An upload in one request is acknowledged only as a whole.
        verb: mode === "upload" ? "handed over" : "acknowledged",
      }),
    );
  };
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
