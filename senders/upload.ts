/**
 * {@linkcode UploadSender}: a whole stream in one HTTP request, for a server that
 * expects one object: a dump from a pipe, a recording, a build artefact.
 *
 * @example Usage
 * ```ts
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { UploadSender } from "@stream-buffer/stream-buffer/upload";
 * import { assertEquals } from "@std/assert";
 *
 * const objects: string[] = [];
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   objects.push(await request.text());
 *   return new Response(null, { status: 201 });
 * });
 * const url = `http://localhost:${server.addr.port}/dump.sql`;
 * const out = new StreamBuffer(new UploadSender(url));
 * await ReadableStream.from(["one ", "object"]).pipeTo(out.writable);
 * assertEquals(objects, ["one object"]);
 * ```
 *
 * @module
 */
import type { Sender } from "../buffer.ts";
import { reword, SendError } from "../http/errors.ts";
import type { BatchContext, RequestOptions } from "../http/options.ts";
import { Requests } from "../http/requests.ts";
import { checkMethod } from "../http/urls.ts";
import { checkInteger, countOf, messageOf } from "../internal/checks.ts";
import { handled, until, within } from "../internal/promises.ts";
import { after, sleep } from "../internal/timers.ts";

export type { SendContext, Sender } from "../buffer.ts";
export { SendError, type SendErrorOptions } from "../http/errors.ts";
export type {
  BatchContext,
  HeaderFunction,
  HttpClient,
  RequestHeaders,
  RequestOptions,
  SendAttempt,
  Transport,
  TransportRequest,
  TransportResponse,
} from "../http/options.ts";

const ACTION = "Cannot create UploadSender";
/**
 * How much the platform gets at a time, in bytes: about as much as Deno holds
 * back, so that what it got is nearly what it has sent.
 */
const PIECE_SIZE = 64 * 1024;
/** How long a request may take to end when its body fails, in ms, in Chromium. */
const MAX_END_TIME = 250;
/** How long, in ms, sends may follow each other before the event loop turns. */
const MAX_TURN = 50;
const GIVE_LENGTH = "; it may need to know the size, so give `length`";
/** Advice on a status where it differs from that of other senders. */
const ADVICE: Record<number, string> = {
  411: GIVE_LENGTH,
  413: "; the object is larger than it allows",
  501: GIVE_LENGTH,
};

type Stream = ReadableStream<Uint8Array<ArrayBuffer>>;

/** Whether requests can have a stream as their body; found out once. */
let hasStreams: boolean | undefined;

/** Options of an {@linkcode UploadSender}. */
export interface UploadSenderOptions extends RequestOptions {
  /**
   * The request method; any that may carry a body.
   *
   * @default {"PUT"}
   */
  method?: string;
  /**
   * The size of the object in bytes, if it is known. It is sent as
   * `Content-Length`, where the platform can (Deno and Node do), and a stream
   * that is shorter or longer is an error. Without it the body is sent in chunks
   * (RFC 9112, section 7.1), which some servers refuse with a 411 or 501.
   *
   * @default {undefined}
   */
  length?: number;
  /**
   * How long, in milliseconds, the connection may accept nothing while bytes are
   * ready, and how long the server may take to respond once it has them all.
   *
   * @default {30_000}
   */
  timeout?: number;
}

/**
 * Sends everything written to one `StreamBuffer` in one HTTP request.
 *
 * - **Only `close` delivers.** Here `flush`, and `stats.bytesDelivered`, mean
 *   that the connection has accepted the bytes, and it accepts some before there
 *   is a server at the other end. Only a 2xx shows that the server has the
 *   object, and `close` waits for it.
 * - **No retry.** Bytes that the connection has accepted cannot be sent again.
 *   When the upload fails, every later `write`, `flush` and `close` fails for
 *   the same reason, and how much the server has is unknown. Use `TusSender`
 *   where an upload has to survive that.
 * - **An incomplete object is never finished.** `abort` aborts the request, and
 *   so does a `close` that fails. But `close` cannot know whether everything was
 *   written: do not call it, nor leave an `await using` block, after the code
 *   that writes has failed. `pipeTo` takes care of that. An object of known
 *   `length` is complete as soon as that many bytes are sent.
 * - **A response before the connection has accepted everything ends the upload**,
 *   even a 2xx: the server cannot have what it was not sent.
 * - **Backpressure.** `write` waits for the connection, and so for the server.
 *
 * @example A file, with its size
 * ```ts ignore
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { UploadSender } from "@stream-buffer/stream-buffer/upload";
 *
 * using file = await Deno.open("backup.tar");
 * const { size } = await file.stat();
 * const url = "https://example.com/backup.tar";
 * const out = new StreamBuffer(new UploadSender(url, { length: size }));
 * await file.readable.pipeTo(out.writable);
 * ```
 */
