/**
 * `--spool`: what is read is put into a file, and delivered from there, by this run
 * or a later one.
 */
import { setTimeout } from "node:timers";
import { setTimeout as delay } from "node:timers/promises";
import { FlushError, type SendContext, type Sender } from "../mod.ts";
import { Spool, SpoolError } from "../spool/mod.ts";
import { checkIsNone, type OtherFile, statIfExists } from "./append_file.ts";
import { AccessError, tryTo, UsageError } from "./errors.ts";
import { absolutePath } from "./files.ts";
import { log } from "./log.ts";
import { requestFiles } from "./permissions.ts";
import type { RefusedFile } from "./refused.ts";
import { SEND_GRACE } from "./signals.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** When a commit that failed, for example on a full disk, is retried, in ms. */
const RETRY_DELAY = 1_000;
/**
 * How long what was read may take to be put on disk once the run has been given up,
 * in ms. A commit takes far less, unless the spool or the disk is full.
 */
const COMMIT_GRACE = 1_000;

/** Options of {@linkcode SpoolFile.open}. */
export interface SpoolFileOptions {
  /** The size of a request, in bytes. */
  readonly capacity: number;
  /** How long `drain` waits for the server, in ms. */
  readonly drain: number;
  readonly refused: RefusedFile | undefined;
}

/**
 * The file, as the sender of the buffer. What could not be written to the disk is
 * retried until it can: nothing that was read is dropped for that.
 */
export class SpoolFile implements Sender {
  readonly ordered = true;
  /** Where it is, as it was given. */
  readonly path: string;
  readonly spool: Spool;
  readonly #drain: number;
  readonly #hasRefused: boolean;
  /** How many bytes were settled when it was opened. */
  readonly #settledBefore: number;
  readonly #deliveredBefore: number;
  readonly #interrupted = Promise.withResolvers<void>();
  /** Which outage, with which status, was reported last. */
  #reported: string | undefined;
  /** How much had been put into it when a failure to add more was reported last. */
  #failedAt: number | undefined;
  #isDraining = false;
  #isGivenUp = false;
  #isStuck = false;

  private constructor(
    path: string,
    sender: Sender,
    { capacity, drain, refused }: SpoolFileOptions,
  ) {
    this.path = path;
    this.#drain = drain;
    this.#hasRefused = refused !== undefined;
    this.spool = new Spool(path, sender, {
      requestBytes: capacity,
      drainTimeout: drain === Infinity ? SEND_GRACE : drain,
      onError: (error) => this.#report(error),
      ...refused !== undefined && {
        deadLetter: (bytes, { cause }, { signal }) =>
          refused.take(bytes, cause, signal),
      },
    });
    const { bytesDelivered, bytesDiverted } = this.spool.stats;
    this.#settledBefore = bytesDelivered + bytesDiverted;
    this.#deliveredBefore = bytesDelivered;
  }

  /**
   * Opens the file, and begins to deliver what an earlier run has left in it.
   *
   * @throws {UsageError} If an option is invalid, or it cannot be opened.
   */
  static open(
    path: string,
    sender: Sender,
    options: SpoolFileOptions,
  ): SpoolFile {
    try {
      return new SpoolFile(path, sender, options);
    } catch (error) {
      const message = inTermsOfTheCommand((error as Error).message);
      throw error instanceof SpoolError
        ? new AccessError(message)
        : new UsageError(message);
    }
  }

  async send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> {
    for (;;) {
      try {
        return await this.spool.send(bytes, context);
      } catch (error) {
        if (!mayPass(error)) throw error;
        this.reportFailure(error);
      }
      await delay(RETRY_DELAY, undefined, { signal: context.signal });
    }
  }

  abort(reason: unknown): Promise<void> {
    return this.spool.abort(reason);
  }

  /** How much waits in it, in bytes. */
  get bytesWaiting(): number {
    return this.spool.stats.bytesWaiting;
  }

  /** How much this run has delivered, in bytes. */
  get bytesDelivered(): number {
    return this.spool.stats.bytesDelivered - this.#deliveredBefore;
  }

