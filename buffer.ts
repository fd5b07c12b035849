/**
 * {@linkcode StreamBuffer}: collects many small writes in a fixed store and
 * hands them to a {@linkcode Sender} in few large batches. It knows nothing of
 * HTTP, and uses nothing that only one runtime has.
 *
 * @example Usage
 * ```ts
 * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
 * import { assertEquals } from "@std/assert";
 *
 * const batches: string[] = [];
 * {
 *   await using out = new StreamBuffer((bytes) => {
 *     batches.push(new TextDecoder().decode(bytes));
 *   }, { capacity: 8 });
 *   for (const word of ["one ", "two ", "three "]) await out.write(word);
 * }
 * assertEquals(batches, ["one two ", "three "]);
 * ```
 *
 * @module
 */
import {
  check,
  checkCapacity,
  checkDuration,
  countOf,
  messageOf,
  show,
} from "./internal/checks.ts";
import { handled, notify } from "./internal/promises.ts";
import { Queue } from "./internal/queue.ts";
import { randomUuid } from "./internal/random.ts";
import { after } from "./internal/timers.ts";

const ACTION = "Cannot create StreamBuffer";
const DEFAULT_MAX_QUEUED_BYTES = 16 * 1024 * 1024;
/**
 * Bounds of the delay before a batch whose send failed is sent again, in ms: the
 * first, unless `flushInterval` is longer, and the last. During a long outage
 * there is about one send a minute, and a server that was away for a moment is
 * not kept waiting.
 */
const MIN_RETRY_DELAY = 1_000;
const MAX_RETRY_DELAY = 60_000;

/**
 * How many times in a row a source may return 0 bytes before `readFrom` gives up on
 * it instead of spinning forever; the number is that of Go's bufio.
 */
const MAX_EMPTY_READS = 100;

/** Throws for a view that is detached or out of bounds, of any realm. */
const TYPED_ARRAY_KEYS = Uint8Array.prototype.keys;

/** What every write that fits returns, so that it allocates nothing. */
const RESOLVED: Promise<void> = Promise.resolve();

const ENCODER = new TextEncoder();
/**
 * The longest string, in characters, that a loop over ASCII encodes faster than
 * `encodeInto`, which takes 60 ns before it has encoded anything.
 */
const MAX_LOOP_LENGTH = 32;
/**
 * The longest string, in characters, that is encoded into `SCRATCH` and then
 * copied: up to this length that is faster than making a view of the store for
 * `encodeInto` to write to.
 */
const MAX_SCRATCH_LENGTH = 256;
/** Has room for `MAX_SCRATCH_LENGTH` characters; a UTF-16 code unit takes 3 bytes at most. */
const SCRATCH = new Uint8Array(3 * MAX_SCRATCH_LENGTH);
/**
 * `PREFIXES[n]` is the first n bytes of `SCRATCH`. The views are made once,
 * because making one takes longer than the copy that it is for.
 */
const PREFIXES: Uint8Array[] = Array.from(
  { length: SCRATCH.length + 1 },
  (_, n) => SCRATCH.subarray(0, n),
);

/** Describes the batch that a {@linkcode Sender} is given. */
export interface SendContext {
  /** 0, 1, 2, …: the number of the batch, the same each time it is sent. */
  readonly sequence: number;
  /** Position of its first byte in the whole stream, in bytes. */
  readonly offset: number;
  /**
   * Aborted when the buffer ends without delivering everything: by
   * {@linkcode StreamBuffer.abort}, or a `close` that fails or times out. It is
   * the same signal for the whole life of a buffer.
   */
  readonly signal: AbortSignal;
  /**
   * Aborted when {@linkcode StreamBuffer.close} has begun. A sender that waits
   * before it tries again should try now, and wait for less time from then on.
   * It is the same signal for the whole life of a buffer.
   */
  readonly closing: AbortSignal;
  /**
   * When `closeTimeout` passes and `signal` is aborted, in milliseconds as
   * `performance.now()` counts them; `Infinity` as long as `closing` is not
   * aborted. It changes when `closing` is aborted, so do not copy its value.
   */
  readonly deadline: number;
  /**
   * The whole `Idempotency-Key` of these bytes, in place of one that the sender
   * would make of its own and `sequence`. A buffer leaves it to its sender. It
   * is for those who call a sender themselves, with parts of a batch.
   */
  readonly key?: string;
}

/** Describes the batch that `deadLetter` is offered. */
export interface DeadLetterContext extends SendContext {
  /**
   * Names the batch, and no other: its `Idempotency-Key`, if its sender sends
   * one. Whoever sends parts of the batch should give each a key made from this
   * one, `KEY/from-to`, so that a repeat is recognised.
   */
  readonly key: string;
}

/** Delivers the bytes of one {@linkcode StreamBuffer}. */
export interface Sender {
  /**
   * Delivers one batch. Returning, or fulfilling the returned promise,
   * acknowledges every byte of it. Throwing or rejecting acknowledges none: the
   * same bytes are then sent again, with the same `sequence` and `offset`. There
   * is one call at a time.
   *
   * The buffer reads three properties of an error, if it has them, as a
   * `SendError` does. Before `retryAfter` milliseconds have passed, it sends the
   * bytes again only for `flush` and `close`. If `refused` is true, the content
   * of the batch is at fault, and `deadLetter` is offered it, under the name
   * `key`.
   *
   * `bytes` is usually a view of a store. It does not change until the promise
   * settles, and is overwritten after that: a sender that keeps bytes longer
   * must copy them. It must not change or transfer them. It may call the buffer,
   * but must not await its `flush` or `close`, which wait for this send.
   */
  send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> | void;
  /** Called once, when the buffer closes and every byte has been acknowledged. */
  close?(): Promise<void> | void;
  /**
   * Called once, when the buffer ends any other way: by `abort`, or by a `close`
   * that fails. What was sent may be only a part of the stream.
   */
  abort?(reason: unknown): Promise<void> | void;
  /**
   * Why the latest attempt failed, for a sender that makes several per `send`.
   * The error reports it when `closeTimeout` passes during a `send`.
   */
  readonly lastFailure?: unknown;
  /**
   * Whether no `send` can succeed any more, because the sender was closed or has
   * failed for good. The buffer keeps a batch whose send fails then, but does not
   * try again by itself, so that it does not keep the process alive.
   */
  readonly ended?: boolean;
}

/**
 * What {@linkcode StreamBuffer.readFrom} reads from: a `Deno.FsFile`,
 * `Deno.stdin`, a `Deno.Conn`, or anything that reads as they do.
 */
export interface Reader {
  /**
   * Reads into the beginning of `p`. `p` is a view of the store: it must not be
   * transferred, nor changed once the promise has settled.
   *
   * @returns The number of bytes read, or `null` at the end of the input.
   */
  read(p: Uint8Array): Promise<number | null>;
}

