/** `--unsent`: the file that receives everything that could not be delivered. */
import { AppendFile, inputFiles } from "./append_file.ts";
import { AccessError, reasonOf } from "./errors.ts";
import { count, log } from "./log.ts";
import type { Mode } from "./options.ts";

/** The file. */
export class UnsentFile {
  readonly #file: AppendFile;

  private constructor(file: AppendFile) {
    this.#file = file;
  }

  /**
   * Opens the file, before anything is read.
   *
   * @param inputs The files of the input; it must not be one of them.
   * @throws {AccessError} If it cannot be opened, or must not be written to.
   */
  static async open(
    path: string,
    inputs: readonly string[],
    mode: Mode,
  ): Promise<UnsentFile> {
    const file = await AppendFile.open(path, inputFiles(inputs));
    if (mode !== "records" && await file.size() > 0) {
      await file.close(true);
      throw new AccessError(
        `cannot write ${path}: it is not empty; with --${mode} it must hold only the rest of this object`,
      );
    }
    return new UnsentFile(file);
  }

  /** Where it is, as it was given. */
  get path(): string {
    return this.#file.path;
  }

  /**
   * Appends all chunks, and reports how many bytes were saved, and how many not.
   *
   * @param onFailure Called when one cannot be saved: those after it are counted.
   * @returns Whether all of them are on disk.
   */
  async save(
    chunks: AsyncIterable<Uint8Array>,
    onFailure: () => void,
  ): Promise<boolean> {
    const file = this.#file;
    await file.reopen();
    let failure: Error | undefined;
    let total = 0;
    for await (const chunk of chunks) {
      total += chunk.length;
      if (failure !== undefined) continue;
      try {
        await file.write(chunk);
      } catch (error) {
        failure = error as Error;
        onFailure();
      }
    }
    await file.sync().catch((error) => failure ??= error);
    if (failure) log(`cannot write ${this.path}: ${reasonOf(failure)}`);
    const { written } = file;
    if (written > 0) log(`${count(written, "byte")} saved to ${this.path}`);
    if (written < total) {
      log(
        `${count(total - written, "byte")} read, but not acknowledged or saved`,
      );
    }
    return failure === undefined;
  }

  /**
   * Closes the file. If it is empty and this run created it, it is also removed.
   *
   * @param keep Whether to keep it even then.
   */
  close(keep: boolean): Promise<void> {
    return this.#file.close(keep);
  }
}
