/** Where a request may go, and with which method. */
import { check } from "../internal/checks.ts";

/**
 * A URL that requests may go to.
 */
export function checkUrl(action: string, url: string | URL): URL {
  const text = String(url);
  // What is before an @ may be a password, and what is after a ? a token; with
  // a ? before an @ nobody can tell where either of them ends.
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
 * Refuses a method that may not carry a body.
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
