/**
 * {@linkcode StreamBuffer}: many small writes, collected in a fixed store and
 * handed to a {@linkcode Sender} in few large pieces. It knows nothing of
 * HTTP, imports nothing, and runs wherever `Uint8Array` and timers do.
 *
 * @example Usage
 * ```ts
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { assertEquals } from "@std/assert";
 *
 * const sends: string[] = [];
 * {
 *   await using out = new StreamBuffer((bytes) => {
 *     sends.push(new TextDecoder().decode(bytes));
 *   }, { capacity: 8 });
 *   for (const word of ["one ", "two ", "three "]) await out.write(word);
 * }
 * assertEquals(sends, ["one two ", "three "]);
 * ```
 *
 * @module
 */

import {
  check,
  checkCapacity,
  checkDuration,
  messageOf,
  show,
} from "./internal/checks.ts";
import { handled } from "./internal/promises.ts";

const RESOLVED: Promise<void> = Promise.resolve();
const ENCODER = new TextEncoder();

/**
 * Up to so many characters a loop over ASCII is faster than a call of
 * `encodeInto`, which costs 60 ns before it has encoded anything.
 */
const MAX_LOOP = 32;
/**
 * Up to so many, encoding into `SCRATCH` and copying is faster than making a
 * view of the store to encode into.
 */
const MAX_SCRATCH = 256;
/** A UTF-16 code unit becomes at most 3 bytes. */
const SCRATCH = new Uint8Array(3 * MAX_SCRATCH);
/** The first n bytes of `SCRATCH`, made once. */
const PREFIXES: Uint8Array[] = Array.from(
  { length: SCRATCH.length + 1 },
  (_, n) => SCRATCH.subarray(0, n),
);

/** A source that never ends would spin; the number is that of Go's bufio. */
const MAX_EMPTY_READS = 100;
const DEFAULT_MAX_QUEUED_BYTES = 16 * 1024 * 1024;
const ACTION = "Cannot create StreamBuffer";

/** What a {@linkcode Sender} is told about the bytes that it is given. */
export interface SendContext {
  /** 0, 1, 2, …: one per flush, the same at every attempt to deliver it. */
  readonly sequence: number;
  /** Position of the first byte in the whole stream, in bytes. */
  readonly offset: number;
  /**
   * Aborted by {@linkcode StreamBuffer.abort} and when `closeTimeout` has
   * passed. The same signal for the whole life of a buffer.
   */
  readonly signal: AbortSignal;
}

/** Where a {@linkcode StreamBuffer} delivers its bytes. */
export interface Sender {
  /**
   * Delivers `bytes`. To return, or to fulfil the promise returned, is to
   * acknowledge every one of them; to throw or reject is to acknowledge none,
   * and the same bytes come again later with the same `context`. There is one
   * call at a time.
   *
   * `bytes` is a view of the store. It stays unchanged until the promise
   * settles, and is used again after that: a sender that keeps the bytes
   * longer must copy them. It must not change or transfer them.
   */
  send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> | void;
  /** Called once, when every byte has been acknowledged and the buffer closes. */
  close?(): Promise<void> | void;
  /**
   * Called once, when the buffer ends in any other way than by a `close` that
   * succeeded: what has been sent may be only a part of the stream.
   */
  abort?(reason: unknown): Promise<void> | void;
  /**
   * Why the newest attempt failed, if `send` makes more than one. When
   * `closeTimeout` passes during `send`, this is how the error knows.
   */
  readonly lastFailure?: unknown;
}

/**
 * Where {@linkcode StreamBuffer.readFrom} reads: a `Deno.FsFile`, `Deno.stdin`,
 * a `Deno.Conn`, or anything that reads as they do.
 */
export interface Reader {
  /**
   * Reads into `p`, from its beginning. `p` is a view of the store: it must not
   * be transferred, nor changed after the promise has settled.
   *
   * @returns How many bytes it has read, or `null` at the end.
   */
  read(p: Uint8Array): Promise<number | null>;
}

/** Options of a {@linkcode StreamBuffer}. */
export interface StreamBufferOptions {
  /**
   * Size of the store in bytes, and so the size of a full send. On one machine
   * throughput doubles with it up to the default and reaches its best at 1 MiB,
   * which is the most that nginx takes unless it is told otherwise. Over a
   * network take at least the bytes a second that you need times the seconds of
   * a round trip.
   *
   * @default {262_144}
   */
  capacity?: number;
  /**
   * The longest time in milliseconds that a byte waits before it is first
   * sent, counted from the first byte in an empty store. After a failed send,
   * also the longest time to the next try. `0` turns it off, and then a script
   * that ends without `close` loses what it wrote last.
   *
   * @default {1_000}
   */
  flushInterval?: number;
  /**
   * The longest time in milliseconds that {@linkcode StreamBuffer.close} takes
   * to deliver what is left.
   *
   * @default {30_000}
   */
  closeTimeout?: number;
  /**
   * How many bytes may wait behind a full store before
   * {@linkcode StreamBuffer.write} rejects with a {@linkcode BufferFullError}.
   * A write larger than `capacity` may always wait alone, because it waits in
   * the caller's own array.
   *
   * @default {16_777_216, or `capacity` if that is larger}
   */
  maxQueuedBytes?: number;
  /**
   * What becomes of a write larger than `capacity`: sent in pieces of
   * `capacity`, in one send of its own from a copy, or refused with a `RangeError`.
   *
   * @default {"split"}
   */
  oversize?: "split" | "whole" | "reject";
  /**
   * Told of each failed send that no pending `write` or `flush` was rejected
   * for. It is called in a microtask of its own, and should not throw.
   */
  onError?: (error: FlushError) => void;
}

