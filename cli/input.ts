/**
 * The input, as the buffer reads it: files and standard input one after another,
 * up to their end, a failure, or an interrupt.
 *
 * A thread of its own reads ahead into a ring, for two reasons. A pipe gives at
 * most 64 KiB at a time, and to wake the main thread for each of them costs more
 * than to send them. And a read that waits for a pipe cannot be cancelled: the
 * main thread waits for the ring instead, and can stop without losing a byte.
 */
import type { Reader } from "../mod.ts";
import {
  READ_AHEAD_URL,
  type ReadResult,
  type ReadTask,
} from "./read_ahead.ts";
import { Ring } from "./ring.ts";

/** How much of what remains is taken at a time, in bytes. */
const CHUNK_SIZE = 256 * 1024;

/** Where the bytes come from. Disposing ends the thread, whatever it is doing. */
export class Input implements Reader, Disposable {
  readonly #ring = new Ring();
  readonly #worker = new Worker(READ_AHEAD_URL, { type: "module" });
  /** Everything is in the ring, or reading has failed. */
  #ended = false;
  /** The position in the ring at which it was stopped. */
  #stoppedAt: number | undefined;
  #failure: unknown;
  /** Why reading ended, if it failed. What was read before is still given. */
  error: Error | undefined;

  /**
   * Begins to read.
   *
   * @param files Paths; `-` is standard input.
   * @param skip How many bytes at the beginning are not wanted.
   */
  constructor(files: readonly string[], skip: number) {
    this.#worker.onmessage = ({ data }: MessageEvent<ReadResult>) => {
      if (data !== null) this.error = new Error(data);
      this.#ended = true;
      this.#ring.notify();
    };
    const task: ReadTask = { files, skip, ring: this.#ring.shared };
    this.#worker.postMessage(task);
  }

  /** Ends the input after the bytes that are in the ring by now. */
  stop(): void {
    this.#stoppedAt = this.#ring.written;
    this.#ring.notify();
  }

  /** Makes `read` reject with `reason`, even one that is waiting for input. */
  fail(reason: unknown): void {
    this.#failure = reason;
    this.#ring.notify();
  }

  /** Throws the reason of `fail`, which may have come after the last read. */
  throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The next bytes; `null` at the end. */
  async read(p: Uint8Array): Promise<number | null> {
    for (;;) {
      this.throwIfFailed();
      const size = await this.#take(p);
      if (size !== 0) return size;
    }
  }

  /**
   * What `read` has not given yet, to the end of the input, even after `fail`.
   * Each chunk is valid until the next one.
   */
  async *remaining(): AsyncGenerator<Uint8Array> {
    const chunk = new Uint8Array(CHUNK_SIZE);
    for (let size; (size = await this.#take(chunk)) !== null;) {
      yield chunk.subarray(0, size);
    }
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }

  /**
   * Takes bytes from the ring; `null` at the end. If there are none it waits for
   * an event and returns 0: the caller looks what it was.
   */
  async #take(p: Uint8Array): Promise<number | null> {
    // Counted first: what the thread does from here on ends the wait below.
    const seen = this.#ring.events;
    const size = this.#ring.take(p, this.#stoppedAt);
    if (size > 0) return size;
    if (this.#ended || this.#stoppedAt !== undefined) return null;
    await this.#ring.nextEvent(seen);
    return 0;
  }
}
