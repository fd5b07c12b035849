/** Work that must not overlap with other work. */

/** Runs one piece of work at a time, in the order in which they came. */
export class Mutex {
  #last: Promise<void> = Promise.resolve();

  /** Runs `work` once all that came before has ended, and settles as it does. */
  async run<T>(work: () => Promise<T> | T): Promise<T> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    try {
      return await work();
    } finally {
      resolve();
    }
  }
}
