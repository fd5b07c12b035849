/** The progress line. */
import type { Job } from "./job.ts";

/**
 * A line on a terminal's standard error. Drawn by hand, because the libraries
 * for it make Deno ask for access to the environment.
 */
export function showProgress(
  { out, mode, start, size, quiet }: Job,
): { shown: boolean; stop: () => void } {
  if (quiet || !Deno.stderr.isTerminal()) {
    return { shown: false, stop: () => {} };
  }
  const begin = Date.now();
  const verb = mode === "upload" ? "handed over" : "acknowledged";
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  const draw = (text: string) =>
    Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
  const update = () => {
    const { bytesDelivered } = out.stats;
    const done = start + bytesDelivered;
    const rate = 1_000 * bytesDelivered / (Date.now() - begin || 1);
    const left = size !== undefined && rate > 0
      ? `, ${duration(Math.max(size - done, 0) / rate)} left`
      : "";
    draw(
      `${megabytes(done)} MB${
        size ? ` of ${megabytes(size)} MB` : ""
      } ${verb}, ${megabytes(rate)} MB/s${left}`,
    );
  };
  const timer = setInterval(update, 200);
  return {
    shown: true,
    stop: () => {
      clearInterval(timer);
      update();
      draw("");
    },
  };
}

/** So many seconds, as "59s", "59m 59s" or "100h 00m". */
function duration(seconds: number): string {
  const two = (number: number) => `${number}`.padStart(2, "0");
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60)];
  if (hours > 0) return `${hours}h ${two(minutes % 60)}m`;
  return minutes > 0 ? `${minutes}m ${two(whole % 60)}s` : `${whole}s`;
}