/** A snapshot of what a {@linkcode StreamBuffer} has done. */
export interface StreamBufferStats {
  /** Bytes copied into a store (or taken whole), ever. */
  readonly bytesAccepted: number;
  /** Bytes acknowledged, ever; the difference to `bytesAccepted` is still held. */
  readonly bytesDelivered: number;
  /** Bytes of writes that wait for room: not accepted yet. */
  readonly bytesQueued: number;
  /** Bytes of writes that rejected, so were not accepted, ever. */
  readonly bytesRejected: number;
  /** Sends that succeeded. */
  readonly sends: number;
  /** Sends that failed. */
  readonly failures: number;
  /** The error of the newest send, if it failed. */
  readonly lastError: FlushError | undefined;
}

/** What a {@linkcode FlushError} is made from. */
export interface FlushErrorOptions extends ErrorOptions {
  /** Bytes accepted and not delivered. */
  unsentBytes: number;
  /**
   * Bytes of the rejected write that were accepted.
   *
   * @default {0}
   */
  acceptedBytes?: number;
}

/**
 * Bytes were not delivered. They are not lost: an open buffer sends them again,
 * and a closed one gives them back through {@linkcode StreamBuffer.takeUnsent}.
 *
 * @example Usage
 * ```ts
 * import { FlushError, StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { assertEquals, assertInstanceOf } from "@std/assert";
 *
 * const out = new StreamBuffer(() => Promise.reject(new Error("unplugged")));
 * await out.write("hello");
 * const error = await out.close().catch((error) => error);
 * assertInstanceOf(error, FlushError);
 * assertEquals(error.unsentBytes, 5);
 * assertEquals(new TextDecoder().decode(out.takeUnsent()), "hello");
 * ```
 */
export class FlushError extends Error {
  /** The name of the error. */
  override readonly name = "FlushError";
  /** Bytes that were accepted and not delivered when the error was made. */
  readonly unsentBytes: number;
  /**
   * For the error of a `write`: how many of its bytes were accepted all the
   * same, and so must not be written again. 0 unless the write was larger than
   * `capacity`.
   */
  readonly acceptedBytes: number;

  /**
   * Constructs a new instance.
   *
   * @param message What failed.
   * @param options The cause, and how many bytes are concerned.
   */
  constructor(message: string, options: FlushErrorOptions) {
    const { unsentBytes, acceptedBytes = 0, ...rest } = options;
    super(message, rest);
    this.unsentBytes = unsentBytes;
    this.acceptedBytes = acceptedBytes;
  }
}

/**
 * A write that nobody could make room for: more than `maxQueuedBytes` would be
 * waiting. Nothing of it was accepted. Await {@linkcode StreamBuffer.write}, or
 * raise `maxQueuedBytes`.
 */
export class BufferFullError extends Error {
  /** The name of the error. */
  override readonly name = "BufferFullError";
}

/** It only ever moves forward, but for `readFrom`, which begins and ends open. */
type State = "open" | "reading" | "closing" | "closed";

/** Bytes that have left the store for the sender, until acknowledged. */
interface Batch {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly context: SendContext;
  /** The store that `bytes` is a view of, to be filled again afterwards. */
  readonly store: Uint8Array<ArrayBuffer> | undefined;
  sending: boolean;
}

/**
 * Writes that wait for room: either one that is larger than the store, in the
 * caller's array, or any number that fit into a store together, in a copy. As
 * the latter can only be accepted or rejected together, they share a promise.
 */
