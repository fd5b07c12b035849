/**
 * {@linkcode TusSender}: a whole stream as one object, in an upload that survives
 * failures of the network and of the process, to a server that speaks
 * {@link https://tus.io/protocols/resumable-upload | tus 1.0.0}.
 *
 * @example Usage
 * ```ts ignore
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { TusSender } from "@stream-buffer/stream-buffer/tus";
 *
 * const sender = new TusSender("https://example.com/files/", {
 *   metadata: { filename: "dump.sql" },
 * });
 * const out = new StreamBuffer(sender, { capacity: 1024 * 1024 });
 * await Deno.stdin.readable.pipeTo(out.writable);
 * console.log("uploaded to", sender.url);
 * ```
 *
 * @module
 */
import type { Sender } from "../buffer.ts";
import { SendError } from "../http/errors.ts";
import type { AttemptOptions, BatchContext } from "../http/options.ts";
import {
  type Attempt,
  type OutgoingRequest,
  Requests,
} from "../http/requests.ts";
import type { ServerResponse } from "../http/responses.ts";
import { RetryLoop } from "../http/retry.ts";
import { check, checkInteger, countOf, show } from "../internal/checks.ts";
import { until, within } from "../internal/promises.ts";

export type { SendContext, Sender } from "../buffer.ts";
export { SendError, type SendErrorOptions } from "../http/errors.ts";
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
} from "../http/options.ts";

const ACTION = "Cannot create TusSender";
const VERSION = "1.0.0";
/**
 * Statuses of an upload to retry besides the usual: the offset has changed (409), another
 * request still holds the upload (423), a checksum does not match (460).
 */
const ALSO_RETRYABLE = [409, 423, 460];
/** Checksums that the platform can compute, the best first. */
const ALGORITHMS = [
  { name: "sha256", digest: "SHA-256" },
  { name: "sha1", digest: "SHA-1" },
];
/**
 * How long `OPTIONS` may take, in milliseconds. The upload can do without what it
 * tells, so a server that drops it is not waited for as long as `timeout`; a
 * slow network, or a server that has to start first, is in time.
 */
const DISCOVERY_TIMEOUT = 5_000;
/**
 * How long `abort` tries to remove an upload, in ms: whoever aborts is about to
 * leave, and the process stays alive for it.
 */
const MAX_REMOVAL_TIME = 30_000;
/** What header functions are called with for a request that belongs to no batch. */
const NO_BATCH = { sequence: 0, offset: 0 };
const TOO_LARGE = "; the object is larger than it allows";
const GONE =
  "; the upload no longer exists (expired, terminated, or removed once complete), unless the URL is wrong";

/** Options of a {@linkcode TusSender}. */
export interface TusSenderOptions extends AttemptOptions {
  /**
   * Describes the object to the server, for example `filename` and `filetype`.
   * Names are printable ASCII without spaces and commas; values are arbitrary.
   *
   * @default {no metadata}
   */
  metadata?: Record<string, string | Uint8Array>;
  /**
   * The size of the object in bytes, if it is known. Then a stream that is
   * shorter or longer is an error, and a server can refuse an object that is too
   * large before anything is sent. Without it the server learns the size at the
   * end, which not every server supports (`creation-defer-length`).
   *
   * @default {undefined}
   */
  length?: number;
  /**
   * Whether each batch is sent with a checksum, if the server supports SHA-256
   * or SHA-1. It takes `crypto.subtle`, which pages served by `http:` lack.
   *
   * @default {true, where there is crypto.subtle}
   */
  checksum?: boolean;
  /**
   * Whether `abort`, or a failed `close`, removes the upload from the server,
   * so that it cannot be resumed. To know that it is removed, await `abort`;
   * `close` does not wait for that.
   *
   * @default {false}
   */
  terminate?: boolean;
}

