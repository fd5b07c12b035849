/** A file that is appended to if the need arises: that of `--unsent`, and of `--refused`. */
import { fstatSync, type Stats } from "node:fs";
import { type FileHandle, open, stat, unlink } from "node:fs/promises";
import { tryTo } from "./errors.ts";

/** Another file of the command, and what the command calls it. */
export interface OtherFile {
  /** A path; `-` is standard input. */
  readonly path: string;
  readonly name: string;
}

/** The files of the input. */
export function inputFiles(paths: readonly string[]): OtherFile[] {
  return paths.map((path) => ({
    path,
    name: path === "-" ? "standard input" : `the input ${path}`,
  }));
}

/** The file. It stays open during the whole run. */
export class AppendFile {
  readonly path: string;
  #file: FileHandle;
  /** There was no such file before. */
  readonly #isNew: boolean;
  /** It is on a disk. A pipe or a device cannot be synced, cut, or opened twice. */
  readonly #isRegular: boolean;
  #written = 0;

  private constructor(
    path: string,
    file: FileHandle,
    isNew: boolean,
    isRegular: boolean,
  ) {
    this.path = path;
    this.#file = file;
    this.#isNew = isNew;
    this.#isRegular = isRegular;
  }

  /**
   * Opens the file. That happens before anything is read, so that it cannot fail
   * when the file is needed.
   *
   * @param others It must not be one of these.
   * @throws {AccessError} If it cannot be opened, or must not be written to.
   */
  static open(
    path: string,
    others: readonly OtherFile[],
  ): Promise<AppendFile> {
    return tryTo(`write ${path}`, async () => {
      const { file, isNew } = await openOrCreate(path);
      try {
        const info = await file.stat();
        await checkIsNone(info, others);
        return new AppendFile(path, file, isNew, info.isFile());
      } catch (error) {
        await file.close();
        throw error;
      }
    });
  }

  /** How many bytes this run has appended. */
  get written(): number {
    return this.#written;
  }

  /** The size of the file in bytes. */
  async size(): Promise<number> {
    return (await this.#file.stat()).size;
  }

  /** Appends all of `bytes`; if it fails, a part of them may have been appended. */
  async write(bytes: Uint8Array): Promise<void> {
    while (bytes.length > 0) {
      const { bytesWritten } = await this.#file.write(bytes);
      this.#written += bytesWritten;
      bytes = bytes.subarray(bytesWritten);
    }
  }

  /** Waits until everything that was appended is on disk. */
  async sync(): Promise<void> {
    if (this.#isRegular) await this.#file.sync();
  }

  /** Cuts off everything from position `size` on, if that is possible. */
  async truncate(size: number): Promise<void> {
    if (this.#isRegular) await this.#file.truncate(size);
  }

  /**
   * Opens the file again. Another command that uses the same file may have removed
   * it when it was not needed: bytes written to the open file would be lost.
   */
  async reopen(): Promise<void> {
    if (!this.#isRegular) return;
    try {
      const file = await open(this.path, "a");
      await this.#file.close();
      this.#file = file;
    } catch {
      // The open file is the only one there is, and usually still the right one.
    }
  }

  /**
   * Closes the file. If it is empty and this run created it, it is also removed.
   *
   * @param keep Whether to keep it even then.
   */
  async close(keep: boolean): Promise<void> {
    const size = await this.size();
    await this.#file.close();
    if (this.#isNew && size === 0 && !keep) {
      await unlink(this.path).catch(() => {}); // it no longer exists
    }
  }
}

async function openOrCreate(
  path: string,
): Promise<{ file: FileHandle; isNew: boolean }> {
  try {
    return { file: await open(path, "ax"), isNew: true };
  } catch (error) {
    if ((error as { code?: string }).code !== "EEXIST") throw error;
    return { file: await open(path, "a"), isNew: false };
  }
}

/**
 * Throws if a file is one of the others.
 *
 * @param info Which file it is.
 */
export async function checkIsNone(
  { dev, ino }: Stats,
  others: readonly OtherFile[],
): Promise<void> {
  for (const { path, name } of others) {
    const other = path === "-" ? fstatSync(0) : await statIfExists(path);
    // What is written to an input would be read again, and so without end.
    if (other?.ino === ino && other.dev === dev) {
      throw new Error(`it is also ${name}`);
    }
  }
}

/** What is known of a file; `undefined` if there is none, as with `--follow`. */
export async function statIfExists(
  path: string,
): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}
