/**
 * The ring of bytes between the thread that reads ahead (read_ahead.ts) and the
 * main thread (input.ts). One thread puts bytes in, the other takes them out.
 *
 * ```text
 *                   taken             written        taken + RING_SIZE
 *                     |                  |                   |
 *   positions  -------+==================+- - - - - - - - - -+------->
 *              taken  |  ready to take   |  free: room for   |
 *              out    |                  |  the next read    |
 * ```
 *
 * Positions count the bytes of the input: they only grow, and the byte at
 * position `n` is `bytes[n % RING_SIZE]`. They are kept modulo 2^32, because
 * atomics are 32-bit integers and the input may be of any size. Only their
 * difference matters: it is never more than RING_SIZE, so that `| 0` gives it
 * correctly even when one of them has wrapped around.
 *
 * Each position is advanced by one thread only, and only after the bytes before
 * it have been copied. So neither thread ever sees half-written bytes, and no
 * lock is needed.
 */

/**
 * How far the input is read ahead, in bytes: eight requests of the default
 * capacity. A power of 2, so that it divides 2^32 and `n & (RING_SIZE - 1)` is
 * the index of position `n`.
 */
export const RING_SIZE = 2 * 1024 * 1024;
/** The first position: 1 MiB before the integers overflow, so that every test with a larger input crosses it. */
const START = 2 ** 31 - 2 ** 20;

/** The memory that both threads share. */
export interface SharedRing {
  /** `RING_SIZE` bytes. */
  readonly bytes: Uint8Array;
  /** Where the next byte is put in. Only the reading thread changes it. */
  readonly written: Int32Array;
  /** Where the next byte is taken out. Only the main thread changes it. */
  readonly taken: Int32Array;
  /** Counts everything that the main thread may wait for, modulo 2^32. */
  readonly events: Int32Array;
}

/** The main thread's side: it takes bytes out, and must never block. */
export class Ring {
  /** What the other side is sent. */
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

  /** Whether everything that was put in has been taken out. */
  get isEmpty(): boolean {
    return this.written === Atomics.load(this.shared.taken, 0);
  }

  /**
   * Takes bytes out into `p`, from its beginning, and makes room for others.
   *
   * @param end The position to stop at.
   * @returns The number of bytes, 0 if there are none. Fewer than `p.length` does
   *   not mean that these were all: a call stops at the end of the array.
   */
  take(p: Uint8Array, end: number = this.written): number {
    const { bytes, taken } = this.shared;
    const start = Atomics.load(taken, 0);
    const size = Math.min((end - start) | 0, p.length);
    if (size <= 0) return 0;
    const at = start & (RING_SIZE - 1);
    const part = bytes.subarray(at, at + size); // or to the end of the array
    p.set(part);
    Atomics.store(taken, 0, start + part.length);
    Atomics.notify(taken, 0); // the other side may be waiting for room
    return part.length;
  }

  /**
   * Puts bytes in, as the thread does, for a reader in the main thread. It waits for
   * room, until it has put in everything or `signal` is aborted.
   */
  async put(p: Uint8Array, signal: AbortSignal): Promise<void> {
    const { bytes, written, taken } = this.shared;
    while (p.length > 0 && !signal.aborted) {
      const start = this.written;
      const end = Atomics.load(taken, 0);
      const room = RING_SIZE - ((start - end) | 0);
      if (room === 0) {
        await Atomics.waitAsync(taken, 0, end).value;
        continue;
      }
      const at = start & (RING_SIZE - 1);
      const size = Math.min(p.length, room, RING_SIZE - at);
      bytes.set(p.subarray(0, size), at);
      Atomics.store(written, 0, start + size);
      this.notify();
      p = p.subarray(size);
    }
  }

  /** The number of events so far. Read it before looking for what has happened. */
  get events(): number {
    return Atomics.load(this.shared.events, 0);
  }

  /**
   * Waits for the next event after the first `seen`. If it has happened already,
   * the wait ends at once, so that no event is missed.
   */
  async nextEvent(seen: number): Promise<void> {
    await Atomics.waitAsync(this.shared.events, 0, seen).value;
  }

  /** Counts an event of the main thread itself, and ends its wait. */
  notify(): void {
    Atomics.add(this.shared.events, 0, 1);
    Atomics.notify(this.shared.events, 0);
  }
}