/** Options of a {@linkcode StreamBuffer}. */
export interface StreamBufferOptions {
  /**
   * Size of the store in bytes, and so of a full batch. On one machine,
   * throughput grows with it up to 1 MiB, which is also the largest request
   * that nginx accepts by default. Over a network, choose at least the bytes
   * per second that you need times the seconds of a round trip.
   *
   * @default {262_144}
   */
  capacity?: number;
  /**
   * Maximum time in milliseconds that a byte waits before it is first sent,
   * counted from the first byte in an empty store. If a send is in flight when
   * the time is up, the bytes go out as soon as it ends; if one has failed, as
   * soon as that batch is delivered. `0` turns it off: bytes then wait for a
   * write that does not fit, for `flush` or for `close`, and a script that ends
   * without `close` loses what it wrote last.
   *
   * @default {1_000}
   */
  flushInterval?: number;
  /**
   * Maximum time in milliseconds that {@linkcode StreamBuffer.close} takes to
   * deliver the rest and close the sender. `0` does not turn it off.
   *
   * @default {30_000}
   */
  closeTimeout?: number;
  /**
   * How many bytes may be queued, when a write does not fit while a send is in
   * flight, before {@linkcode StreamBuffer.write} rejects with a
   * {@linkcode BufferFullError}.
   * A write larger than `capacity` may always wait if the queue is empty,
   * because it waits in the caller's own array.
   *
   * @default {16_777_216, or `capacity` if that is larger}
   */
  maxQueuedBytes?: number;
  /**
   * What to do with a write larger than `capacity`: `"split"` it into batches
   * of `capacity`, send it `"whole"` as a batch of its own, from a copy, or
   * `"reject"` it with a `RangeError`. Like any write, a split one resolves
   * once its last bytes are in a store; delivery may be up to two batches later.
   *
   * @default {"split"}
   */
  oversize?: "split" | "whole" | "reject";
  /**
   * Called when a send fails and no `write`, `flush` or `readFrom` is waiting for
   * it. It is called in a microtask of its own; what it throws is ignored.
   */
  onError?: (error: FlushError) => void;
  /**
   * Takes a batch that the server refuses because of its content, so that the
   * stream can go on after it: a batch whose send failed with an error whose
   * `cause.refused` is true (of a `SendError`: 400, 413 and 422).
   *
   * If it returns `true`, or a promise of `true`, it has taken the bytes, and
   * they count in `stats.bytesDiverted`. Otherwise, also if it throws, they are
   * kept, and sent again later. `bytes` is a copy, which it may keep. Nothing
   * else is sent until it settles, so it must not await `flush` or `close` of the
   * buffer. What it returns after the buffer has ended does not count.
   *
   * Without it such a batch is kept, and stops the stream, until the server
   * accepts it or the buffer is closed.
   *
   * @default {undefined}
   */
  deadLetter?: (
    bytes: Uint8Array<ArrayBuffer>,
    error: FlushError,
    context: DeadLetterContext,
  ) => boolean | Promise<boolean>;
}

/** A snapshot of the counters of a {@linkcode StreamBuffer}. */
export interface StreamBufferStats {
  /** Bytes taken into a store (or taken whole) since the beginning. */
  readonly bytesAccepted: number;
  /** Bytes acknowledged. */
  readonly bytesDelivered: number;
  /**
   * Bytes that `deadLetter` has taken. What is left of `bytesAccepted` without
   * these and `bytesDelivered` is held.
   */
  readonly bytesDiverted: number;
  /** Bytes of writes that wait for room, and are not accepted yet. */
  readonly bytesQueued: number;
  /** Bytes that were not accepted because their write rejected. */
  readonly bytesRejected: number;
  /** Number of sends that succeeded. */
  readonly sends: number;
  /** Number of sends that failed. */
  readonly failures: number;
  /** The error of the latest send if it failed, else `undefined`. */
  readonly lastError: FlushError | undefined;
}

/** Options of a {@linkcode FlushError}. */
export interface FlushErrorOptions extends ErrorOptions {
  /** Number of bytes accepted, and neither delivered nor diverted. */
  unsentBytes: number;
  /**
   * Number of bytes of the rejected write that were accepted.
   *
   * @default {0}
   */
  acceptedBytes?: number;
}

/**
 * Bytes were not delivered. Unless the message says otherwise, they are kept: an
 * open buffer sends them again, and a closed one returns them from
 * {@linkcode StreamBuffer.takeUnsent}.
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
  /**
   * Number of bytes accepted, and neither delivered nor diverted, when the error
   * was made.
   */
  readonly unsentBytes: number;
  /**
   * For the error of a `write`: how many of its bytes were accepted
   * nevertheless, and so must not be written again. 0 unless the write was
   * larger than `capacity`.
   */
  readonly acceptedBytes: number;

  /**
   * Constructs a new instance.
   *
   * @param message What failed.
   * @param options The cause, and the numbers of bytes.
   */
  constructor(message: string, options: FlushErrorOptions) {
    const { unsentBytes, acceptedBytes = 0, ...rest } = options;
    super(message, rest);
    this.unsentBytes = unsentBytes;
    this.acceptedBytes = acceptedBytes;
  }
}

/**
 * A write was rejected because it would have made the queue exceed
 * `maxQueuedBytes`. None of it was accepted. Await
 * {@linkcode StreamBuffer.write}, or raise `maxQueuedBytes`.
 */
export class BufferFullError extends Error {
  /** The name of the error. */
  override readonly name = "BufferFullError";
}

/**
 * A source returned 0 bytes 100 times in a row, and so would keep
 * {@linkcode StreamBuffer.readFrom} spinning. The end of the input is `null`.
 */
export class NoProgressError extends Error {
  /** The name of the error. */
  override readonly name = "NoProgressError";
}

