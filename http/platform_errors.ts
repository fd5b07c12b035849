/**
 * Errors of transports that no retry helps against, recognised by name: the
 * classes of some are Deno's, and do not exist elsewhere.
 */
import { messageOf } from "../internal/checks.ts";

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

/**
 * Whether the server speaks no version of HTTP that the client speaks. That ends the
 * TLS handshake (RFC 7301, section 3.2), so the server has seen no request.
 */
export function isVersionRefused(error: unknown): boolean {
  return error instanceof Error &&
    [error, error.cause].some((link) =>
      messageOf(link).includes("received fatal alert: NoApplicationProtocol")
    );
}
