/** Bytes that the suite and its server can each make, to compare what arrived. */

/** How many bytes are drawn at once. */
const WORD = 4;

/**
 * Pseudo-random bytes (Marsaglia's xorshift with 32 bits): the same ones for the
 * same seed, on every platform and in pieces of any size.
 */
export class Bytes {
  #state: number;
  /** Bytes of the latest word that have not been given out. */
  #word = 0;
  #left = 0;

  constructor(seed: number) {
    this.#state = Math.imul(seed + 1, 0x9e3779b9) | 1; // never 0
  }

  /** The next `size` bytes. */
  next(size: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i++) {
      if (this.#left === 0) this.#draw();
      bytes[i] = this.#word & 0xff;
      this.#word >>>= 8;
      this.#left--;
    }
    return bytes;
  }

  #draw(): void {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = this.#word = x;
    this.#left = WORD;
  }
}

/** The first `size` bytes of a seed. */
export function bytesOf(seed: number, size: number): Uint8Array<ArrayBuffer> {
  return new Bytes(seed).next(size);
}
