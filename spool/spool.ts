/** {@linkcode Spool}: a sender that puts what it is given on disk, and delivers it from there. */
import {
  type DeadLetterContext,
  FlushError,
  type SendContext,
  type Sender,
  StreamBuffer,
  type StreamBufferOptions,
} from "../buffer.ts";
import {
  check,
  checkCapacity,
  checkDuration,
  checkInteger,
  countOf,
  MAX_DURATION,
  messageOf,
  property,
  show,
} from "../internal/checks.ts";
import { handled, notify, until } from "../internal/promises.ts";
import { after, sleep } from "../internal/timers.ts";
import { FetchSender, type FetchSenderOptions } from "../sender.ts";
import { type Cut, type FileRecord, SpoolDatabase } from "./database.ts";
import { SpoolError } from "./errors.ts";
import { internalsOf } from "./internals.ts";
import { loadModules, nextTurn, realPath } from "../internal/node/platform.ts";

const ACTION = "Cannot create Spool";
const DEFAULT_DRAIN_TIMEOUT = 5_000;
const DEFAULT_CLOSE_TIMEOUT = 30_000;
/**
 * Bounds of the delay before what was not delivered is sent again, in ms; the same as
 * those of a `StreamBuffer`.
 */
const MIN_RETRY_DELAY = 1_000;
const MAX_RETRY_DELAY = 60_000;
/** The same while the spool is being closed. */
const MAX_CLOSING_DELAY = 1_000;
/** For how long nothing must have arrived before disk space is given back, in ms. */
const IDLE_TIME = 1_000;
/**
 * How often disk space is given back while there is always something to deliver, in ms.
 * Deliveries wait meanwhile, so it must be rare.
 */
const SHRINK_INTERVAL = 10_000;
/** How many bytes of unused pages the file keeps then: a steady stream reuses them. */
const MAX_UNUSED = 64 * 1024 * 1024;
/** How often the side file is written, in ms, if anything has changed. */
const PUBLISH_INTERVAL = 1_000;
/**
 * How long `close` waits for a request that it has aborted, in ms. A sender that
 * ignores its signal must not hang it.
 */
const ABORT_TIMEOUT = 1_000;

/** Options of a {@linkcode Spool}. */
export interface SpoolOptions {
  /**
   * What a commit survives: with `"power"` a power cut, with `"process"` only the
   * death of the process. With `"power"` each commit is synced to the disk, which
   * takes most of the time of a small one.
   *
   * @default {"power"}
   */
  durability?: "power" | "process";
  /**
   * The size of a request in bytes, at most: what waits is sent in as few requests
   * as that allows. A batch of the `StreamBuffer` is never split, and goes alone if
   * it is larger. A spool holds one request in memory.
   *
   * @default {1_048_576}
   */
  requestBytes?: number;
  /**
   * How many bytes may wait. When that is reached, writers wait until some have
   * been delivered; nothing is dropped.
   *
   * @default {1_073_741_824}
   */
  maxBytes?: number;
  /**
   * How long {@linkcode Spool.close} waits until all is delivered, in milliseconds.
   * The next process that opens the file delivers the rest.
   *
   * @default {5_000}
   */
  drainTimeout?: number;
  /**
   * Called each time that a delivery fails, and when the file cannot be used. What it
   * throws is ignored.
   */
  onError?: (error: FlushError) => void;
  /**
   * Takes what the server refuses because of its content, as that of a
   * `StreamBuffer` does. It may be offered the same bytes again, under the same
   * `key`, if the process dies before that is recorded.
   *
   * @default {undefined}
   */
  deadLetter?: NonNullable<StreamBufferOptions["deadLetter"]>;
}

