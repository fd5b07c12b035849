/** What the command says, on standard error. */

const NAME = "stream-buffer";

export function say(text: string): void {
  console.error(`${NAME}: ${text}`);
}