/* -----------------------------------------------------------------------------
 * How it works
 *
 * WHERE A BYTE IS. The stream is one sequence of bytes. Four positions cut it
 * into parts, and each part has one owner:
 *
 *   0             #settled        #base         #accepted    #accepted + #queued
 *   |----------------|--------------|---------------|---------------|
 *     acknowledged     #head          #store          #queue
 *     the server's,    lent to the    ours; while     writes that wait for room:
 *     or diverted:     sender, and    readFrom()      copies that we made, or the
 *     taken by         frozen: the    reads, the      caller's array if it is
 *     deadLetter       batch to be    room behind     larger than the store
 *                      delivered      is the source's
 *
 * There are two stores. #fillBatch lends one to the sender, as #head, and the other
 * becomes #store; the one that is not in use is #spare.
 *
 * A byte enters on the right and leaves on the left: queue (unless it fits at
 * once) -> store (unless its write is sent whole) -> head -> settled. No step
 * changes the order. Up to #accepted they are ours to deliver: a failure may
 * reject a queued write, but never lets go of an accepted byte.
 *
 * WHAT STATE THE BUFFER IS IN (#state). It moves forward only, except for
 * readFrom(), which goes back to "open" when it ends:
 *
 *   open    <-> reading   readFrom() owns the input: other writes reject
 *   open     -> closing   close(): no more writes; the rest is sent
 *   reading  -> closing   the same
 *   closing  -> closed    all is delivered, and the sender closed. A read that is
 *                         pending even then may bring bytes for takeUnsent()
 *   any      -> closed    #terminate: abort(), close() that fails or times out, or
 *                         a source that takes the store away
 *
 * WHAT STATE SENDING IS IN (#head). There is at most one batch:
 *
 *   none      -> ready       bytes are demanded (#fillBatch)
 *   ready     -> in flight   #launch, before #advance returns
 *   in flight -> none        the sender acknowledges, or deadLetter takes a batch
 *                            that was refused (#settle)
 *   in flight -> held        the sender fails (#hold)
 *   held      -> ready       the retry timer, flush() or close(); the batch is
 *                            the same
 *
 * In a closed buffer nothing is launched. A send that is still in flight then
 * may succeed, and counts, until takeUnsent() has returned its bytes.
 *
 * WHO MAKES IT MOVE. A full store, flush(), close(), flushInterval, and a write
 * or a source that needs room never send anything themselves. They raise one
 * number, #demand, the position up to which bytes are to be sent without waiting
 * for a full store, and call #advance(), which alone calls `send`.
 *
 * WHO DECIDES WHEN A FAILED BATCH IS SENT AGAIN. The retry timer does, and nothing
 * else, except that flush() and close() do not wait for it: they are calls that
 * someone made for this, and a server must not be asked more often because there
 * is more to write. Its delays grow from failure to failure, and it obeys
 * `retryAfter`. Within a send the sender decides, in the same way and until it
 * gives up; and what a server has asked for binds flush() and close() there.
 * close() insists once: if the send in flight fails, it sends that batch once
 * more before it fails too.
 *
 * INVARIANTS, whenever no method of ours is running, until takeUnsent():
 *
 * 1. #settled <= #base <= #accepted, and #base - #settled is the size of #head:
 *    without a head they are equal.
 * 2. The bytes, sequence and offset of a batch do not change between its first
 *    send and its settlement.
 * 3. The queue is empty unless its first write does not fit. Then a batch is in
 *    flight or held, and the end of its send moves the queue up, or rejects it.
 * 4. No byte is forgotten. With a flushInterval, each accepted byte of an open
 *    buffer is settled, or demanded, or in a store with one that is and so leaves
 *    with it, or the clock (#timer) runs for it. What is demanded is sent as soon
 *    as no batch is before it, and while a batch is held the retry timer runs,
 *    unless the sender has ended.
 * 5. No one waits in vain: a failed send, and the end of the buffer, settle every
 *    queued write, every flush, and a reader that waits for room. A reader that
 *    waits for its source is rejected only by the end (#stopReading).
 * 6. #demand <= #accepted + #queued: nothing is demanded that may never come.
 *
 * CODE THAT IS NOT OURS runs in a sender's methods and getters, a source, onError,
 * deadLetter and listeners of the signals, and it may call any method of this
 * buffer. So `send` is called last, when the invariants hold again; after every
 * other such call, #state is looked at anew before anything depends on it.
 * -------------------------------------------------------------------------- */

type State = "open" | "reading" | "closing" | "closed";

/** The bytes of one send, from when they leave the store until they are settled. */
interface Batch {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The size of `bytes`, which is 0 once a sender has transferred them. */
  readonly size: number;
  readonly context: SendContext;
  /**
   * The store that `bytes` is a view of, which becomes the spare afterwards;
   * `undefined` if `bytes` is a copy of a write that is sent whole.
   */
  readonly store: Uint8Array<ArrayBuffer> | undefined;
  /** Ready to be sent, with the sender (or with `deadLetter`), or waiting to be sent again. */
  state: "ready" | "in flight" | "held";
}

/** Waits, for `flush` or `close`, until the stream is settled up to `end`. */
interface Waiter extends PromiseWithResolvers<void> {
  readonly end: number;
}

/**
 * An entry in the queue of writes that wait for room. It is either one write
 * larger than the store, in the caller's array, or a pack: a copy of as many
 * writes as fit into a store together. They can only be accepted or rejected
 * together, so they share a promise, and a million small writes cost their
 * bytes and little more.
 */
class QueueEntry {
  /** For a pack it has room to grow: the first `length` bytes are in use. */
  #bytes: Uint8Array;
  #length: number;
  /** How many of them were accepted: of a large write, piece by piece. */
  #taken = 0;
  readonly #settled: PromiseWithResolvers<void> = Promise.withResolvers();

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#length = bytes.length;
    handled(this.#settled.promise);
  }

  get promise(): Promise<void> {
    return this.#settled.promise;
  }

  get length(): number {
    return this.#length;
  }

  get taken(): number {
    return this.#taken;
  }

  /** How many bytes still wait. */
  get rest(): number {
    return this.#length - this.#taken;
  }

  /** The caller has transferred or shrunk its array, so that bytes are missing. */
  get hasShrunk(): boolean {
    return this.#bytes.length < this.#length;
  }

  /**
   * Adds a copy of `bytes` to a pack. Its array at least doubles when it grows,
   * but stays within `maxLength`.
   */
  append(bytes: Uint8Array, maxLength: number): void {
    const end = this.#length + bytes.length;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.min(2 * end, maxLength));
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length = end;
  }

  /** Gives back the room to grow, because nothing more is added. */
  trim(): void {
    if (this.#length < this.#bytes.length) {
      this.#bytes = this.#bytes.slice(0, this.#length);
    }
  }

  /** The next `size` bytes, which count as taken. The view is only for copying. */
  take(size: number): Uint8Array {
    const start = this.#taken;
    this.#taken += size;
    return this.#bytes.subarray(start, this.#taken);
  }

  resolve(): void {
    this.#settled.resolve();
  }

  reject(reason: unknown): void {
    this.#settled.reject(reason);
  }
}