/**
 * Sends everything written to one `StreamBuffer` to one resumable upload: each
 * batch is a `PATCH`, and `close` completes it.
 *
 * - **The server's offset decides.** After a failure the sender asks for it:
 *   bytes that the server has are not sent again, and bytes that it lacks are
 *   not skipped. An impossible offset is an error, and the bytes are kept.
 * - **It outlives its process.** Another process resumes at the same `url`, with
 *   {@linkcode TusSender.resume}, from the {@linkcode TusSender.offset} that the
 *   server reports.
 * - **An incomplete object is never completed**, neither by `abort` nor by a
 *   `close` that fails. But `close` cannot know whether everything was written:
 *   do not call it, nor leave an `await using` block, after the code that writes
 *   has failed. `pipeTo` takes care of that.
 * - **Complete means that the server's offset is the length.** What the server
 *   then does with the object is not visible: if it fails to process it, it
 *   reports that in one response, which may get lost.
 * - **Retry** and timeout are those of `FetchSender`; 409, 423 and 460 are retried
 *   too, and `maxElapsed` begins anew whenever the server's offset has grown.
 *
 * The server may place an upload on another origin. It is then sent there, without
 * the headers of the options, but never from `https` to `http`.
 *
 * @example Resume the upload of a process that has died
 * ```ts ignore
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { TusSender } from "@stream-buffer/stream-buffer/tus";
 *
 * const url = await Deno.readTextFile("upload-url");
 * const sender = await TusSender.resume(url);
 * using file = await Deno.open("dump.sql");
 * await file.seek(sender.offset, Deno.SeekMode.Start);
 * await file.readable.pipeTo(new StreamBuffer(sender).writable);
 * ```
 */
export class TusSender implements Sender {
  readonly #requests: Requests;
  readonly #retries: RetryLoop;
  /** As in the header `Upload-Metadata`. */
  #metadata: string;
  readonly #checksum: boolean;
  readonly #terminate: boolean;
  /** Aborted by `abort`. */
  readonly #controller = new AbortController();
  #closed = false;
  /** The context of the latest batch. */
  #latest: BatchContext | undefined;
  /** Aborted when the buffer is closing, for requests that belong to no batch. */
  readonly #closing = new AbortController();

  /** Where the upload is; `undefined` before it is created. */
  #url: URL | undefined;
  /** Settles as the creation does, under way or done. */
  #creation: Promise<string> | undefined;
  /** The size of the object, if it is known. */
  #length: number | undefined;
  /** The server knows #length. */
  #declared = false;
  /** The server has been asked what it supports. */
  #discovered = false;
  #maxSize = Infinity;
  #algorithm: (typeof ALGORITHMS)[number] | undefined;

  // Positions in the upload: #start <= #next <= #offset <= #sent.
  /** Where the stream begins: not at 0 after `resume`. */
  #start = 0;
  /** Where the next batch begins, or the one being sent. */
  #next = 0;
  /** Where the batch ends that is being sent, or has failed. */
  #pendingEnd: number | undefined;
  /** The server has acknowledged the bytes up to here. */
  #offset = 0;
  /** Bytes up to here have been sent. */
  #sent = 0;
  /** The server may be beyond #offset, and has to be asked. */
  #offsetUnknown = false;

  /**
   * Constructs a new instance. The upload is created for the first batch, by
   * {@linkcode TusSender.create}, or by `close` for an empty object.
   *
   * @param url Where the server creates uploads: http or https, without
   *   credentials.
   * @param options Options; the size in bytes, times in milliseconds.
   * @throws {TypeError} If the URL is invalid, is not http(s), carries
   *   credentials or has a port that `fetch` blocks, an option has the wrong type, or this platform does not
   *   support it.
   * @throws {RangeError} If an option is out of range, or the protocol does not
   *   allow the metadata.
   */
  constructor(url: string | URL, options: TusSenderOptions = {}) {
    this.#requests = new Requests(ACTION, url, options);
    this.#retries = new RetryLoop(ACTION, options);
    const canDigest = crypto.subtle !== undefined;
    const {
      metadata = {},
      length,
      checksum = canDigest,
      terminate = false,
    } = options;
    checkInteger(ACTION, { length }, 0, Number.MAX_SAFE_INTEGER);
    check(ACTION, { checksum, terminate }, "true or false", "boolean");
    if (checksum && !canDigest) {
      throw new TypeError(
        `${ACTION}: checksum must be false here, as crypto.subtle is missing; serve the page by https to have it`,
      );
    }
    this.#metadata = encodeMetadata(metadata);
    this.#length = length;
    this.#checksum = checksum;
    this.#terminate = terminate;
  }

