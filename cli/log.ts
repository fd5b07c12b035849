/**
 * Reports to the user: messages go to standard error, after the command's name.
 * They begin in lower case and end without a period.
 */
export function log(message: string): void {
  console.error(`stream-buffer: ${message}`);
}
