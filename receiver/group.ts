/** Work that is done for several callers at once. */
import { nextTurn } from "../internal/node/platform.ts";

/** What waits to be done, and whose promise it settles. */
export interface Job<Input, Output> {
  readonly input: Input;
  readonly resolve: (output: Output) => void;
  readonly reject: (error: unknown) => void;
}

/** How much is done at once, at most: enough to make a sync cheap for each batch. */
const MAX_JOBS = 256;
/** The same, in bytes: what is written meanwhile blocks, or is held in memory. */
const MAX_BYTES = 4 * 1024 * 1024;

/**
 * Collects what arrives while earlier work is being done, and does it together: one
 * sync of a disk for all of it, however many senders there are.
 */
export class Groups<Input, Output> {
  readonly #sizeOf: (input: Input) => number;
  readonly #work: (jobs: readonly Job<Input, Output>[]) => Promise<void> | void;
  #waiting: Job<Input, Output>[] = [];
  #loop: Promise<void> | undefined;

  /**
   * @param sizeOf How many bytes an input has.
   * @param work Settles every job. If it throws or rejects, it rejects the others.
   */
  constructor(
    sizeOf: (input: Input) => number,
    work: (jobs: readonly Job<Input, Output>[]) => Promise<void> | void,
  ) {
    this.#sizeOf = sizeOf;
    this.#work = work;
  }

  /** Adds an input to the next group. */
  add(input: Input): Promise<Output> {
    const { promise, resolve, reject } = Promise.withResolvers<Output>();
    this.#waiting.push({ input, resolve, reject });
    this.#loop ??= this.#run();
    return promise;
  }

  /** Is fulfilled once nothing waits, and no work is under way. */
  async idle(): Promise<void> {
    while (this.#loop !== undefined) await this.#loop;
  }

  async #run(): Promise<void> {
    // In a turn of its own: what has arrived in this one is of the first group.
    do {
      await nextTurn();
      const jobs = this.#take();
      try {
        await this.#work(jobs);
      } catch (error) {
        for (const { reject } of jobs) reject(error);
      }
    } while (this.#waiting.length > 0);
    this.#loop = undefined;
  }

  #take(): Job<Input, Output>[] {
    let bytes = 0;
    const end = this.#waiting.findIndex(({ input }, index) => {
      bytes += this.#sizeOf(input);
      return index === MAX_JOBS || index > 0 && bytes > MAX_BYTES;
    });
    return this.#waiting.splice(0, end === -1 ? Infinity : end);
  }
}