  /**
   * Resumes an upload that was not completed: asks the server how much of it
   * there is. The stream that is then sent has to begin after that many bytes of
   * the object, at the {@linkcode TusSender.offset} of the sender.
   *
   * @param url The {@linkcode TusSender.url} of the upload.
   * @param options Options; the size in bytes, times in milliseconds.
   * @returns A promise that resolves to a sender for the remaining bytes.
   * @throws {SendError} If the server does not respond, or not as tus requires,
   *   or the upload no longer exists.
   * @throws {TypeError} If the URL is invalid, is not http(s), carries
   *   credentials or has a port that `fetch` blocks, or an option has the wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  static async resume(
    url: string | URL,
    options: Omit<TusSenderOptions, "metadata"> = {},
  ): Promise<TusSender> {
    const sender = new TusSender(url, options);
    sender.#url = sender.#requests.url;
    sender.#creation = Promise.resolve(sender.#url.href);
    sender.#offsetUnknown = true;
    sender.#sent = Infinity;
    await sender.#try(async (attempt) =>
      await sender.#discover(attempt) ?? await sender.#refreshOffset(attempt)
    );
    sender.#start = sender.#next = sender.#sent = sender.#offset;
    return sender;
  }

  /**
   * Creates the upload now rather than for the first batch, so that its URL can
   * be stored before anything is sent. Further calls return the same upload.
   *
   * An upload whose creation was not confirmed, because the response was lost,
   * stays on the server, empty.
   *
   * @returns A promise that resolves to the {@linkcode TusSender.url}.
   * @throws {SendError} If the server refuses, does not speak tus, or does not
   *   respond.
   * @throws The reason of `abort`.
   */
  create(): Promise<string> {
    return this.#creation ??= this.#create().catch((error) => {
      this.#creation = undefined;
      throw error;
    });
  }

  /**
   * Delivers one batch, in one or more attempts.
   *
   * @param bytes The next part of the object. It must not change before the
   *   promise settles.
   * @param context Its position in the stream.
   * @returns A promise that resolves when the server has acknowledged all of it.
   * @throws {SendError} If it was not delivered.
   * @throws {RangeError} If it would exceed `length`, or what the server allows.
   * @throws {TypeError} If the sender is closed, or serves another stream.
   * @throws The reason of `context.signal`, if that is aborted first.
   */
  async send(
    bytes: Uint8Array<ArrayBuffer>,
    context: BatchContext,
  ): Promise<void> {
    const begin = this.#start + context.offset;
    const end = begin + bytes.length;
    if (this.#closed || begin !== this.#next) {
      throw new TypeError(
        "Cannot send: the TusSender is closed, or serves another StreamBuffer; make one for each",
      );
    }
    this.#checkSize(end);
    this.#pendingEnd = end;
    this.#follow(context);
    await until(context.signal, this.create());
    await this.#try(async (attempt) => {
      let failure = await this.#refreshOffset(attempt);
      this.#checkSize(end); // the server may have reported a length
      while (failure === undefined && this.#offset < end) {
        const rest = bytes.subarray(this.#offset - begin);
        failure = await this.#append(rest, attempt);
      }
      return failure;
    }, context);
    this.#next = end;
    this.#pendingEnd = undefined;
  }

  /**
   * Completes the upload: declares the size of the object, unless the server
   * knows it.
   *
   * @returns A promise that resolves when the server has the whole object.
   * @throws {SendError} If the server refuses, or does not respond.
   * @throws {RangeError} If the stream was shorter than `length`.
   * @throws {TypeError} If the last batch has not been delivered.
   * @throws The reason of `abort`.
   */
  async close(): Promise<void> {
    if (this.#pendingEnd !== undefined) {
      throw new TypeError(
        "Cannot complete the upload: its last batch has not been delivered",
      );
    }
    this.#length ??= this.#offset;
    if (this.#offset < this.#length) {
      throw new RangeError(
        `Cannot complete the upload: it has ${
          countOf(this.#offset)
        }, but its length is ${this.#length}`,
      );
    }
    this.#closing.abort();
    await this.create();
    await this.#try(async (attempt) => {
      const failure = await this.#refreshOffset(attempt);
      if (failure !== undefined || this.#declared) return failure;
      return await this.#append(new Uint8Array(), attempt);
    });
    this.#closed = true;
  }

  /**
   * Aborts the requests in flight. The upload stays on the server, for
   * {@linkcode TusSender.resume}, unless `terminate` is set.
   *
   * @param reason Why; by default an `AbortError`.
   * @returns A promise that resolves when the upload has been removed, if
   *   `terminate` is set, else at once.
   * @throws {SendError} If the upload was to be removed, and could not be.
   */
  async abort(
    reason: unknown = new DOMException("The upload was aborted", "AbortError"),
  ): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#controller.abort(reason);
    const url = this.#url;
    if (!this.#terminate || url === undefined) return;
    await this.#try(async (attempt) => {
      const response = await this.#request({ method: "DELETE", url }, attempt);
      if (response instanceof SendError) return response;
      return response.ok || isGone(response) ? undefined : response.toError();
    }, {
      ...NO_BATCH,
      signal: new AbortController().signal,
      closing: AbortSignal.abort(),
      deadline: performance.now() + MAX_REMOVAL_TIME,
    });
  }

  /**
   * Makes the next attempt now, if one is waited for. Only a `Retry-After` is waited
   * for.
   */
  retryNow(): void {
    this.#retries.retryNow();
  }

  /**
   * The URL of the upload, for {@linkcode TusSender.resume}.
   *
   * @returns The URL; `undefined` before the upload is created.
   */
  get url(): string | undefined {
    return this.#url?.href;
  }

  /**
   * The number of bytes of the object that the server has acknowledged. After
   * {@linkcode TusSender.resume}, skip that many.
   *
   * @returns The number of bytes from the beginning of the object.
   */
  get offset(): number {
    return this.#offset;
  }

  /**
   * The size of the object, as given in the options or by the server.
   *
   * @returns The size in bytes; `undefined` if it is not known yet.
   */
  get length(): number | undefined {
    return this.#length;
  }

  /**
   * What describes the object: as given in the options, or after
   * {@linkcode TusSender.resume} as the server reports it, if it does.
   *
   * @returns The values by their names, in bytes; a text is encoded as UTF-8.
   */
  get metadata(): Record<string, Uint8Array<ArrayBuffer>> {
    return decodeMetadata(this.#metadata);
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

  /** Each send must follow the one before it: together they make up one object. */
  readonly ordered = true;

  /**
   * Whether the sender is closed.
   *
   * @returns `true` once the upload is complete, and after `abort`.
   */
  get ended(): boolean {
    return this.#closed;
  }

  #checkSize(size: number): void {
    const problem = size > (this.#length ?? size)
      ? `the length of the object is ${this.#length}`
      : size > this.#maxSize
      ? `the server accepts at most ${this.#maxSize} (Tus-Max-Size)`
      : undefined;
    if (problem === undefined) return;
    throw new RangeError(
      `Cannot upload ${countOf(size)} or more: ${problem}`,
    );
  }

  /** Makes attempts until one succeeds, by default at what belongs to no batch. */
  #try(
    work: (attempt: Attempt) => Promise<SendError | undefined>,
    context: BatchContext = this.#noBatch(),
  ): Promise<void> {
    return this.#retries.run(context, work);
  }

  #request(
    { headers, ...request }: OutgoingRequest,
    attempt: Attempt,
  ): Promise<ServerResponse | SendError> {
    return this.#requests.send({
      ...request,
      headers: { "Tus-Resumable": VERSION, ...headers },
      alsoRetryable: request.url === undefined ? [] : ALSO_RETRYABLE,
    }, attempt);
  }

  /**
   * The context of what belongs to no batch. It waits no longer than a batch would
   * when the buffer is closing, since then it is what `close` is waiting for.
   */
  #noBatch(): BatchContext {
    const deadline = () => this.#latest?.deadline ?? Infinity;
    return {
      ...NO_BATCH,
      signal: this.#controller.signal,
      closing: this.#closing.signal,
      get deadline() {
        return deadline();
      },
    };
  }

  /** Learns from the first batch when the buffer is closing. */
  #follow(context: BatchContext): void {
    const { closing } = context;
    if (closing !== this.#latest?.closing) {
      if (closing?.aborted) this.#closing.abort();
      closing?.addEventListener("abort", () => this.#closing.abort());
    }
    this.#latest = context;
  }

  async #create(): Promise<string> {
    await this.#try(async (attempt) => {
      const failure = await this.#discover(attempt);
      if (failure !== undefined) return failure;
      const length = this.#length;
      const headers: Record<string, string> = length === undefined
        ? { "Upload-Defer-Length": "1" }
        : { "Upload-Length": `${length}` };
      if (this.#metadata !== "") headers["Upload-Metadata"] = this.#metadata;
      const response = await this.#request(
        { method: "POST", headers },
        attempt,
      );
      if (response instanceof SendError) return response;
      if (!response.ok) return response.toError(adviceOnCreation(response));
      this.#url = this.#locationFrom(response);
      this.#declared = length !== undefined;
    });
    return this.#url!.href;
  }

  /**
   * Asks what the server supports. One that does not say is given the chance, and
   * so is one that fails to respond: proxies may refuse `OPTIONS`, or drop it.
   * Then the next attempt asks again, if this one fails.
   */
  async #discover(attempt: Attempt): Promise<SendError | undefined> {
    if (this.#discovered) return;
    const response = await this.#getOptions(attempt);
    if (response === undefined) return;
    if (response instanceof SendError) {
      const goOn = response.retryable && !attempt.signal.aborted;
      return goOn ? undefined : response;
    }
    if (!response.ok) {
      const failure = response.toError();
      const mayPass = failure.retryable;
      this.#discovered = !mayPass;
      // Until Retry-After has passed there is no other request either.
      return mayPass && failure.retryAfter ? failure : undefined;
    }
    const list = (name: string) =>
      response.headers.get(name)?.split(",").map((item) => item.trim()) ?? [];
    const versions = list("Tus-Version");
    const extensions = list("Tus-Extension");
    if (versions.length + extensions.length === 0) {
      this.#discovered = true;
      return;
    }
    const isKnown = versions.includes(VERSION);
    if (versions.length > 0 && !isKnown) {
      throw response.toError(adviceOnVersion(response));
    }
    this.#maxSize = integer(response, "Tus-Max-Size") ?? Infinity;
    this.#checkSize(this.#length ?? this.#pendingEnd ?? 0);
    if (this.#url === undefined) {
      if (!extensions.includes("creation")) {
        throw response.toError(
          "; it does not create uploads (Tus-Extension: creation)",
        );
      }
      if (
        this.#length === undefined &&
        !extensions.includes("creation-defer-length")
      ) {
        throw response.toError(
          "; it needs to know the size first, so give `length`",
        );
      }
    }
    if (this.#checksum && isKnown && extensions.includes("checksum")) {
      const offered = list("Tus-Checksum-Algorithm");
      this.#algorithm = ALGORITHMS.find(({ name }) => offered.includes(name));
    }
    this.#discovered = true;
  }

  /**
   * The response to `OPTIONS`, or a failure.
   *
   * @returns `undefined` if the time was over before the headers were known.
   */
  #getOptions(
    attempt: Attempt,
  ): Promise<ServerResponse | SendError | undefined> {
    // What follows needs a part of the time for all attempts, too. If that is over,
    // a timer must not get what is left, which Node warns about.
    const left = Math.max(attempt.deadline - performance.now(), 2);
    return within(
      Math.min(DISCOVERY_TIMEOUT, left / 2),
      attempt.signal,
      async (signal) => {
        try {
          const request = { method: "OPTIONS" };
          return await this.#requests.send(request, { ...attempt, signal });
        } catch (error) {
          if (signal.aborted && !attempt.signal.aborted) return;
          throw error;
        }
      },
    );
  }

  /** The URL of the upload that this response reports as created. */
  #locationFrom(response: ServerResponse): URL {
    const base = this.#requests.url;
    const location = response.headers.get("Location");
    if (location === null || !URL.canParse(location, base)) {
      throw response.toError(
        ` but without a Location for the upload${adviceOnProtocol(response)}`,
      );
    }
    const url = new URL(location, base);
    const secure = url.protocol === "https:" || url.protocol === base.protocol;
    if (!secure || url.username !== "" || url.password !== "") {
      throw response.toError(
        ` and an upload at ${url.protocol}//${url.host}, but it must be at https, without credentials`,
      );
    }
    if (this.#requests.blocks(url)) {
      throw response.toError(
        ` and an upload at ${url.protocol}//${url.host}, but fetch blocks port ${url.port}`,
      );
    }
    return url;
  }

  /** Asks the server for its offset, unless that is known. */
  async #refreshOffset(attempt: Attempt): Promise<SendError | undefined> {
    if (!this.#offsetUnknown) return;
    const url = this.#url!;
    const response = await this.#request({ method: "HEAD", url }, attempt);
    if (response instanceof SendError) return response;
    if (!response.ok) return response.toError(adviceOnUpload(response));
    this.#metadata = response.headers.get("Upload-Metadata") ?? this.#metadata;
    const length = integer(response, "Upload-Length");
    const expected = this.#length ?? length;
    if (length !== undefined && length !== expected) {
      throw response.toError(
        `; the upload is ${
          countOf(length)
        } long, but \`length\` is ${expected}`,
      );
    }
    this.#advance(response, attempt, expected);
    this.#length = expected;
    this.#declared ||= length !== undefined;
  }

  /** Sends the bytes from #offset on, and the length if the server lacks it. */
  async #append(
    body: Uint8Array<ArrayBuffer>,
    attempt: Attempt,
  ): Promise<SendError | undefined> {
    const from = this.#offset;
    const url = this.#url!;
    const headers: Record<string, string> = {
      "Content-Type": "application/offset+octet-stream",
      "Upload-Offset": `${from}`,
    };
    const declares = this.#length !== undefined && !this.#declared;
    if (declares) headers["Upload-Length"] = `${this.#length}`;
    if (this.#algorithm !== undefined) {
      const { name, digest } = this.#algorithm;
      const sum = new Uint8Array(await crypto.subtle.digest(digest, body));
      headers["Upload-Checksum"] = `${name} ${toBase64(sum)}`;
    }
    this.#offsetUnknown = true;
    this.#sent = from + body.length;
    const request = { method: "PATCH", url, headers, body };
    const response = await this.#request(request, attempt);
    if (response instanceof SendError) return response;
    if (!response.ok) return response.toError(adviceOnUpload(response));
    this.#advance(response, attempt);
    this.#declared ||= declares;
    if (body.length > 0 && this.#offset === from) {
      return response.toError(" but accepted no bytes");
    }
  }

  /**
   * Takes the server's offset from a response. While it grows, the attempts have
   * not failed, however slow they are.
   *
   * @param length The size of the object, if it is known.
   */
  #advance(
    response: ServerResponse,
    attempt: Attempt,
    length = this.#length,
  ): void {
    const offset = integer(response, "Upload-Offset");
    if (offset === undefined) {
      throw response.toError(
        response.headers.get("Upload-Offset") !== null
          ? " and an Upload-Offset that is not one number of bytes"
          : ` but without an Upload-Offset${adviceOnProtocol(response)}`,
      );
    }
    if (length !== undefined && offset > length) {
      throw response.toError(
        ` and Upload-Offset ${offset}, but the upload is ${
          countOf(length)
        } long`,
      );
    }
    if (offset < this.#offset) {
      throw response.toError(
        ` and Upload-Offset ${offset}, but has already acknowledged ${
          countOf(this.#offset)
        }`,
      );
    }
    if (offset > this.#sent) {
      throw response.toError(
        ` and Upload-Offset ${offset}, but only ${countOf(this.#sent)} ${
          this.#sent === 1 ? "was" : "were"
        } sent`,
      );
    }
    if (offset > this.#offset) attempt.onProgress();
    this.#offset = offset;
    this.#offsetUnknown = false;
  }
}

