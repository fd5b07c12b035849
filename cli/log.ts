/**
 * What the command reports: messages on standard error, each under its name.
 * They begin in lower case and end without a period.
 */
export function log(message: string): void {
  console.error(`stream-buffer: ${message}`);
}
