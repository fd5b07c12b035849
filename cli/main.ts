/**
 * The command: sends standard input or files to a URL, in many requests; or as
 * one object, in one request or in an upload that can be resumed.
 *
 * ```sh
 * tail -F app.log | deno run -N jsr:@stream-buffer/stream-buffer/cli --lines https://example.com/ingest
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli https://example.com/upload dump.sql
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli --tus https://example.com/files backup.tar
 * ```
 *
 * It exits with 0 when every byte of the input has been acknowledged, with 1
 * when some bytes were not or it was interrupted, and with 2 when its usage was
 * invalid; then nothing was sent.
 *
 * @module
 */
import config from "../deno.json" with { type: "json" };
import { SendError } from "../mod.ts";
import { objectSize } from "./files.ts";
import { Input } from "./input.ts";
import { createJob, type Job } from "./job.ts";
import { LineWriter } from "./lines.ts";
import { log } from "./log.ts";
import { HELP, parseOptions } from "./options.ts";
import { showProgress } from "./progress.ts";
import { resumeCommand } from "./resume.ts";
import { Interrupts } from "./signals.ts";
import { UsageError } from "./usage.ts";

/**
 * What `deno run` is given to run this command again. Only from a clone, where
 * the module is a file, is that a path; it is absolute, and so holds in whatever
 * directory the user is.
 */
const PROGRAM = import.meta.filename ??
  `jsr:${config.name}@${config.version}/cli`;

/**
 * Runs the command.
 *
 * @example Usage
 * ```ts
 * import { main } from "@stream-buffer/stream-buffer/cli";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(await main(["--version"]), 0);
 * ```
 *
 * @param args The arguments, without the program's name.
 * @returns The exit code: 0, 1 or 2.
 */
export async function main(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parseOptions(args);
    if (values.help || values.version) {
      console.log(values.help ? HELP.trimEnd() : config.version);
      return 0;
    }
    return await run(await createJob(values, positionals));
  } catch (error) {
    if (error instanceof SendError) { // of createJob(): nothing has been read
      log(error.message);
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    log(`${error.message}\nTry --help.`);
    return 2;
  }
}

/** Runs a job to its end, reports how it went, and returns the exit code. */
async function run(job: Job): Promise<number> {
  const { mode, out } = job;
  const progress = showProgress(job);
  using interrupts = new Interrupts({
    stopReading: () => input.stop(),
    giveUp: () => void out.abort(new Error("interrupted")),
  });
  using input = new Input(job.files, job.start - job.offset);
  const lines = job.lines ? new LineWriter(out, job.capacity) : undefined;
  void job.backgroundFailure.then((error) => input.fail(error));

  let failure: unknown;
  try {
    await sendAll(job, input, lines, interrupts);
  } catch (error) {
    failure = error;
    // First the input: a read that the buffer still waits for would take bytes
    // when takeUnsent() has been called, and these would be lost.
    input.fail(error);
    await out.abort(error);
  }
  progress.stop();

  if (failure !== undefined) log(inTermsOfTheCommand(failure as Error));
  const isUnfinished = failure !== undefined || input.error !== undefined ||
    interrupts.received;
  if (isUnfinished || progress.shown) {
    const { bytesDelivered, sends } = out.stats;
    log(
      mode === "upload"
        ? `${bytesDelivered} bytes handed to the connection`
        : `${bytesDelivered} bytes acknowledged in ${sends} requests`,
    );
  }
  // Of an upload in one request nobody knows which bytes are lost.
  const isSaved = failure !== undefined && mode !== "upload" &&
    await saveUndelivered(job, input, lines, interrupts);
  if (input.error !== undefined) log(`read failed: ${input.error.message}`);
  // It has all that the object lacks only if the input was read to its end.
  const isRest = isSaved && job.upload !== undefined && !interrupts.received &&
    input.error === undefined;
  await job.unsent?.close(isRest);
  if (failure !== undefined) await printResumeCommand(job, isRest);
  return isUnfinished ? 1 : 0;
}

/** Sends the whole input, or rejects with why that cannot be done. */
async function sendAll(
  { mode, out, upload, quiet }: Job,
  input: Input,
  lines: LineWriter | undefined,
  interrupts: Interrupts,
): Promise<void> {
  if (mode === "tus") {
    const url = await upload!.create();
    // Before the first byte: it must be known even if the process is killed.
    if (!quiet) log(`the upload is at ${url}`);
  }
  await (lines ?? out).readFrom(input);
  input.throwIfFailed();
  // Not left to close(), which waits for the server 30 s at most.
  await out.flush();
  // To close the buffer completes the object, and this is only half of it.
  if (mode !== "records" && (interrupts.received || input.error)) {
    throw new Error("the object is incomplete");
  }
  await out.close();
}

/** The library names an option of its own; the command takes sizes from files. */
function inTermsOfTheCommand({ message }: Error): string {
  return message.replace("so give `length`", "so send a file");
}

/**
 * Saves what was not acknowledged to the `--unsent` file, to the end of the
 * input; without one, reports how much that is.
 *
 * @returns Whether all of it was saved.
 */
async function saveUndelivered(
  { mode, out, files, unsent }: Job,
  input: Input,
  lines: LineWriter | undefined,
  interrupts: Interrupts,
): Promise<boolean> {
  async function* undelivered() {
    yield out.takeUnsent();
    yield* lines?.unaccepted ?? [];
    yield* input.remaining();
  }
  if (unsent !== undefined) {
    const end = interrupts.received ? "" : ", up to the end of the input";
    log(`saving undelivered bytes to ${unsent.path}${end}`);
    return await unsent.save(undelivered());
  }
  input.stop(); // what was not read is not lost
  let lost = 0;
  for await (const { length } of undelivered()) lost += length;
  // The rest of an object is still where it was, if that is a file.
  if (mode === "records" || (lost > 0 && files.includes("-"))) {
    log(
      `${lost} bytes were read but not acknowledged (--unsent FILE saves them)`,
    );
  }
  return false;
}

/**
 * Prints the command that resumes the job's upload, if it has been created.
 *
 * @param isSaved Whether all that the object lacks is in the `--unsent` file.
 */
async function printResumeCommand(
  { out, upload, unsent, start, ...job }: Job,
  isSaved: boolean,
): Promise<void> {
  const url = upload?.url;
  if (url === undefined) return;
  const command = resumeCommand({
    ...job,
    program: PROGRAM,
    url,
    currentSize: await objectSize(job.files, job.offset)
      .catch(() => undefined),
    saved: isSaved && unsent !== undefined
      ? { path: unsent.path, offset: start + out.stats.bytesDelivered }
      : undefined,
  });
  log(
    command ?? "cannot resume: the input has changed since the upload began",
  );
}

if (import.meta.main) Deno.exit(await main(Deno.args));
