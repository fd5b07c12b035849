/**
 * What the caller can do about a failure, for the end of its message. A sender
 * that knows better gives its own advice to `ServerResponse.toError`.
 */
import {
  isClosedClient,
  isClosedTransport,
  isVersionRefused,
} from "./platform_errors.ts";

/** Advice on a response with this status; empty if there is none. */
export function adviceForStatus(status: number): string {
  if (status === 413) return "; make `capacity` smaller";
  if (status === 401 || status === 403) {
    return "; check the credentials in `headers`";
  }
  // Browsers hide a redirect behind status 0.
  return [0, 301, 302, 303, 307, 308].includes(status)
    ? "; redirects are not followed, so give the final URL"
    : "";
}

/** Advice on what a transport threw; empty if there is none. */
export function adviceForCause(cause: unknown): string {
  if (isClosedClient(cause)) return "; is the `client` closed?";
  if (isVersionRefused(cause)) {
    return "; give a `client` that speaks the server's version of HTTP, and no `transport`";
  }
  return isClosedTransport(cause) ? "; is the `transport` closed?" : "";
}
