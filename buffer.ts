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
  checkInteger,
  countOf,
  messageOf,
  property,
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
   * is one call at a time, unless `concurrency` of the buffer is above 1, or
   * `sendNow` is called and the sender is not `ordered`.
   *
   * The buffer reads three properties of an error, if it has them, as a
   * `SendError` does. Before `retryAfter` milliseconds have passed, it sends the
   * bytes again only for `flush`, `sendNow` and `close`. If `refused` is true, the content
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
   * Called by {@linkcode StreamBuffer.sendNow}. A sender that is waiting before its
   * next attempt should make it now.
   */
  retryNow?(): void;
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
  /**
   * Whether each `send` must follow the one before it, because together they make
   * up one object. A buffer whose `concurrency` is above 1 refuses such a sender, and
   * `sendNow` does not overlap its sends.
   */
  readonly ordered?: boolean;
}

/** A `Deno.FsFile`, `Deno.stdin`, a `Deno.Conn`, or anything that reads as they do. */
export interface Reader {
  /**
   * Reads into the beginning of `p`. `p` is a view of the store: it must not be
   * transferred, nor changed once the promise has settled.
   *
   * @returns The number of bytes read, or `null` at the end of the input.
   */
  read(p: Uint8Array): Promise<number | null>;
}

/**
 * What {@linkcode StreamBuffer.readFrom} reads from: a {@linkcode Reader}, a stream
 * of bytes or text, a `Blob`, or the body of a `Response` or `Request`.
 */
