/**
 * `--lines`: writes to the buffer in whole lines, so that no request begins or
 * ends within one.
 */
import type { Reader, StreamBuffer } from "../mod.ts";

/** The size of a read in bytes: what a request holds by default. */
const READ_SIZE = 256 * 1024;
/**
 * The longest line in bytes, with its newline, unless `--capacity` is larger: a
 * line is kept in memory until it has ended, and then sent in one request.
 */
export const MAX_LINE: number = 16 * 1024 * 1024;
const NEWLINE = 10;

/** Writes whole lines; each write has as many of them as fit into one request. */
export class LineWriter {
  readonly #out: StreamBuffer;
  readonly #capacity: number;
  readonly #maxLine: number;
  /** What was read and not accepted yet is between #start and #end. */
  #store = new Uint8Array(READ_SIZE);
  #start = 0;
  #end = 0;

  /**
   * @param capacity That of `out`, which must send a longer write whole.
   * @param maxLine The longest line in bytes.
   */
  constructor(
    out: StreamBuffer,
    capacity: number,
    maxLine: number = Math.max(MAX_LINE, capacity),
  ) {
    this.#out = out;
    this.#capacity = capacity;
    this.#maxLine = maxLine;
  }

  /**
   * The bytes that were read and that `out` has not accepted. Normally they are
   * the beginning of a line; after a failure they have to be saved.
   */
  get unaccepted(): Uint8Array {
    return this.#store.subarray(this.#start, this.#end);
  }

  /**
   * Writes everything from `reader`. The last line need not end in a newline.
   *
   * @throws {Error} If a line is too long. The lines before it have been delivered.
   */
  async readFrom(reader: Reader): Promise<void> {
    for (;;) {
      const room = this.#makeRoom();
      const size = await reader.read(room);
      if (size === null) break;
      this.#end += size;
      // Until its line ends, a read is only kept: searching everything each time
      // would read a long line again and again.
      if (room.subarray(0, size).includes(NEWLINE)) await this.#write(false);
      else await this.#checkLine(this.unaccepted.length);
    }
    await this.#write(true);
  }

  /** Makes room for a read, behind what is there. */
  #makeRoom(): Uint8Array {
    const kept = this.unaccepted;
    if (kept.length === this.#store.length) {
      const size = Math.min(2 * kept.length, this.#maxLine + READ_SIZE);
      this.#store = new Uint8Array(size);
      this.#store.set(kept);
    } else if (this.#start > 0) {
      this.#store.copyWithin(0, this.#start, this.#end);
    }
    this.#start = 0;
    this.#end = kept.length;
    return this.#store.subarray(this.#end, this.#end + READ_SIZE);
  }

  /** Writes the whole lines, and at the end of the input also a partial one. */
  async #write(isEnd: boolean): Promise<void> {
    for (;;) {
      const bytes = this.unaccepted;
      const size = sizeOfLines(bytes, this.#capacity, isEnd);
      await this.#checkLine(size || bytes.length);
      if (size === 0) break;
      const before = this.#out.stats.bytesAccepted;
      try {
        await this.#out.write(bytes.subarray(0, size));
      } finally {
        // A write that rejects may have been accepted in part.
        this.#start += this.#out.stats.bytesAccepted - before;
      }
    }
  }

  /**
   * Throws if a line is too long. It will never fit, so what comes before it is
   * sent first.
   *
   * @param size How much there is of it; or of several lines, which fit.
   */
  async #checkLine(size: number): Promise<void> {
    if (size <= this.#maxLine) return;
    await this.#out.flush();
    throw new Error(
      `cannot send a line of more than ${this.#maxLine} bytes in one request; raise --capacity above the longest line, or leave out --lines`,
    );
  }
}

/**
 * The size of the next write: that of the whole lines that fit into `capacity`,
 * or of the first line if it is longer; 0 if there is no whole line.
 *
 * @param isEnd Whether the input ends here, so that a partial line is written, too.
 */
export function sizeOfLines(
  bytes: Uint8Array,
  capacity: number,
  isEnd: boolean,
): number {
  if (isEnd && bytes.length <= capacity) return bytes.length;
  const last = bytes.lastIndexOf(NEWLINE, capacity - 1);
  if (last >= 0) return last + 1;
  const first = bytes.indexOf(NEWLINE);
  if (first >= 0) return first + 1;
  return isEnd ? bytes.length : 0;
}