/** A snapshot of a {@linkcode Spool}. What it counts begins when the file was created. */
export interface SpoolStats {
  /** Names the stream. All keys of its requests begin with it. */
  readonly id: string;
  /** Bytes on disk that have been neither delivered nor diverted. */
  readonly bytesWaiting: number;
  /** The number of sends that committed them. */
  readonly batchesWaiting: number;
  /**
   * For how long the oldest of them has waited, in milliseconds, by the system's
   * clock; 0 if nothing waits.
   */
  readonly oldestAge: number;
  /** Bytes acknowledged. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken. */
  readonly bytesDiverted: number;
  /** Bytes of a followed file that are known to have been destroyed before they were read. */
  readonly bytesLost: number;
  /** The number of requests that were acknowledged, since the file was opened. */
  readonly sends: number;
  /** The number of deliveries that failed, since the file was opened. */
  readonly failures: number;
  /** Why the latest delivery failed; `undefined` if it did not. */
  readonly lastError: FlushError | undefined;
}

/** Waits, for `drained`, until the stream is settled up to `end`. */
interface Waiter extends PromiseWithResolvers<void> {
  readonly end: number;
}

/* -----------------------------------------------------------------------------
 * How it works
 *
 * WHO OWNS A BYTE. The buffer does, until `send` has committed it to the file. From
 * then on the file does, until it is settled: acknowledged by the server or taken by
 * `deadLetter`, and deleted. This class keeps no byte of its own, except a copy of
 * those of the request that is being made.
 *
 * TWO LOOPS share the file. `send` adds to its end when the buffer says so. #deliverAll
 * takes from its beginning, one request at a time:
 *
 *   cut       record what goes out next, and under which keys; synced
 *   read      from the file, and check it
 *   send      by the sender that this spool was given
 *   settle    delete it, and cut anew if nothing is left, in the same transaction
 *
 * They meet in two places only: #arrived wakes a delivery that has nothing to do, and
 * #roomMade a `send` that waits for `maxBytes`. Everything that touches the file is
 * synchronous, so none of it ever overlaps, and no lock is needed.
 *
 * WHAT FOLLOWS A FAILURE. Nothing changes in the file: the cut stays, so the next
 * attempt has the same bytes and the same key, whichever process makes it. This loop
 * retries after a delay that doubles, as a buffer does. #outcome remembers an outcome
 * that could not be recorded, because the disk was full: then recording it is retried,
 * and not the request.
 *
 * Some failures may last until somebody intervenes: content that is refused and that
 * no `deadLetter` takes, a damaged file, a sender that has been closed. They reject
 * `drained`, which would wait in vain. The loop keeps trying all the same, since the
 * cause may be removed; it stops only after the last of them.
 *
 * THE END. `close` and `abort` set #isClosed, which stops both loops, abort the request
 * that is being made, and close the file when it has ended. If the server has not
 * acknowledged it by then, its bytes stay in the file, and so does their key.
 *
 * CODE THAT IS NOT OURS runs in the sender, `deadLetter` and `onError`. It may call
 * any method of this class, so #isClosed is checked again after each of them.
 * -------------------------------------------------------------------------- */

/**
 * A sender that puts what it is given on disk, and delivers it from there by another
 * sender, in this process or in a later one that opens the same file.
 *
 * - **A send is on disk** when it is acknowledged: from then on it survives the
 *   process, and with `durability: "power"` the machine.
 * - **Exactly once** at a server that ignores requests whose `Idempotency-Key` it has
 *   seen: whichever process sends some bytes again, the key is the same.
 * - **Large requests**, however small the commits: up to `requestBytes`.
 * - **For as long as it takes.** Delivery is retried until it succeeds, with delays
 *   of up to a minute, and never before a `Retry-After` has passed.
 * - **One process at a time** has the file open. In a second one, the constructor
 *   throws a {@linkcode SpoolError} that names the first.
 *
 * The sender has to be one whose sends stand alone, such as a `FetchSender`. A spool
 * is for one `StreamBuffer`, which closes it. {@linkcode spoolTo} makes all three.
 *
 * It runs where `node:sqlite` does: on Deno 2.8, Node 22.13 and Bun 1.4.5, or newer.
 * On Deno it needs `--allow-read` and `--allow-write` for three files: `FILE`,
 * `FILE-owner` and `FILE-reserve`.
 *
 * @example Usage
 * ```ts
 * import { FetchSender, StreamBuffer } from "@stream-buffer/stream-buffer";
 * import { Spool } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = Deno.serve({ port: 0, onListen() {} }, () => new Response());
 * const file = `${Deno.makeTempDirSync()}/app.spool`;
 * const sender = new FetchSender(`http://localhost:${server.addr.port}/ingest`);
 * const spool = new Spool(file, sender, { requestBytes: 256 * 1024 });
 * await using out = new StreamBuffer(spool);
 * await out.write("hello\n");
 * await out.flush(); // it is on disk
 * await spool.drained(); // the server has it
 * assertEquals(spool.stats.bytesDelivered, 6);
 * ```
 */