export class UploadSender implements Sender {
  readonly #requests: Requests;
  readonly #method: string;
  readonly #length: number | undefined;
  readonly #timeout: number;
  readonly #controller = new AbortController();

  /** The body of the request, while it accepts chunks. */
  #body: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>> | undefined;
  /** Settles as the request does; `undefined` before it is made. */
  #outcome: Promise<void> | undefined;
  /** The request is under way, and the connection waits for a chunk. */
  #isAsking = false;
  /** Settles when the connection asks for a chunk, or there is an outcome. */
  #pulled = Promise.withResolvers<void>();
  /** The number of bytes put into the body: what the connection has accepted. */
  #enqueued = 0;
  /** The body is complete: its end was put into it too. */
  #ended = false;
  /** The server has responded, and gets no more. */
  #responded = false;
  /** When the event loop last turned for a send, by `performance.now()`. */
  #turned = performance.now();
  /** Why the upload has failed; a failed one stays so. */
  #failure: unknown;
  readonly #closed = Promise.withResolvers<void>();

  /**
   * Constructs a new instance. The request is made for the first batch, or by
   * `close` for an empty object.
   *
   * @param url Where to send to: http or https, without credentials.
   * @param options Options; the size in bytes, the time in milliseconds.
   * @throws {TypeError} If the URL is invalid, is not http(s), carries
   *   credentials or has a port that `fetch` blocks, an option has the wrong
   *   type, or this platform cannot send a stream.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(url: string | URL, options: UploadSenderOptions = {}) {
    this.#requests = new Requests(ACTION, url, options);
    const { method = "PUT", length, timeout = 30_000 } = options;
    checkMethod(ACTION, method);
    checkInteger(ACTION, { length }, 0, Number.MAX_SAFE_INTEGER);
    hasStreams ??= canSendStreams();
    if (!hasStreams) {
      throw new TypeError(
        `${ACTION}: this platform cannot send a stream as the body of a request; use a FetchSender or a TusSender`,
      );
    }
    this.#method = method;
    this.#length = length;
    this.#timeout = timeout;
    handled(this.#closed.promise);
  }

  /**
   * Hands one batch to the connection.
   *
   * @param bytes The next part of the object.
   * @param context Its position in the stream.
   * @returns A promise that resolves when the connection has accepted it.
   * @throws {SendError} If the upload has failed, or would exceed `length`.
   * @throws {TypeError} If this is not the next part: the sender serves another
   *   stream, or is closed.
   * @throws The reason of `context.signal`, or of `abort`.
   */
  async send(
    bytes: Uint8Array<ArrayBuffer>,
    { offset, signal }: BatchContext,
  ): Promise<void> {
    if (
      this.#failure === undefined && (this.#ended || offset !== this.#enqueued)
    ) {
      throw new TypeError(
        "Cannot send: the UploadSender is closed, or serves another StreamBuffer; make one for each",
      );
    }
    const end = offset + bytes.length;
    for (let at = 0; at < bytes.length; at += PIECE_SIZE) {
      await this.#step(signal, async (signal) => {
        if (end > (this.#length ?? end)) {
          throw new RangeError(
            `the upload has at least ${
              countOf(end)
            }, but \`length\` is ${this.#length}`,
          );
        }
        await this.#turn(signal);
        await this.#ready(signal);
        this.#pulled = Promise.withResolvers();
        this.#isAsking = false;
        // A copy: it is read long after the next one has been asked for, and
        // the store that it comes from is reused when this returns.
        const piece = bytes.slice(at, at + PIECE_SIZE);
        this.#enqueued += piece.length;
        this.#body?.enqueue(piece);
      });
    }
  }

  /**
   * Completes the object, and waits for the response.
   *
   * @returns A promise that resolves when the server has responded with a 2xx.
   * @throws {SendError} If the upload has failed, or is shorter than `length`.
   * @throws The reason of `abort`.
   */
  async close(): Promise<void> {
    await this.#step(this.#controller.signal, async (signal) => {
      if (this.#enqueued < (this.#length ?? 0)) {
        throw new RangeError(
          `the upload has only ${
            countOf(this.#enqueued)
          }, but \`length\` is ${this.#length}`,
        );
      }
      await this.#ready(signal);
      this.#ended = true;
      this.#isAsking = false;
      this.#body?.close();
      await until(signal, this.#outcome!);
      this.#closed.resolve();
    });
  }

  /**
   * Aborts the request, so that the server cannot mistake what it has for the
   * whole object.
   *
   * @param reason Why; by default an `AbortError`.
   */
  abort(
    reason: unknown = new DOMException("The upload was aborted", "AbortError"),
  ): void {
    this.#fail(reason);
  }

  /**
   * How the upload ends. It reports a failure at once, even while nothing is
   * being written.
   *
   * @returns A promise that resolves when `close` does, and rejects when the
   *   upload has failed or was aborted.
   */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Each send must follow the one before it: together they make up one object. */
  readonly ordered = true;

  /**
   * Whether the upload has ended.
   *
   * @returns `true` once `close` has ended the body, and after a failure or
   *   `abort`.
   */
  get ended(): boolean {
    return this.#ended || this.#failure !== undefined;
  }

  /**
   * A step of the upload, within `timeout`. If it fails or takes longer, the
   * upload has failed.
   */
  async #step(
    outer: AbortSignal,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await within(this.#timeout, outer, work);
    } catch (error) {
      throw this.#fail(outer.aborted ? error : this.#explain(error));
    }
  }

  /**
   * Lets the event loop turn, if it has not for a while. Node asks for the next
   * chunk without a turn as long as the server takes what it gets. A caller that
   * writes all the time would then notice neither a response nor a timer.
   */
  async #turn(signal: AbortSignal): Promise<void> {
    if (performance.now() - this.#turned < MAX_TURN) return;
    await sleep(0, signal);
    this.#turned = performance.now();
  }

  /** Makes the request, if there is none, and waits until it asks for a chunk. */
  async #ready(signal: AbortSignal): Promise<void> {
    this.#outcome ??= handled(this.#request());
    const { promise } = this.#pulled;
    await until(signal, this.#responded ? this.#outcome : promise);
  }

  async #request(): Promise<void> {
    const body: Stream = new ReadableStream({
      start: (controller) => void (this.#body = controller),
      pull: () => {
        this.#isAsking = true;
        this.#pulled.resolve();
      },
      // `fetch` has read `length` bytes, or its request has failed.
      cancel: () => void (this.#body = undefined),
    }, { highWaterMark: 0 });
    let isWhole = false;
    try {
      const response = await this.#requests.exchange({
        method: this.#method,
        body,
        ...this.#length !== undefined && {
          headers: { "Content-Length": `${this.#length}` },
        },
        onResponse: () => {
          this.#responded = true;
          isWhole = this.#ended || this.#enqueued === this.#length;
        },
      }, {
        ...{ sequence: 0, offset: 0, attempt: 1, failure: undefined },
        signal: this.#controller.signal,
        deadline: Infinity,
        onProgress: () => {},
        secrets: new Set(),
      });
      if (response instanceof SendError) throw response;
      if (!response.ok) throw response.toError(ADVICE[response.status]);
      if (!isWhole) {
        throw response.toError(" before it had the whole upload");
      }
      this.#pulled.resolve();
    } catch (error) {
      this.#isAsking = false;
      throw this.#fail(this.#explain(error));
    }
  }

  /** Fails the upload, unless it has failed already, and returns why. */
  #fail(failure: unknown): unknown {
    if (this.#failure === undefined) {
      this.#failure = failure;
      this.#endRequest(failure);
      handled(this.#pulled.promise);
      this.#pulled.reject(failure);
      this.#closed.reject(failure);
    }
    return this.#failure;
  }

  /**
   * Ends the request without completing its body, which takes two things while the
   * connection waits for a chunk. The body fails first: if a request over HTTP/2 is
   * aborted, Chromium often completes it, and the server would store a part of the
   * object for the whole of it. And the request is aborted: if its body
   * fails, Workers complete it.
   *
   * If both are done, Chromium reports an unhandled rejection. So there the request
   * is only aborted if it does not end. A connection that does not wait for a chunk
   * does not notice a body that fails, and its request is aborted first.
   */
  #endRequest(reason: unknown): void {
    const abort = () => this.#controller.abort(reason);
    if (!this.#isAsking) abort();
    this.#body?.error(reason);
    if (!isChromium()) return abort();
    const cancel = after(MAX_END_TIME, abort);
    this.#outcome?.catch(cancel);
  }

  /** What went wrong, and how far the upload had got. */
  #explain(error: unknown): SendError {
    const { origin, pathname } = this.#requests.url;
    const details = error instanceof SendError ? error : new SendError(
      `${this.#method} ${origin}${pathname} failed: ${messageOf(error)}`,
      { attempts: 1, cause: error },
    );
    const sent = this.#enqueued === 0
      ? ""
      : `; at most ${countOf(this.#enqueued)} ${
        this.#enqueued === 1 ? "was" : "were"
      } sent, and it is unknown how many of them the server has`;
    return reword(details, details.message + sent, { retryable: false });
  }
}

/** Whether this is Chromium, or a browser that is made of it. */
function isChromium(): boolean {
  return /Chrome\//.test(globalThis.navigator?.userAgent);
}

/**
 * Whether a request can have a stream as its body. Firefox makes a text of it,
 * "[object ReadableStream]", which has a type.
 */
function canSendStreams(): boolean {
  const { headers } = new Request("http://localhost", {
    method: "POST",
    body: new ReadableStream(),
    duplex: "half",
  } as RequestInit);
  return !headers.has("Content-Type");
}
