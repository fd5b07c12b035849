/** Headers as the platform takes them. */

export function toHeaders(init: HeadersInit): Headers {
  if (typeof init !== "object" || init === null) {
    throw new TypeError(
      `Cannot use headers: they must be an object, received ${
        init === null ? "null" : `a ${typeof init}`
      }`,
    );
  }
  try {
    return new Headers(init);
  } catch {
    // The platform's own error repeats the value, which may be a secret.
    throw new TypeError(
      "Cannot use headers: they must be names and values that HTTP allows (is there a line break in one?)",
    );
  }
}