export type Source =
  | Reader
  | ReadableStream<string | ArrayBuffer | ArrayBufferView>
  | Blob
  | { readonly body: ReadableStream<Uint8Array> | null };

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
   * {@linkcode BufferFullError}. A write larger than `capacity` may always wait if the queue is empty,
   * because it waits in the caller's own array.
   *
   * @default {16_777_216, or `capacity` if that is larger}
   */
  maxQueuedBytes?: number;
  /**
   * How many sends may be in flight at once. With 1, a batch is sent when the one
   * before it has been delivered, and a server gets them in order. With more, a
   * distant server gets up to that many times the bytes per second, but they may
   * arrive in any order: only the sequence or the offset of each batch tells it. A
   * server that drops repeats must compare whole keys, not only the latest number.
   * After a failed send, nothing new is sent until a send made after it succeeds.
   *
   * Each send needs a store: memory is at most `(1 + concurrency) × capacity` and
   * `maxQueuedBytes`, besides a copy of a write that is sent whole, and another store
   * while `readFrom` reads a byte stream, or after `sendNow`. An `UploadSender` or
   * `TusSender` needs 1.
   *
   * @default {1}
   */
  concurrency?: number;
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
   * kept, and sent again later. `bytes` is a copy, which it may keep. Until it
   * settles, the batch counts as in flight, so it must not await `flush` or `close`
   * of the buffer. What it returns after the buffer has ended does not count.
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
  /** Bytes acknowledged, up to the first one that is not settled. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken. */
  readonly bytesDiverted: number;
  /**
   * Bytes acknowledged that come after some which are not settled. It is 0 unless
   * sends overlap, by `concurrency` or `sendNow`. `bytesAccepted` less `bytesDelivered`,
   * `bytesDiverted` and `bytesAhead` is what the buffer holds, and what
   * {@linkcode StreamBuffer.takeUnsent} returns at the end.
   */
  readonly bytesAhead: number;
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
  /** Number of bytes accepted, and neither acknowledged nor diverted. */
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
   * Number of bytes accepted, and neither acknowledged nor diverted, when the error
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
 *     acknowledged     #batches       #store          #queue
 *     the server's,    lent to the    ours; while     writes that wait for room:
 *     or diverted:     sender, and    readFrom()      copies that we made, or the
 *     taken by         frozen: each   reads, the      caller's array if it is
 *     deadLetter       to be          room behind     larger than the store
 *                      delivered      is the source's
 *
 * There are up to `concurrency` batches and one store more than that: #fillBatch
 * lends #store to the sender, as a batch, and takes another one from #spares. One
 * more batch may be made by sendNow(), whose caller cannot wait for the others.
 *
 * A byte enters on the right and leaves on the left: queue (unless it fits at
 * once) -> store (unless its write is sent whole) -> batch -> settled. No step
 * changes the order. Up to #accepted they are ours to deliver: a failure may
 * reject a queued write, but never lets go of an accepted byte.
 *
 * Batches that overlap are settled in any order, and leave the list at once. So
 * there may be gaps in it: `acknowledgedBehind` counts what was acknowledged
 * between a batch and the next one in the list. #settled stays at the first batch.
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
 * WHAT STATE A BATCH IS IN:
 *
 *   (made)    -> ready       bytes are demanded (#fillBatch)
 *   ready     -> in flight   #launch, before #advance returns, unless there are
 *                            `concurrency` sends in flight: after sendNow() one
 *                            batch may have to wait for its turn
 *   ready     -> held        another batch fails while it waits
 *   in flight -> (settled)   the sender acknowledges, or deadLetter takes a batch
 *                            that was refused (#settle)
 *   in flight -> held        the sender fails (#hold)
 *   held      -> ready       the retry timer, flush(), sendNow(), close(), or a
 *                            success of another batch; the batch is the same
 *
 * In a closed buffer nothing is launched. A send that is still in flight then
 * may succeed, and counts, until takeUnsent() has returned its bytes.
 *
 * WHO MAKES IT MOVE. A full store, flush(), sendNow(), close(), flushInterval, and
 * a write or a source that needs room never send anything themselves. They raise one
 * number, #demand, the position up to which bytes are to be sent without waiting
 * for a full store, and call #advance(), which alone calls `send`.
 *
 * WHAT FOLLOWS A FAILED SEND. The server is in doubt until a send succeeds that was
 * launched after the failure. Meanwhile no new batch is made, except by sendNow(), so
 * that at most `concurrency` of them can fail, and the retry timer launches only the first one
 * that is held: the others follow when it has succeeded. Failures that overlap are
 * one failure, and a success that overlaps with it proves nothing. So a server that
 * is away is asked as seldom as with one send at a time, and a batch that is
 * refused stops the stream behind it.
 *
 * WHO DECIDES WHEN A FAILED BATCH IS SENT AGAIN. The retry timer does, and nothing
 * else, except that flush(), sendNow() and close() do not wait for it: they are calls
 * that someone made for this, and a server must not be asked more often because there
 * is more to write. Its delays grow from failure to failure, and it obeys
 * `retryAfter`. Within a send the sender decides, in the same way and until it
 * gives up; and what a server has asked for binds flush() and close() there.
 * close() insists once: a batch whose send is in flight when it begins, and fails,
 * is sent once more before close() fails too.
 *
 * INVARIANTS, whenever no method of ours is running, until takeUnsent():
 *
 * 1. #settled <= #base <= #accepted. From #settled to #base there are only batches
 *    and what is settled between them; without batches the two are equal.
 * 2. The bytes, sequence and offset of a batch do not change between its first
 *    send and its settlement.
 * 3. The queue is empty unless its first write does not fit. Then a batch is in
 *    flight or held, and the end of its send moves the queue up, or rejects it.
 *    Only a chunk of a source is not rejected: it is accepted before it fits.
 * 4. No byte is forgotten. With a flushInterval, each accepted byte of an open
 *    buffer is settled, or in a batch, or in or behind a store that is demanded, or
 *    the clock (#timer) runs for it. What is demanded is sent as soon as there are
 *    fewer than `concurrency` batches and the server is not in doubt; and while it is
 *    in doubt, a batch is in flight or the retry timer runs, unless the sender has
 *    ended.
 * 5. No one waits in vain: a failed send, and the end of the buffer, settle every
 *    queued write, every flush that waits for that batch, and a reader that waits
 *    for room. A reader that waits for its source is rejected only by the end
 *    (#stopReading).
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
  /** How many launches there had been at its latest one, with that one. */
  launch: number;
  /** Fulfills when its latest send has ended either way. */
  ended: Promise<void>;
  /** Bytes acknowledged after it, and before the next batch that is not settled. */
  acknowledgedBehind: number;
}

/** What a stream may have as a chunk. */
type Chunk = string | ArrayBuffer | ArrayBufferView;

/** A source as the loop of `readFrom` sees it. */
interface Input<T = unknown> {
  /** Reads once. There is room for at least one byte. */
  read(): Promise<T>;
  /**
   * Accepts what was read, whatever the state of the buffer is by then.
   *
   * @returns The number of bytes; `null` at the end.
   */
  accept(result: T): number | null;
  /** Called when `readFrom` has settled, perhaps during a read. */
  release?(): void;
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
 * bytes and little more. Or it is a chunk of a source, which cannot be given back
 * to that, and so counts as accepted.
 */
class QueueEntry {
  /** For a pack it has room to grow: the first `length` bytes are in use. */
  #bytes: Uint8Array;
  #length: number;
  /** How many of them were accepted: of a large write, piece by piece. */
  #taken = 0;
  readonly #settled: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Its bytes count in #accepted, not in #queued, and no failure rejects it. */
  readonly isAccepted: boolean;

  constructor(bytes: Uint8Array, isAccepted = false) {
    this.#bytes = bytes;
    this.#length = bytes.length;
    this.isAccepted = isAccepted;
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
 * - **Order.** There is one send at a time, in the order of the writes, unless
 *   `concurrency` says otherwise. A write no larger than `capacity` is never split
 *   over two sends.
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
  readonly #concurrency: number;
  readonly #oversize: "split" | "whole" | "reject";
  readonly #onError: StreamBufferOptions["onError"];
  readonly #deadLetter: StreamBufferOptions["deadLetter"];

  // -- The parts of the stream, from left to right --

  /** The batches that are not settled, in the order of the stream. */
  #batches: Batch[] = [];
  /** Position of the first byte in #store, which is the end of the last batch. */
  #base = 0;
  /** Its first #filled bytes are accepted, and in no batch yet. */
  #store: Uint8Array<ArrayBuffer>;
  #filled = 0;
  readonly #queue: Queue<QueueEntry> = new Queue();
  /** Bytes in #queue that are not accepted: those of writes. */
  #queued = 0;
  /** Bytes in #queue that are accepted: those of a chunk, which is its first entry. */
  #chunkSize = 0;

  /** Empty stores. Each is made when it is first needed, and the latest is used first. */
  readonly #spares: Uint8Array<ArrayBuffer>[] = [];
  /**
   * A source is reading into #store, somewhere behind its #filled bytes. From
   * the call of `read` until its promise settles #store must stay where it is,
   * and what has to be sent is sent from a spare.
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
  /** How many sends have been launched. */
  #launches = 0;
  /**
   * The server is in doubt until a batch is settled whose launch is above this:
   * #launches when the latest failure was counted, or 0 if there is no doubt.
   */
  #failedLaunch = 0;
  /** How many failures have been counted since the server was last beyond doubt. */
  #failuresInARow = 0;
  /**
   * When every `retryAfter` of the batches that are held has passed, by
   * `performance.now()`. The retry timer does not end before.
   */
  #pauseEnd = 0;
  /** When the retry timer ends; 0 if it does not run. */
  #retryTime = 0;
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

  #delivered = 0;
  #ahead = 0;
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
      concurrency = 1,
      oversize = "split",
      onError,
      deadLetter,
    } = options;
    checkCapacity(ACTION, { capacity }, 1);
    const { maxQueuedBytes = Math.max(DEFAULT_MAX_QUEUED_BYTES, capacity) } =
      options;
    checkCapacity(ACTION, { maxQueuedBytes }, 0);
    checkDuration(ACTION, { flushInterval, closeTimeout }, 0);
    checkInteger(ACTION, { concurrency }, 1, Number.MAX_SAFE_INTEGER);
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
    if (concurrency > 1 && this.#sender.ordered === true) {
      throw new RangeError(
        `${ACTION}: concurrency must be 1 for a sender whose sends make up one object, received ${concurrency}`,
      );
    }
    this.#capacity = capacity;
    this.#concurrency = concurrency;
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
   * Reads everything from a file, a pipe, a connection, a stream, a `Blob` or a
   * body, up to its end: the fastest way to send it. It reads only when there is
   * room, and continues while a full store is sent.
   *
   * A {@linkcode Reader} reads straight into the store, and so does a byte stream,
   * such as `file.readable`, for which there is one more store meanwhile. Any other
   * stream is read chunk by chunk, each like a `write`: one that is no larger than
   * `capacity` is not split. A stream is released at the end, and not cancelled.
   *
   * If a send fails while it waits for room, it rejects; if it is waiting for the
   * source, it carries on, and `onError` is called. Either way every byte that was
   * read has been accepted, and another call continues from there. Only a `Blob` would
   * be read from its start: pass its `stream()` instead. Meanwhile `flush`, `flushInterval` and
   * `stats` work as usual, but nothing else can be written.
   *
   * `close` and `abort` end it at once. A stream then keeps what it has not given.
   * Bytes from a pending read of a `Reader` are still accepted when they arrive:
   * `close` sends them if it is not done yet, and
   * {@linkcode StreamBuffer.takeUnsent} returns them after that.
   *
   * @example A file
   * ```ts ignore
   * import { streamTo } from "@stream-buffer/stream-buffer";
   *
   * await using out = streamTo("https://example.com/upload");
   * using file = await Deno.open("dump.sql");
   * await out.readFrom(file);
   * ```
   *
   * @example What another server sends
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   * import { assertEquals } from "@std/assert";
   *
   * let received = "";
   * await using out = new StreamBuffer((bytes) => {
   *   received += new TextDecoder().decode(bytes);
   * });
   * const response = new Response("a body"); // for example, of fetch()
   * assertEquals(await out.readFrom(response), 6);
   * await out.flush();
   * assertEquals(received, "a body");
   * ```
   *
   * @param source What to read from. The caller remains responsible for closing or
   *   cancelling it.
   * @returns A promise that resolves to the number of bytes read, when all of
   *   them have been accepted.
   * @throws {FlushError} If a send fails while it waits for room, or the source
   *   transfers the store, which ends the buffer.
   * @throws {TypeError} If the buffer is closed, or becomes so, if it is reading
   *   already, or if `source` is not a {@linkcode Source}, is locked, or has a
   *   chunk that is neither text nor bytes.
   * @throws {NoProgressError} If a `Reader` returns 0 bytes 100 times in a row.
   * @throws {RangeError} If a chunk is larger than `capacity`, and `oversize` is
   *   `"reject"`. That chunk is not accepted.
   * @throws Whatever the source throws.
   */
  readFrom(source: Source): Promise<number> {
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
   * Sends what is in the store now, even if `concurrency` sends are in flight or the
   * server is failing, and retries now what would be retried later. It is for a
   * program that may be stopped before it can await anything, such as a page that the
   * visitor leaves: see {@linkcode flushOnHide}. Use `flush` or `close` wherever there
   * is time to await them.
   *
   * Sends overlap then, even if `concurrency` is 1: a receiver gets their order from
   * `sequence` and `offset`. At most one send more than `concurrency` is made. If that
   * one is in flight already, the store is sent when there is a free send; so are, in
   * any case, writes that wait for room behind the store. A sender that is `ordered`
   * still gets one send at a time.
   *
   * @example Usage
   * ```ts
   * import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
   * import { assertEquals } from "@std/assert";
   *
   * const sent: string[] = [];
   * const out = new StreamBuffer(async (bytes) => {
   *   sent.push(new TextDecoder().decode(bytes));
   *   await new Promise((resolve) => setTimeout(resolve, 10));
   * });
   * await out.write("first");
   * const flushed = out.flush();
   * await out.write("last");
   * out.sendNow();
   * assertEquals(sent, ["first", "last"]);
   * await flushed;
   * await out.close();
   * ```
   */
  sendNow(): void {
    if (this.#hasEnded) return;
    notify(() => this.#sender.retryNow?.());
    const isOrdered = property(this.#sender, "ordered") === true;
    if (this.#hasEnded) return; // by the sender, whose code has just run
    const maxSends = this.#concurrency + (isOrdered ? 0 : 1);
    this.#demandAll();
    this.#release();
    // Not #advance: it makes no batch while the server is in doubt.
    if (this.#filled > 0 && this.#batches.length < maxSends) this.#fillBatch();
    this.#advance(maxSends);
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
    const parts: Uint8Array[] = this.#batches.map(({ bytes }) => bytes);
    parts.push(this.#store.subarray(0, this.#filled));
    for (const chunk of this.#queue) parts.push(chunk.take(chunk.rest));
    const size = parts.reduce((sum, { length }) => sum + length, 0);
    const unsent = new Uint8Array(size);
    let end = 0;
    for (const part of parts) {
      // A sender may have transferred them; `set` throws for a detached array.
      if (part.length > 0) unsent.set(part, end);
      end += part.length;
    }
    this.#base = this.#accepted; // they still count as accepted
    this.#batches = [];
    this.#filled = this.#chunkSize = 0;
    this.#queue.clear();
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
      bytesDelivered: this.#delivered,
      bytesDiverted: this.#diverted,
      bytesAhead: this.#ahead,
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

  /** Everything before this position is acknowledged, or diverted. */
  get #settled(): number {
    return this.#batches[0]?.context.offset ?? this.#base;
  }

  /** Where the accepted bytes end. */
  get #accepted(): number {
    return this.#base + this.#filled + this.#chunkSize;
  }

  get #hasEnded(): boolean {
    return this.#state === "closed";
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
        return this.#rejectWrite(this.#tooLarge(length), length);
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

  #tooLarge(length: number): RangeError {
    return new RangeError(
      `Cannot write ${
        countOf(length)
      }: the capacity is ${this.#capacity}, and oversize is "reject"`,
    );
  }

  /** Whether the store has room for `length` bytes, and it is their turn. */
  #fits(length: number): boolean {
    return this.#queue.isEmpty && this.#filled + length <= this.#capacity;
  }

  /** Counts the next `length` bytes of the store, which have been filled. */
  #accept(length: number): void {
    this.#filled += length;
    if (this.#filled === this.#capacity) this.#demandStore();
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
    // flush: that flush would wait for bytes that were written after it. Nor is a
    // chunk extended, which is accepted already.
    const isComplete = last?.isAccepted ||
      this.#waiters.last?.end === this.#accepted + this.#queued;
    if (last && !isComplete && last.length + length <= this.#capacity) {
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
      if (!isTaken) return this.#demandStore(); // to make room for it
      if (entry.rest === 0) {
        this.#queue.shift();
        entry.resolve();
      }
    }
  }

  /**
   * Makes a batch of a write. It is sent alone, so that there is never more than one
   * copy: bytes before it have to be settled first.
   */
  #takeWhole(entry: QueueEntry): boolean {
    if (this.#filled > 0 || this.#batches.length > 0) return false;
    const size = entry.rest;
    // A copy: a batch must not change, and the array is the caller's again once
    // the write has settled. Allocated first, since that may throw.
    const copy = new Uint8Array(size);
    this.#take(entry, copy);
    this.#makeBatch(copy);
    this.#demandStore();
    return true;
  }

  /** Copies a write into the store, or as much of it as a store holds. */
  #takePiece(entry: QueueEntry): boolean {
    const size = Math.min(entry.rest, this.#capacity);
    if (this.#filled + size > this.#capacity) return false;
    this.#take(entry, this.#store.subarray(this.#filled, this.#filled + size));
    this.#filled += size;
    if (this.#filled === this.#capacity) this.#demandStore();
    return true;
  }

  /** Takes the next bytes of a write out of the queue, as many as `to` has. */
  #take(entry: QueueEntry, to: Uint8Array): void {
    to.set(entry.take(to.length));
    if (entry.isAccepted) this.#chunkSize -= to.length;
    else this.#queued -= to.length;
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

  async #readFrom(source: Source): Promise<number> {
    // Before the state is looked at, because a source may end the buffer here, or
    // have it read from another one.
    const stream = toStream(source);
    if (this.#state !== "open") throw this.#notOpen("read");
    const input = this.#open(source, stream);
    this.#state = "reading";
    const { promise, reject } = Promise.withResolvers<never>();
    this.#stopReading = reject;
    this.#advance(); // ends the fast path: a copy would collide with the source
    try {
      return await Promise.race([this.#readAll(input), promise]);
    } finally {
      input.release?.();
      if (this.#isOpen) {
        this.#state = "open";
        this.#advance();
      }
    }
  }

  #open(source: Source, stream: ReadableStream<Chunk> | undefined): Input {
    if (stream === undefined) return this.#readerInput(source as Reader);
    if (stream.locked) {
      throw new TypeError(
        "Cannot read: the stream is locked: a reader, a pipe, or a call such as text() has it",
      );
    }
    const byteReader = byteReaderOf(stream);
    const reader = byteReader ?? stream.getReader();
    return {
      ...byteReader
        ? this.#byteStreamInput(byteReader)
        : this.#streamInput(reader as ReadableStreamDefaultReader<Chunk>),
      release: () => {
        // This rejects a pending read, whose bytes stay in the stream.
        reader.releaseLock();
        // Nobody else has the stream of a Blob.
        if ("stream" in source) handled(stream.cancel());
      },
    };
  }

  /**
   * The loop of `readFrom`. It outlives the promise of `readFrom` when that is
   * rejected during a `read`, as the bytes that arrive then are accepted too.
   */
  async #readAll(input: Input): Promise<number> {
    let total = 0;
    while (this.#state === "reading") {
      if (!this.#fits(1)) {
        await this.#makeRoom();
        continue;
      }
      let result: unknown;
      try {
        result = await input.read();
      } finally {
        this.#isTailLent = false;
        this.#checkStore();
      }
      const size = input.accept(result);
      if (size === null) break;
      total += size;
    }
    return total;
  }

  /**
   * A source that is lent the store behind the #filled bytes that are in it. If
   * they have to be sent before it returns, they are copied to a spare and sent
   * from there (#fillBatch), as the store cannot be swapped under it. Nothing else
   * writes to the store: other writes reject meanwhile.
   */
  #readerInput(source: Reader): Input<number | null> {
    let start = 0;
    let emptyReads = 0;
    return {
      read: () => {
        start = this.#filled;
        this.#isTailLent = true;
        return source.read(this.#store.subarray(start));
      },
      accept: (size) => {
        if (size === null) return null;
        const room = this.#capacity - start;
        if (!Number.isInteger(size) || size < 0 || size > room) {
          throw new TypeError(
            `Cannot read: the source was given ${
              countOf(room)
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
        return this.#acceptRead(size);
      },
    };
  }

  /**
   * A byte stream. It takes the buffer that it is given to fill, and returns it
   * under another name, so that must have no accepted bytes: it is a store that only
   * this reading has. If ours is empty when the other one has been filled, the two
   * are swapped, and nothing is copied.
   */
  #byteStreamInput(
    reader: ReadableStreamBYOBReader,
  ): Input<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>> {
    let other = new Uint8Array(this.#capacity);
    return {
      read: () => reader.read(other.subarray(0, this.#capacity - this.#filled)),
      accept: ({ value, done }) => {
        if (done) return null;
        other = new Uint8Array(value.buffer);
        if (this.#filled === 0) [this.#store, other] = [other, this.#store];
        else this.#store.set(value, this.#filled);
        return this.#acceptRead(value.length);
      },
    };
  }

  /** Any other stream. Its next chunk may be of any size. */
  #streamInput(
    reader: ReadableStreamDefaultReader<Chunk>,
  ): Input<ReadableStreamReadResult<Chunk>> {
    return {
      read: () => reader.read(),
      accept: ({ value, done }) => {
        if (done) return null;
        const bytes = typeof value === "string"
          ? ENCODER.encode(value)
          : toBytes(value);
        const { length } = bytes;
        if (length === 0) return 0;
        if (this.#fits(length)) {
          this.#store.set(bytes, this.#filled);
          return this.#acceptRead(length);
        }
        if (length > this.#capacity && this.#oversize === "reject") {
          this.#rejected += length;
          throw this.#tooLarge(length);
        }
        // A copy, because whoever made the chunk may use the array again.
        this.#queue.push(new QueueEntry(new Uint8Array(bytes), true));
        this.#chunkSize += length;
        if (this.#isOpen) this.#advance();
        return length;
      },
    };
  }

  /** Counts bytes that a source has put into the store. */
  #acceptRead(size: number): number {
    if (this.#isOpen) this.#accept(size);
    else this.#filled += size; // close() sends it, or takeUnsent() returns it
    return size;
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
   *
   * @param maxSends How many sends may be in flight.
   */
  #deliver(maxSends = this.#concurrency): Promise<void> {
    const end = this.#accepted + this.#queued;
    if (this.#settled === end) return RESOLVED;
    let waiter = this.#waiters.last;
    if (waiter?.end !== end) {
      waiter = { end, ...Promise.withResolvers<void>() };
      handled(waiter.promise);
      this.#waiters.push(waiter);
    }
    this.#demandAll();
    this.#release();
    this.#advance(maxSends);
    return waiter.promise;
  }

  /** Demands what has been accepted, and what is queued. */
  #demandAll(): void {
    this.#demand = this.#accepted + this.#queued;
  }

  /** Demands what is in the store; a flush may already have demanded more. */
  #demandStore(): void {
    this.#demand = Math.max(this.#demand, this.#base + this.#filled);
  }

  /**
   * Has the store sent, to make room in it. A sender that has ended fails at once,
   * and so whoever needs the room learns of that, instead of waiting in vain for
   * a retry timer that does not run.
   */
  #demandRoom(): void {
    this.#demandStore();
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
   *
   * @param maxSends How many sends may be in flight.
   */
  #advance(maxSends = this.#concurrency): void {
    if (this.#state !== "closed") {
      this.#takeFromQueue();
      while (this.#mayFillBatch) {
        this.#fillBatch();
        this.#takeFromQueue(); // there is an empty store now
      }
    }
    this.#copyLimit =
      this.#state === "open" && this.#queue.isEmpty && this.#filled > 0
        ? this.#capacity
        : 0;
    this.#setClock();
    // Last of all, because the sender may call any method of this buffer.
    for (;;) {
      const batch = this.#batches.find(({ state }) => state === "ready");
      if (batch === undefined || this.#state === "closed") return;
      const inFlight = this.#batches.filter(({ state }) =>
        state === "in flight"
      );
      if (inFlight.length >= maxSends) return; // its turn comes when one ends
      this.#launch(batch);
    }
  }

  /** Whether what is in the store is to be sent now. */
  get #mayFillBatch(): boolean {
    return this.#filled > 0 && this.#demand > this.#base &&
      this.#failedLaunch === 0 && this.#batches.length < this.#concurrency &&
      // A write that is sent whole is sent alone.
      this.#batches.every(({ store }) => store !== undefined);
  }

  /** Makes a batch of what is in the store, and leaves an empty store. */
  #fillBatch(): void {
    const filled = this.#store.subarray(0, this.#filled);
    const next = this.#spares.pop() ?? new Uint8Array(this.#capacity);
    this.#filled = 0;
    if (this.#isTailLent) {
      // The source keeps this store, so the bytes are sent from the other one.
      next.set(filled);
      this.#makeBatch(next.subarray(0, filled.length), next);
    } else {
      this.#makeBatch(filled, this.#store);
      this.#store = next;
    }
  }

  /** Makes `bytes`, which are no longer in #store, the next batch of the stream. */
  #makeBatch(
    bytes: Uint8Array<ArrayBuffer>,
    store?: Uint8Array<ArrayBuffer>,
  ): void {
    const context = this.#contextFor(this.#sequence++, this.#base);
    const size = bytes.length;
    this.#base += size;
    this.#batches.push({
      ...{ bytes, size, context, store },
      ...{ state: "ready", launch: 0, ended: RESOLVED, acknowledgedBehind: 0 },
    });
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
      this.#filled > 0 && this.#demand <= this.#base
    ) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#demandStore();
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
    batch.launch = ++this.#launches;
    // `ended` is set before the sender is called: if the sender calls close(), that
    // has to wait for this send and not for the one before it.
    const { promise, resolve } = Promise.withResolvers<void>();
    batch.ended = promise.then(
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
    if (!this.#batches.includes(batch)) return; // takeUnsent() has returned its bytes
    this.#sends++;
    this.#lastError = undefined;
    this.#settle(batch, batch.size);
  }

  /**
   * Lets go of a batch that the server, or `deadLetter`, has taken.
   *
   * @param acknowledged How many of its bytes the server has taken.
   */
  #settle(batch: Batch, acknowledged: number): void {
    const index = this.#batches.indexOf(batch);
    const before = this.#batches[index - 1];
    this.#batches.splice(index, 1);
    if (before === undefined) {
      this.#delivered += acknowledged + batch.acknowledgedBehind;
      this.#ahead -= batch.acknowledgedBehind;
    } else {
      before.acknowledgedBehind += acknowledged + batch.acknowledgedBehind;
      this.#ahead += acknowledged;
    }
    // A store that the sender has transferred has no bytes, and is of no more use. One
    // more than `concurrency` can use was made for sendNow().
    const stores = this.#batches.length + this.#spares.length;
    if (batch.store?.length === this.#capacity && stores < this.#concurrency) {
      this.#spares.push(batch.store);
    }
    // Batches that the server has asked to wait for remain held. The timer runs.
    const isPaused = performance.now() < this.#pauseEnd && this.#holds;
    if (batch.launch > this.#failedLaunch && !isPaused) {
      this.#failedLaunch = this.#failuresInARow = 0;
      this.#release();
    }
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
      this.#settle(batch, 0);
    } else {
      const message = `${error.message}; ${problem}`;
      this.#hold(batch, this.#error(message, error.cause));
    }
  }

  /**
   * Holds a batch until it is sent again. Everyone who waits for room or for
   * its delivery learns of the failure now, because nobody knows for how long it
   * will last. What was demanded remains so, and follows when the batch has
   * been settled.
   */
  #hold(batch: Batch, error: FlushError): void {
    batch.state = "held";
    // So is one that waits for its turn, or it would be sent before this one.
    for (const other of this.#batches) {
      if (other.state === "ready") other.state = "held";
    }
    this.#lastError = error;
    if (batch.launch > this.#failedLaunch) {
      this.#failedLaunch = this.#launches;
      this.#failuresInARow++;
    }
    const retryAfter = property(error.cause, "retryAfter");
    const isRetried = !this.#hasSenderEnded;
    // Both may have called a getter, which may have ended the buffer.
    if (this.#state === "closed") return;
    if (isRetried) {
      this.#startRetryTimer(
        typeof retryAfter === "number" && retryAfter > 0 ? retryAfter : 0,
      );
    }
    const anyoneWaited = this.#rejectAll(
      errorForWrite(error),
      batch.context.offset,
    );
    const onError = this.#onError;
    if (!anyoneWaited && onError) queueMicrotask(() => notify(onError, error));
    this.#advance();
  }

  /**
   * Starts the retry timer, whose end sends the first batch that is held. If it runs,
   * because batches have failed together, only `retryAfter` extends it.
   */
  #startRetryTimer(retryAfter: number): void {
    const now = performance.now();
    const isRunning = this.#retryTime > 0;
    const time = isRunning ? this.#retryTime : now + this.#retryDelay();
    this.#pauseEnd = Math.max(this.#pauseEnd, now + retryAfter);
    const end = Math.max(time, this.#pauseEnd);
    if (isRunning && end === time) return;
    this.#cancelRetry?.();
    this.#retryTime = end;
    this.#cancelRetry = after(end - now, () => this.#probe());
  }

  /**
   * How long batches are held, in ms. The bound doubles with each failure, so that
   * a server that stays away is asked less and less often. The delay is random, so
   * that many clients do not all return at once.
   */
  #retryDelay(): number {
    const bound = Math.min(
      Math.max(MIN_RETRY_DELAY, this.#flushInterval) *
        2 ** (this.#failuresInARow - 1),
      Math.max(MAX_RETRY_DELAY, this.#flushInterval),
    );
    return bound * (1 + Math.random()) / 2;
  }

  /** Sends the first batch that is held, unless one is being tried already. */
  #probe(): void {
    // Not left as they are: a timer may fire a little before its time.
    this.#retryTime = this.#pauseEnd = 0;
    const isTrying = this.#batches.some(({ state, launch }) =>
      state === "in flight" && launch > this.#failedLaunch
    );
    const first = this.#batches.find(({ state }) => state === "held");
    if (!isTrying && first !== undefined) first.state = "ready";
    this.#advance();
  }

  /** Whether nothing is left to deliver. */
  get #isEmpty(): boolean {
    return this.#settled === this.#accepted + this.#queued;
  }

  /** Whether a batch is waiting to be sent again. */
  get #holds(): boolean {
    return this.#batches.some(({ state }) => state === "held");
  }

  /** Makes held batches ready to be sent, and stops the retry timer. */
  #release(): void {
    this.#stopRetryTimer();
    for (const batch of this.#batches) {
      if (batch.state === "held") batch.state = "ready";
    }
  }

  #stopRetryTimer(): void {
    this.#cancelRetry?.();
    this.#retryTime = this.#pauseEnd = 0;
  }

  #error(message: string, cause: unknown): FlushError {
    const unsentBytes = this.#accepted - this.#delivered - this.#diverted -
      this.#ahead;
    return new FlushError(message, { cause, unsentBytes });
  }

  /**
   * Rejects everyone who waits: queued writes, a reader that waits for room, and
   * flushes.
   *
   * @param reasonFor Makes the reason, given how many bytes of a write were
   *   accepted.
   * @param position Where in the stream the bytes are that are not delivered. A
   *   flush of what is before them may still succeed.
   * @returns Whether there was anyone.
   */
  #rejectAll(
    reasonFor: (acceptedBytes: number) => unknown,
    position = 0,
  ): boolean {
    let anyoneWaited = this.#queued > 0 || this.#roomForReader !== undefined;
    const entries = [...this.#queue];
    this.#queue.clear();
    for (const entry of entries) {
      if (entry.isAccepted) this.#queue.push(entry);
      else entry.reject(reasonFor(entry.taken));
    }
    this.#rejected += this.#queued;
    this.#queued = 0;
    // A flush may have demanded the bytes that were just rejected. If that demand
    // stayed, it would send later writes before their time.
    this.#demand = Math.min(this.#demand, this.#accepted);
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of waiters) {
      if (waiter.end <= position) {
        this.#waiters.push(waiter);
      } else {
        anyoneWaited = true;
        waiter.reject(reasonFor(0));
      }
    }
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
    const { length } = this.#batches;
    const inFlight = this.#sendsEnded();
    // What may overlap with the sends in flight need not wait for them.
    if (length > 0 && length < this.#concurrency) this.#demandAll();
    this.#advance(); // in this state there is no fast path, and no clock
    // If a send in flight fails, close() does not fail with it: it sends that
    // batch once more first.
    await inFlight;
    // More than once if a source brings bytes meanwhile.
    while (this.#state === "closing" && !this.#isEmpty) {
      try {
        // Of two batches that overlapped after sendNow(), each has its last chance.
        await this.#deliver(Math.max(this.#concurrency, this.#batches.length));
      } catch (error) {
        // What overlaps with the send that failed may still be delivered, and so may
        // that batch, if the retry timer has sent it again meanwhile.
        await this.#sendsEnded();
        const isInFlight = this.#batches.length > 0 && !this.#holds;
        if (!this.#isEmpty && !isInFlight) throw error;
      }
    }
    if (this.#state !== "closing") return;
    try {
      await this.#sender.close?.();
      this.#state = "closed";
    } catch (cause) {
      throw this.#error(`Cannot close the sender: ${messageOf(cause)}`, cause);
    }
  }

  /** Waits until every send that is in flight now has ended, either way. */
  async #sendsEnded(): Promise<void> {
    await Promise.all(this.#batches.map(({ ended }) => ended));
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
    this.#stopRetryTimer();
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

/**
 * The stream of a source; `undefined` if it is a {@linkcode Reader}.
 *
 * @throws {TypeError} If it is no source.
 */
function toStream(source: Source): ReadableStream<Chunk> | undefined {
  if (typeof source === "object" && source !== null) {
    if ("getReader" in source) return source;
    // The readers of web streams have a `read`, too, which would detach the
    // store; that of a Node stream returns `null` before its end, and that of a
    // FileHandle an object.
    const isOther = "releaseLock" in source || "pipe" in source ||
      "readableWebStream" in source;
    if ("read" in source && !isOther) return undefined;
    if ("stream" in source) return source.stream();
    if ("body" in source) return source.body ?? new Blob().stream();
  }
  throw new TypeError(
    `Cannot read: source must be a ReadableStream, a Blob, a Response, or have a method "read" as Deno.FsFile has, received ${
      show(source)
    }${adviceForSource(source)}`,
  );
}

/** What to do with what is no source, for the end of the message. */
function adviceForSource(source: unknown): string {
  const isBytes = ArrayBuffer.isView(source) || source instanceof ArrayBuffer;
  if (typeof source === "string" || isBytes) {
    return "; write() takes text and bytes";
  }
  if (property(source, "pipe") !== undefined) {
    return "; Readable.toWeb() of node:stream makes a ReadableStream of it";
  }
  return property(source, "readableWebStream") !== undefined
    ? "; its readableWebStream() is one, and openAsBlob() of node:fs makes a Blob of a file"
    : "; ReadableStream.from() makes a stream of any iterable";
}

/** The BYOB reader of a byte stream; `undefined` for another one, which has none. */
function byteReaderOf(
  stream: ReadableStream,
): ReadableStreamBYOBReader | undefined {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    return undefined;
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
