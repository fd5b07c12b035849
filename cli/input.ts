/** The input. */
import { Buffer } from "node:buffer";
import type { Reader } from "../mod.ts";
import type { Job } from "./job.ts";
import { readAhead } from "./read_ahead.ts";

const READ_SIZE = 256 * 1024;
const NEWLINE = 10;
/** How far the input is read ahead; a power of 2. */
const RING_SIZE = 2 * 1024 * 1024;
/** Where counting begins: so shortly before it overflows that tests see that. */
const START = 2 ** 31 - 2 ** 20;

/**
 * The input, on its way into the buffer. A thread of its own reads ahead into a
 * ring: a pipe gives at most 64 KiB at a time, and to wake the main thread for
 * each of them costs more than to send them. And so a read that waits can be
 * given up without losing anything.
 */
export class Input implements Reader {
  readonly #job: Job;
  readonly #thread: Worker;
  readonly #ring = new Uint8Array(new SharedArrayBuffer(RING_SIZE));
  /** How many bytes came into the ring and went out, modulo 2^32. */
  readonly #written = new Int32Array(new SharedArrayBuffer(4)).fill(START);
  readonly #taken = new Int32Array(new SharedArrayBuffer(4)).fill(START);
  /** Counts what one may wait for. */
  readonly #news = new Int32Array(new SharedArrayBuffer(4));
  #ended = false;
  /** What was written when it was stopped. */
  #stop: number | undefined;
  #failure: unknown;
  /** What was read and has not been accepted yet. */
  held: Uint8Array[] = [];
  /** Why reading ended, if it failed. */
  error: Error | undefined;

  constructor(job: Job) {
    this.#job = job;
    const code = encodeURIComponent(`(${readAhead})()`);
    const url = `data:text/javascript,${code}`;
    this.#thread = new Worker(url, { type: "module" });
    this.#thread.onmessage = ({ data }) => {
      if (data !== null) this.error = new Error(data);
      this.#ended = true;
      this.#wake();
    };
    this.#thread.postMessage({
      files: job.files,
      skip: job.skip,
      ring: this.#ring,
      written: this.#written,
      taken: this.#taken,
      news: this.#news,
    });
  }

  /** Ends the input where it is. */
  stop(): void {
    this.#stop = Atomics.load(this.#written, 0);
    this.#wake();
  }

  /** Makes `sendAll` reject, even while it waits for input. */
  fail(reason: unknown): void {
    this.#failure = reason;
    this.#wake();
  }

  /** Puts everything into the buffer, or what was read before it was stopped. */
  async sendAll(): Promise<void> {
    if (this.#job.lines) await this.#sendLines();
    else await this.#job.out.readFrom(this);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The next bytes for `sendAll`, `null` at the end or after a failure. */
  async read(p: Uint8Array): Promise<number | null> {
    while (this.#failure === undefined) {
      const size = await this.#take(p);
      if (size !== 0) return size;
    }
    return null;
  }

  /** What `sendAll` has left. */
  async *rest(): AsyncGenerator<Uint8Array> {
    const chunk = new Uint8Array(READ_SIZE);
    for (let size; (size = await this.#take(chunk)) !== null;) {
      yield chunk.subarray(0, size);
    }
  }

  close(): void {
    this.#thread.terminate();
  }

  /** Waits for bytes, or for anything else that happens, and then takes none. */
  async #take(p: Uint8Array): Promise<number | null> {
    const news = Atomics.load(this.#news, 0);
    const ended = this.#ended || this.#stop !== undefined;
    const taken = Atomics.load(this.#taken, 0);
    const size = ((this.#stop ?? Atomics.load(this.#written, 0)) - taken) | 0;
    if (size > 0) {
      const at = taken & (RING_SIZE - 1);
      const part = this.#ring.subarray(at, at + Math.min(size, p.length));
      p.set(part);
      Atomics.store(this.#taken, 0, taken + part.length);
      Atomics.notify(this.#taken, 0);
      return part.length;
    }
    if (ended) return null;
    await Atomics.waitAsync(this.#news, 0, news).value;
    return 0;
  }

  #wake(): void {
    Atomics.add(this.#news, 0, 1);
    Atomics.notify(this.#news, 0);
  }

  async #sendLines(): Promise<void> {
    for (;;) {
      const chunk = new Uint8Array(READ_SIZE);
      const size = await this.read(chunk);
      if (size === null) break;
      this.held.push(chunk.subarray(0, size));
      await this.#write(false);
    }
    if (this.#failure === undefined) await this.#write(true);
  }

  /** Writes what is held, but for a line that may go on. */
  async #write(end: boolean): Promise<void> {
    const { out, capacity } = this.#job;
    if (!end && !this.held.at(-1)!.includes(NEWLINE)) return;
    let bytes = this.held.length === 1
      ? this.held[0]!
      : Buffer.concat(this.held);
    for (;;) {
      const size = sizeOfLines(bytes, capacity, end);
      if (size === 0) break;
      const before = out.stats.bytesAccepted;
      try {
        await out.write(bytes.subarray(0, size));
      } finally {
        bytes = bytes.subarray(out.stats.bytesAccepted - before);
        this.held = [bytes];
      }
    }
  }
}

/** The size of the next piece of whole lines, at most `capacity` if one fits. */
function sizeOfLines(
  bytes: Uint8Array,
  capacity: number,
  end: boolean,
): number {
  if (end && bytes.length <= capacity) return bytes.length;
  const last = bytes.lastIndexOf(NEWLINE, capacity - 1);
  if (last >= 0) return last + 1;
  const first = bytes.indexOf(NEWLINE);
  if (first >= 0) return first + 1;
  return end ? bytes.length : 0;
}
