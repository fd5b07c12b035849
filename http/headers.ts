/** Headers as given in the options, checked and copied. */
import type { RequestHeaders } from "./options.ts";

/**
 * A copy of `given`.
 *
 * @throws {TypeError} If it is not an object, or HTTP does not allow a name or
 *   a value. The message never shows a value, which may be a secret.
 */
export function toHeaders(given: RequestHeaders): Headers {
  if (typeof given !== "object" || given === null) {
    // Not `show()`: a string may be a secret, too.
    const kind = given === undefined || given === null
      ? given
      : `a ${typeof given}`;
    throw new TypeError(
      `Cannot use headers: they must be an object, received ${kind}`,
    );
  }
  let entries: [string, string][] = [];
  try {
    // Once: it may be an iterator, which cannot be read again.
    entries = Symbol.iterator in given
      ? [...given] as [string, string][]
      : Object.entries(given);
    return new Headers(entries);
  } catch {
    // The platform's own error repeats the value.
    throw new TypeError(`Cannot use headers: ${problemOf(entries)}`);
  }
}

/** Headers as a record, by their names in lower case. */
export function toRecord(headers: Headers): Record<string, string> {
  const record = Object.fromEntries(headers);
  // The size of the body, and nothing else, is what the request is framed by.
  delete record["content-length"];
  return record;
}

function problemOf(entries: readonly [string, string][]): string {
  for (const entry of entries) {
    if (!Array.isArray(entry) || entry.length !== 2) break;
    const [name] = entry;
    if (!isAllowed([name, ""])) {
      return "a name is invalid (use letters, digits and hyphens)";
    }
    if (!isAllowed(entry)) {
      return `the value of ${
        JSON.stringify(name)
      } is invalid (it must be Latin-1 without line breaks)`;
    }
  }
  return "they must be a record, or pairs of a name and a value";
}

function isAllowed(entry: [string, string]): boolean {
  try {
    new Headers([entry]);
    return true;
  } catch {
    return false;
  }
}
