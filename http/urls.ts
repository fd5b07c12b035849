/** Checks of the URL and the method that a sender is created with. */
import { check } from "../internal/checks.ts";

/**
 * The URL, parsed.
 *
 * @param action What cannot be done with an invalid one: "Cannot create X".
 * @throws {TypeError} If it is invalid, is not http(s), or has credentials. The
 *   message shows neither credentials nor query.
 */
export function checkUrl(action: string, url: string | URL): URL {
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

function mayCarryBody(method: string): boolean {
  try {
    new Request("http://localhost", { method, body: "" });
    return true;
  } catch {
    return false;
  }
}
