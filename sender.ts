/**
 * {@linkcode FetchSender}: one HTTP request per batch, with retry, timeout,
 * compression and an idempotency key; and {@linkcode streamTo}, which puts it
 * behind a {@linkcode StreamBuffer}.
 *
 * @example Usage
 * ```ts
 * import { streamTo } from "@stream-buffer/stream-buffer/sender";
 * import { assertEquals } from "@std/assert";
 *
 * let received = "";
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   received += await request.text();
 *   return new Response();
 * });
 * {
 *   await using out = streamTo(`http://localhost:${server.addr.port}/ingest`);
 *   for (let line = 1; line <= 3; line++) await out.write(`line ${line}\n`);
 * }
 * assertEquals(received, "line 1\nline 2\nline 3\n");
 * ```
 *
 * @module
 */
import {
  type Sender,
  StreamBuffer,
  type StreamBufferOptions,
} from "./buffer.ts";
import { SendError } from "./http/errors.ts";
import type {
  AttemptOptions,
  BatchContext,
  SendAttempt,
} from "./http/options.ts";
import {
  canOutlivePage,
  MAX_KEEPALIVE_BYTES,
  withinKeepalive,
} from "./http/page.ts";
import { Requests } from "./http/requests.ts";
import { RetryLoop } from "./http/retry.ts";
import { checkMethod } from "./http/urls.ts";
import { check, show } from "./internal/checks.ts";
import { randomUuid } from "./internal/random.ts";

export * from "./buffer.ts";
export { SendError, type SendErrorOptions } from "./http/errors.ts";
export { flushOnHide, type FlushOnHideOptions } from "./http/page.ts";
export type {
  AttemptOptions,
  BatchContext,
  HeaderFunction,
  HttpClient,
  RequestHeaders,
  RequestOptions,
  RetryOptions,
  SendAttempt,
  Transport,
  TransportRequest,
  TransportResponse,
} from "./http/options.ts";

const ACTION = "Cannot create FetchSender";

/** `Content-Encoding` of each format (RFC 9110, section 8.4.1; RFC 7932). */
const CONTENT_CODINGS: ReadonlyMap<string, string> = new Map([
  ["gzip", "gzip"],
  ["deflate", "deflate"],
  ["brotli", "br"],
]);

/**
 * The formats that a {@linkcode FetchSender} can compress in: those of
 * `CompressionStream` that HTTP knows. Not every platform has `"brotli"`.
 */
export type Compression = "gzip" | "deflate" | "brotli";

/** Options of a {@linkcode FetchSender}. */
export interface FetchSenderOptions extends AttemptOptions {
  /**
   * The request method; any that may carry a body.
   *
   * @default {"POST"}
   */
  method?: string;
  /**
   * Compresses each batch on its own, and sets `Content-Encoding`: `"gzip"`,
   * `"deflate"` or, where the platform has it, `"brotli"`. A format that the
   * platform lacks is a `TypeError`.
   *
   * @default {undefined}
   */
  compression?: Compression;
  /**
   * The stream's part of the `Idempotency-Key` header, which is this and the
   * batch's sequence number, as a structured field string: `"<this>-0"`,
   * `"<this>-1"`, …. Printable ASCII without `"` and `\`. No two streams may
   * have the same. `false` sends no key.
   *
   * See {@link https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ | the IETF draft}.
   *
   * @default {a random UUID}
   */
  idempotencyKey?: string | false;
  /**
   * Browsers only: lets requests outlive their page, so that one in flight still
   * arrives when the visitor leaves. {@linkcode flushOnHide} sends the rest then.
   * Outside of pages it has no effect.
   *
   * A page may have 64 KiB in flight in such requests, those of other code included
   * ({@link https://fetch.spec.whatwg.org/#http-network-or-cache-fetch | Fetch standard}).
   * A batch for which there is no room is sent in an ordinary request. So the default
   * `capacity` of `streamTo` is 64 KiB / (1 + `concurrency`) then: the store and all
   * sends in flight fit. It excludes `compression`, which takes longer than a page
   * that is left has.
   *
   * @default {false}
   */
  keepalive?: boolean;
}

/**
 * Delivers each batch of one {@linkcode StreamBuffer} in one HTTP request.
 *
 * - **A 2xx is a delivery. Nothing else is.** Redirects are not followed:
 *   `fetch` would turn a POST that meets a 302 into an empty GET and report 200.
 * - **At least once.** A request whose response was lost is sent again, with
 *   the same bytes and the same `Idempotency-Key`. An attempt that timed out
 *   may even arrive after later batches. A server that ignores requests whose
 *   key it has seen makes it exactly once, and in order.
 * - **Retry** with exponential backoff and full jitter, for at most `maxElapsed`.
 *   Until a `Retry-After` has passed no request is made by any send; a send
 *   that cannot wait for so long fails at once.
 * - **No secrets in errors**: see {@linkcode SendError}.
 *
 * @example Usage
 * ```ts
 * import { FetchSender, StreamBuffer } from "@stream-buffer/stream-buffer";
 *
 * const sender = new FetchSender("https://example.com/ingest", {
 *   headers: { "Content-Type": "application/x-ndjson" },
 *   retry: { maxElapsed: 10_000 },
 * });
 * await using out = new StreamBuffer(sender, { capacity: 64 * 1024 });
 * ```
 */
