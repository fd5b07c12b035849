/**
 * {@linkcode UploadSender}: a whole stream as one HTTP request, for a server that
 * is to see one object: a dump from a pipe, a recording, a build artefact.
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
import type { SendContext, Sender } from "../buffer.ts";
import { SendError, type SendErrorOptions } from "../http/errors.ts";
import type { RequestOptions, SendAttempt } from "../http/options.ts";
import { Requests } from "../http/requests.ts";
import { checkMethod } from "../http/urls.ts";
import { checkInteger, messageOf } from "../internal/checks.ts";
import { handled, until, within } from "../internal/promises.ts";

export {
  type RequestOptions,
  type SendAttempt,
  SendError,
  type SendErrorOptions,
};

const ACTION = "Cannot create UploadSender";
/**
 * What the platform is given at a time, in bytes: about as much as Deno holds
 * back, so that what it was given is nearly what it has sent.
 */
const PIECE = 64 * 1024;
const GIVE_LENGTH = "; it may want to know the size, so give `length`";
/** What to do about a status, where it is not what the other senders advise. */
const ADVICE: Record<number, string> = {
  411: GIVE_LENGTH,
  413: "; the object is larger than it takes",
  501: GIVE_LENGTH,
};

type Stream = ReadableStream<Uint8Array<ArrayBuffer>>;

/** Options of an {@linkcode UploadSender}. */
export interface UploadSenderOptions
  extends Pick<RequestOptions, "headers" | "fetch" | "client"> {
  /**
   * The request method; any that may carry a body.
   *
   * @default {"PUT"}
   */
  method?: string;
  /**
   * The size of the object in bytes, if it is known: then the server is told,
   * as `Content-Length`, where the platform can (Deno and Node do), and a stream
   * that ends earlier or goes on is an error. Else the body is sent in chunks
   * (RFC 9112, section 7.1), which some servers refuse with a 411 or 501.
   *
   * @default {undefined}
   */
  length?: number;
  /**
   * The longest time in milliseconds in which the connection takes nothing of
   * what there is, and in which the server does not answer when it has all.
   *
   * @default {30_000}
   */
  timeout?: number;
}

