/**
 * Records whose bytes follow from their number, so that whoever finds one knows
 * which it is, and whether it is whole.
 */

/** The shortest record limit: every record has room for its numbers. */
export const MIN_RECORD_LIMIT = 64;

/**
 * A record of one run of a program.
 *
 * @param run The number of the run.
 * @param number The number of the record in that run, from 0 on.
 * @param limit Its size in bytes at most.
 */
export function record(run: number, number: number, limit: number): string {
  const name = `${run}:${number}:`;
  // Most are short; each seventh is as long as that is allowed.
  const size = number % 7 === 0
    ? limit
    : Math.min(limit, MIN_RECORD_LIMIT + (number * 37) % 200);
  return `${name.padEnd(size - 1, String.fromCharCode(97 + number % 26))}\n`;
}

/** The numbers of the record that a line begins with. */
export function numbersOf(line: string): { run: number; number: number } {
  const [run, number] = line.split(":", 2).map(Number);
  return { run: run!, number: number! };
}
