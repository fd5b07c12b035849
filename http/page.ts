/** Requests that outlive the page that makes them, and when to make the last ones. */
import type { StreamBuffer } from "../buffer.ts";
import { check, show } from "../internal/checks.ts";

const ACTION = "Cannot flush on hide";

/** What is used of a `Document`. Not every platform has that type. */
interface Page extends EventTarget {
  readonly visibilityState: string;
}

/**
 * How many bytes a page may have in flight in the bodies of requests that outlive
 * it. `fetch` refuses a request beyond that as if the network had failed (Fetch
 * standard, "HTTP-network-or-cache fetch": 64 kibibytes).
 */
export const MAX_KEEPALIVE_BYTES = 65_536;

/**
 * How many of them are in flight, of all senders: the limit is that of the page. What
 * other code of the page has in flight is unknown.
 */
let bytesInFlight = 0;

/**
 * Whether `keepalive` of `fetch` does what it promises, or need not: without a page
 * there is nothing that requests have to outlive.
 */
export function canOutlivePage(): boolean {
  return !("document" in globalThis) || "keepalive" in Request.prototype;
}

/**
 * Runs `work`, which makes a request with a body of `size` bytes.
 *
 * @param work Is told whether the request can outlive the page: whether its body is
 *   within the limit, together with the others.
 */
export async function withinKeepalive<T>(
  size: number,
  work: (keepalive: boolean) => Promise<T>,
): Promise<T> {
  if (bytesInFlight + size > MAX_KEEPALIVE_BYTES) return await work(false);
  bytesInFlight += size;
  try {
    return await work(true);
  } finally {
    bytesInFlight -= size;
  }
}

/** Options of {@linkcode flushOnHide}. */
export interface FlushOnHideOptions {
  /**
   * Stops this when aborted: abort it when you close the buffer of a page that stays
   * open.
   *
   * @default {none: it ends with the page}
   */
  signal?: AbortSignal;
}

/**
 * Sends what a buffer holds whenever its page is hidden: when the visitor leaves it,
 * closes it, or turns to another tab, after which a browser may end the page without
 * notice. It calls {@linkcode StreamBuffer.sendNow} at each `visibilitychange` to
 * hidden and each `pagehide`
 * ({@link https://html.spec.whatwg.org/multipage/document-lifecycle.html#unloading-documents | HTML, "Unloading documents"}).
 *
 * Requests end with their page, unless the sender has `keepalive`. Browsers allow
 * 64 KiB of those in flight, which the batches in flight and the store do not exceed
 * with the default `capacity` of `streamTo` for `keepalive`. Writes that still wait for
 * room, and what the server refuses, are lost with the page. If the visitor comes back
 * to it, the buffer still holds what was not acknowledged, and sends it.
 *
 * No code of the page runs after its last event. So a header function that waits for a
 * timer or the network is too late, and so is a retry.
 *
 * @example Usage
 * ```ts ignore
 * import { flushOnHide, streamTo } from "@stream-buffer/stream-buffer";
 *
 * const out = streamTo("https://example.com/ingest", { keepalive: true });
 * flushOnHide(out);
 * addEventListener("click", ({ timeStamp }) => {
 *   out.write(JSON.stringify({ timeStamp }) + "\n");
 * });
 * ```
 *
 * @param out The buffer.
 * @param options Options.
 * @throws {TypeError} If an argument has the wrong type, or there is no page: in a
 *   worker, or outside of browsers.
 */
export function flushOnHide(
  out: StreamBuffer,
  options: FlushOnHideOptions = {},
): void {
  if (typeof out?.sendNow !== "function") {
    throw new TypeError(
      `${ACTION}: out must be a StreamBuffer, received ${show(out)}`,
    );
  }
  check(ACTION, { options }, "an object", "object");
  const { signal } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError(
      `${ACTION}: signal must be an AbortSignal, received ${show(signal)}`,
    );
  }
  const { document } = globalThis as { document?: Page };
  if (document === undefined) {
    throw new TypeError(
      `${ACTION}: there is no page here that could be hidden; call close() when the program ends`,
    );
  }
  const send = () => out.sendNow();
  const sendIfHidden = () => {
    if (document.visibilityState === "hidden") send();
  };
  const listening = signal && { signal };
  document.addEventListener("visibilitychange", sendIfHidden, listening);
  // It comes first when a page is left; and where it does not, it does no harm.
  globalThis.addEventListener("pagehide", send, listening);
}