/**
 * Sends all that one {@linkcode StreamBuffer} is given in one HTTP request.
 *
 * - **Only `close` delivers.** To `flush`, and to count as delivered in `stats`,
 *   means here that the connection has taken the bytes, and it takes some before
 *   there is a server at its other end. Whether the server has the object is
 *   known when it has answered with a 2xx, and that is what `close` waits for.
 * - **No retry.** What the connection took cannot be sent again. When the upload
 *   fails, every further `write`, `flush` and `close` fails for the same reason,
 *   and what the server has is unknown. Use `TusSender` if that will not do.
 * - **Half an object is never finished.** `abort` breaks the request off, and so
 *   does a `close` that fails. But `close` cannot know whether everything was
 *   written: do not call it, nor leave an `await using` block, after an error in
 *   what writes. `pipeTo` sees to that. An object of known `length` is whole as
 *   soon as so many bytes are sent.
 * - **An answer before the connection took everything ends the upload**, a 2xx
 *   too: the server cannot have what it was not sent.
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

  /** The body of the request, while it takes chunks. */
  #body: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>> | undefined;
  /** Settles as the request does; `undefined` before it is made. */
  #outcome: Promise<void> | undefined;
  /** Settles when the connection wants a chunk, or there is an outcome. */
  #demand = Promise.withResolvers<void>();
  /** Bytes that were put into the body. */
  #enqueued = 0;
  /** The end was put into it, too. */
  #ended = false;
  /** The server has answered, and is to be given no more. */
  #responded = false;
  /** Why the upload has failed. */
  #failure: unknown;
  readonly #closed = Promise.withResolvers<void>();

  /**
   * Constructs a new instance. The request is made when there is something to
   * send, or nothing at all and the buffer closes.
   *
   * @param url Where to send to: http or https, without credentials.
   * @param options The size in bytes, the time in milliseconds.
   * @throws {TypeError} If the URL is none, is not http(s) or carries
   *   credentials, or an option has the wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(url: string | URL, options: UploadSenderOptions = {}) {
    this.#requests = new Requests(ACTION, url, options);
    const { method = "PUT", length, timeout = 30_000 } = options;
    checkMethod(ACTION, method);
    checkInteger(ACTION, { length }, 0, Number.MAX_SAFE_INTEGER);
    this.#method = method;
    this.#length = length;
    this.#timeout = timeout;
    handled(this.#closed.promise);
  }

  /**
   * How the upload ends, for those who want to know at once that it has failed,
   * and not when there is more to write.
   *
   * @returns A promise that resolves when `close` does, and rejects when the
   *   upload has failed or was aborted.
   */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Hands one flush to the connection.
   *
   * @param bytes The next part of the object.
   * @param context Where in the stream it is.
   * @returns A promise that resolves when the connection has taken it.
   * @throws {SendError} If the upload has failed.
   * @throws {RangeError} If it would be more than `length` bytes.
   * @throws {TypeError} If this is not the next part: the sender serves another
   *   stream, or was closed.
   * @throws The reason of `context.signal`, or of `abort`.
   */
  async send(
    bytes: Uint8Array<ArrayBuffer>,
    { offset, signal }: SendContext,
  ): Promise<void> {
    if (
      this.#failure === undefined && (this.#ended || offset !== this.#enqueued)
    ) {
      throw new TypeError(
        "Cannot send: the UploadSender is closed, or serves another StreamBuffer; make one for each",
      );
    }
    const end = offset + bytes.length;
    for (let at = 0; at < bytes.length; at += PIECE) {
      await this.#step(signal, async (signal) => {
        if (end > (this.#length ?? end)) {
          throw new RangeError(
            `the upload has at least ${end} bytes, and length is ${this.#length}`,
          );
        }
        await this.#ready(signal);
        this.#demand = Promise.withResolvers();
        // It is read long after the next one has been asked for, and the store
        // that it comes from is used again when this returns.
        const piece = bytes.slice(at, at + PIECE);
        this.#enqueued += piece.length;
        this.#body?.enqueue(piece);
      });
    }
  }

  /**
   * Ends the object, and waits for the server's answer.
   *
   * @returns A promise that resolves when the server has answered with a 2xx.
   * @throws {SendError} If the upload has failed, or is shorter than `length`.
   * @throws The reason of `abort`.
   */
  async close(): Promise<void> {
    await this.#step(this.#controller.signal, async (signal) => {
      if (this.#enqueued < (this.#length ?? 0)) {
        throw new RangeError(
          `the upload has only ${this.#enqueued} bytes, and length is ${this.#length}`,
        );
      }
      await this.#ready(signal);
      this.#ended = true;
      this.#body?.close();
      await until(signal, this.#outcome!);
      this.#closed.resolve();
    });
  }

  /**
   * Breaks the request off, so that the server cannot take what it has for the
   * whole object.
   *
   * @param reason Why; an `AbortError` unless given.
   */
  abort(
    reason: unknown = new DOMException("The upload was aborted", "AbortError"),
  ): void {
    this.#fail(reason);
  }

  /** A step of the upload; if it fails, or takes too long, so has the upload. */
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

  /** Makes the request, if need be, and waits until a chunk is wanted. */
  async #ready(signal: AbortSignal): Promise<void> {
    this.#outcome ??= handled(this.#request());
    const { promise } = this.#demand;
    await until(signal, this.#responded ? this.#outcome : promise);
  }

  async #request(): Promise<void> {
    const body: Stream = new ReadableStream({
      start: (controller) => void (this.#body = controller),
      pull: () => this.#demand.resolve(),
      // It has all of `length`, or is going to fail.
      cancel: () => void (this.#body = undefined),
    }, { highWaterMark: 0 });
    let isWhole = false;
    try {
      const response = await this.#requests.exchange({
        method: this.#method,
        ...(this.#length === undefined ? { body } : sized(body, this.#length)),
        onResponse: () => {
          this.#responded = true;
          isWhole = this.#ended || this.#enqueued === this.#length;
        },
      }, {
        ...{ sequence: 0, offset: 0, attempt: 1, failure: undefined },
        signal: this.#controller.signal,
        deadline: Infinity,
        secrets: new Set(),
      });
      if (response instanceof SendError) throw response;
      if (!response.ok) throw response.toError(ADVICE[response.status]);
      if (!isWhole) {
        throw response.toError(" before it had the whole upload");
      }
      this.#demand.resolve();
    } catch (error) {
      throw this.#fail(this.#explain(error));
    }
  }

  /** Once failed, it stays so: what was given cannot be given again. */
  #fail(failure: unknown): unknown {
    this.#failure ??= failure;
    this.#body?.error(this.#failure);
    this.#controller.abort(this.#failure);
    handled(this.#demand.promise);
    this.#demand.reject(this.#failure);
    this.#closed.reject(this.#failure);
    return this.#failure;
  }

  /** What went wrong, and how far the upload was. */
  #explain(error: unknown): SendError {
    const { origin, pathname } = this.#requests.url;
    const details = error instanceof SendError ? error : new SendError(
      `Cannot ${this.#method} ${origin}${pathname}: ${messageOf(error)}`,
      { attempts: 1, cause: error },
    );
    if (this.#enqueued === 0) return details;
    const { message, attempts, status, retryAfter, excerpt, cause } = details;
    return new SendError(
      `${message}; the connection had taken up to ${this.#enqueued} bytes, and what the server has of them is unknown`,
      { attempts, status, retryAfter, excerpt, cause },
    );
  }
}

/**
 * A body whose size the server is told. Deno makes that of the size of a Blob,
 * and asks this one for it and for its stream; Node heeds the header.
 */
function sized(stream: Stream, size: number) {
  const headers = { "Content-Length": `${size}` };
  const body = "Deno" in globalThis ? new SizedStream(stream, size) : stream;
  return { headers, body };
}

class SizedStream extends Blob {
  readonly #stream: Stream;
  readonly #size: number;

  constructor(stream: Stream, size: number) {
    super();
    this.#stream = stream;
    this.#size = size;
  }

  override get size(): number {
    return this.#size;
  }

  override stream(): Stream {
    return this.#stream;
  }
}
