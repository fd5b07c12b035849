/**
 * `--lines`: writes to the buffer in whole lines, so that no request begins or
 * ends within one.
 */
import { Buffer } from "node:buffer";
import type { Reader, StreamBuffer } from "../mod.ts";

/** How much is read at a time, in bytes: as much as a request holds by default. */
const READ_SIZE = 256 * 1024;
const NEWLINE = 10;

/** Writes whole lines, each write as many as fit into one request. */
export class LineWriter {
  readonly #out: StreamBuffer;
  readonly #capacity: number;
  /**
   * What was read and has not been accepted, in order. While all is well that is
   * less than a line; after a failure it is to be saved.
   */
  unaccepted: Uint8Array[] = [];

  /** @param capacity That of `out`, which must take a longer write whole. */
  constructor(out: StreamBuffer, capacity: number) {
    this.#out = out;
    this.#capacity = capacity;
  }

  /** Writes everything that `reader` gives; a last line may lack its end. */
  async readFrom(reader: Reader): Promise<void> {
    for (;;) {
      const chunk = new Uint8Array(READ_SIZE);
      const size = await reader.read(chunk);
      if (size === null) break;
      const read = chunk.subarray(0, size);
      this.unaccepted.push(read);
      // A line that goes on is not joined to itself again with each read.
      if (read.includes(NEWLINE)) await this.#write(false);
    }
    await this.#write(true);
  }

  /** Writes the lines there are, at the end of the input also half a line. */
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
        // A write that fails may have been accepted in part.
        const accepted = this.#out.stats.bytesAccepted - before;
        bytes = bytes.subarray(accepted);
        this.unaccepted = [bytes];
      }
    }
  }
}

/**
 * The size of the next write: the whole lines that fit into `capacity`, or the
 * first line if that alone does not; 0 if there is no whole line.
 *
 * @param isEnd Whether these are the last bytes, which end a line, too.
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
