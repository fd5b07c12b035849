/**
 * `--lines`: writes to the buffer in whole lines, so that no request begins or
 * ends within one.
 */
import { Buffer } from "node:buffer";
import type { Reader, StreamBuffer } from "../mod.ts";

/** The size of a read in bytes: what a request holds by default. */
const READ_SIZE = 256 * 1024;
const NEWLINE = 10;

/** Writes whole lines; each write has as many of them as fit into one request. */
export class LineWriter {
  readonly #out: StreamBuffer;
  readonly #capacity: number;
  /**
   * The bytes that were read and that `out` has not accepted, in order. Normally
   * they are the beginning of a line; after a failure they have to be saved.
   */
  unaccepted: Uint8Array[] = [];

  /** @param capacity That of `out`, which must send a longer write whole. */
  constructor(out: StreamBuffer, capacity: number) {
    this.#out = out;
    this.#capacity = capacity;
  }

  /** Writes everything from `reader`. The last line need not end in a newline. */
  async readFrom(reader: Reader): Promise<void> {
    for (;;) {
      const chunk = new Uint8Array(READ_SIZE);
      const size = await reader.read(chunk);
      if (size === null) break;
      const read = chunk.subarray(0, size);
      this.unaccepted.push(read);
      // Until its line ends, a read is only kept: joining the pieces each time
      // would copy a long line again and again.
      if (read.includes(NEWLINE)) await this.#write(false);
    }
    await this.#write(true);
  }

  /** Writes the whole lines, and at the end of the input also a partial one. */
  async #write(isEnd: boolean): Promise<void> {
    let bytes = this.unaccepted.length === 1
      ? this.unaccepted[0]!
      : Buffer.concat(this.unaccepted);
    for (;;) {
      const size = sizeOfLines(bytes, this.#capacity, isEnd);
      if (size === 0) break;
      const before = this.#out.stats.bytesAccepted;
      try {
        await this.#out.write(bytes.subarray(0, size));
      } finally {
        // A write that rejects may have been accepted in part.
        const accepted = this.#out.stats.bytesAccepted - before;
        bytes = bytes.subarray(accepted);
        this.unaccepted = [bytes];
      }
    }
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
