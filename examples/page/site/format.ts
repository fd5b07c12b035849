/** Numbers, as the page shows them. */

const COUNT = new Intl.NumberFormat("en");

/** "12,345". */
export function formatCount(count: number): string {
  return COUNT.format(Math.round(count));
}

/** "812 B", "32.0 KiB", "1.23 MiB": at least three digits. */
export function formatBytes(bytes: number): string {
  if (bytes < 1_000) return `${Math.round(bytes)} B`;
  let value = bytes;
  let unit = "";
  for (unit of ["KiB", "MiB", "GiB"]) {
    value /= 1_024;
    if (value < 999.5) break;
  }
  return `${value.toPrecision(3)} ${unit}`;
}

/** "32 KiB": a round number of bytes. */
export function formatSize(bytes: number): string {
  return formatBytes(bytes).replace(/\.0+ /, " ");
}

/** "1 request", "2 requests". */
export function countOf(count: number, noun: string, plural = `${noun}s`) {
  return `${formatCount(count)} ${count === 1 ? noun : plural}`;
}

/** "0.4 s". */
export function formatSeconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}