export class FetchSender implements Sender, AsyncDisposable {
  readonly #requests: Requests;
  readonly #retries: RetryLoop;
  readonly #method: string;
  readonly #compression: Compression | undefined;
  readonly #idempotencyKey: string | false;
  readonly #keepalive: boolean;
  /** The signal of the stream that it serves. */
  #stream: AbortSignal | undefined;
  /** The next sequence number. */
  #next = 0;
  /** Sequence numbers below this are another stream's, but for those in #resumed. */
  #start = 0;
  /** Those that another stream had failed to deliver, and this one has sent. */
  readonly #resumed = new Set<number>();
  /** Those before it that have not been delivered, and are not being sent. */
  readonly #failed = new Set<number>();
  #closed = false;

  /**
   * Constructs a new instance.
   *
   * @param url Where to send to: http or https, without credentials.
   * @param options Options; times in milliseconds.
   * @throws {TypeError} If the URL is invalid, is not http(s), carries
   *   credentials or has a port that `fetch` blocks, an option has the wrong type, or this platform does not
   *   support it.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(url: string | URL, options: FetchSenderOptions = {}) {
    this.#requests = new Requests(ACTION, url, options);
    this.#retries = new RetryLoop(ACTION, options);
    const {
      method = "POST",
      compression,
      idempotencyKey = randomUuid(),
      keepalive = false,
    } = options;
    checkMethod(ACTION, method);
    check(
      ACTION,
      { compression },
      '"gzip", "deflate" or "brotli"',
      "string",
      (format) => CONTENT_CODINGS.has(format),
    );
    if (compression !== undefined && !canCompress(compression)) {
      throw new TypeError(
        `${ACTION}: compression must be a format that this platform supports, received ${
          show(compression)
        }`,
      );
    }
    check(ACTION, { keepalive }, "true or false", "boolean");
    if (keepalive && compression !== undefined) {
      throw new TypeError(
        `${ACTION}: keepalive excludes compression, which takes longer than a page that is left has; give only one of them`,
      );
    }
    if (keepalive && !canOutlivePage()) {
      throw new TypeError(
        `${ACTION}: keepalive must be an option that this platform's fetch supports`,
      );
    }
    if (idempotencyKey !== false) {
      checkKey(ACTION, { idempotencyKey }, ", or false");
    }
    this.#method = method;
    this.#compression = compression;
    this.#idempotencyKey = idempotencyKey;
    this.#keepalive = keepalive;
  }

  /**
   * Delivers one batch, in one or more attempts.
   *
   * @param bytes The body of the request. It must not change before the promise
   *   settles.
   * @param context Which batch of which stream it is.
   * @returns A promise that resolves when the server has responded with a 2xx.
   * @throws {SendError} If it was not delivered.
   * @throws {TypeError} If the sender is closed, or serves another stream.
   * @throws {RangeError} If `context.key` has a character that a key must not have.
   * @throws The reason of `context.signal`, if that is aborted first.
   */
  async send(
    bytes: Uint8Array<ArrayBuffer>,
    context: BatchContext,
  ): Promise<void> {
    const isOwnKey = context.key === undefined;
    this.#claim(context, isOwnKey);
    try {
      await this.#deliver(bytes, context);
    } catch (error) {
      // Not delivered: this buffer may send it again, or another one may send it.
      if (isOwnKey) this.#failed.add(context.sequence);
      context.signal.throwIfAborted();
      throw error;
    }
  }

  /**
   * Makes every later `send` reject. It frees nothing: the connections belong to
   * `fetch`, or to the `client`.
   */
  close(): void {
    this.#closed = true;
  }

  /**
   * Makes every later `send` reject, as `close` does: another stream would begin
   * with keys that the server may have seen from this one. Requests in flight
   * end by the `signal` of their context, which the buffer aborts.
   */
  abort(): void {
    this.close();
  }

  /**
   * Ends the backoff of every send, so that it makes its next attempt now. It does not
   * cut a `Retry-After` short.
   */
  retryNow(): void {
    this.#retries.retryNow();
  }

  /**
   * Why the latest attempt failed.
   *
   * @returns The failure; `undefined` before the first attempt, and after one
   *   that succeeded.
   */
  get lastFailure(): SendError | undefined {
    return this.#retries.lastFailure;
  }

  /**
   * Whether the sender is closed.
   *
   * @returns `true` after `close` or `abort`.
   */
  get ended(): boolean {
    return this.#closed;
  }