export class Spool implements Sender, AsyncDisposable {
  /** Sends follow one another: the file has them in the order of the stream. */
  readonly ordered = true;
  readonly #database: SpoolDatabase;
  readonly #sender: Sender;
  readonly #requestBytes: number;
  readonly #maxBytes: number;
  readonly #drainTimeout: number;
  readonly #onError: SpoolOptions["onError"];
  readonly #deadLetter: SpoolOptions["deadLetter"];
  /** Aborted when the spool ends. */
  readonly #controller = new AbortController();
  /** Aborted when `close` has begun, or that of the buffer. */
  readonly #closing = new AbortController();
  #deadline = Infinity;
  #isClosed = false;
  #closed: Promise<void> | undefined;
  /** The signal of the stream that is written. */
  #stream: AbortSignal | undefined;
  /** The bytes of a request are put together here. */
  #buffer: Uint8Array<ArrayBuffer> | undefined;
  /** What has become of the cut, if that is not in the file yet. */
  #outcome: "delivered" | "diverted" | undefined;
  /** Called when something is added, or the spool ends: the delivery may wait for it. */
  #arrived: (() => void) | undefined;
  /** Resolved when something is settled, while a `send` waits for room. */
  #roomMade: PromiseWithResolvers<void> | undefined;
  #waiters: Waiter[] = [];
  #sends = 0;
  #failures = 0;
  #failuresInARow = 0;
  #lastError: FlushError | undefined;
  /** The failure that the delivery cannot get past without help. */
  #obstacle: FlushError | undefined;
  /** When disk space is given back next, by `performance.now()`, without being idle. */
  #shrinkTime = performance.now() + SHRINK_INTERVAL;
  #publishTimer: ReturnType<typeof setTimeout> | undefined;
  /** Fulfills when the delivery has ended. */
  readonly #delivering: Promise<void>;