interface Waiting {
  bytes: Uint8Array;
  /** `bytes[taken]` to `bytes[length - 1]` wait. */
  length: number;
  taken: number;
  next: Waiting | undefined;
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/** Someone who waits until the stream has been delivered up to `end`. */
interface Flush {
  readonly end: number;
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Collects writes in a fixed store and hands them to a {@linkcode Sender} each
 * time the store fills, each `flushInterval`, and on `flush` and `close`.
 *
 * - **A write that fits is a copy.** Its bytes are in the store when `write`
 *   returns, so the caller's array may be reused at once.
 * - **Backpressure.** A full store is sent while a second one fills. When both
 *   are full, `write` returns a promise that waits for room.
 * - **Order.** One send at a time, in the order of the writes. A write no
 *   larger than `capacity` is never split over two sends.
 * - **A failed send keeps its bytes.** They are sent again, first and
 *   unchanged, by whatever sends next. Only an acknowledgement lets them go.
 * - **Nothing is lost even in the end.** After a failed `close`, or an `abort`,
 *   `takeUnsent` returns exactly what was accepted and not acknowledged.
 *
 * It does not survive its process: what is still in memory when a signal, a
 * crash or `Deno.exit` ends it is gone. `await using`, or a call of `close`,
 * is what makes sure.
 *
 * Strings are encoded as UTF-8, each write by itself: a surrogate without its
 * partner in the same write becomes U+FFFD, as with `TextEncoder`.
 *
 * No promise that `write`, `flush` or `readFrom` returns can end the process when
 * nobody awaits it; that of `close` can, as it is the last word on lost bytes.
 *
 * @example Usage
 * ```ts
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { assertEquals } from "@std/assert";
 *
 * let received = "";
 * await using out = new StreamBuffer((bytes, { sequence, offset }) => {
 *   received += `${sequence}@${offset} ${new TextDecoder().decode(bytes)}`;
 * });
 * await out.write("hello ");
 * await out.write(new Uint8Array([119, 111, 114, 108, 100]));
 * await out.flush();
 * assertEquals(received, "0@0 hello world");
 * ```
 */
export class StreamBuffer implements AsyncDisposable {
  readonly #sender: Sender;
  readonly #capacity: number;
  readonly #flushInterval: number;
  readonly #closeTimeout: number;
  readonly #maxQueuedBytes: number;
  readonly #oversize: "split" | "whole" | "reject";
  readonly #onError: ((error: FlushError) => void) | undefined;

  #state: State = "open";
  readonly #controller = new AbortController();
  /** Rejects when `abort`, or the deadline of `close`, ends the buffer. */
  readonly #ended: PromiseWithResolvers<never> = Promise.withResolvers();
  #ending: Promise<void> | undefined;
  #aborted: Promise<void> = RESOLVED;

  // The stream, from its first byte on: #delivered bytes are acknowledged;
  // those up to #base are in #head; the next #length are in #store; the next
  // #queued are of writes that wait. #delivered equals #base without a #head.
  #delivered = 0;
  #head: Batch | undefined;
  #base = 0;
  #store: Uint8Array<ArrayBuffer>;
  #length = 0;
  #first: Waiting | undefined;
  #last: Waiting | undefined;
  #queued = 0;

  /** A store without bytes, while there is no #head that uses it. */
  #spare: Uint8Array<ArrayBuffer> | undefined;
  /**
   * A write that ends before it needs nothing but a copy. It is #capacity, or
   * 0 when there is more to do: the store is empty (the clock must be started),
   * writes wait (they come first), or the buffer is not open for writes.
   */
  #limit = 0;
  /** A source is reading into the #store, somewhere behind its #length bytes. */
  #lent = false;
  /** Rejects the promise of `readFrom`. */
  #stopReading: ((reason: unknown) => void) | undefined;
  /** The stream up to here is to be sent without waiting for a full store. */
  #demand = 0;
  /** In the order of their ends. */
  #flushes: Flush[] = [];
  /** Fulfils when the send under way has ended, either way. */
  #flight: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #writable: WritableStream<string | Uint8Array> | undefined;

  #sequence = 0;
  #rejected = 0;
  #sends = 0;
  #failures = 0;
  #lastError: FlushError | undefined;