/**
 * The value of a header that is one non-negative integer. Proxies and servers
 * that each add it make it appear twice, joined by a comma: that is understood
 * if the values agree.
 */
function integer(
  { headers }: ServerResponse,
  name: string,
): number | undefined {
  const values = (headers.get(name) ?? "").split(",").map((item) =>
    item.trim()
  );
  const [value] = values as [string];
  const number = Number(value);
  return /^\d+$/.test(value) && values.every((item) => item === value) &&
      Number.isSafeInteger(number)
    ? number
    : undefined;
}

function isGone({ status }: ServerResponse): boolean {
  return status === 404 || status === 410;
}

function adviceOnCreation(response: ServerResponse): string | undefined {
  if (response.status === 412) return adviceOnVersion(response);
  if (response.status === 413) return TOO_LARGE;
  const isUnknown = [400, 404, 405, 415, 501].includes(response.status);
  return isUnknown ? adviceOnProtocol(response) : undefined;
}

function adviceOnUpload(response: ServerResponse): string | undefined {
  if (isGone(response)) return GONE;
  // A 413 that is not of a tus server comes from a proxy, for which the request is
  // too large, and not the object.
  const isTooLarge = response.status === 413 &&
    adviceOnProtocol(response) === "";
  return isTooLarge ? TOO_LARGE : undefined;
}

