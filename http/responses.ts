/**
 * A response as senders see it, and how its body is read.
 *
 * The status alone decides whether a request succeeded. The body is read for
 * two reasons: the connection can be reused only after that, and an error shows
 * its beginning. Neither needs all of it, and a faulty server may send a body
 * without end, or stop in the middle: so reading is bounded in size and in time.
 */
import { show } from "../internal/checks.ts";
import type { SendError } from "./errors.ts";
import type { TransportResponse } from "./options.ts";

/**
 * How much of a body is read, in bytes. A longer one is cancelled, which costs
 * a new connection.
 */
const MAX_BODY_SIZE = 64 * 1024;
/**
 * How much more of the body of a 2xx is read, in bytes per byte of the request. A
 * server may respond with what it receives, while it receives that. Closing the
 * connection would then take the rest of the request from it, although it has been
 * sent. Twice its size leaves room for an encoding such as Base64.
 */
const ECHO_FACTOR = 2;
/** How long reading a body may take, in milliseconds. */
const MAX_BODY_TIME = 5_000;

/** A response whose body has been read. */
export interface ServerResponse {
  /** Whether the status is a 2xx. */
  readonly ok: boolean;
  readonly status: number;
  readonly headers: Pick<Headers, "get">;
  /**
   * The error to fail with.
   *
   * @param advice What follows the status in its message: by default what the
   *   caller can do about such a status.
   */
  toError(advice?: string): SendError;
}

/** Whether a response with this status acknowledges the request. */
export function isSuccess(status: number): boolean {
  return status >= 200 && status <= 299;
}

/**
 * Checks what a transport has returned. It may be the caller's own, and a mistake in
 * it must not pass for a delivery.
 *
 * @throws {TypeError} If it is not a response.
 */
export function checkResponse(response: TransportResponse): void {
  const problem = problemOf(response);
  if (problem !== undefined) {
    throw new TypeError(
      `transport must return a promise of a response: ${problem}`,
    );
  }
}

function problemOf(response: TransportResponse): string | undefined {
  if (typeof response !== "object" || response === null) {
    return `received ${show(response)}`;
  }
  const { status, headers, body } = response;
  if (!Number.isInteger(status)) {
    return `status must be an integer, received ${show(status)}`;
  }
  if (typeof headers?.get !== "function") {
    return `headers must have a method "get", received ${show(headers)}`;
  }
  if (body !== null && typeof body?.getReader !== "function") {
    return `body must be a ReadableStream or null, received ${show(body)}`;
  }
}

/**
 * Reads a body to its end or to a bound. It never throws: a 2xx whose body is
 * broken is a delivery all the same.
 *
 * @param requestSize The size of the request's body in bytes, 0 if it is unknown.
 * @param signal Ends the reading: a transport may not obey it.
 * @returns The beginning of what was read, as text.
 */
export async function readText(
  { status, body }: TransportResponse,
  requestSize: number,
  signal: AbortSignal,
): Promise<string> {
  // A `fetch` given by the caller may have read it already.
  if (body === null || body.locked) return "";
  const reader = body.getReader();
  const cancel = () => reader.cancel().catch(() => {});
  const timer = setTimeout(cancel, MAX_BODY_TIME);
  signal.addEventListener("abort", cancel);
  const decoder = new TextDecoder();
  const maxSize = MAX_BODY_SIZE +
    (isSuccess(status) ? ECHO_FACTOR * requestSize : 0);
  let text = "";
  try {
    for (let size = 0; size < maxSize;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (size < MAX_BODY_SIZE) text += decoder.decode(value, { stream: true });
      size += value.length;
    }
  } catch {
    // Reset, cut short, or out of time.
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", cancel);
    void cancel(); // it may hang, and nothing depends on it
  }
  return text;
}
