/**
 * HTTP/1.1 for `https:` URLs on Deno, whose `fetch` prefers HTTP/2. That is slow:
 * it writes the head, the body and the end of a request separately, and Nagle's
 * algorithm (RFC 896), which Deno leaves on, holds the end of a write back until
 * the small packet before it has been acknowledged. So a request with a body takes
 * a round trip or two more, and 40 ms more if the acknowledgement is delayed. Flow
 * control adds a round trip for each 64 KiB, where the server leaves its window at
 * the default (RFC 9113, section 6.9.2). `docs/performance.md` has measurements.
 */
import type { HttpClient } from "./options.ts";

/**
 * What `fetch` makes requests with over HTTP/1.1; `undefined` except on Deno.
 * All senders share it, and no one closes it: a connection outlives the sender that
 * opened it, as it does in `fetch`, and keeps no process alive.
 *
 * Why not create it when it is first needed? That may be during a test, and
 * `deno test` would report it as a leak (`sanitizeResources`). It takes about a
 * millisecond and 100 KiB.
 */
export const HTTP1_CLIENT: HttpClient | undefined = createHttp1Client();

function createHttp1Client(): HttpClient | undefined {
  try {
    return globalThis.Deno?.createHttpClient?.({ http2: false });
  } catch {
    return undefined; // bad certificates in the environment: `fetch` reports them
  }
}
