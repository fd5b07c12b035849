/** Keeps secrets out of errors. */
import { messageOf } from "../internal/checks.ts";
import { isPermissionError } from "./permissions.ts";

/** A shorter word is no secret, and too common to be hidden. */
const MIN_SECRET = 6;
/** So much of a longer one is hidden, too: a server may repeat a piece of it. */
const MAX_PIECE = 8;
/** Headers whose values no error needs to hide. */
export const PUBLIC_HEADERS = new Set([
  "content-encoding",
  "content-type",
  "idempotency-key",
]);

/**
 * `text` on one line, and with `***` in place of whatever it has in common with
 * a secret, in whatever case.
 */
export function redact(text: string, secrets: Set<string>): string {
  const pieces = new Set<string>();
  for (const secret of secrets) {
    const line = lowerCase(onOneLine(secret));
    for (const word of [line, ...line.split(/[ ,;:=&]+/)]) {
      const size = Math.min(word.length, MAX_PIECE);
      for (let i = 0; size >= MIN_SECRET && i + size <= word.length; i++) {
        pieces.add(word.slice(i, i + size));
      }
    }
  }
  const line = onOneLine(text);
  const lower = lowerCase(line);
  let shown = "";
  let hidden = 0; // up to here
  for (let i = 0; i < line.length; i++) {
    for (let size = MIN_SECRET; size <= MAX_PIECE; size++) {
      if (!pieces.has(lower.slice(i, i + size))) continue;
      if (i > hidden || hidden === 0) shown += `${line.slice(hidden, i)}***`;
      hidden = Math.max(hidden, i + size);
    }
  }
  return shown + line.slice(hidden);
}

/** Of ASCII, which leaves each character in its place. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

function onOneLine(text: string): string {
  return text.replace(/[\p{Cc}\s]+/gu, " ").trim();
}

/**
 * What `fetch` or a header function threw, in an error of our own: its message,
 * those of its causes and where it comes from, without URL queries, which
 * `fetch` repeats, and without the secrets.
 */
export function redactError(error: unknown, secrets: Set<string>): Error {
  if (isPermissionError(error)) return error;
  // The secrets first: a query that is cut at its ")" is none of them any more.
  const clean = (text: string) =>
    redact(text, secrets).replace(/\b(\w+:\/\/[^\s?#]*)[?#][^\s)]*/g, "$1");
  const messages = [messageOf(error)];
  for (
    let link = error;
    link instanceof Error && link.cause !== undefined && messages.length < 5;
    link = link.cause
  ) messages.push(messageOf(link.cause));
  const cause = new Error(clean(messages.join(": ")));
  if (error instanceof Error) {
    cause.name = error.name;
    const frames = String(error.stack).match(/^ +at .*/gm) ?? [];
    cause.stack = [`${cause}`, ...frames.map((line) => `    ${clean(line)}`)]
      .join("\n");
  }
  return cause;
}
