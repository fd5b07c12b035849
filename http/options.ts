/** What the callers of the senders over HTTP can choose. */
import type { SendError } from "./errors.ts";

/** What a header function is told about the request that it is called for. */
export interface SendAttempt {
  /** The sequence number of the flush. */
  readonly sequence: number;
  /** Position of the flush's first byte in the whole stream, in bytes. */
  readonly offset: number;
  /** 1 for the first attempt to deliver this flush. */
  readonly attempt: number;
  /** Why the attempt before this one failed; `undefined` at the first. */
  readonly failure: SendError | undefined;
  /** Aborted when the attempt's `timeout` has passed, or the buffer ends. */
  readonly signal: AbortSignal;
}

/** When a sender tries again. */
export interface RetryOptions {
  /**
   * Upper bound of the delay before the second attempt, in milliseconds. It
   * doubles at each further one, and the delay is random below it ("full
   * jitter").
   *
   * @default {500}
   */
  initialDelay?: number;
  /**
   * Where that bound stops growing, in milliseconds.
   *
   * @default {30_000}
   */
  maxDelay?: number;
  /**
   * The longest time for all attempts of one flush together, in milliseconds.
   * `0`: one attempt, for as long as `timeout` allows.
   *
   * @default {120_000}
   */
  maxElapsed?: number;
  /**
   * Decides in place of the default, which is: network errors, timeouts, 408,
   * 425, 429, and 5xx but 501 and 505; and, once a flush, 401 and 403 when
   * `headers` is a function.
   */
  shouldRetry?: (failure: SendError) => boolean;
}

export type HeaderFunction = (
  attempt: SendAttempt,
) => HeadersInit | Promise<HeadersInit>;

/** Options of every sender that makes HTTP requests. */
export interface RequestOptions {
  /**
   * Headers of each request, or a function that is called for each attempt, and
   * once more with `failure` set after a 401 or 403, to get a fresh token.
   * If the function fails, so does the flush; the `cause` is then a copy of its
   * error without the secrets that are known. `Content-Type` is
   * `application/octet-stream` unless given here.
   */
  headers?:
    | HeadersInit
    | ((attempt: SendAttempt) => HeadersInit | Promise<HeadersInit>);
  /**
   * The longest time for one attempt in milliseconds, header function and reply
   * included.
   *
   * @default {30_000}
   */
  timeout?: number;
  /** When to try again. */
  retry?: RetryOptions;
  /**
   * Called in place of the global `fetch`, with a `Request` of its own for each
   * attempt, and with the `client`, if there is one.
   *
   * @default {fetch}
   */
  fetch?: typeof fetch;
  /**
   * Deno only: certificates, proxy and connection pool. It stays the caller's,
   * who closes it, after the buffer.
   */
  client?: Deno.HttpClient;
  /** Told of each failure that is followed by another attempt, `delay` ms later. */
  onRetry?: (failure: SendError, delay: number) => void;
}
