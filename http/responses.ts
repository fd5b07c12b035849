/** What a server answers, read to a bound. */
import type { SendError } from "./errors.ts";

/**
 * How much of a reply is read, in bytes, so that its connection can be used
 * again; a longer one is cancelled, which costs a new connection.
 */
const MAX_RESPONSE_SIZE = 64 * 1024;
/** How long a reply may take, in ms, once its status is known. */
const MAX_RESPONSE_TIME = 5_000;

/**
 * What the server answered; the reply has been read.
 */
export interface ServerResponse {
  readonly ok: boolean;
  readonly status: number;
  readonly headers: Headers;
  /** The error to fail with, and what the caller can do about it. */
  toError(advice?: string): SendError;
}

/**
 * Reads a reply to its end or to a bound, which frees its connection. Whatever
 * becomes of it, the status stands: a 2xx with a broken reply is a delivery.
 */
export async function readText({ body }: Response): Promise<string> {
  // A `fetch` of the caller's may have read it already.
  if (body === null || body.locked) return "";
  const reader = body.getReader();
  const cancel = () => reader.cancel().catch(() => {});
  const timer = setTimeout(cancel, MAX_RESPONSE_TIME);
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (let size = 0; size < MAX_RESPONSE_SIZE;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      text += decoder.decode(value, { stream: true });
    }
  } catch {
    // Reset, cut short, or out of time.
  } finally {
    clearTimeout(timer);
    void cancel(); // it may hang, and nothing depends on it
  }
  return text;
}