/**
 * Collects writes in a fixed store and hands them to a {@linkcode Sender} when
 * the store is full, `flushInterval` after its first byte, and on `flush` and
 * `close`.
 *
 * It gains nothing for a few large writes that are far apart, and it does not
 * outlive its process: bytes in memory are lost when a signal, a crash or
 * `Deno.exit` ends it. Use `await using`, or call `close`, to send them first.
 *
 * - **A write that fits is a copy.** Its bytes are in the store when `write`
 *   returns, so the caller may reuse the array at once.
 * - **Backpressure.** A full store is sent while a second one fills. When both
 *   are full, `write` returns a promise that waits for room.
 * - **Order.** There is one send at a time, in the order of the writes. A write
 *   no larger than `capacity` is never split over two sends.
 * - **A failed send keeps its bytes.** They are sent again, first and
 *   unchanged: at once by `flush` and `close`, else after a delay that grows from
 *   about a second to a minute. Only an acknowledgement lets go of them, or a
 *   `deadLetter` that takes them.
 * - **Nothing is lost even at the end.** After a failed `close`, or an `abort`,
 *   `takeUnsent` returns exactly what was accepted and not acknowledged, unless a
 *   sender or a source has transferred the array that it was lent.
 *
 * Strings are encoded as UTF-8, each write on its own: a surrogate without its
 * partner in the same write becomes U+FFFD, as with `TextEncoder`.
 *
 * A promise of `write`, `flush` or `readFrom` that rejects never ends the
 * process, even if it is not awaited. Those of `close` and `abort` can: they are
 * the last chance to learn of bytes that were not delivered.
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
  readonly #onError: StreamBufferOptions["onError"];
  readonly #deadLetter: StreamBufferOptions["deadLetter"];

  // -- The parts of the stream, from left to right --

  /** Everything before this position is acknowledged, or diverted. */
  #settled = 0;
  /** The batch that was made last, until it is settled. */
  #head: Batch | undefined;
  /** Position of the first byte in #store, which is the end of #head. */
  #base = 0;
  /** Its first #filled bytes are accepted, and in no batch yet. */
  #store: Uint8Array<ArrayBuffer>;
  #filled = 0;
  readonly #queue: Queue<QueueEntry> = new Queue();
  /** Bytes in #queue. */
  #queued = 0;

  /**
   * The second store, empty; `undefined` before it is first needed, and while it
   * is lent out as #head.
   */
  #spare: Uint8Array<ArrayBuffer> | undefined;
  /**
   * A source is reading into #store, somewhere behind its #filled bytes. From
   * the call of `read` until its promise settles #store must stay where it is,
   * and what has to be sent is sent from #spare.
   */
  #isTailLent = false;
  /**
   * A write that ends below this needs nothing but a copy: the fast path. It is
   * #capacity, or 0 whenever a write takes more than that: the store is empty
   * (the clock has to be started), writes are queued (they come first), or the
   * buffer is not open. Why below, and not at? A write that ends at #capacity
   * fills the store, which has to be sent.
   */
  #copyLimit = 0;

  // -- Sending --

  /** Bytes up to this position are to be sent without waiting for a full store. */
  #demand = 0;
  /** Number of the next batch. */
  #sequence = 0;
  /** Fulfills when the send in flight, or the last one, has ended either way. */
  #sendEnded: Promise<void> | undefined;
  /** How many sends have failed since the last batch was settled. */
  #failuresInARow = 0;
  /** Stops the retry timer, which runs while a batch is held. */
  #cancelRetry: (() => void) | undefined;
  /** Runs while there are accepted bytes that nothing is about to send. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Those who wait for delivery, in the order of their ends. */
  readonly #waiters: Queue<Waiter> = new Queue();
  /** Pending while `readFrom` waits for room in the store. */
  #roomForReader: PromiseWithResolvers<void> | undefined;

  // -- The end --

  #state: State = "open";
  /** Rejects the promise of `readFrom`. */
  #stopReading: ((reason: unknown) => void) | undefined;
  /** What `close` returns, once the buffer is closing or has ended. */
  #closePromise: Promise<void> | undefined;
  /** What `abort` returns. */
  #abortPromise: Promise<void> = RESOLVED;
  /** Rejects when the buffer ends without delivering everything. */
  readonly #terminated: PromiseWithResolvers<never> = Promise.withResolvers();
  /** Aborts the `signal` of every `SendContext`. */
  readonly #controller = new AbortController();
  /** Aborts the `closing` of every `SendContext`. */
  readonly #closing = new AbortController();
  /** When `closeTimeout` passes, by `performance.now()`. */
  #deadline = Infinity;

  #writable: WritableStream<string | Uint8Array> | undefined;

  /** Names this stream for `deadLetter`, if its sender does not. */
  #id: string | undefined;

  // -- Counters for `stats` --

  #diverted = 0;
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
      deadLetter,
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
    check(ACTION, { onError, deadLetter }, "a function", "function");
    this.#sender = typeof sender === "function" ? { send: sender } : sender;
    if (typeof this.#sender?.send !== "function") {
      throw new TypeError(
        `${ACTION}: sender must be a function or have a method "send", received ${
          // It may be a URL, with a secret.
          typeof sender === "string"
            ? "a string; for a URL, use streamTo()"
            : show(sender)}`,
      );
    }
    this.#capacity = capacity;
    this.#flushInterval = flushInterval;
    this.#closeTimeout = closeTimeout;
    this.#maxQueuedBytes = maxQueuedBytes;
    this.#oversize = oversize;
    this.#onError = onError;
    this.#deadLetter = deadLetter;
    this.#store = new Uint8Array(capacity);
    handled(this.#terminated.promise);
  }

  /**
   * Writes `data` to the buffer. If there is room, the bytes are copied before
   * the call returns, and the promise is already resolved. Otherwise it resolves
   * when they are in a store: await it to keep pace with the server.
   *
   * An array larger than `capacity` is not copied while it waits: leave it
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
   * @throws {FlushError} If a send fails while it waits for room, or an array in
   *   the queue is detached. None of it was accepted, except its first
   *   `acceptedBytes` bytes.
   * @throws {BufferFullError} If the queue would exceed `maxQueuedBytes`.
   * @throws {TypeError} If the buffer is not open (closing, closed, or reading
   *   from a source), or `data` is detached or of another type.
   * @throws {RangeError} If it is larger than `capacity` and `oversize` is
   *   `"reject"`.
   */
  write(data: string | ArrayBuffer | ArrayBufferView): Promise<void> {
    if (typeof data === "string") return this.#writeString(data);
    // The length of a detached array is 0: it must not pass for one that fits.
    if (data instanceof Uint8Array && data.length > 0) {
      const end = this.#filled + data.length;
      if (end < this.#copyLimit) {
        this.#store.set(data, this.#filled);
        this.#filled = end;
        return RESOLVED;
      }
    }
    return this.#writeSlow(data);
  }

  /**
   * Reads everything from a file, a pipe or a connection, up to its end. It
   * reads straight into the store, as much at a time as there is room for, and
   * continues while a full store is sent: the fastest way to send a file.
   *
   * It reads only when there is room. If a send fails while it waits for room, it
   * rejects; if it is waiting for the source, it carries on, and `onError` is
   * called. Either way every byte that was read has been accepted, and another
   * call continues from there. Meanwhile `flush`, `flushInterval` and `stats` work as usual,
   * but nothing else can be written.
   *
   * `close` and `abort` end it at once. Bytes from a read that was pending then
   * are still accepted when they arrive: `close` sends them if it is not done
   * yet, and {@linkcode StreamBuffer.takeUnsent} returns them after that.
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
   * @param source What to read from. The caller remains responsible for
   *   closing it.
   * @returns A promise that resolves to the number of bytes read, when all of
   *   them have been accepted.
   * @throws {FlushError} If a send fails while it waits for room, or the source
   *   transfers the store, which ends the buffer.
   * @throws {TypeError} If the buffer is closed, or becomes so, if it is reading
   *   already, or if `source` is not a {@linkcode Reader}.
   * @throws {NoProgressError} If the source returns 0 bytes 100 times in a row.
   * @throws Whatever the source throws.
   */
  readFrom(source: Reader): Promise<number> {
    return handled(this.#readFrom(source));
  }

  /**
   * Sends everything written before the call, including writes that still wait
   * for room. Later writes never prolong it. With nothing to send it does not
   * call the sender.
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
   * @returns A promise that resolves when all of it has been delivered, or taken
   *   by `deadLetter`.
   * @throws {FlushError} If a send fails first. The bytes are kept: flush again.
   * @throws {TypeError} If the buffer is closing or closed.
   * @throws The reason of `abort`, if that is called meanwhile.
   */
  flush(): Promise<void> {
    if (this.#isOpen) return this.#deliver();
    return handled(Promise.reject(this.#notOpen("flush")));
  }

  /**
   * Stops accepting writes, sends the rest, including the writes that wait for
   * room, and closes the sender. Further calls return the same promise.
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
   *   every byte has been delivered, or taken by `deadLetter`. Bytes from a pending read of `readFrom`
   *   that arrive after the last send are left to `takeUnsent`. After `abort`,
   *   which gives up delivery, it resolves at once.
   * @throws {FlushError} If some were not delivered, or the sender could not be
   *   closed. The buffer is closed nevertheless, and
   *   {@linkcode StreamBuffer.takeUnsent} returns them.
   * @throws The reason of `abort`, if that is called meanwhile.
   */
  close(): Promise<void> {
    if (this.#closePromise === undefined) {
      // It is in place before the sender is told, which may call close() in turn.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#closePromise = promise;
      resolve(this.#close());
    }
    return this.#closePromise;
  }

  /**
   * Ends the buffer at once: aborts the send in flight, rejects everything that
   * waits with `reason`, and sends nothing more.
   * {@linkcode StreamBuffer.takeUnsent} returns what was not acknowledged. On a
   * closed buffer it does nothing.
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
   * @param reason Why; by default an `AbortError`.
   * @returns A promise that settles as the sender's own `abort` does.
   */
  abort(
    reason: unknown = new DOMException(
      "The buffer was aborted",
      "AbortError",
    ),
  ): Promise<void> {
    if (this.#state !== "closed") {
      // Both promises are in place before the sender is told, because it may
      // call close() or abort() in turn, and must find the buffer ended.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#abortPromise = promise;
      this.#closePromise ??= RESOLVED;
      resolve(this.#terminate(reason, () => reason));
    }
    return this.#abortPromise;
  }

  /**
   * Returns the bytes that were accepted and never acknowledged, in order, and
   * lets go of them: a second call returns only bytes that a pending read of
   * `readFrom` has brought since. A server may have received some of them, if
   * only its acknowledgement was lost.
   *
   * @example Keep what a dead server did not receive
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
        `Cannot take the unsent bytes: the buffer is ${this.#state} and may still send them; call close() or abort() first`,
      );
    }
    const sent = this.#head?.bytes ?? new Uint8Array();
    const unsent = new Uint8Array(sent.length + this.#filled);
    // A sender may have transferred them; `set` throws for a detached array.
    if (sent.length > 0) unsent.set(sent);
    unsent.set(this.#store.subarray(0, this.#filled), sent.length);
    this.#head = undefined;
    this.#base += this.#filled; // so that they still count as accepted
    this.#filled = 0;
    return unsent;
  }

  /**
   * Counts what the buffer has done so far.
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
      bytesDelivered: this.#settled - this.#diverted,
      bytesDiverted: this.#diverted,
      bytesQueued: this.#queued,
      bytesRejected: this.#rejected,
      sends: this.#sends,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  /**
   * A `WritableStream` over this buffer, the same one each time. Its chunks are
   * writes, its close is `close()`, its abort is `abort()`. When a write rejects
   * the stream is errored, so `pipeTo` cancels its source; the buffer lives on.
   *
   * A `pipeTo` does not notice that its buffer was closed or aborted directly
   * until the next chunk arrives. Abort the pipe instead, by its `signal`.
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
        // The stream would call `abort` below only once the pending write has
        // settled, and that write may be waiting for a dead server.
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

  /** Where the accepted bytes end. */
  get #accepted(): number {
    return this.#base + this.#filled;
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

  // -- Accepting bytes --

  /**
   * Encodes by the way that is fastest for the length. What does not fit, or is
   * not ASCII, falls through to the next way, and at last to an array of its own.
   */
  #writeString(text: string): Promise<void> {
    const { length } = text;
    const start = this.#filled;
    if (length <= MAX_LOOP_LENGTH && start + length < this.#copyLimit) {
      const store = this.#store;
      let units = 0;
      for (let i = 0; i < length; i++) {
        const unit = text.charCodeAt(i);
        store[start + i] = unit;
        units |= unit;
      }
      if (units < 0x80) {
        this.#filled += length;
        return RESOLVED;
      }
      // It was not all ASCII: what the loop wrote is not counted, and is
      // overwritten by the next way.
    }
    if (length <= MAX_SCRATCH_LENGTH && start < this.#copyLimit) {
      const { written } = ENCODER.encodeInto(text, SCRATCH);
      if (start + written < this.#copyLimit) {
        this.#store.set(PREFIXES[written]!, start);
        this.#filled += written;
        return RESOLVED;
      }
    }
    if (this.#state === "open" && this.#queue.isEmpty) {
      const room = this.#store.subarray(start);
      const { read, written } = ENCODER.encodeInto(text, room);
      if (read === length) {
        if (written > 0) this.#accept(written);
        return RESOLVED;
      }
      // It did not fit: what was written is not counted either.
    }
    // Into a new array, not into SCRATCH: before the bytes are copied a sender may
    // be called, and may write a string to another buffer.
    return this.#writeSlow(ENCODER.encode(text));
  }

  /**
   * The slow path of `write`: whatever takes more than a copy. The bytes may
   * need checks, have to start the clock, fill the store, or wait for room.
   */
  #writeSlow(data: ArrayBuffer | ArrayBufferView): Promise<void> {
    let bytes: Uint8Array;
    try {
      bytes = toBytes(data);
    } catch (error) {
      return this.#rejectWrite(error, 0);
    }
    const { length } = bytes;
    if (this.#state === "open") {
      if (length === 0) return RESOLVED;
      if (length > this.#capacity && this.#oversize === "reject") {
        return this.#rejectWrite(
          new RangeError(
            `Cannot write ${
              countOf(length)
            }: the capacity is ${this.#capacity}, and oversize is "reject"`,
          ),
          length,
        );
      }
      if (!this.#fits(length)) this.#demandRoom();
    }
    // Only now, because a sender that was just called may have ended the buffer.
    if (this.#state !== "open") {
      return this.#rejectWrite(
        this.#notOpen(`write ${countOf(length)}`),
        length,
      );
    }
    if (!this.#fits(length)) return this.#enqueue(bytes);
    this.#store.set(bytes, this.#filled);
    this.#accept(length);
    return RESOLVED;
  }

  /** Whether the store has room for `length` bytes, and it is their turn. */
  #fits(length: number): boolean {
    return this.#queue.isEmpty && this.#filled + length <= this.#capacity;
  }

  /** Counts the next `length` bytes of the store, which have been filled. */
  #accept(length: number): void {
    this.#filled += length;
    if (this.#filled === this.#capacity) this.#demandAccepted();
    this.#advance();
  }

  #rejectWrite(error: unknown, length: number): Promise<void> {
    this.#rejected += length;
    return handled(Promise.reject(error));
  }

  /** Queues a write that does not fit, if the queue may hold it. */
  #enqueue(bytes: Uint8Array): Promise<void> {
    const { length } = bytes;
    // A write that waits in the caller's array takes no memory of ours. Only one
    // at a time: a caller that does not await would otherwise queue without end.
    const isCallersArray = length > this.#capacity && this.#queue.isEmpty;
    if (this.#queued + length > this.#maxQueuedBytes && !isCallersArray) {
      return this.#rejectWrite(
        new BufferFullError(
          `Cannot write ${
            countOf(length)
          }: ${this.#queued} are queued, and maxQueuedBytes is ${this.#maxQueuedBytes}; await write(), or raise maxQueuedBytes`,
        ),
        length,
      );
    }
    const { promise } = this.#pack(bytes);
    this.#queued += length;
    this.#advance();
    return promise;
  }

  /** Adds a write to the last pack in the queue, or begins a new entry. */
  #pack(bytes: Uint8Array): QueueEntry {
    const { length } = bytes;
    const last = this.#queue.last;
    // A pack is accepted as a whole, so it must not extend past the end of a
    // flush: that flush would wait for bytes that were written after it.
    const endsFlush = this.#waiters.last?.end === this.#accepted + this.#queued;
    if (last && !endsFlush && last.length + length <= this.#capacity) {
      // It may grow by what the queue may still hold, and no further, so that
      // memory stays within its bound.
      const maxLength = last.length + this.#maxQueuedBytes - this.#queued;
      last.append(bytes, Math.min(maxLength, this.#capacity));
      return last;
    }
    last?.trim();
    const isOversize = length > this.#capacity;
    const entry = new QueueEntry(isOversize ? bytes : new Uint8Array(bytes));
    this.#queue.push(entry);
    return entry;
  }

  /** Accepts queued writes, in order, while there is room. */
  #takeFromQueue(): void {
    for (;;) {
      const entry = this.#queue.first;
      if (entry === undefined) return;
      if (entry.hasShrunk) return this.#rejectShrunk();
      const isWhole = entry.rest > this.#capacity && this.#oversize === "whole";
      const isTaken = isWhole ? this.#takeWhole(entry) : this.#takePiece(entry);
      if (!isTaken) return this.#demandAccepted(); // to make room for it
      if (entry.rest === 0) {
        this.#queue.shift();
        entry.resolve();
      }
    }
  }

  /** Makes a batch of a write, unless bytes before it are still to be sent. */
  #takeWhole(entry: QueueEntry): boolean {
    if (this.#filled > 0 || this.#head !== undefined) return false;
    const size = entry.rest;
    // A copy: a batch must not change, and the array is the caller's again once
    // the write has settled. Allocated first, since that may throw.
    const copy = new Uint8Array(size);
    copy.set(entry.take(size));
    this.#head = this.#makeBatch(copy);
    this.#queued -= size;
    this.#demandAccepted();
    return true;
  }

  /** Copies a write into the store, or as much of it as a store holds. */
  #takePiece(entry: QueueEntry): boolean {
    const size = Math.min(entry.rest, this.#capacity);
    if (this.#filled + size > this.#capacity) return false;
    this.#store.set(entry.take(size), this.#filled);
    this.#queued -= size;
    this.#filled += size;
    if (this.#filled === this.#capacity) this.#demandAccepted();
    return true;
  }

  /**
   * Rejects everyone who waits, because the first queued write has lost bytes.
   * Everyone, not only this write: those behind it wait for positions in the
   * stream that move when its bytes are left out.
   */
  #rejectShrunk(): void {
    const message =
      "Cannot write: an array in the queue was detached or shrunk while it waited";
    const error = this.#error(message, new TypeError(message));
    this.#rejectAll(errorForWrite(error));
  }

  // -- Reading from a source --

  async #readFrom(source: Reader): Promise<number> {
    // The readers of web streams have a `read`, too, which would detach the
    // store; that of a Node stream returns `null` before its end.
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
    this.#advance(); // ends the fast path: a copy would collide with the source
    try {
      return await Promise.race([this.#readAll(source), promise]);
    } finally {
      if (this.#isOpen) {
        this.#state = "open";
        this.#advance();
      }
    }
  }

  /**
   * The loop of `readFrom`. It outlives the promise of `readFrom` when that is
   * rejected during a `read`, as the bytes that arrive then are accepted too.
   */
  async #readAll(source: Reader): Promise<number> {
    let total = 0;
    let emptyReads = 0;
    while (this.#state === "reading") {
      if (!this.#fits(1)) {
        await this.#makeRoom();
        continue;
      }
      // The source is lent the store behind the #filled bytes that are in it. If
      // they have to be sent before it returns, they are copied to the spare and
      // sent from there (#fillBatch), as the store cannot be swapped under it.
      // Nothing else writes to the store: other writes reject meanwhile.
      const start = this.#filled;
      const room = this.#store.subarray(start);
      this.#isTailLent = true;
      let size: number | null;
      try {
        size = await source.read(room);
      } finally {
        this.#isTailLent = false;
        this.#checkStore();
      }
      if (size === null) break;
      if (!Number.isInteger(size) || size < 0 || size > room.length) {
        throw new TypeError(
          `Cannot read: the source was given ${
            countOf(room.length)
          } of room, and returned ${show(size)}`,
        );
      }
      emptyReads = size === 0 ? emptyReads + 1 : 0;
      if (emptyReads === MAX_EMPTY_READS) {
        throw new NoProgressError(
          `Cannot read: the source returned 0 bytes ${emptyReads} times in a row (null is the end)`,
        );
      }
      // If the bytes before these were sent meanwhile, #filled is below `start`:
      // close the gap.
      this.#store.copyWithin(this.#filled, start, start + size);
      if (this.#isOpen) this.#accept(size);
      else this.#filled += size; // close() sends it, or takeUnsent() returns it
      total += size;
    }
    return total;
  }

  /**
   * Ends the buffer if a source has transferred the store. The accepted bytes in
   * it are lost, and whatever is written to a detached array would be, too.
   */
  #checkStore(): void {
    if (this.#store.length === this.#capacity) return;
    this.#store = new Uint8Array();
    this.#base += this.#filled; // they were accepted, and count as unsent
    this.#filled = 0;
    const message =
      "Cannot read: the source has transferred the store that it was lent, and the bytes in it are lost";
    const error = this.#error(message, new TypeError(message));
    this.#fail(error);
    throw error;
  }

  /** Has the store sent, and waits until that has made room, or has failed. */
  #makeRoom(): Promise<void> {
    this.#roomForReader = Promise.withResolvers();
    const { promise } = this.#roomForReader;
    this.#demandRoom();
    return promise;
  }

  // -- Sending --

  /**
   * Demands everything up to now, accepted or queued, sends it without waiting
   * for the retry timer, and resolves when it is settled. Calls for the same end
   * share a promise.
   */
  #deliver(): Promise<void> {
    const end = this.#accepted + this.#queued;
    if (this.#settled === end) return RESOLVED;
    let waiter = this.#waiters.last;
    if (waiter?.end !== end) {
      waiter = { end, ...Promise.withResolvers<void>() };
      handled(waiter.promise);
      this.#waiters.push(waiter);
    }
    this.#demand = end;
    this.#release();
    this.#advance();
    return waiter.promise;
  }

  /** Demands what has been accepted; a flush may already have demanded more. */
  #demandAccepted(): void {
    this.#demand = Math.max(this.#demand, this.#accepted);
  }

  /**
   * Has the store sent, to make room in it. A sender that has ended fails at once,
   * and so whoever needs the room learns of that, instead of waiting in vain for
   * a retry timer that does not run.
   */
  #demandRoom(): void {
    this.#demandAccepted();
    if (this.#hasSenderEnded) this.#release();
    this.#advance();
  }

  get #hasSenderEnded(): boolean {
    return property(this.#sender, "ended") === true;
  }

  /**
   * Does everything that can be done now: takes writes from the queue, fills a
   * batch and sends it if it is demanded, sets the clock. It is called after
   * every change that takes more than the fast path, and nothing else calls
   * `send`.
   */
  #advance(): void {
    if (this.#state !== "closed") {
      this.#takeFromQueue();
      if (
        this.#head === undefined && this.#filled > 0 &&
        this.#demand > this.#settled
      ) {
        this.#head = this.#fillBatch();
        this.#takeFromQueue(); // there is an empty store now
      }
    }
    this.#copyLimit =
      this.#state === "open" && this.#queue.isEmpty && this.#filled > 0
        ? this.#capacity
        : 0;
    this.#setClock();
    // Last of all, because the sender may call any method of this buffer.
    if (this.#state !== "closed" && this.#head?.state === "ready") {
      this.#launch(this.#head);
    }
  }

  /** Makes a batch of what is in the store, and leaves an empty store. */
  #fillBatch(): Batch {
    const filled = this.#store.subarray(0, this.#filled);
    const next = this.#spare ?? new Uint8Array(this.#capacity);
    this.#spare = undefined;
    this.#filled = 0;
    if (this.#isTailLent) {
      // The source keeps this store, so the bytes are sent from the other one.
      next.set(filled);
      return this.#makeBatch(next.subarray(0, filled.length), next);
    }
    const batch = this.#makeBatch(filled, this.#store);
    this.#store = next;
    return batch;
  }

  /** Makes `bytes`, which are no longer in #store, the next batch of the stream. */
  #makeBatch(
    bytes: Uint8Array<ArrayBuffer>,
    store?: Uint8Array<ArrayBuffer>,
  ): Batch {
    const context = this.#contextFor(this.#sequence++, this.#base);
    const size = bytes.length;
    this.#base += size;
    return { bytes, size, context, store, state: "ready" };
  }

  #contextFor(sequence: number, offset: number): SendContext {
    const deadline = () => this.#deadline;
    return {
      sequence,
      offset,
      signal: this.#controller.signal,
      closing: this.#closing.signal,
      get deadline() { // close() may be called while the batch is in flight
        return deadline();
      },
    };
  }

  /**
   * Runs the clock while there are accepted bytes that nothing is about to send.
   * While it runs it is never reset, so it counts from the first of them.
   */
  #setClock(): void {
    if (
      this.#isOpen && this.#flushInterval > 0 &&
      this.#accepted > Math.max(this.#demand, this.#settled)
    ) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#demandAccepted();
        this.#advance();
      }, this.#flushInterval);
    } else {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  /** Calls the sender. However it behaves, the call is settled exactly once. */
  #launch(batch: Batch): void {
    batch.state = "in flight";
    // #sendEnded is set before the sender is called: if the sender calls close(),
    // that has to wait for this send and not for the one before it.
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#sendEnded = promise.then(
      () => this.#sendSucceeded(batch),
      (cause) => this.#sendFailed(batch, cause),
    );
    // In an executor, what the sender throws is a rejection like any other.
    resolve(
      new Promise((settle) => {
        // No batch is made without bytes: these have been transferred.
        if (batch.bytes.length < batch.size) {
          throw new TypeError(
            "the sender has transferred the bytes, and did not deliver them; it must copy what it transfers",
          );
        }
        settle(this.#sender.send(batch.bytes, batch.context));
      }),
    );
  }

  #sendSucceeded(batch: Batch): void {
    if (this.#head !== batch) return; // takeUnsent() has returned its bytes
    this.#sends++;
    this.#lastError = undefined;
    this.#settle(batch);
  }

  /** Lets go of a batch that the server, or `deadLetter`, has taken. */
  #settle(batch: Batch): void {
    this.#head = undefined;
    // A store that the sender has transferred has no bytes, and is of no more use.
    if (batch.store?.length === this.#capacity) this.#spare = batch.store;
    this.#settled += batch.size;
    this.#failuresInARow = 0;
    while ((this.#waiters.first?.end ?? Infinity) <= this.#settled) {
      this.#waiters.shift()!.resolve();
    }
    this.#roomForReader?.resolve();
    this.#roomForReader = undefined;
    this.#advance();
  }

  /** Offers the batch to `deadLetter`, if it was refused, or holds it. */
  #sendFailed(batch: Batch, cause: unknown): void | Promise<void> {
    const { sequence, offset } = batch.context;
    const error = this.#error(
      `Cannot deliver ${
        countOf(batch.size)
      } at offset ${offset} (batch ${sequence}): ${messageOf(cause)}`,
      cause,
    );
    this.#failures++;
    this.#lastError = error;
    if (this.#state === "closed") return;
    const deadLetter = this.#deadLetter;
    if (deadLetter === undefined || property(cause, "refused") !== true) {
      return this.#hold(batch, error);
    }
    return this.#divert(batch, error, deadLetter);
  }

  /**
   * Offers a batch to `deadLetter`. The batch stays in flight meanwhile: to
   * everyone else this is a part of its send.
   */
  async #divert(
    batch: Batch,
    error: FlushError,
    deadLetter: NonNullable<StreamBufferOptions["deadLetter"]>,
  ): Promise<void> {
    const { sequence, offset } = batch.context;
    const given = property(error.cause, "key");
    const key = typeof given === "string"
      ? given
      : `${this.#id ??= randomUuid()}-${sequence}`;
    const context = Object.assign(this.#contextFor(sequence, offset), { key });
    let isTaken = false;
    let problem = "deadLetter did not take them";
    try {
      // A copy, because whoever sets bytes aside is likely to keep them, and the
      // store is filled again as soon as it has taken them.
      isTaken = await deadLetter(batch.bytes.slice(), error, context) === true;
    } catch (thrown) {
      problem = `deadLetter failed: ${messageOf(thrown)}`;
    }
    // takeUnsent() returns them then, so that nobody else must have them.
    if (this.#state === "closed") return;
    if (isTaken) {
      this.#diverted += batch.size;
      this.#settle(batch);
    } else {
      const message = `${error.message}; ${problem}`;
      this.#hold(batch, this.#error(message, error.cause));
    }
  }

  /**
   * Holds a batch until it is sent again. Everyone who waits for room or for
   * delivery learns of the failure now, because nobody knows for how long it
   * will last. What was demanded remains so, and follows when the batch has
   * been settled.
   */
  #hold(batch: Batch, error: FlushError): void {
    batch.state = "held";
    this.#lastError = error;
    const delay = this.#retryDelay(error.cause);
    const isRetried = !this.#hasSenderEnded;
    // Both may have called a getter, which may have ended the buffer.
    if (this.#state === "closed") return;
    if (isRetried) {
      this.#cancelRetry = after(delay, () => {
        this.#release();
        this.#advance();
      });
    }
    const anyoneWaited = this.#rejectAll(errorForWrite(error));
    const onError = this.#onError;
    if (!anyoneWaited && onError) queueMicrotask(() => notify(onError, error));
    this.#advance();
  }

  /**
   * How long a batch is held, in ms. The bound doubles with each failure, so that
   * a server that stays away is asked less and less often. The delay is random, so
   * that many clients do not all return at once.
   */
  #retryDelay(cause: unknown): number {
    const bound = Math.min(
      Math.max(MIN_RETRY_DELAY, this.#flushInterval) *
        2 ** this.#failuresInARow++,
      Math.max(MAX_RETRY_DELAY, this.#flushInterval),
    );
    const delay = bound * (1 + Math.random()) / 2;
    const retryAfter = property(cause, "retryAfter");
    return typeof retryAfter === "number" && retryAfter > delay
      ? retryAfter
      : delay;
  }

  /** Makes a held batch ready to be sent, and stops the retry timer. */
  #release(): void {
    this.#cancelRetry?.();
    if (this.#head?.state === "held") this.#head.state = "ready";
  }

  #error(message: string, cause: unknown): FlushError {
    const unsentBytes = this.#accepted - this.#settled;
    return new FlushError(message, { cause, unsentBytes });
  }

  /**
   * Rejects everyone who waits: queued writes, flushes, and a reader that waits
   * for room.
   *
   * @param reasonFor Makes the reason, given how many bytes of a write were
   *   accepted.
   * @returns Whether there was anyone.
   */
  #rejectAll(reasonFor: (acceptedBytes: number) => unknown): boolean {
    const anyoneWaited = !this.#queue.isEmpty || !this.#waiters.isEmpty ||
      this.#roomForReader !== undefined;
    for (const entry of this.#queue) entry.reject(reasonFor(entry.taken));
    this.#queue.clear();
    this.#rejected += this.#queued;
    this.#queued = 0;
    // A flush may have demanded the bytes that were just rejected. If that demand
    // stayed, it would send later writes before their time.
    this.#demand = Math.min(this.#demand, this.#accepted);
    for (const waiter of this.#waiters) waiter.reject(reasonFor(0));
    this.#waiters.clear();
    this.#roomForReader?.reject(reasonFor(0));
    this.#roomForReader = undefined;
    return anyoneWaited;
  }

  // -- The end --

  async #close(): Promise<void> {
    this.#state = "closing";
    this.#deadline = performance.now() + this.#closeTimeout;
    this.#stopReading?.(this.#notOpen("continue to read"));
    const deadline = setTimeout(() => {
      const failure = this.#lastFailure();
      const message = `closeTimeout of ${this.#closeTimeout} ms has passed${
        failure === undefined ? "" : `: ${messageOf(failure)}`
      }`;
      const cause = new DOMException(message, "TimeoutError");
      if (failure !== undefined) cause.cause = failure;
      this.#fail(this.#error(`Cannot close the buffer: ${message}`, cause));
    }, this.#closeTimeout);
    this.#closing.abort();
    try {
      await Promise.race([this.#drain(), this.#terminated.promise]);
    } catch (error) {
      this.#fail(error); // does nothing if abort() or the deadline already has
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  /**
   * The latest failure: what the sender reports, as the attempt that is being
   * made may not be the first one, or that of the latest send.
   */
  #lastFailure(): unknown {
    return property(this.#sender, "lastFailure") ?? this.#lastError?.cause;
  }

  /** Delivers everything and closes the sender, unless the buffer ends before. */
  async #drain(): Promise<void> {
    this.#advance(); // in this state there is no fast path, and no clock
    // If the send in flight fails, close() does not fail with it: it sends that
    // batch once more first.
    await this.#sendEnded;
    // More than once if a source brings bytes meanwhile.
    while (
      this.#state === "closing" &&
      this.#settled < this.#accepted + this.#queued
    ) await this.#deliver();
    if (this.#state !== "closing") return;
    try {
      await this.#sender.close?.();
      this.#state = "closed";
    } catch (cause) {
      throw this.#error(`Cannot close the sender: ${messageOf(cause)}`, cause);
    }
  }

  /**
   * Ends a buffer that could not deliver everything. What the sender's `abort`
   * throws is dropped, because `error` came first and says more.
   */
  #fail(error: unknown): void {
    const reasonFor = error instanceof FlushError
      ? errorForWrite(error)
      : () => error;
    handled(this.#terminate(error, reasonFor));
  }

  /**
   * Ends the buffer without delivering the rest. Called again, it does nothing.
   *
   * @param reasonFor Makes the reason, given how many bytes of a write were
   *   accepted.
   */
  async #terminate(
    reason: unknown,
    reasonFor: (acceptedBytes: number) => unknown,
  ): Promise<void> {
    if (this.#state === "closed") return;
    // First our own state, so that whatever is called below finds a closed
    // buffer without a clock, and cannot make it send.
    this.#state = "closed";
    this.#cancelRetry?.();
    this.#advance();
    // close() and abort() have set it already; else a later close() rejects.
    this.#closePromise ??= this.#terminated.promise;
    // Then those who wait: their reactions are microtasks, and run later.
    this.#rejectAll(reasonFor);
    this.#terminated.reject(reason);
    this.#stopReading?.(reason);
    // Then the sender: first its request, as its own abort() may wait for that.
    this.#controller.abort(reason);
    await this.#sender.abort?.(reason);
  }
}

/** Makes the error of a write, given how many of its bytes were accepted. */
function errorForWrite(
  error: FlushError,
): (acceptedBytes: number) => FlushError {
  const { message, cause, unsentBytes } = error;
  return (acceptedBytes) =>
    acceptedBytes === 0
      ? error
      : new FlushError(message, { cause, unsentBytes, acceptedBytes });
}

/**
 * A property of something that is not ours; `undefined` if it cannot have any, or
 * its getter throws.
 */
function property(object: unknown, name: string): unknown {
  try {
    return (object as Record<string, unknown>)[name];
  } catch {
    return undefined;
  }
}

/**
 * A view of the bytes of `data`.
 *
 * @throws {TypeError} If it has another type, is detached, or is a view that lies
 *   beyond the end of its buffer.
 */
function toBytes(data: ArrayBuffer | ArrayBufferView): Uint8Array {
  if (ArrayBuffer.isView(data)) {
    checkInBounds(data);
    if (data instanceof Uint8Array) return data;
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  if (tagOf(data) !== "[object ArrayBuffer]") {
    throw new TypeError(
      `Cannot write: data must be a string, an ArrayBuffer or a view of one, received ${
        show(data)
      }`,
    );
  }
  if (data.detached) throw new TypeError("Cannot write: data is detached");
  return new Uint8Array(data);
}

/**
 * A view of a buffer that was transferred, or has shrunk so that the view lies
 * beyond its end, claims to be empty: without this check its bytes would be
 * lost silently.
 */
function checkInBounds(view: ArrayBufferView): void {
  try {
    // A DataView throws here. A typed array has to be asked by a call of one of its
    // methods.
    if (view.byteLength > 0 || tagOf(view) === "[object DataView]") return;
    TYPED_ARRAY_KEYS.call(view);
  } catch {
    throw new TypeError(
      "Cannot write: data is a view of a detached buffer, or lies beyond the end of one that has shrunk",
    );
  }
}

/** Which kind of object it is, of any realm: `instanceof` knows only one. */
function tagOf(object: unknown): string {
  return Object.prototype.toString.call(object);
}
