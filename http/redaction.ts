/**
 * Keeps secrets out of errors.
 *
 * Messages end up in logs, and they contain what others wrote: a server repeats
 * a token that it rejects, `fetch` repeats the URL with its query. Which part of
 * that is secret cannot be known, so all of the query and of the headers counts
 * as secret, except a few headers. A server may repeat a secret in another case,
 * decoded, or in part. Therefore not only whole secrets are hidden, but whatever
 * a text has in common with one, if that is too long to be a coincidence.
 */
import { messageOf } from "../internal/checks.ts";
import { isPermissionError } from "./platform_errors.ts";

/** Secrets sent by the attempts of one delivery. */
export type Secrets = Set<string>;

/** A shorter word is assumed to be no secret: hiding it would garble messages. */
const MIN_SECRET = 6;
/** Of a longer word, any piece of this length is hidden too. */
const MAX_PIECE = 8;
/**
 * How many secrets a delivery remembers. A header function may return new ones for
 * each of its attempts, and there is no limit to their number.
 */
const MAX_SECRETS = 100;
/** How many messages of a chain of causes are shown: it may be circular. */
const MAX_MESSAGES = 5;
/** Headers whose values no error needs to hide. */
const PUBLIC_HEADERS = new Set([
  "content-encoding",
  "content-type",
  "idempotency-key",
]);

/** Adds the query of a URL, as it was sent and decoded. */
export function addSecretsOfUrl(secrets: Secrets, url: URL): void {
  remember(secrets, url.search.slice(1));
  url.searchParams.forEach((value) => remember(secrets, value));
}

/** Adds the values of headers, which are given by their names in lower case. */
export function addSecretsOfHeaders(
  secrets: Secrets,
  headers: Readonly<Record<string, string>>,
): void {
  for (const [name, value] of Object.entries(headers)) {
    if (!PUBLIC_HEADERS.has(name)) remember(secrets, value);
  }
}

/** Adds all of `others`. */
export function addSecrets(secrets: Secrets, others: Secrets): void {
  for (const secret of others) remember(secrets, secret);
}

/** Adds a secret, and forgets the one that was used least recently if there are too many. */
function remember(secrets: Secrets, secret: string): void {
  secrets.delete(secret);
  secrets.add(secret);
  if (secrets.size <= MAX_SECRETS) return;
  const [oldest] = secrets;
  secrets.delete(oldest!);
}

/**
 * `text` on one line, with `***` in place of whatever it has in common with a
 * secret, in any case.
 */
export function redact(text: string, secrets: Secrets): string {
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

/** Of ASCII only, which leaves each character at its position. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

function onOneLine(text: string): string {
  return text.replace(/[\p{Cc}\s]+/gu, " ").trim();
}

/**
 * A copy of what `fetch` or a header function threw: its message, those of its
 * causes and its stack, without secrets and without the queries of URLs, which
 * `fetch` repeats. A permission error is returned as it is: callers look for
 * its class, and it names only a host.
 */
export function redactError(error: unknown, secrets: Secrets): Error {
  if (isPermissionError(error)) return error;
  // The secrets first: a query that was cut at its ")" no longer equals one.
  const clean = (text: string) =>
    redact(text, secrets).replace(/\b(\w+:\/\/[^\s?#]*)[?#][^\s)]*/g, "$1");
  const messages = [messageOf(error)];
  for (
    let link = error;
    link instanceof Error && link.cause !== undefined &&
    messages.length < MAX_MESSAGES;
    link = link.cause
  ) messages.push(messageOf(link.cause));
  const copy = new Error(clean(messages.join(": ")));
  if (error instanceof Error) {
    copy.name = error.name;
    const frames = String(error.stack).match(/^ +at .*/gm) ?? [];
    copy.stack = [`${copy}`, ...frames.map((line) => `    ${clean(line)}`)]
      .join("\n");
  }
  return copy;
}
