/**
 * A log that grows, and is rotated twice a second, by a program that goes on writing
 * to the old file for a moment, or by copying and truncating it.
 */
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  openSync,
  renameSync,
  rmSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { record } from "./records.ts";

/** How many older files are kept at least. */
const KEPT = 3;
/** About how long it takes from one rotation to the next, in ms. */
const ROTATION_TIME = 500;
/** The longest pause between two writes, in ms. */
const PAUSE = 10;

/** Options of a {@linkcode RotatedLog}. */
export interface RotatedLogOptions {
  readonly rotation: "rename" | "copytruncate" | "both";
  /** The size of a line in bytes at most. */
  readonly recordLimit: number;
  readonly random: () => number;
  /** How many lines have been read, and are safe. */
  readonly read: () => number;
  /** Waits until all of them have: truncating destroys the others. */
  readonly allRead: () => Promise<void>;
}

/** An older file. */
interface Older {
  name: string;
  /** How many lines were written up to its end. */
  readonly lines: number;
}

/** A log with numbered lines, which are the records of run 0. */
export class RotatedLog implements AsyncDisposable {
  readonly #path: string;
  readonly #options: RotatedLogOptions;
  /** Whether older files have a number that stays, or one that grows with their age. */
  readonly #isShifted: boolean;
  /** The latest one is the first. */
  readonly #older: Older[] = [];
  #isStopped = false;
  readonly #stopped = Promise.withResolvers<void>();
  readonly #writing: Promise<void>;
  /** The number of lines that were written. */
  lines = 0;
  rotations = 0;

  constructor(path: string, options: RotatedLogOptions) {
    this.#path = path;
    this.#options = options;
    this.#isShifted = options.random() < 0.5;
    // What ended it is thrown by stop().
    this.#writing = this.#write();
    this.#writing.catch(() => {});
  }

  /** Stops writing, after a whole line. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#stopped.resolve();
    await this.#writing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop().catch(() => {});
  }

  async #write(): Promise<void> {
    const { random, read } = this.#options;
    let left = ROTATION_TIME;
    while (!this.#isStopped) {
      const count = 1 + Math.floor(random() * 10);
      for (let i = 0; i < count; i++) {
        const line = this.#nextLine();
        // Sometimes half of a line comes later.
        const half = random() < 0.1 ? line.length / 2 : 0;
        appendFileSync(this.#path, line.slice(0, half));
        if (half > 0) await sleep(random() * PAUSE);
        appendFileSync(this.#path, line.slice(half));
      }
      const pause = random() * PAUSE;
      await sleep(pause);
      left -= pause;
      // What is older than the first one that is read is passed over.
      if (left > 0 || read() === 0) continue;
      left = ROTATION_TIME;
      await this.#rotate();
    }
  }

  #nextLine(): string {
    return record(0, this.lines++, this.#options.recordLimit);
  }

  async #rotate(): Promise<void> {
    const { rotation, random, read, allRead } = this.#options;
    const copies = rotation === "copytruncate" ||
      (rotation === "both" && random() < 0.5);
    if (copies) await Promise.race([allRead(), this.#stopped.promise]);
    if (this.#isStopped) return;
    while (this.#older.length > KEPT && this.#older.at(-1)!.lines <= read()) {
      rmSync(this.#older.pop()!.name);
    }
    this.rotations++;
    const name = this.#nextName();
    if (copies) {
      copyFileSync(this.#path, name);
      truncateSync(this.#path);
    } else {
      const descriptor = openSync(this.#path, "a");
      renameSync(this.#path, name);
      if (random() < 0.5) appendFileSync(this.#path, "");
      for (let i = random() * 3; i > 0; i--) {
        writeSync(descriptor, this.#nextLine());
      }
      closeSync(descriptor);
    }
    this.#older.unshift({ name, lines: this.lines });
  }

  /** The name for the next older file. */
  #nextName(): string {
    if (!this.#isShifted) return `${this.#path}-${this.rotations}`;
    const older = this.#older;
    for (let i = older.length - 1; i >= 0; i--) {
      const name = `${this.#path}.${i + 2}`;
      renameSync(older[i]!.name, name);
      older[i]!.name = name;
    }
    return `${this.#path}.1`;
  }
}
