/**
 * Errors of transports that no retry helps against, recognised by name: the
 * classes of some are Deno's, and do not exist elsewhere.
 */

/** Whether a permission was not granted. */
export function isPermissionError(error: unknown): error is Error {
  return error instanceof Error && error.name === "NotCapable";
}

/** Whether the `client` had been closed. */
export function isClosedClient(error: unknown): boolean {
  return error instanceof Error && error.name === "BadResource";
}

/** Whether the `transport` had been closed. */
export function isClosedTransport(error: unknown): boolean {
  return error instanceof Error && error.name === "TransportClosed";
}
