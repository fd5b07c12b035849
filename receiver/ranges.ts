/** Which sequence numbers are known, however many there are. */

/** A set of integers that takes room only for each run of them. */
export class Ranges {
  /**
   * The first number of each run, and the first one after it, in turn: strictly
   * ascending, so that an even index begins a run, and an odd one ends it.
   */
  readonly #edges: number[] = [];

  /** Whether a number is in it. */
  has(number: number): boolean {
    return this.#indexAfter(number) % 2 === 1;
  }

  /** Adds a number. */
  add(number: number): void {
    const edges = this.#edges;
    const index = this.#indexAfter(number);
    if (index % 2 === 1) return;
    const follows = edges[index - 1] === number;
    const precedes = edges[index] === number + 1;
    if (follows && precedes) edges.splice(index - 1, 2);
    else if (follows) edges[index - 1] = number + 1;
    else if (precedes) edges[index] = number;
    else edges.splice(index, 0, number, number + 1);
  }

  /** How many edges are at or before a number. */
  #indexAfter(number: number): number {
    let low = 0;
    let high = this.#edges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#edges[middle]! <= number) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