  /**
   * Opens the file, or creates it, and begins to deliver what waits in it.
   *
   * @param path Where it is. Files with `-wal`, `-owner` and `-reserve` at the end of
   *   their names are made beside it.
   * @param sender Delivers the requests. It is closed with the spool.
   * @param options Options; times in milliseconds.
   * @throws {TypeError} If an option has the wrong type, the sends of `sender` do not
   *   stand alone, or this platform has no `node:sqlite`.
   * @throws {RangeError} If an option is out of range.
   * @throws {SpoolError} If the file cannot be opened or is no spool, or another
   *   process has it open.
   */
  constructor(
    path: string | URL,
    sender: Sender | Sender["send"],
    options: SpoolOptions = {},
  ) {
    const {
      durability = "power",
      requestBytes = 1024 * 1024,
      maxBytes = 1024 ** 3,
      drainTimeout = DEFAULT_DRAIN_TIMEOUT,
      onError,
      deadLetter,
    } = options;
    const target = typeof sender === "function" ? { send: sender } : sender;
    checkSender(target);
    check(
      ACTION,
      { durability },
      '"power" or "process"',
      "string",
      (value) => value === "power" || value === "process",
    );
    checkCapacity(ACTION, { requestBytes }, 1);
    checkInteger(ACTION, { maxBytes }, 1, Number.MAX_SAFE_INTEGER);
    checkDuration(ACTION, { drainTimeout }, 0);
    check(ACTION, { onError, deadLetter }, "a function", "function");
    const modules = loadModules(ACTION);
    const file = realPath(ACTION, path, modules);
    this.#sender = target;
    this.#requestBytes = requestBytes;
    this.#maxBytes = maxBytes;
    this.#drainTimeout = drainTimeout;
    this.#onError = onError;
    this.#deadLetter = deadLetter;
    this.#database = new SpoolDatabase(modules, file, durability, true);
    this.#delivering = this.#deliverAll();
    internalsOf.set(this, {
      modules,
      database: this.#database,
      append: (bytes, file, signal) => this.#append(bytes, signal, file),
      claim: () => this.#claim(new AbortController().signal, "follow"),
      throwIfClosed: () => {
        if (this.#isClosed) throw closedError("follow");
      },
    });
  }

  /**
   * Commits one batch to the file. A `StreamBuffer` calls it.
   *
   * @param bytes What to commit.
   * @param context Which batch of which stream it is.
   * @returns A promise that resolves when it is on disk.
   * @throws {SpoolError} If it could not be committed. Nothing of it was.
   * @throws {TypeError} If the spool is closed, serves another buffer, or follows a
   *   file.
   * @throws {RangeError} If it is larger than a row of the database can be.
   * @throws The reason of `context.signal`, if that is aborted first.
   */
  async send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> {
    const { signal } = context;
    this.#claim(signal, "send", context);
    // An empty row would begin where the next one does.
    if (bytes.length === 0) return;
    await this.#append(bytes, signal);
  }

  /**
   * Waits for the server.
   *
   * @returns A promise that resolves when everything that is in the file now has been
   *   delivered or diverted.
   * @throws {FlushError} If the delivery cannot continue without help: the content is
   *   refused and there is no `deadLetter` that takes it, the file is damaged, or the
   *   sender is closed. During an outage it waits.
   * @throws {TypeError} If the spool is closed, now or before it is drained.
   */
  async drained(): Promise<void> {
    const { end, settled } = this.#database;
    if (end <= settled) return;
    if (this.#isClosed) throw closedError("wait for the server");
    if (this.#obstacle !== undefined) throw this.#obstacle;
    const waiter = { ...Promise.withResolvers<void>(), end };
    this.#waiters.push(waiter);
    await waiter.promise;
  }

  /**
   * Waits until everything has been delivered, for `drainTimeout` at most, and closes
   * the file and the sender. Running out of time is no error: the rest is in the file.
   *
   * @returns A promise that resolves when the file is closed.
   */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  /**
   * Closes the file and the sender at once. What has been committed stays in the
   * file.
   *
   * @param reason Why; becomes the reason of the signal that the sender was given.
   * @returns A promise that resolves when the file is closed.
   */
  abort(
    reason: unknown = new DOMException("The spool was aborted", "AbortError"),
  ): Promise<void> {
    this.#stop(reason); // ends the wait of a close() that has begun
    return this.#closed ??= this.#end();
  }

  /**
   * Calls {@linkcode Spool.close}.
   *
   * @returns What that returns.
   */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * How much waits, and what has happened.
   *
   * @returns A snapshot, which does not change.
   */
  get stats(): SpoolStats {
    const { oldest, ...published } = this.#database.published;
    return {
      ...published,
      oldestAge: oldest === null ? 0 : Math.max(Date.now() - oldest, 0),
      sends: this.#sends,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  /**
   * Why the latest delivery failed.
   *
   * @returns The failure; `undefined` if the latest one succeeded.
   */
  get lastFailure(): unknown {
    return this.#lastError?.cause;
  }

  /**
   * Whether the spool is closed.
   *
   * @returns `true` once `close` has closed the file, or `abort` was called.
   */
  get ended(): boolean {
    return this.#isClosed;
  }

  // -- Writing --

  /** Makes sure that one stream is written to the file: a followed file, or a buffer. */
  #claim(
    signal: AbortSignal,
    verb: "send" | "follow",
    context?: SendContext,
  ): void {
    if (this.#isClosed) throw closedError(verb);
    if (this.#stream === signal) return;
    if (this.#stream !== undefined) {
      throw new TypeError(
        `Cannot ${verb}: the Spool serves another stream; open one for each`,
      );
    }
    const { follows } = this.#database;
    if (verb === "send" && follows !== undefined) {
      throw new TypeError(
        `Cannot send: the spool follows ${follows}, and takes nothing else; use another one`,
      );
    }
    this.#stream = signal;
    // What the buffer holds may wait for room in the file: until it is closed, no
    // chance to deliver must be slept through.
    context?.closing?.addEventListener(
      "abort",
      () => this.#beginClosing(context.deadline),
      { signal: this.#controller.signal },
    );
  }

  async #append(
    bytes: Uint8Array,
    signal: AbortSignal,
    file?: FileRecord,
  ): Promise<void> {
    const database = this.#database;
    const hasRoom = () => {
      const waiting = database.end - database.settled;
      return waiting === 0 || waiting + bytes.length <= this.#maxBytes;
    };
    while (!this.#isClosed && !hasRoom()) {
      this.#roomMade ??= Promise.withResolvers();
      await until(signal, this.#roomMade.promise);
    }
    if (this.#isClosed) throw closedError("commit");
    database.append(bytes, file);
    this.#arrived?.();
    this.#publishSoon();
    await nextTurn();
  }

  // -- Delivering --

  async #deliverAll(): Promise<void> {
    // Not before the constructor has returned. And a sender that never waits for
    // anything must not stop everything else.
    for (await nextTurn(); !this.#isClosed; await nextTurn()) {
      try {
        await this.#deliverNext();
      } catch (error) {
        if (this.#isClosed) return;
        await this.#backOff(error);
      }
    }
  }

  /** Delivers the next request, or waits for something to deliver. */
  async #deliverNext(): Promise<void> {
    const database = this.#database;
    const cut = database.cut(this.#requestBytes);
    if (cut === undefined) return await this.#idle();
    this.#outcome ??= await this.#send(cut);
    database.settle(this.#outcome, this.#requestBytes);
    this.#outcome = undefined;
    this.#settled();
    const now = performance.now();
    const isTime = now >= this.#shrinkTime;
    const isMore = this.#shrink(isTime ? MAX_UNUSED : Infinity);
    if (isTime && !isMore) this.#shrinkTime = now + SHRINK_INTERVAL;
  }

  /**
   * Gives back some disk space. If that fails, deliveries need not wait for it.
   *
   * @returns Whether there is more.
   */
  #shrink(maxUnused: number): boolean {
    try {
      return this.#database.shrink(maxUnused);
    } catch (error) {
      this.#report(this.#error(messageOf(error), error));
      return false;
    }
  }

  /** Waits until something is added. If that takes long, disk space is given back. */
  async #idle(): Promise<void> {
    if (await this.#arrival(IDLE_TIME)) return;
    while (this.#isEmpty && !this.#isClosed && this.#shrink(0)) {
      await nextTurn();
    }
    await this.#arrival(Infinity);
  }

  /** Waits until there is something to deliver, the spool ends, or `ms` have passed. */
  async #arrival(ms: number): Promise<boolean> {
    if (!this.#isEmpty || this.#isClosed) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const cancel = ms === Infinity ? () => {} : after(ms, () => resolve(false));
    this.#arrived = () => resolve(true);
    const hasArrived = await promise;
    cancel();
    return hasArrived;
  }

  /** Whether nothing waits. */
  get #isEmpty(): boolean {
    return this.#database.end === this.#database.settled;
  }

  /**
   * Sends a cut, and offers it to `deadLetter` if it is refused.
   *
   * @returns Who has it now.
   */
  async #send(cut: Cut): Promise<"delivered" | "diverted"> {
    const { sequence, offset, key } = cut;
    this.#buffer ??= new Uint8Array(this.#requestBytes);
    const bytes = this.#database.read(cut, this.#buffer);
    const deadline = () => this.#deadline;
    const context: DeadLetterContext = {
      ...{ sequence, offset, key },
      signal: this.#controller.signal,
      closing: this.#closing.signal,
      get deadline() {
        return deadline();
      },
    };
    try {
      await this.#sender.send(bytes, context);
      this.#sends++;
      return "delivered";
    } catch (cause) {
      const error = this.#error(
        `Cannot deliver ${
          countOf(cut.end - offset)
        } at offset ${offset} of the spool (request ${sequence}): ${
          messageOf(cause)
        }`,
        cause,
      );
      if (this.#isClosed || property(cause, "refused") !== true) throw error;
      // Read anew: the sender may have transferred or changed the bytes.
      const copy = this.#database.read(cut, new Uint8Array(cut.end - offset));
      await this.#divert(copy, error, context);
      return "diverted";
    }
  }

  /** Throws unless `deadLetter` takes the bytes. */
  async #divert(
    bytes: Uint8Array<ArrayBuffer>,
    error: FlushError,
    context: DeadLetterContext,
  ): Promise<void> {
    if (this.#deadLetter === undefined) throw error;
    let problem = "deadLetter did not take them";
    try {
      if (await this.#deadLetter(bytes, error, context) === true) return;
    } catch (thrown) {
      problem = `deadLetter failed: ${messageOf(thrown)}`;
    }
    throw this.#error(`${error.message}; ${problem}`, error.cause);
  }

  /** Wakes everyone who waits for something to be settled. */
  #settled(): void {
    this.#failuresInARow = 0;
    this.#lastError = this.#obstacle = undefined;
    this.#roomMade?.resolve();
    this.#roomMade = undefined;
    const { settled } = this.#database;
    const waiters = this.#waiters;
    this.#waiters = waiters.filter(({ end }) => end > settled);
    for (const waiter of waiters) {
      if (waiter.end <= settled) waiter.resolve();
    }
    this.#publishSoon();
  }

  /** Reports a failure, and waits before the next attempt. */
  async #backOff(thrown: unknown): Promise<void> {
    const error = thrown instanceof FlushError
      ? thrown
      : this.#error(messageOf(thrown), thrown);
    const { cause } = error;
    this.#failures++;
    this.#failuresInARow++;
    this.#lastError = error;
    this.#report(error);
    const hasEnded = property(this.#sender, "ended") === true;
    const isDamaged = cause instanceof SpoolError && cause.code === "damaged";
    if (hasEnded || isDamaged || property(cause, "refused") === true) {
      this.#obstacle = error;
      this.#rejectWaiters(error);
    }
    const signal = this.#controller.signal;
    const closing = this.#closing.signal;
    const retryAfter = property(cause, "retryAfter");
    const pause = typeof retryAfter === "number" && retryAfter > 0
      ? retryAfter
      : 0;
    try {
      if (hasEnded) await until(signal, new Promise<never>(() => {}));
      if (pause > 0) await sleep(pause, signal);
      const delay = this.#retryDelay() - pause;
      if (delay > 0) {
        await sleep(delay, signal, ...closing.aborted ? [] : [closing]);
      }
    } catch {
      // The spool has ended.
    }
  }

  /** A delay in ms, as a `StreamBuffer` makes it; a short one while closing. */
  #retryDelay(): number {
    const bound = Math.min(
      MIN_RETRY_DELAY * 2 ** (this.#failuresInARow - 1),
      MAX_RETRY_DELAY,
    );
    const delay = bound * (1 + Math.random()) / 2;
    if (!this.#closing.signal.aborted) return delay;
    const left = Math.max(this.#deadline - performance.now(), 0);
    return Math.min(delay, MAX_CLOSING_DELAY, left / 2);
  }

  #report(error: FlushError): void {
    if (this.#onError) notify(this.#onError, error);
  }

  #error(message: string, cause: unknown): FlushError {
    const { end, settled } = this.#database;
    return new FlushError(message, { cause, unsentBytes: end - settled });
  }

  #rejectWaiters(reason: unknown): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(reason);
  }

  // -- Publishing --

  /** Publishes the figures within `PUBLISH_INTERVAL`. */
  #publishSoon(): void {
    if (this.#publishTimer !== undefined || this.#isClosed) return;
    this.#publishTimer = setTimeout(() => {
      this.#publishTimer = undefined;
      this.#database.publish();
    }, PUBLISH_INTERVAL);
  }

  // -- The end --

  /** Ends a delay, and makes later ones short, until a deadline by `performance.now()`. */
  #beginClosing(deadline: number): void {
    this.#deadline = deadline;
    this.#closing.abort();
  }

  async #close(): Promise<void> {
    const { signal } = this.#controller;
    this.#beginClosing(performance.now() + this.#drainTimeout);
    if (this.#drainTimeout > 0) {
      const timeout = new AbortController();
      await Promise.race([
        handled(this.drained()),
        handled(sleep(this.#drainTimeout, timeout.signal)),
        handled(until(signal, new Promise<never>(() => {}))),
      ]).catch(() => {}); // it is in the file
      timeout.abort();
    }
    this.#stop(new DOMException("The spool was closed", "AbortError"));
    await this.#end();
  }

  /** Stops both loops, and aborts the request that is being made. */
  #stop(reason: unknown): void {
    this.#isClosed = true; // first, so that what it aborts does not count as a failure
    this.#controller.abort(reason);
  }

  /** Closes the file and the sender, when both loops have stopped. */
  async #end(): Promise<void> {
    clearTimeout(this.#publishTimer);
    this.#arrived?.();
    this.#roomMade?.resolve();
    this.#rejectWaiters(closedError("wait for the server"));
    const timeout = new AbortController();
    await Promise.race([
      this.#delivering,
      handled(sleep(ABORT_TIMEOUT, timeout.signal)),
    ]);
    timeout.abort();
    this.#database.close();
    if (this.#isEmpty) await this.#sender.close?.();
    else await this.#sender.abort?.(this.#controller.signal.reason);
  }
}

function checkSender(sender: Sender): void {
  if (typeof sender?.send !== "function") {
    throw new TypeError(
      `${ACTION}: sender must be a function or have a method "send", received ${
        show(sender)
      }`,
    );
  }
  if (sender.ordered) {
    throw new TypeError(
      `${ACTION}: sender must be one whose sends stand alone, such as a FetchSender, received ${
        show(sender)
      }`,
    );
  }
}

function closedError(verb: string): TypeError {
  return new TypeError(`Cannot ${verb}: the Spool is closed`);
}

/**
 * Makes a {@linkcode StreamBuffer} over a {@linkcode Spool} over a
 * {@linkcode FetchSender}. Its `flush` resolves when the bytes are on disk. Its `close`
 * also gives the server up to `drainTimeout` to accept them.
 *
 * @example Usage
 * ```ts
 * import { spoolTo } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * let received = "";
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   received += await request.text();
 *   return new Response();
 * });
 * const file = `${Deno.makeTempDirSync()}/app.spool`;
 * {
 *   await using out = spoolTo(file, `http://localhost:${server.addr.port}/ingest`);
 *   await out.write("hello\n");
 *   await out.flush(); // on disk: from now on it survives the process
 * }
 * assertEquals(received, "hello\n");
 * ```
 *
 * @param path Where the file is.
 * @param url Where to send to: http or https, without credentials.
 * @param options Options of the buffer, the spool and the sender. `deadLetter` is
 *   that of the spool, `onError` is called by both, and `drainTimeout` is added to
 *   `closeTimeout`.
 * @returns The buffer.
 * @throws {TypeError} If an option has the wrong type, or this platform does not
 *   support it or has no `node:sqlite`.
 * @throws {RangeError} If an option is out of range.
 * @throws {SpoolError} If the file cannot be opened or is no spool, or another
 *   process has it open.
 */
export function spoolTo(
  path: string | URL,
  url: string | URL,
  options: StreamBufferOptions & FetchSenderOptions & SpoolOptions = {},
): StreamBuffer {
  const {
    closeTimeout = DEFAULT_CLOSE_TIMEOUT,
    drainTimeout = DEFAULT_DRAIN_TIMEOUT,
  } = options;
  const sender = new FetchSender(url, options);
  // Checks the options before the file is opened, which would be left open otherwise.
  new StreamBuffer({ send() {}, ordered: true }, options);
  const spool = new Spool(path, sender, options);
  const { deadLetter: _, ...rest } = options;
  return new StreamBuffer(spool, {
    ...rest,
    closeTimeout: Math.min(closeTimeout + drainTimeout, MAX_DURATION),
  });
}