  /**
   * Calls {@linkcode FetchSender.close}.
   *
   * @returns A promise that is already resolved.
   */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * Makes sure that one stream uses this sender. Two of them would give
   * different bytes the same key, and a server that honours the key would drop
   * half of them. A stream is recognised by its signal; another signal is
   * accepted only with a sequence number that has not been delivered. Bytes that
   * come with a key of their own can be of any stream.
   */
  #claim({ sequence, signal, key }: BatchContext, isOwnKey: boolean): void {
    if (this.#closed) {
      throw new TypeError("Cannot send: the FetchSender is closed");
    }
    if (!isOwnKey) return checkKey("Cannot send", { key });
    const isNew = sequence >= this.#next || this.#failed.has(sequence);
    const isOwn = signal === this.#stream &&
      (sequence >= this.#start || this.#resumed.has(sequence));
    if (!isNew && !isOwn) {
      throw new TypeError(
        "Cannot send: the FetchSender serves another StreamBuffer; make one for each",
      );
    }
    if (signal !== this.#stream) {
      this.#stream = signal;
      this.#start = this.#next;
      this.#resumed.clear();
    }
    if (sequence < this.#start) this.#resumed.add(sequence);
    this.#next = Math.max(this.#next, sequence + 1);
    this.#failed.delete(sequence);
  }

  async #deliver(
    bytes: Uint8Array<ArrayBuffer>,
    context: BatchContext,
  ): Promise<void> {
    const compression = this.#compression;
    // Nothing is awaited before the first attempt unless it has to be: a page that is
    // left may have no time for a microtask.
    const body = compression === undefined
      ? bytes
      : await compress(bytes, compression);
    const headers: Record<string, string> = {};
    if (compression !== undefined) {
      headers["Content-Encoding"] = CONTENT_CODINGS.get(compression)!;
    }
    if (this.#idempotencyKey !== false) {
      const { key = `${this.#idempotencyKey}-${context.sequence}` } = context;
      headers["Idempotency-Key"] = `"${key}"`;
    }
    await this.#retries.run(context, async (attempt) => {
      const send = (keepalive: boolean) => {
        const request = { method: this.#method, headers, body, keepalive };
        return this.#requests.send({ ...request, standsAlone: true }, attempt);
      };
      const response = this.#keepalive && mayOutlivePage(attempt)
        ? await withinKeepalive(body.length, send)
        : await send(false);
      return response instanceof SendError || response.ok
        ? response
        : response.toError();
    });
  }
}

async function compress(
  bytes: Uint8Array<ArrayBuffer>,
  format: Compression,
): Promise<Uint8Array<ArrayBuffer>> {
  const compressed = new Blob([bytes]).stream().pipeThrough(
    new CompressionStream(format),
  );
  return new Uint8Array(await new Response(compressed).arrayBuffer());
}

/**
 * Whether an attempt is to outlive its page. A browser refuses that as if the network
 * had failed when other code of the page has too much in flight. So every second
 * attempt after such a failure is an ordinary request.
 */
function mayOutlivePage({ attempt, failure }: SendAttempt): boolean {
  return attempt % 2 === 1 || failure?.status !== undefined;
}

/** Whether this platform has the format: not all have `"brotli"`. */
function canCompress(format: Compression): boolean {
  try {
    new CompressionStream(format);
    return true;
  } catch {
    return false;
  }
}

/** Checks a key, or a part of one, that is to be sent as a structured field string. */
function checkKey(
  action: string,
  options: Record<string, string | undefined>,
  orElse = "",
): void {
  check(
    action,
    options,
    `printable ASCII without " and \\${orElse}`,
    "string",
    (key) => /^[ !#-[\]-~]+$/.test(key),
  );
}

/**
 * Makes a {@linkcode StreamBuffer} over a {@linkcode FetchSender}. With `keepalive`,
 * its `capacity` is by default what a page may have in flight, shared between the
 * store and `concurrency` sends: 32 KiB for one.
 *
 * @example Usage
 * ```ts no-assert
 * import { streamTo } from "@stream-buffer/stream-buffer";
 *
 * await using out = streamTo("https://example.com/ingest", {
 *   capacity: 64 * 1024,
 *   headers: { "Content-Type": "application/x-ndjson" },
 * });
 * ```
 *
 * @param url Where to send to: http or https, without credentials.
 * @param options Options of the buffer and the sender.
 * @returns The buffer.
 * @throws {TypeError} If the URL is invalid, is not http(s), carries
 *   credentials or has a port that `fetch` blocks, an option has the wrong type, or this platform does not
 *   support it.
 * @throws {RangeError} If an option is out of range.
 */
export function streamTo(
  url: string | URL,
  options: StreamBufferOptions & FetchSenderOptions = {},
): StreamBuffer {
  const sender = new FetchSender(url, options);
  if (!options.keepalive || options.capacity !== undefined) {
    return new StreamBuffer(sender, options);
  }
  const { concurrency = 1 } = options;
  const capacity = Math.floor(MAX_KEEPALIVE_BYTES / (1 + concurrency));
  // Otherwise `concurrency` is invalid, which the buffer reports, or far too large.
  const isUsable = Number.isInteger(capacity) && capacity >= 1;
  return new StreamBuffer(
    sender,
    isUsable ? { ...options, capacity } : options,
  );
}