function adviceOnVersion({ headers }: ServerResponse): string {
  return `; it speaks tus ${headers.get("Tus-Version")}, but not ${VERSION}`;
}

/** Every response of a tus server has its version. */
function adviceOnProtocol({ headers }: ServerResponse): string {
  return headers.get("Tus-Resumable") === null
    ? "; it does not seem to speak tus"
    : "";
}

function encodeMetadata(metadata: Record<string, string | Uint8Array>): string {
  check(ACTION, { metadata }, "an object", "object");
  return Object.entries(metadata).map(([name, value]) => {
    check(
      ACTION,
      { "a name in metadata": name },
      "printable ASCII without spaces and commas",
      "string",
      (name) => /^[!-+--~]+$/.test(name),
    );
    if (typeof value === "string") value = new TextEncoder().encode(value);
    if (!(value instanceof Uint8Array)) {
      throw new TypeError(
        `${ACTION}: metadata ${
          show(name)
        } must be a string or a Uint8Array, received ${show(value)}`,
      );
    }
    return `${name} ${toBase64(value)}`.trimEnd();
  }).join(",");
}

/** The metadata of a server. A value that is not in base64 is left out. */
function decodeMetadata(text: string): Record<string, Uint8Array<ArrayBuffer>> {
  return Object.fromEntries(
    text.split(",").flatMap((entry) => {
      const [name, value = ""] = entry.trim().split(" ");
      if (!name) return [];
      try {
        const bytes = atob(value);
        return [[name, Uint8Array.from(bytes, (byte) => byte.charCodeAt(0))]];
      } catch {
        return [];
      }
    }),
  );
}

function toBase64(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
