/**
 * The ring of bytes between the thread that reads ahead (read_ahead.ts) and the
 * main thread (input.ts). One thread puts bytes in, the other takes them out.
 *
 * ```text
 *                taken             written
 *                  |                  |
 *   free, or -> ---+==================+--- -> free, until
 *   not yet used   |    to be taken   |       taken + RING_SIZE
 * ```
 *
 * Both are positions in the input: they only grow, and the byte at position `n`
 * is `bytes[n % RING_SIZE]`. They are kept modulo 2^32, as atomics are integers
 * of 32 bits, so an input may be of any size. What counts is their difference,
 * which `| 0` makes right even when one of them has wrapped around: it is never
 * more than RING_SIZE.
 *
 * Each position is changed by one thread only, after the bytes it is about have
 * been copied. So neither thread ever sees bytes that are half written, and
 * neither needs a lock.
 */

/**
 * How far the input is read ahead, in bytes: eight requests of the default
 * capacity. A power of 2, so that it divides 2^32 and `n & (RING_SIZE - 1)` is
 * the index of position `n`.
 */
export const RING_SIZE = 2 * 1024 * 1024;
/** The first position: 1 MiB before it becomes negative, so that tests see that. */
const START = 2 ** 31 - 2 ** 20;

/** The memory that both threads share. */
export interface SharedRing {
  /** `RING_SIZE` bytes. */
  readonly bytes: Uint8Array;
  /** Where the next byte is put in. Only the reading thread changes it. */
  readonly written: Int32Array;
  /** Where the next byte is taken out. Only the main thread changes it. */
  readonly taken: Int32Array;
  /** Grows with everything that the main thread may wait for. */
  readonly events: Int32Array;
}

/** The main thread's side: it takes out, and must never block. */
export class Ring {
  /** For the other side. */
  readonly shared: SharedRing = {
    bytes: new Uint8Array(new SharedArrayBuffer(RING_SIZE)),
    written: new Int32Array(new SharedArrayBuffer(4)).fill(START),
    taken: new Int32Array(new SharedArrayBuffer(4)).fill(START),
    events: new Int32Array(new SharedArrayBuffer(4)),
  };

  /** The position of the next byte that is put in. */
  get written(): number {
    return Atomics.load(this.shared.written, 0);
  }

  /**
   * Takes bytes out into `p`, from its beginning, and makes room for others.
   *
   * @param end The position to stop at.
   * @returns The number of bytes: at most `p.length`, and no more than are in one
   *   piece, so that there may be others; 0 if there are none.
   */
  take(p: Uint8Array, end: number = this.written): number {
    const { bytes, taken } = this.shared;
    const start = Atomics.load(taken, 0);
    const size = Math.min((end - start) | 0, p.length);
    if (size <= 0) return 0;
    const at = start & (RING_SIZE - 1);
    const part = bytes.subarray(at, at + size); // or up to the end of the array
    p.set(part);
    Atomics.store(taken, 0, start + part.length);
    Atomics.notify(taken, 0); // the other side may be waiting for room
    return part.length;
  }

  /** The number of events so far, to be read before looking for what they are. */
  get events(): number {
    return Atomics.load(this.shared.events, 0);
  }

  /**
   * Waits for an event after the first `seen`. One that has happened since they
   * were counted ends the wait at once, so that none is missed.
   */
  async nextEvent(seen: number): Promise<void> {
    await Atomics.waitAsync(this.shared.events, 0, seen).value;
  }

  /** Reports an event of the main thread itself to whoever waits there. */
  notify(): void {
    Atomics.add(this.shared.events, 0, 1);
    Atomics.notify(this.shared.events, 0);
  }
}
