/**
 * Errors of `fetch` that no retry helps against, recognised by name: their
 * classes are Deno's, and do not exist elsewhere.
 */

/** Whether a permission was not granted. */
export function isPermissionError(error: unknown): error is Error {
  return error instanceof Error && error.name === "NotCapable";
}

/** Whether the `client` had been closed. */
export function isClosedClient(error: unknown): boolean {
  return error instanceof Error && error.name === "BadResource";
}
