/** `--refused`: the file that receives the batches that the server refused. */
import { SendError } from "../mod.ts";
import { AppendFile, inputFiles } from "./append_file.ts";
import { reasonOf } from "./errors.ts";
import { count, log } from "./log.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** The file, and how much of it is of this run. */
export class RefusedFile {
  readonly #file: AppendFile;
  #batches = 0;
  #bytes = 0;
  /** Settles when nothing is being appended. */
  #pending: Promise<unknown> = Promise.resolve();

  private constructor(file: AppendFile) {
    this.#file = file;
  }

  /**
   * Opens the file, before anything is read.
   *
   * @param inputs The files of the input; it must not be one of them.
   * @param unsent The path of the `--unsent` file, which it must not be either.
   * @throws {AccessError} If it cannot be opened, or must not be written to.
   */
  static async open(
    path: string,
    inputs: readonly string[],
    unsent: string | undefined,
  ): Promise<RefusedFile> {
    const others = inputFiles(inputs);
    if (unsent !== undefined) {
      others.push({ path: unsent, name: "the --unsent file" });
    }
    return new RefusedFile(await AppendFile.open(path, others));
  }

  /** Whether it has received any batch. */
  get isUsed(): boolean {
    return this.#batches > 0;
  }

  /**
   * Appends a batch, unless it was refused for its size only: then every full one
   * would be. The first refusal is reported.
   *
   * @param cause Why it was not delivered.
   * @param signal Aborted when the batch counts as undelivered after all.
   * @returns Whether it is on disk. Otherwise nothing of it is.
   */
  take(
    bytes: Uint8Array,
    cause: unknown,
    signal: AbortSignal,
  ): Promise<boolean> {
    const taking = this.#take(bytes, cause, signal);
    this.#pending = taking;
    return taking;
  }

  async #take(
    bytes: Uint8Array,
    cause: unknown,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (!(cause instanceof SendError) || cause.status === 413) return false;
    if (!await this.#append(bytes, signal)) return false;
    if (!this.isUsed) {
      const reason = inTermsOfTheCommand(cause.message);
      log(`${reason}; appending what is refused to ${this.#file.path}`);
    }
    this.#batches++;
    this.#bytes += bytes.length;
    return true;
  }

  /** Appends all bytes or none. */
  async #append(bytes: Uint8Array, signal: AbortSignal): Promise<boolean> {
    const file = this.#file;
    await file.reopen();
    const size = await file.size();
    const before = file.written;
    try {
      await file.write(bytes);
      await file.sync();
      if (!signal.aborted) return true;
    } catch (error) {
      log(`cannot write ${file.path}: ${reasonOf(error)}`);
    }
    const end = size + file.written - before;
    // Not if another command has appended to it meanwhile.
    if (await file.size() === end) await file.truncate(size).catch(() => {});
    return false;
  }

  /** Closes the file, and reports how much it has received, if anything. */
  async close(): Promise<void> {
    await this.#pending.catch(() => {}); // the buffer has kept the batch
    await this.#file.close(false);
    if (!this.isUsed) return;
    const requests = count(this.#batches, "request");
    const bytes = count(this.#bytes, "byte");
    log(`${requests} refused: ${bytes} appended to ${this.#file.path}`);
  }
}
