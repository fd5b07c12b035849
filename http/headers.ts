/** Headers as given in the options, checked and copied. */
import type { RequestHeaders } from "./options.ts";

/**
 * A copy of `given`.
 *
 * @throws {TypeError} If it is not an object, or HTTP does not allow a name or
 *   a value. The message shows neither.
 */
export function toHeaders(given: RequestHeaders): Headers {
  if (typeof given !== "object" || given === null) {
    throw new TypeError(
      `Cannot use headers: they must be an object, received ${
        given === null ? "null" : `a ${typeof given}`
      }`,
    );
  }
  try {
    return new Headers(given as ConstructorParameters<typeof Headers>[0]);
  } catch {
    // The platform's own error repeats the value, which may be a secret.
    throw new TypeError(
      "Cannot use headers: they must be names and values that HTTP allows (is there a line break in one?)",
    );
  }
}
