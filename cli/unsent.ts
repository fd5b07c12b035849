/** `--unsent`: the file that receives everything that could not be delivered. */
import { fstatSync } from "node:fs";
import { count, log } from "./log.ts";
import type { Mode } from "./options.ts";
import { tryTo } from "./errors.ts";

/** The file. It stays open during the whole run. */
export class UnsentFile {
  readonly path: string;
  #file: Deno.FsFile;
  /** There was no such file before. */
  readonly #isNew: boolean;

  private constructor(path: string, file: Deno.FsFile, isNew: boolean) {
    this.path = path;
    this.#file = file;
    this.#isNew = isNew;
  }

  /**
   * Opens the file. That happens before anything is read, so that it cannot fail
   * when the file is needed.
   *
   * @param inputs The files of the input; it must not be one of them.
   * @throws {AccessError} If it cannot be opened, or must not be written to.
   */
  static open(
    path: string,
    inputs: readonly string[],
    mode: Mode,
  ): Promise<UnsentFile> {
    return tryTo(`write ${path}`, async () => {
      const { file, isNew } = await openOrCreate(path);
      try {
        await check(file, inputs, mode);
      } catch (error) {
        file.close();
        throw error;
      }
      return new UnsentFile(path, file, isNew);
    });
  }

  /**
   * Appends all chunks, and reports the number of bytes saved, if any.
   *
   * @returns Whether all of them are on disk.
   */
  async save(chunks: AsyncIterable<Uint8Array>): Promise<boolean> {
    await this.#reopen();
    let saved = 0;
    let isComplete = true;
    try {
      for await (const chunk of chunks) {
        for (let at = 0; at < chunk.length;) {
          const size = await this.#file.write(chunk.subarray(at));
          at += size;
          saved += size;
        }
      }
      await this.#file.sync();
    } catch (error) {
      isComplete = false;
      log(`cannot write ${this.path}: ${(error as Error).message}`);
    }
    if (saved > 0) log(`${count(saved, "byte")} saved to ${this.path}`);
    return isComplete;
  }

  /**
   * Closes the file. If it is empty and this run created it, it is also removed.
   *
   * @param keep Whether to keep it even then.
   */
  async close(keep: boolean): Promise<void> {
    const { size } = await this.#file.stat();
    this.#file.close();
    if (this.#isNew && size === 0 && !keep) {
      await Deno.remove(this.path).catch(() => {}); // it no longer exists
    }
  }

  /**
   * Opens the file again. Another command that uses the same file may have removed
   * it when it was not needed: bytes written to the open file would be lost.
   */
  async #reopen(): Promise<void> {
    try {
      const file = await Deno.open(this.path, { append: true, create: true });
      this.#file.close();
      this.#file = file;
    } catch {
      // The open file is the only one there is, and usually still the right one.
    }
  }
}

async function openOrCreate(
  path: string,
): Promise<{ file: Deno.FsFile; isNew: boolean }> {
  try {
    const file = await Deno.open(path, { append: true, createNew: true });
    return { file, isNew: true };
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    return { file: await Deno.open(path, { append: true }), isNew: false };
  }
}

async function check(
  file: Deno.FsFile,
  inputs: readonly string[],
  mode: Mode,
): Promise<void> {
  const { dev, ino, size } = await file.stat();
  if (mode !== "records" && size > 0) {
    throw new Error(
      `it is not empty; with --${mode} it must hold only the rest of this object`,
    );
  }
  for (const input of inputs) {
    const other = input === "-" ? fstatSync(0) : await Deno.stat(input);
    // What is saved would be read again, and saved again, without end.
    if (ino !== null && other.ino === ino && other.dev === dev) {
      throw new Error(
        `it is also ${input === "-" ? "standard input" : `the input ${input}`}`,
      );
    }
  }
}