  /**
   * Constructs a new instance.
   *
   * @param sender Where the bytes go: a {@linkcode Sender}, or its `send` only.
   * @param options Sizes in bytes, times in milliseconds.
   * @throws {TypeError} If the sender or an option has the wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(
    sender: Sender | Sender["send"],
    options: StreamBufferOptions = {},
  ) {
    check(ACTION, { options }, "an object", "object");
    const {
      capacity = 262_144,
      flushInterval = 1_000,
      closeTimeout = 30_000,
      oversize = "split",
      onError,
    } = options;
    checkCapacity(ACTION, { capacity }, 1);
    const { maxQueuedBytes = Math.max(DEFAULT_MAX_QUEUED_BYTES, capacity) } =
      options;
    checkCapacity(ACTION, { maxQueuedBytes }, 0);
    checkDuration(ACTION, { flushInterval, closeTimeout }, 0);
    check(
      ACTION,
      { oversize },
      '"split", "whole" or "reject"',
      "string",
      (value) => ["split", "whole", "reject"].includes(value),
    );
    check(ACTION, { onError }, "a function", "function");
    this.#sender = typeof sender === "function" ? { send: sender } : sender;
    if (typeof this.#sender?.send !== "function") {
      throw new TypeError(
        `${ACTION}: sender must be a function or have a method "send", received ${
          show(sender)
        }`,
      );
    }
    this.#capacity = capacity;
    this.#flushInterval = flushInterval;
    this.#closeTimeout = closeTimeout;
    this.#maxQueuedBytes = maxQueuedBytes;
    this.#oversize = oversize;
    this.#onError = onError;
    this.#store = new Uint8Array(capacity);
    handled(this.#ended.promise);
  }

  /**
   * Takes in `data`. If there is room the bytes have been copied when the call
   * returns, and the promise is resolved already; else it resolves when they
   * are in a store. To await it is to keep pace with the server.
   *
   * An array larger than `capacity` is not copied when it has to wait: leave it
   * unchanged until the promise settles.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   *
   * await using out = new StreamBuffer((bytes) => console.log(bytes));
   * await out.write("a line\n");
   * await out.write(new Uint8Array([1, 2, 3]));
   * ```
   *
   * @param data A string, which is encoded as UTF-8, or bytes.
   * @returns A promise that resolves when the bytes have been accepted.
   * @throws {FlushError} If it waited for room and a send failed. Nothing of it
   *   was accepted but its first `acceptedBytes` bytes.
   * @throws {BufferFullError} If more than `maxQueuedBytes` would be waiting.
   * @throws {TypeError} If the buffer is closed, or `data` is of another type
   *   or detached.
   * @throws {RangeError} If it is larger than `capacity` and `oversize` is
   *   `"reject"`.
   */
  write(data: string | ArrayBuffer | ArrayBufferView): Promise<void> {
    if (typeof data === "string") return this.#writeString(data);
    // A detached array is empty too, and must not pass for one that fits.
    if (data instanceof Uint8Array && data.length > 0) {
      const end = this.#length + data.length;
      if (end < this.#limit) {
        this.#store.set(data, this.#length);
        this.#length = end;
        return RESOLVED;
      }
    }
    return this.#writeBytes(data);
  }

