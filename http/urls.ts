/** Checks of the URL and the method that a sender is created with. */
import { check } from "../internal/checks.ts";

/**
 * Ports of other services, which `fetch` blocks, so that no page can talk to them
 * (https://fetch.spec.whatwg.org/#port-blocking).
 */
const BLOCKED_PORTS: ReadonlySet<string> = new Set(
  [
    "0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102",
    "103 104 109 110 111 113 115 117 119 123 135 137 139 143 161 179 389 427 465",
    "512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989 990 993",
    "995 1719 1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667",
    "6668 6669 6679 6697 10080",
  ].join(" ").split(" "),
);

/** What a method consists of (RFC 9110, section 5.6.2). */
const TOKEN = /^[!#$%&'*+.^_`|~\w-]+$/;
/** Methods that `fetch` sends no body with, or does not allow at all. */
const BODILESS_METHODS: ReadonlySet<string> = new Set(
  ["CONNECT", "GET", "HEAD", "TRACE", "TRACK"],
);

/** Whether the platform's `fetch` refuses to connect to the port of this URL. */
export function isBlocked({ port }: URL): boolean {
  return BLOCKED_PORTS.has(port);
}

/**
 * The URL, parsed.
 *
 * @param action What cannot be done with an invalid one: "Cannot create X".
 * @param blocksPorts Whether the platform's `fetch` makes the requests.
 * @throws {TypeError} If it is invalid, is not http(s), has credentials, or a port
 *   that `fetch` blocks. The message shows neither credentials nor query.
 */
export function checkUrl(
  action: string,
  url: string | URL,
  blocksPorts: boolean,
): URL {
  const text = String(url);
  // What precedes an @ may be a password, and what follows a ? a token. With a
  // ? before an @ it is impossible to tell where either of them ends.
  const shown = JSON.stringify(
    /[?#].*@/s.test(text)
      ? "***"
      : text.replace(/^.*@/s, "***@").replace(/[?#].*/s, ""),
  );
  if (!URL.canParse(text)) {
    throw new TypeError(
      `${action}: url must be an absolute URL, received ${shown}`,
    );
  }
  const parsed = new URL(text);
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") {
    throw new TypeError(
      `${action}: url must begin with http:// or https://, received ${shown}`,
    );
  }
  if (parsed.username !== "" || parsed.password !== "") {
    throw new TypeError(
      `${action}: url must not carry credentials, send them in headers; received ${shown}`,
    );
  }
  if (blocksPorts && isBlocked(parsed)) {
    throw new TypeError(
      `${action}: url must not use port ${parsed.port}, which fetch blocks; let the server listen on another one`,
    );
  }
  return parsed;
}

/**
 * Checks a method that is to carry a body.
 *
 * @throws {TypeError} If it is not a string.
 * @throws {RangeError} If `fetch` does not allow it, or not with a body.
 */
export function checkMethod(action: string, method: string): void {
  check(
    action,
    { method },
    "an HTTP method that may carry a body",
    "string",
    mayCarryBody,
  );
}

/** Not asked of `Request`: that of Bun takes any method, with a body or not. */
function mayCarryBody(method: string): boolean {
  return TOKEN.test(method) && !BODILESS_METHODS.has(method.toUpperCase());
}
