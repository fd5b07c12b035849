/**
 * The public options that the senders over HTTP share. No type of Deno or of the
 * DOM appears in them unless Node has it too, so that they compile everywhere
 * (`tests/types_test.ts`).
 */
import type { SendContext } from "../buffer.ts";
import type { SendError } from "./errors.ts";

/**
 * Describes a batch to a sender over HTTP. A `StreamBuffer` gives a whole
 * {@linkcode SendContext}; a caller without one needs no more than this.
 */
export type BatchContext =
  & Pick<SendContext, "sequence" | "offset" | "signal">
  & Partial<SendContext>;

/**
 * Names and values of headers: `Headers`, a record, or pairs, such as those of
 * a `Map`.
 */
export type RequestHeaders =
  | Headers
  | Readonly<Record<string, string>>
  | Iterable<readonly string[]>;

/** Deno's HTTP client, as `Deno.createHttpClient` returns it. */
export interface HttpClient {
  /** Closes its connections. */
  close(): void;
}

/** What a header function is called with: the attempt that needs headers. */
export interface SendAttempt {
  /** The sequence number of the batch. */
  readonly sequence: number;
  /** Position of the batch's first byte in the whole stream, in bytes. */
  readonly offset: number;
  /** 1 for the first attempt to deliver this batch. */
  readonly attempt: number;
  /** Why the previous attempt failed; `undefined` for the first one. */
  readonly failure: SendError | undefined;
  /** Aborted when `timeout` has passed for this attempt, or the buffer ends. */
  readonly signal: AbortSignal;
}

/** A function that returns the headers of an attempt, or a promise of them. */
export type HeaderFunction = (
  attempt: SendAttempt,
) => RequestHeaders | Promise<RequestHeaders>;

/** When a sender retries. */
export interface RetryOptions {
  /**
   * Upper bound of the delay before the second attempt, in milliseconds. The
   * bound doubles with each further failure, from one batch to the next, until
   * one is delivered; each delay is random between 0 and the bound ("full
   * jitter").
   *
   * @default {500}
   */
  initialDelay?: number;
  /**
   * Upper limit of that bound, in milliseconds.
   *
   * @default {30_000}
   */
  maxDelay?: number;
  /**
   * Maximum time for all attempts of one batch together, in milliseconds. `0`
   * makes one attempt, which `timeout` alone limits. `Infinity` never gives up:
   * writes then wait for as long as the server is away, instead of rejecting,
   * which is what a program needs that does not await them, such as a logger.
   *
   * It is measured by a monotonic clock, which setting the system's clock does not
   * affect. While the buffer is closing,
   * `closeTimeout` limits the attempts as well, and the delays are at most a
   * second.
   *
   * @default {120_000}
   */
  maxElapsed?: number;
  /**
   * Decides instead of the default, which is `retryable` of the failure, whether
   * a failed attempt is followed by another. By default these are: network
   * errors, timeouts, 302, 303, 307, 408, 425, 429, and 5xx except 501 and 505;
   * and, once per batch, 401 and 403 if `headers` is a function.
   */
  shouldRetry?: (failure: SendError) => boolean;
}

/** Options of every sender that makes HTTP requests. */
export interface RequestOptions {
  /**
   * The headers of each request, or a function that is called for each attempt. A
   * 401 or 403 is then retried once per batch, so that the function can get a
   * fresh token; its `failure` says why it is called again.
   *
   * If the function fails, so does the send; the `cause` is then a copy of its
   * error without the secrets known so far.
   *
   * `Content-Type` is `application/octet-stream` unless given here. Headers that
   * the sender sets itself replace those given here: `Content-Encoding` with
   * `compression`, `Idempotency-Key` unless `idempotencyKey` is `false`, those
   * of the tus protocol; and `Content-Length`, which the platform sets.
   *
   * @default {no headers}
   */
  headers?: RequestHeaders | HeaderFunction;
  /**
   * Called instead of the global `fetch`, with a new `Request` for each attempt,
   * and with the `client`, if there is one.
   *
   * @default {fetch}
   */
  fetch?: typeof fetch;
  /**
   * Deno only: certificates, proxy and connection pool, from
   * `Deno.createHttpClient`. The sender never closes it; close it after the
   * buffer.
   */
  client?: HttpClient;
}

/** Options of a sender that makes several attempts to deliver a batch. */
export interface AttemptOptions extends RequestOptions {
  /**
   * Maximum time for one attempt in milliseconds, including the header function
   * and the response's body.
   *
   * @default {30_000}
   */
  timeout?: number;
  /** When to retry. */
  retry?: RetryOptions;
  /**
   * Called for each failure that is retried, at most `delay` milliseconds before
   * that. What it throws is ignored.
   */
  onRetry?: (failure: SendError, delay: number) => void;
}
