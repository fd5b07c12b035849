/** The memory that all requests of a receiver share. */
import { Queue } from "../internal/queue.ts";

/** A request that waits for room. */
interface Waiter {
  readonly claim: Claim;
  readonly size: number;
  readonly resolve: () => void;
  /** Whether it has given up. */
  hasLeft: boolean;
}

/**
 * A number of bytes that requests share. A request that finds too few waits: first come,
 * first served, but those that already hold some come before those that hold none. In one
 * queue, they would hold memory without using it until all the others were served.
 *
 * A request takes room as its bytes arrive, so that one that sends nothing costs nothing.
 * But then all of them could wait for room that none of them gives back: a deadlock. So
 * the first of those that wait may exceed the limit, and no other until it has ended. As
 * every request is bounded and ends within its timeouts, so are the memory and the wait.
 */
export class Room {
  /** Negative while one exceeds the limit. */
  #free: number;
  /** Those that wait, and hold some room. */
  readonly #growing = new Queue<Waiter>();
  /** Those that wait, and hold none. */
  readonly #entering = new Queue<Waiter>();
  /** The one that may exceed the limit. */
  #exempt: Claim | undefined;

  /** @param size How many bytes there are. */
  constructor(size: number) {
    this.#free = size;
  }

  /**
   * Takes bytes for a claim, at once or later.
   *
   * @throws The reason of `signal`, if it is aborted before.
   */
  async take(claim: Claim, size: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (claim === this.#exempt) {
      this.#free -= size;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { claim, size, resolve, hasLeft: false };
    const leave = () => {
      waiter.hasLeft = true;
      reject(signal.reason);
      this.#advance(); // those behind it may want less
    };
    signal.addEventListener("abort", leave);
    (claim.isEmpty ? this.#entering : this.#growing).push(waiter);
    this.#advance();
    try {
      await promise;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }

  /** Gives back bytes that a claim has taken. */
  give(size: number): void {
    this.#free += size;
    this.#advance();
  }

  /** Ends a claim, which has given everything back. */
  end(claim: Claim): void {
    if (claim === this.#exempt) this.#exempt = undefined;
    this.#advance();
  }

  #advance(): void {
    for (;;) {
      const line = this.#growing.isEmpty ? this.#entering : this.#growing;
      const waiter = line.first;
      if (waiter === undefined) return;
      if (!waiter.hasLeft) {
        const { claim, size, resolve } = waiter;
        if (size > this.#free) {
          this.#exempt ??= claim;
          if (claim !== this.#exempt) return;
        }
        this.#free -= size;
        resolve();
      }
      line.shift();
    }
  }
}

/** What one request has taken. */
export class Claim {
  readonly #room: Room;
  #size = 0;

  constructor(room: Room) {
    this.#room = room;
  }

  /** Whether it has taken nothing. */
  get isEmpty(): boolean {
    return this.#size === 0;
  }

  /** Takes `size` bytes more; rejects when `signal` is aborted. */
  async take(size: number, signal: AbortSignal): Promise<void> {
    await this.#room.take(this, size, signal);
    this.#size += size;
  }

  /** Gives back all that it has taken but `size` bytes. */
  keep(size: number): void {
    const rest = this.#size - size;
    this.#size = size;
    this.#room.give(rest);
  }

  /** Gives back everything. It must not be waiting. */
  [Symbol.dispose](): void {
    this.keep(0);
    this.#room.end(this);
  }
}
