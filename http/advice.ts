/** What the caller can do about a failure. */

/** Deno's error for an `HttpClient` that has been closed. */
export function isClosedClient(error: unknown): boolean {
  return error instanceof Error && error.name === "BadResource";
}

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