  /**
   * How much has been in it since this run began, in bytes, and how much of that has
   * been delivered, or appended to the `--refused` file.
   */
  get progress(): { readonly spooled: number; readonly settled: number } {
    const { bytesWaiting, bytesDelivered, bytesDiverted } = this.spool.stats;
    const settled = bytesDelivered + bytesDiverted - this.#settledBefore;
    return { spooled: settled + bytesWaiting, settled };
  }

  /** Whether the delivery has stopped at a failure that time does not cure. */
  get isStuck(): boolean {
    return this.#isStuck;
  }

  /** Makes `drain` wait no longer than a few seconds. */
  interrupt(): void {
    this.#interrupted.resolve();
  }

  /**
   * Ends the delivery at once. What has been read is put on disk before, unless that
   * takes longer than a second.
   *
   * @param abort Ends the run, even so.
   */
  giveUp(abort: () => void): void {
    if (this.#isGivenUp) return;
    this.#isGivenUp = true;
    if (this.#isDraining) void this.spool.abort();
    else setTimeout(abort, COMMIT_GRACE).unref();
  }

  /**
   * Waits until everything has been delivered, as long as `--drain` and interrupts
   * allow, and closes the file.
   */
  async drain(): Promise<void> {
    this.#isDraining = true;
    const { spool } = this;
    const outcome = spool.drained().then(() => undefined, (error) => error);
    if (this.#drain === Infinity) {
      await Promise.race([outcome, this.#interrupted.promise]);
    }
    await (this.#isGivenUp ? spool.abort() : spool.close());
    // Otherwise it is that of a spool that was closed.
    this.#isStuck = await outcome instanceof FlushError;
  }

  /**
   * Reports why nothing can be read, or added; the latter once, until something is.
   */
  reportFailure(error: Error): void {
    if (!mayPass(error)) return log(error.message);
    const { spooled } = this.progress;
    if (spooled === this.#failedAt) return;
    this.#failedAt = spooled;
    log(`${error.message}; retrying`);
  }

  /** Reports the first failure of an outage, and each that has another status. */
  #report({ message, cause }: FlushError): void {
    const { sends, bytesDiverted } = this.spool.stats;
    const { status, refused } = cause as { status?: number; refused?: boolean };
    const outage = `${sends} ${bytesDiverted} ${status}`;
    if (outage === this.#reported) return;
    this.#reported = outage;
    const text = inTermsOfTheCommand(message);
    if (status === 413) {
      // It has been committed as it is, and --refused does not take it.
      const reason = text.replace("; make --capacity smaller", "");
      return log(`${reason}; save it with spool FILE --export`);
    }
    const advice = refused !== true ? "; retrying" : this.#hasRefused
      ? "" // it has said why it did not take it
      : "; use --refused FILE to set it aside";
    log(text + advice);
  }
}

/** Whether a commit that has failed may succeed later. */
function mayPass(error: unknown): error is SpoolError {
  return error instanceof SpoolError &&
    (error.code === "full" || error.code === "io");
}

/** The files that a spool consists of, by their absolute paths. */
function filesOf(path: string): string[] {
  return ["", "-owner", "-reserve"].map((end) => absolutePath(path) + end);
}

/**
 * Requests the permissions to use a spool, unless they have been granted.
 *
 * @throws {UsageError} If its path is empty.
 * @throws {AccessError} If one is denied. All of them are named.
 */
export async function requestSpool(path: string): Promise<void> {
  if (path === "") throw new UsageError("the path of a spool is empty");
  await requestFiles(`the spool ${path}`, filesOf(path));
}

/**
 * Makes sure that the file is none of the others. Those must not be open yet:
 * opening a spool a second time would drop its lock.
 *
 * @throws {AccessError} If it is one of them.
 */
export async function checkSpool(
  path: string,
  others: readonly OtherFile[],
): Promise<void> {
  await tryTo(`use the spool ${path}`, async () => {
    // Those beside it as well: they are removed in the end.
    for (const file of filesOf(path)) {
      const info = await statIfExists(file);
      if (info !== undefined) await checkIsNone(info, others);
      const same = others.find((other) => absolutePath(other.path) === file);
      if (same !== undefined) throw new Error(`it is also ${same.name}`);
    }
  });
}