  /**
   * Takes in everything from a file, a pipe or a connection, up to its end. It
   * reads straight into the store, as much at a time as there is room for, and
   * goes on reading while a full store is sent: the fastest way for a file.
   *
   * It reads only when there is room. So when a send fails, or the source does,
   * everything that was read has been accepted, and another call goes on from
   * there. Meanwhile `flush`, `flushInterval` and `stats` work as ever, but
   * nothing else can be written.
   *
   * `close` and `abort` end it at once. What a read that was under way still
   * brings is accepted, too: `close` sends it if it comes in time, and
   * {@linkcode StreamBuffer.takeUnsent} has it after that.
   *
   * @example Usage
   * ```ts ignore
   * import { streamTo } from "@stream-buffer/stream-buffer";
   *
   * await using out = streamTo("https://example.com/upload");
   * using file = await Deno.open("dump.sql");
   * await out.readFrom(file);
   * ```
   *
   * @param source What to read from. It stays the caller's, who closes it.
   * @returns A promise that resolves to the number of bytes read, when all of
   *   them have been accepted.
   * @throws {FlushError} If it waited for room and a send failed.
   * @throws {TypeError} If the buffer is closed, or becomes so, if it is reading
   *   already, or if `source` is not a {@linkcode Reader}.
   * @throws {Error} If the source returns 0 bytes 100 times in a row.
   * @throws What the source throws.
   */
  readFrom(source: Reader): Promise<number> {
    return handled(this.#readFrom(source));
  }

  /**
   * Sends everything written before the call, including what still waits for
   * room. Writes made later never prolong it. With nothing to send it makes no
   * request.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   *
   * await using out = new StreamBuffer((bytes) => console.log(bytes));
   * await out.write("now");
   * await out.flush();
   * ```
   *
   * @returns A promise that resolves when all of it has been delivered.
   * @throws {FlushError} If a send fails first. The bytes are kept; flush again.
   * @throws {TypeError} If the buffer is closed.
   */
  flush(): Promise<void> {
    if (this.#isOpen) return this.#deliver();
    return handled(Promise.reject(this.#notOpen("flush")));
  }

  /**
   * Stops intake, sends what is left, those writes included that wait for room,
   * and closes the sender. Called again it returns the same promise.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   *
   * const out = new StreamBuffer((bytes) => console.log(bytes));
   * await out.write("the end");
   * await out.close();
   * ```
   *
   * @returns A promise that settles within `closeTimeout`, and resolves when
   *   every byte has been delivered. What a read that `readFrom` began brings
   *   after the last was sent is left to `takeUnsent`.
   * @throws {FlushError} If some were not. The buffer is closed all the same,
   *   and {@linkcode StreamBuffer.takeUnsent} returns them.
   */
  close(): Promise<void> {
    return this.#ending ??= this.#close();
  }

  /**
   * Ends the buffer at once: aborts the send under way, rejects what is waiting
   * with `reason`, and sends nothing more. {@linkcode StreamBuffer.takeUnsent}
   * returns what was not acknowledged. On a closed buffer it does nothing.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   * import { assertEquals } from "@std/assert";
   *
   * const out = new StreamBuffer(() => {});
   * await out.write("never mind");
   * await out.abort();
   * assertEquals(out.takeUnsent().length, 10);
   * ```
   *
   * @param reason Why; an `AbortError` unless given.
   * @returns A promise that resolves when the sender has been told.
   */
  abort(
    reason: unknown = new DOMException(
      "The buffer was aborted",
      "AbortError",
    ),
  ): Promise<void> {
    if (this.#state !== "closed") {
      // A sender that is told may well call back, and must find it ended.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#aborted = promise;
      this.#ending ??= RESOLVED;
      resolve(this.#end(reason, () => reason));
    }
    return this.#aborted;
  }

  /**
   * Hands over the bytes that were accepted and never acknowledged, in order,
   * once: after that there are none. A server may have received some of them,
   * if it was the acknowledgement that got lost.
   *
   * @example Keep what a dead server did not take
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   * import { assertEquals } from "@std/assert";
   *
   * const out = new StreamBuffer(() => Promise.reject(new Error("down")));
   * await out.write("precious");
   * try {
   *   await out.close();
   * } catch {
   *   assertEquals(new TextDecoder().decode(out.takeUnsent()), "precious");
   * }
   * ```
   *
   * @returns A copy that belongs to the caller.
   * @throws {TypeError} If the buffer is not closed yet.
   */
  takeUnsent(): Uint8Array<ArrayBuffer> {
    if (this.#state !== "closed") {
      throw new TypeError(
        `Cannot take the unsent bytes: the buffer is ${this.#state}, and still sends them; close() or abort() it first`,
      );
    }
    const sent = this.#head?.bytes ?? new Uint8Array();
    const unsent = new Uint8Array(sent.length + this.#length);
    if (sent.length > 0) unsent.set(sent); // else a sender may have transferred it
    unsent.set(this.#store.subarray(0, this.#length), sent.length);
    this.#head = undefined;
    this.#base += this.#length;
    this.#length = 0;
    return unsent;
  }

  /**
   * A `WritableStream` over this buffer, the same one each time: its chunks are
   * writes, its close is `close()`, its abort is `abort()`. When a write rejects
   * the stream is errored, so `pipeTo` cancels its source; the buffer lives on.
   * A `pipeTo` whose buffer is closed or aborted by itself finds out at its next
   * chunk; abort the pipe instead, by its `signal`.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   *
   * const out = new StreamBuffer((bytes) => console.log(bytes));
   * await ReadableStream.from(["a", "b"]).pipeTo(out.writable);
   * ```
   *
   * @returns The stream.
   */
  get writable(): WritableStream<string | Uint8Array> {
    return this.#writable ??= new WritableStream({
      start: ({ signal }) => {
        // The stream holds its own abort back until the write under way has
        // settled, and that one may be waiting for a dead server.
        signal.addEventListener("abort", () => {
          handled(this.abort(signal.reason));
        }, { once: true });
      },
      write: (chunk) => this.write(chunk),
      close: () => this.close(),
      abort: (reason) => this.abort(reason),
    });
  }

  /**
   * What the buffer has done so far.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   * import { assertEquals } from "@std/assert";
   *
   * await using out = new StreamBuffer(() => {});
   * await out.write("four");
   * assertEquals(out.stats.bytesAccepted, 4);
   * assertEquals(out.stats.bytesDelivered, 0);
   * ```
   *
   * @returns A snapshot.
   */
  get stats(): StreamBufferStats {
    return {
      bytesAccepted: this.#accepted,
      bytesDelivered: this.#delivered,
      bytesQueued: this.#queued,
      bytesRejected: this.#rejected,
      sends: this.#sends,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  /**
   * Calls {@linkcode StreamBuffer.close}, at the end of an `await using` block.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   *
   * {
   *   await using out = new StreamBuffer((bytes) => console.log(bytes));
   *   await out.write("sent at the end of the block");
   * }
   * ```
   *
   * @returns The promise of `close()`.
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #accepted(): number {
    return this.#base + this.#length;
  }

  get #isOpen(): boolean {
    return this.#state === "open" || this.#state === "reading";
  }

  #notOpen(action: string): TypeError {
    return new TypeError(
      `Cannot ${action}: the buffer is ${
        this.#state === "reading"
          ? "reading from a source; await readFrom() first"
          : this.#state
      }`,
    );
  }

  // -- Intake --

  #writeString(text: string): Promise<void> {
    const { length } = text;
    const start = this.#length;
    if (length <= MAX_LOOP && start + length < this.#limit) {
      const store = this.#store;
      let units = 0;
      for (let i = 0; i < length; i++) {
        const unit = text.charCodeAt(i);
        store[start + i] = unit;
        units |= unit;
      }
      if (units < 0x80) { // else not all is ASCII; it is written over
        this.#length += length;
        return RESOLVED;
      }
    }
    if (length <= MAX_SCRATCH && start < this.#limit) {
      const { written } = ENCODER.encodeInto(text, SCRATCH);
      if (start + written < this.#limit) {
        this.#store.set(PREFIXES[written]!, start);
        this.#length += written;
        return RESOLVED;
      }
    }
    if (this.#state === "open" && this.#first === undefined) {
      const room = this.#store.subarray(start);
      const { read, written } = ENCODER.encodeInto(text, room);
      if (read === length) {
        if (written > 0) this.#accept(written);
        return RESOLVED;
      }
    }
    // Not from SCRATCH: a sender that is called before they are copied may write.
    return this.#writeBytes(ENCODER.encode(text));
  }

  /** A write that may need more than a copy. */
  #writeBytes(data: ArrayBuffer | ArrayBufferView): Promise<void> {
    let bytes: Uint8Array;
    try {
      bytes = toBytes(data);
    } catch (error) {
      return this.#refuse(error, 0);
    }
    const { length } = bytes;
    if (this.#state === "open") {
      if (length === 0) return RESOLVED;
      if (length > this.#capacity && this.#oversize === "reject") {
        return this.#refuse(
          new RangeError(
            `Cannot write ${length} bytes: the capacity is ${this.#capacity}, and oversize is "reject"`,
          ),
          length,
        );
      }
      if (!this.#fits(length)) {
        this.#demandAll();
        this.#advance();
      }
    }
    // The state is looked at only now, because a sender may end its buffer.
    if (this.#state !== "open") {
      return this.#refuse(this.#notOpen(`write ${length} bytes`), length);
    }
    if (!this.#fits(length)) return this.#wait(bytes);
    this.#store.set(bytes, this.#length);
    this.#accept(length);
    return RESOLVED;
  }

  #fits(length: number): boolean {
    return this.#first === undefined &&
      this.#length + length <= this.#capacity;
  }

  /** The next `length` bytes of the store have been filled. */
  #accept(length: number): void {
    this.#length += length;
    if (this.#length === this.#capacity) this.#demandAll();
    this.#advance();
  }

  #wait(bytes: Uint8Array): Promise<void> {
    const { length } = bytes;
    const oversize = length > this.#capacity;
    const alone = oversize && this.#first === undefined;
    if (this.#queued + length > this.#maxQueuedBytes && !alone) {
      return this.#refuse(
        new BufferFullError(
          `Cannot write ${length} bytes: ${this.#queued} wait already, and maxQueuedBytes is ${this.#maxQueuedBytes}; await write(), or raise it`,
        ),
        length,
      );
    }
    let last = this.#last;
    // A flush that ends here is not to wait for what is written after it.
    const flushed = this.#flushes.at(-1)?.end === this.#accepted + this.#queued;
    if (
      last === undefined || flushed ||
      last.length + length > this.#capacity
    ) {
      if (last !== undefined && last.length < last.bytes.length) {
        last.bytes = last.bytes.slice(0, last.length);
      }
      const waiting: Waiting = {
        bytes: oversize ? bytes : new Uint8Array(bytes),
        length,
        taken: 0,
        next: undefined,
        ...Promise.withResolvers<void>(),
      };
      handled(waiting.promise);
      if (last === undefined) this.#first = waiting;
      else last.next = waiting;
      this.#last = last = waiting;
    } else {
      const end = last.length + length;
      if (end > last.bytes.length) {
        const mayFollow = this.#maxQueuedBytes - this.#queued - length;
        const grown = new Uint8Array(
          Math.min(2 * end, this.#capacity, end + mayFollow),
        );
        grown.set(last.bytes);
        last.bytes = grown;
      }
      last.bytes.set(bytes, last.length);
      last.length = end;
    }
    this.#queued += length;
    this.#advance();
    return last.promise;
  }

  async #readFrom(source: Reader): Promise<number> {
    // The reader of a web stream has a `read`, too, and would detach the store;
    // that of a Node stream returns `null` before its end.
    if (
      typeof source?.read !== "function" ||
      "releaseLock" in source || "pipe" in source
    ) {
      throw new TypeError(
        `Cannot read: source must have a method "read" as Deno.FsFile has, received ${
          show(source)
        }; pipe a ReadableStream to "writable"`,
      );
    }
    if (this.#state !== "open") throw this.#notOpen("read");
    this.#state = "reading";
    const { promise, reject } = Promise.withResolvers<never>();
    this.#stopReading = reject;
    this.#advance();
    try {
      return await Promise.race([this.#readAll(source), promise]);
    } finally {
      if (this.#isOpen) this.#state = "open";
    }
  }

  async #readAll(source: Reader): Promise<number> {
    let total = 0;
    let empty = 0;
    while (this.#state === "reading") {
      if (!this.#fits(1)) {
        this.#demandAll();
        await this.#deliver(this.#base);
        continue;
      }
      const start = this.#length;
      const room = this.#store.subarray(start);
      this.#lent = true;
      let read: number | null;
      try {
        read = await source.read(room);
      } finally {
        this.#lent = false;
      }
      if (read === null) break;
      if (!Number.isInteger(read) || read < 0 || read > room.length) {
        throw new TypeError(
          `Cannot read: the source was given ${room.length} bytes of room, and returned ${
            show(read)
          }`,
        );
      }
      empty = read === 0 ? empty + 1 : 0;
      if (empty === MAX_EMPTY_READS) {
        throw new Error(
          `Cannot read: the source returned 0 bytes ${empty} times in a row (null is the end)`,
        );
      }
      // What was there before it may have been sent meanwhile.
      this.#store.copyWithin(this.#length, start, start + read);
      // A buffer that closes sends what has come in time, and starts no more.
      if (this.#isOpen) this.#accept(read);
      else this.#length += read;
      total += read;
    }
    return total;
  }

  #refuse(error: unknown, length: number): Promise<void> {
    this.#rejected += length;
    return handled(Promise.reject(error));
  }

  /** Moves bytes that wait into the store, as far as there is room. */
  #takeIn(): void {
    for (let next = this.#first; next !== undefined; next = this.#first) {
      if (next.bytes.length < next.length) {
        const message = "Cannot write: its array was detached while it waited";
        const error = this.#error(message, new TypeError(message));
        this.#rejectAll((accepted) => forWrite(error, accepted));
        this.#demand = this.#accepted;
        return;
      }
      const rest = next.length - next.taken;
      const whole = rest > this.#capacity && this.#oversize === "whole";
      const piece = whole ? rest : Math.min(rest, this.#capacity);
      if (
        whole
          ? this.#length > 0 || this.#head !== undefined
          : this.#length + piece > this.#capacity
      ) {
        this.#demandAll();
        return;
      }
      const bytes = next.bytes.subarray(next.taken, next.taken + piece);
      next.taken += piece;
      this.#queued -= piece;
      if (next.taken === next.length) {
        this.#first = next.next;
        if (this.#first === undefined) this.#last = undefined;
      }
      if (whole) {
        this.#head = this.#batch(new Uint8Array(bytes));
      } else {
        this.#store.set(bytes, this.#length);
        this.#length += piece;
      }
      if (next.taken === next.length) next.resolve();
      if (whole || this.#length === this.#capacity) this.#demandAll();
    }
  }

  // -- Sending --

  /** Sends the stream up to `end`, and resolves when it has been delivered. */
  #deliver(end = this.#accepted + this.#queued): Promise<void> {
    if (this.#delivered >= end) return RESOLVED;
    const last = this.#flushes.findLastIndex((flush) => flush.end <= end);
    let flush = this.#flushes[last];
    if (flush?.end !== end) {
      flush = { end, ...Promise.withResolvers<void>() };
      handled(flush.promise);
      this.#flushes.splice(last + 1, 0, flush);
    }
    this.#demand = Math.max(this.#demand, end);
    this.#advance();
    return flush.promise;
  }

  /** What has been accepted is to be sent; a flush may have asked for more. */
  #demandAll(): void {
    this.#demand = Math.max(this.#demand, this.#accepted);
  }

  /**
   * Does whatever can be done now: takes in what waits, starts the send that is
   * due, sets the clock. Called after every change, and by nothing else are the
   * stores swapped or the sender called.
   */
  #advance(): void {
    if (this.#state === "closed") return;
    this.#takeIn();
    if (
      this.#head === undefined && this.#length > 0 &&
      this.#demand > this.#delivered
    ) {
      const full = this.#store.subarray(0, this.#length);
      const spare = this.#spare ?? new Uint8Array(this.#capacity);
      this.#spare = undefined;
      if (this.#lent) {
        spare.set(full);
        this.#head = this.#batch(spare.subarray(0, this.#length), spare);
      } else {
        this.#head = this.#batch(full, this.#store);
        this.#store = spare;
      }
      this.#length = 0;
      this.#takeIn();
    }
    this.#limit =
      this.#state === "open" && this.#first === undefined && this.#length > 0
        ? this.#capacity
        : 0;
    this.#setClock();
    // Last of all, because the sender may call back.
    if (
      this.#head !== undefined && !this.#head.sending &&
      this.#demand > this.#delivered
    ) this.#launch(this.#head);
  }

  /** Makes the next bytes of the stream a send. */
  #batch(
    bytes: Uint8Array<ArrayBuffer>,
    store?: Uint8Array<ArrayBuffer>,
  ): Batch {
    const context: SendContext = {
      sequence: this.#sequence++,
      offset: this.#base,
      signal: this.#controller.signal,
    };
    this.#base += bytes.length;
    return { bytes, context, store, sending: false };
  }

  /** The clock runs while there are bytes that nothing else is about to send. */
  #setClock(): void {
    if (
      this.#isOpen && this.#flushInterval > 0 &&
      this.#accepted > Math.max(this.#demand, this.#delivered)
    ) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#demandAll();
        this.#advance();
      }, this.#flushInterval);
    } else {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  #launch(batch: Batch): void {
    batch.sending = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#flight = promise.then(
      () => this.#acknowledge(batch),
      (cause) => this.#keep(batch, cause),
    );
    resolve(
      new Promise((settle) => {
        if (batch.bytes.length === 0) {
          throw new TypeError(
            "the sender has transferred the bytes, and did not deliver them; it must copy what it transfers",
          );
        }
        settle(this.#sender.send(batch.bytes, batch.context));
      }),
    );
  }

  #acknowledge(batch: Batch): void {
    if (this.#head !== batch) return; // handed over by takeUnsent()
    this.#head = undefined;
    // One that the sender has transferred all the same is empty now.
    if (batch.store?.length === this.#capacity) this.#spare ??= batch.store;
    this.#delivered = this.#base;
    this.#sends++;
    this.#lastError = undefined;
    while (this.#flushes[0] && this.#flushes[0].end <= this.#delivered) {
      this.#flushes.shift()!.resolve();
    }
    this.#advance();
  }

  #keep(batch: Batch, cause: unknown): void {
    batch.sending = false;
    const { sequence, offset } = batch.context;
    const error = this.#error(
      `Cannot deliver ${batch.bytes.length} bytes at offset ${offset} (send ${sequence}): ${
        messageOf(cause)
      }`,
      cause,
    );
    this.#failures++;
    this.#lastError = error;
    if (this.#state === "closed") return;
    this.#demand = this.#delivered;
    const told = this.#rejectAll((accepted) => forWrite(error, accepted));
    const onError = this.#onError;
    if (!told && onError) queueMicrotask(() => onError(error));
    this.#advance();
  }

  #error(message: string, cause: unknown): FlushError {
    const unsentBytes = this.#accepted - this.#delivered;
    return new FlushError(message, { cause, unsentBytes });
  }

  /**
   * Rejects everyone who waits.
   *
   * @param reason Gives the reason for a write of which so much was accepted.
   * @returns Whether there was anyone.
   */
  #rejectAll(reason: (accepted: number) => unknown): boolean {
    const told = this.#flushes.length > 0 || this.#first !== undefined;
    for (let next = this.#first; next !== undefined; next = next.next) {
      next.reject(reason(next.taken));
    }
    this.#rejected += this.#queued;
    this.#queued = 0;
    this.#first = this.#last = undefined;
    for (const flush of this.#flushes) flush.reject(reason(0));
    this.#flushes = [];
    return told;
  }

  // -- The end --

  async #close(): Promise<void> {
    this.#state = "closing";
    this.#stopReading?.(this.#notOpen("read on"));
    const deadline = setTimeout(() => {
      const message =
        `closeTimeout of ${this.#closeTimeout} ms has passed${this.#whyLate()}`;
      this.#fail(
        this.#error(
          `Cannot close the buffer: ${message}`,
          new DOMException(message, "TimeoutError"),
        ),
      );
    }, this.#closeTimeout);
    try {
      await Promise.race([this.#drain(), this.#ended.promise]);
    } catch (error) {
      this.#fail(error as FlushError);
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Nothing that the sender does may keep `close` from ending. */
  #whyLate(): string {
    try {
      const { lastFailure } = this.#sender;
      return lastFailure === undefined ? "" : `: ${messageOf(lastFailure)}`;
    } catch {
      return "";
    }
  }

  async #drain(): Promise<void> {
    this.#limit = 0;
    this.#setClock();
    // If it fails, the next lines are what sends its bytes again.
    await this.#flight;
    while (
      this.#state === "closing" &&
      this.#delivered < this.#accepted + this.#queued
    ) await this.#deliver();
    if (this.#state !== "closing") return;
    try {
      await this.#sender.close?.();
      this.#state = "closed";
    } catch (cause) {
      throw this.#error(`Cannot close the sender: ${messageOf(cause)}`, cause);
    }
  }

  #fail(error: FlushError): void {
    handled(this.#end(error, (accepted) => forWrite(error, accepted)));
  }

  async #end(
    reason: unknown,
    reasonFor: (accepted: number) => unknown,
  ): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#limit = 0;
    this.#setClock();
    this.#rejectAll(reasonFor);
    this.#ended.reject(reason);
    this.#stopReading?.(reason);
    this.#controller.abort(reason);
    await this.#sender.abort?.(reason);
  }
}

/** The same error, for a write of which `acceptedBytes` were accepted. */
function forWrite(error: FlushError, acceptedBytes: number): FlushError {
  if (acceptedBytes === 0) return error;
  const { message, cause, unsentBytes } = error;
  return new FlushError(message, { cause, unsentBytes, acceptedBytes });
}

function toBytes(data: ArrayBuffer | ArrayBufferView): Uint8Array {
  const view = ArrayBuffer.isView(data);
  if (!view && !(data instanceof ArrayBuffer)) {
    throw new TypeError(
      `Cannot write: data must be a string, an ArrayBuffer or a view of one, received ${
        show(data)
      }`,
    );
  }
  const buffer = view ? data.buffer : data;
  if (buffer instanceof ArrayBuffer && buffer.detached) {
    throw new TypeError("Cannot write: the buffer of data is detached");
  }
  if (data instanceof Uint8Array) return data;
  return view
    ? new Uint8Array(buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(buffer);
}
