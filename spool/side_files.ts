/**
 * The files beside a spool: the one that says who has it open, and how it is, and
 * the one that holds room for the day when the disk is full. The database itself
 * must not be opened by anyone but SQLite: on POSIX, closing any descriptor of a
 * file drops all locks that the process has on it.
 */
import {
  hostName,
  type Modules,
  processId,
} from "../internal/node/platform.ts";

/** What a spool publishes about itself while it is open. */
export interface Published {
  /** The id of the stream. */
  readonly id: string;
  /** Bytes that have not been delivered. */
  readonly bytesWaiting: number;
  /** Sends that have not been delivered. */
  readonly batchesWaiting: number;
  /** When the oldest of them was committed, in ms since 1970; `null` if there is none. */
  readonly oldest: number | null;
  /** Bytes delivered since the file was created. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken since then. */
  readonly bytesDiverted: number;
  /** Bytes of a followed file known to have been destroyed unread since then. */
  readonly bytesLost: number;
}

/** What the side file says. */
export interface Owner extends Published {
  readonly pid: number;
  /** `null` if it is not known. */
  readonly host: string | null;
  /** When this was written, in ms since 1970. */
  readonly updated: number;
}

/**
 * The size of the side file, in bytes. It is always written as a whole, in one call
 * and in place, so that no reader sees a part of it and it needs no room that it does
 * not have already.
 */
const OWNER_SIZE = 512;

/** The side file, `FILE-owner`. */
export class OwnerFile {
  readonly #fs: Modules["fs"];
  readonly #path: string;
  readonly #host = hostName() ?? null;
  #descriptor: number | undefined;

  constructor({ fs }: Modules, spool: string) {
    this.#fs = fs;
    this.#path = `${spool}-owner`;
  }

  /**
   * What the file says; `undefined` if there is none, or it says nothing.
   *
   * @throws If it cannot be read.
   */
  read(): Owner | undefined {
    const text = unlessMissing(() => this.#fs.readFileSync(this.#path, "utf8"));
    try {
      return text && JSON.parse(text) || undefined;
    } catch {
      return undefined; // the disk was full when it was written
    }
  }

  /**
   * Writes it.
   *
   * @throws If it cannot be written.
   */
  write(published: Published): void {
    const owner: Owner = {
      pid: processId(),
      host: this.#host,
      updated: Date.now(),
      ...published,
    };
    this.#descriptor ??= this.#fs.openSync(this.#path, "w", 0o644);
    const text = `${JSON.stringify(owner)}\n`.padStart(OWNER_SIZE);
    // Deno puts text at the end of the file, whatever the position.
    const bytes = new TextEncoder().encode(text);
    try {
      this.#fs.writeSync(this.#descriptor, bytes, 0, bytes.length, 0);
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  /** Removes it, unless it cannot be: then it says what was last true. */
  remove(): void {
    try {
      this.#close();
      this.#fs.rmSync(this.#path, { force: true });
    } catch {
      // As above.
    }
  }

  #close(): void {
    if (this.#descriptor !== undefined) this.#fs.closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** Who has a spool open, as messages say it. */
export function describeOwner(owner: Owner | undefined): string {
  if (owner === undefined) return "another process has it open";
  const { pid, host } = owner;
  if (pid === processId() && host === (hostName() ?? null)) {
    // In containers, many processes have the id 1.
    const other = host === null ? `, or another one with its id, ${pid}` : "";
    return `this process has it open already${other}`;
  }
  return `process ${pid}${host ? ` on ${host}` : ""} has it open`;
}

/** How much is written at a time to a file that is only to take up room. */
const CHUNK = 64 * 1024;

/**
 * Room on the disk, kept by a file, `FILE-reserve`, that is removed when nothing else
 * helps. Then what is delivered can be deleted, which takes room before it gives any.
 */
export class Reserve {
  readonly #fs: Modules["fs"];
  readonly #path: string;
  #size = 0;

  constructor({ fs }: Modules, spool: string) {
    this.#fs = fs;
    this.#path = `${spool}-reserve`;
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

/** What `work` returns; `undefined` if the file that it needs does not exist. */
function unlessMissing<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "ENOENT") return;
    throw error;
  }
}
