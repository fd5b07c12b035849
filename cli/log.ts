/**
 * What the command tells its user.
 *
 * A message never decides what becomes of the data. A terminal that has gone and a
 * full disk make writing fail, and a pipe that nobody reads makes it wait without
 * end. So messages are written in the background, one after another, and a failure
 * is ignored: there is nobody left to tell.
 */
import { write } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { IS_DENO } from "./platform.ts";

/**
 * How much may wait to be written, in characters, before further messages are
 * dropped. All messages of a run are far shorter.
 */
const MAX_PENDING = 64 * 1024;
/**
 * How long the end of the command waits for its messages, in ms: enough for a slow
 * terminal, and little for the user of one that is stuck.
 */
const END_GRACE = 1_000;
/** How long to wait, in ms, before something is written again to a full pipe. */
const FULL_PIPE_DELAY = 10;

/** Where messages go. */
interface Output {
  write(p: Uint8Array): Promise<number>;
}

/**
 * Standard output or standard error, by its descriptor. Node does not wait for a pipe
 * that is full, and reports that as an error. On Deno a write would, and keep the
 * process from ending, except by Deno's own `write`.
 */
export class StandardOutput implements Output {
  readonly #descriptor: 1 | 2;

  constructor(descriptor: 1 | 2) {
    this.#descriptor = descriptor;
  }

  async write(p: Uint8Array): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    write(this.#descriptor, p, (error, size) => {
      if (error?.code === "EAGAIN") resolve(0);
      else if (error) reject(error);
      else resolve(size);
    });
    const size = await promise;
    if (size === 0) await sleep(FULL_PIPE_DELAY, undefined, { ref: false });
    return size;
  }
}

/** Writes text in the background. */
export class MessageStream {
  readonly #file: Output;
  #pending = 0;
  #written: Promise<void> = Promise.resolve();

  /** @param file Where to write. */
  constructor(file: Output) {
    this.#file = file;
  }

  /** Whether everything has been written, or could not be. */
  get isIdle(): boolean {
    return this.#pending === 0;
  }

  /** Writes `text` after what is already waiting. */
  write(text: string): void {
    if (this.#pending + text.length > MAX_PENDING) return;
    this.#pending += text.length;
    this.#written = this.#written
      .then(() => this.#writeAll(new TextEncoder().encode(text)))
      .catch(() => {})
      .finally(() => this.#pending -= text.length);
  }

  /** Waits until everything has been written, but no longer than a second. */
  async end(): Promise<void> {
    const { promise: timeout, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, END_GRACE);
    await Promise.race([this.#written, timeout]);
    clearTimeout(timer);
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    while (bytes.length > 0) {
      bytes = bytes.subarray(await this.#file.write(bytes));
    }
  }
}

/** What was asked for: the help text, or the version. */
export const stdout: MessageStream = new MessageStream(
  IS_DENO ? Deno.stdout : new StandardOutput(1),
);
/** Messages and the progress line. */
export const stderr: MessageStream = new MessageStream(
  IS_DENO ? Deno.stderr : new StandardOutput(2),
);

/** Writes to standard output itself: messages may be dropped, and these bytes not. */
export async function writeToStdout(bytes: Uint8Array): Promise<void> {
  const output = new StandardOutput(1);
  while (bytes.length > 0) {
    bytes = bytes.subarray(await output.write(bytes));
  }
}

/** A number and its unit: "1 byte", "2 bytes". */
export function count(number: number, unit: string): string {
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

/**
 * Reports to the user: messages go to standard error, after the command's name.
 * They begin in lower case and end without a period.
 */
export function log(message: string): void {
  stderr.write(`stream-buffer: ${message}\n`);
}
