/**
 * The input, as the buffer reads it: files and standard input one after another,
 * up to their end, a failure, or an interrupt.
 *
 * On Deno a separate thread reads ahead into a ring (ring.ts), for two reasons. A pipe
 * gives at most 64 KiB at a time, and waking the main thread for each of these
 * costs more than sending them. And a read that waits for a pipe cannot be
 * cancelled: the main thread waits for the ring instead, and can stop at any time
 * without losing a byte. Elsewhere the ring is filled by streams (read_streams.ts).
 */
import type { Reader } from "../mod.ts";
import {
  READ_AHEAD_URL,
  type ReadResult,
  type ReadTask,
} from "./read_ahead.ts";
import { IS_DENO } from "./platform.ts";
import { readStreams } from "./read_streams.ts";
import { Ring } from "./ring.ts";

/** The size of the chunks of `remaining`, in bytes. */
const CHUNK_SIZE = 256 * 1024;

/**
 * Reads the input. At an interrupt, the bytes in the ring count as read and those
 * that are still in a pipe do not.
 */
export class Input implements Reader, Disposable {
  readonly #ring = new Ring();
  /** Ends what fills the ring, even while it is reading. */
  #end: () => void = () => {};
  /** Nothing more is put into the ring. */
  #ended = false;
  /** Where the input ends since `stop`, as a position in the ring. */
  #stoppedAt: number | undefined;
  #failure: unknown;
  /** Why reading failed. The bytes before the failure are read as usual. */
  error: Error | undefined;

  /**
   * Starts reading ahead.
   *
   * @param files Paths; `-` is standard input.
   * @param skip The number of bytes at the beginning to leave out.
   */
  constructor(files: readonly string[], skip: number) {
    if (files.length === 0) {
      this.#ended = true;
      return;
    }
    const task: ReadTask = { files, skip, ring: this.#ring.shared };
    if (IS_DENO) this.#readInThread(task);
    else void this.#readStreams(task);
  }

  #readInThread(task: ReadTask): void {
    const worker = new Worker(READ_AHEAD_URL, { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<ReadResult>) => {
      this.#complete(data === null ? undefined : new Error(data));
    };
    worker.postMessage(task);
    this.#end = () => worker.terminate();
  }

  async #readStreams(task: ReadTask): Promise<void> {
    const controller = new AbortController();
    this.#end = () => controller.abort();
    try {
      await readStreams(task, this.#ring, controller.signal);
      this.#complete();
    } catch (error) {
      this.#complete(error as Error);
    }
  }

  /** Takes note that nothing more is put into the ring, and why, if that is early. */
  #complete(error?: Error): void {
    this.error = error;
    this.#ended = true;
    this.#ring.notify();
  }

  /** Whether it has been read to its end. */
  get isComplete(): boolean {
    return this.#ended && this.error === undefined && this.#ring.isEmpty;
  }

  /** Ends the input after the bytes that are in the ring now. */
  stop(): void {
    this.#stoppedAt = this.#ring.written;
    this.#ring.notify();
  }

  /** Makes `read` reject with `reason`, even while it waits for input. */
  fail(reason: unknown): void {
    this.#failure = reason;
    this.#ring.notify();
  }

  /** Throws the reason of `fail`, which may be called after the last read. */
  throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Reads the next bytes into `p`; resolves to `null` at the end. */
  async read(p: Uint8Array): Promise<number | null> {
    for (;;) {
      this.throwIfFailed();
      const size = await this.#take(p);
      if (size !== 0) return size;
    }
  }

  /**
   * The bytes that `read` has left, up to the end of the input, even after
   * `fail`. Each chunk is valid until the next one.
   */
  async *remaining(): AsyncGenerator<Uint8Array> {
    const chunk = new Uint8Array(CHUNK_SIZE);
    for (let size; (size = await this.#take(chunk)) !== null;) {
      yield chunk.subarray(0, size);
    }
  }

  /** Ends the reading, even while it waits. */
  [Symbol.dispose](): void {
    this.#end();
  }

  /**
   * Takes bytes from the ring, `null` at the end. If there are none yet, it waits
   * for an event and returns 0, so that the caller can see what has happened.
   */
  async #take(p: Uint8Array): Promise<number | null> {
    // Read first, so that anything that happens from here on ends the wait below.
    const seen = this.#ring.events;
    const size = this.#ring.take(p, this.#stoppedAt);
    if (size > 0) return size;
    if (this.#ended || this.#stoppedAt !== undefined) return null;
    await this.#ring.nextEvent(seen);
    return 0;
  }
}
