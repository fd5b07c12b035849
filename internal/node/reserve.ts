/** Room on the disk for what is needed once that is full. */
import { unlessMissing } from "./owner_file.ts";
import type { Modules } from "./platform.ts";

/** How much is written at a time to a file that is only to take up room. */
const CHUNK = 64 * 1024;

/**
 * Room on the disk, kept by a file, `FILE-reserve`, that is removed when nothing else
 * helps. Then rows can be deleted, which takes room before it gives any.
 */
export class Reserve {
  readonly #fs: Modules["fs"];
  readonly #path: string;
  #size = 0;

  constructor({ fs }: Modules, path: string) {
    this.#fs = fs;
    this.#path = `${path}-reserve`;
    // Opened, so that a missing permission is noticed now, and not on a full disk.
    const descriptor = unlessMissing(() => fs.openSync(this.#path, "r+"));
    if (descriptor === undefined) return;
    this.#size = fs.fstatSync(descriptor).size;
    fs.closeSync(descriptor);
  }

  /** Whether there is any. */
  get isThere(): boolean {
    return this.#size > 0;
  }

  /**
   * Makes sure that it holds at least `size` bytes.
   *
   * @throws If there is no room for it. Then it holds what it held.
   */
  ensure(size: number): void {
    const before = this.#size;
    if (before >= size) return;
    const fs = this.#fs;
    const descriptor = fs.openSync(this.#path, "a", 0o644);
    let failure: { readonly error: unknown } | undefined;
    try {
      // Not zeros: there are file systems that store none.
      const chunk = crypto.getRandomValues(new Uint8Array(CHUNK));
      while (this.#size < size) this.#size += fs.writeSync(descriptor, chunk);
      fs.fsyncSync(descriptor);
    } catch (error) {
      failure = { error };
    }
    fs.closeSync(descriptor);
    if (failure === undefined) return;
    if (before === 0) this.release();
    else fs.truncateSync(this.#path, before);
    this.#size = before;
    throw failure.error;
  }

  /** Gives back a little of the room, for the other side file. */
  lend(): void {
    if (this.#size === 0) return;
    this.#size = Math.max(this.#size - CHUNK, 0);
    this.#fs.truncateSync(this.#path, this.#size);
  }

  /** Gives the room back. */
  release(): void {
    this.#size = 0;
    this.#fs.rmSync(this.#path, { force: true });
  }
}
