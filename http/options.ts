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

/** A request, as a {@linkcode Transport} gets it. */
export interface TransportRequest {
  /** The method, in upper case unless the caller chose otherwise. */
  readonly method: string;
  /** Where to: http or https, without credentials. */
  readonly url: URL;
  /**
   * All headers, by their names in lower case, except those that frame the request,
   * which are the transport's: `host`, `content-length`, `transfer-encoding`. A
   * stream of known size has a `content-length` all the same.
   */
  readonly headers: Readonly<Record<string, string>>;
  /** The body; `undefined` if there is none. */
  readonly body:
    | Uint8Array<ArrayBuffer>
    | ReadableStream<Uint8Array<ArrayBuffer>>
    | undefined;
  /** Aborted when the response is no longer needed. */
  readonly signal: AbortSignal;
  /** Whether the request is to outlive its page, as with `keepalive` of `fetch`. */
  readonly keepalive?: boolean;
}

/** A response, as a {@linkcode Transport} returns it. Every `Response` is one. */
export interface TransportResponse {
  /** The status, of a redirect as of any other response. */
  readonly status: number;
  /** The headers of the response, of which only `get` is used. */
  readonly headers: Pick<Headers, "get">;
  /** The body; `null` if there is none, or it is empty. */
  readonly body: ReadableStream<Uint8Array> | null;
}

/**
 * How one request is made. Timeouts, retries, what an error says and what it must
 * not show are the same for every transport. A transport has to
 *
 * - **make one request**, and neither repeat it nor follow a redirect: what looks
 *   like one attempt must not reach the server twice;
 * - **reject, if there is no response**, with an error whose message says why.
 *   The request is then retried, unless the error's `name` is `"NotCapable"` (a
 *   permission is missing) or `"TransportClosed"`;
 * - **abort the request with `signal`**, so that the server cannot mistake what it
 *   has for the whole of it. The sender does not wait for that, and cancels a
 *   response that arrives later;
 * - **not read the bytes of `body` after its promise has rejected, or resolved to a
 *   2xx**: the store that holds them is filled again. After any other response, not
 *   once the body of that has ended or been cancelled. A server may respond before
 *   it has read the request, so a response does not imply that the bytes have been
 *   sent.
 *
 * One over a plain `fetch` repeats requests where `fetch` does, on Deno among others:
 * to log or count requests, wrap `undiciTransport()`, or give a `fetch` of your own.
 *
 * @example A transport that counts its requests
 * ```ts
 * import { streamTo, type Transport } from "@stream-buffer/stream-buffer";
 * import { undiciTransport } from "@stream-buffer/stream-buffer/undici";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = Deno.serve({ port: 0, onListen() {} }, () => new Response());
 * await using undici = undiciTransport();
 * let count = 0;
 * const transport: Transport = (request) => {
 *   count++;
 *   return undici(request);
 * };
 * const url = `http://localhost:${server.addr.port}/ingest`;
 * {
 *   await using out = streamTo(url, { transport });
 *   await out.write("hello\n");
 * }
 * assertEquals(count, 1);
 * ```
 *
 * @param request What to send, and where.
 * @returns A promise that resolves when the head of the response is there.
 */
export type Transport = (
  request: TransportRequest,
) => Promise<TransportResponse>;

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
   * How each request is made, instead of by `fetch`: for example by
   * `undiciTransport()` of `@stream-buffer/stream-buffer/undici`, which is faster.
   * The sender never closes it; close it after the buffer. It excludes `fetch` and
   * `client`.
   *
   * @default {by `fetch`}
   */
  transport?: Transport;
  /**
   * Deno only: certificates, proxy, connection pool and HTTP/2, from
   * `Deno.createHttpClient`. The sender never closes it; close it after the
   * buffer. `http2: false` makes it faster over HTTPS.
   *
   * @default {one with `http2: false` for `https:` URLs, that all senders share}
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
