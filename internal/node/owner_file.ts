/**
 * The file beside an SQLite database that says who has it open. The database itself
 * must not be opened by anyone but SQLite: on POSIX, closing any descriptor of a file
 * drops all locks that the process has on it.
 */
import { hostName, type Modules, processId } from "./platform.ts";

/** Who has a file open. */
export interface Owner {
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

/**
 * The side file, `FILE-owner`.
 *
 * @typeParam Published What else whoever has the file open lets others know.
 */
export class OwnerFile<Published extends object = object> {
  readonly #fs: Modules["fs"];
  readonly #path: string;
  readonly #host = hostName() ?? null;
  #descriptor: number | undefined;

  constructor({ fs }: Modules, path: string) {
    this.#fs = fs;
    this.#path = `${path}-owner`;
  }

  /**
   * What the file says; `undefined` if there is none, or it says nothing.
   *
   * @throws If it cannot be read.
   */
  read(): Owner & Published | undefined {
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
    const owner: Owner & Published = {
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

/** Who has a file open, as messages say it. */
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

/** What `work` returns; `undefined` if the file that it needs does not exist. */
export function unlessMissing<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "ENOENT") return;
    throw error;
  }
}
