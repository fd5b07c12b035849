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
 * when it failed or was interrupted, with 2 after invalid usage or for lack of a
 * permission (then nothing was sent), and with 3 when `--refused` has received a
 * part of the input, and the rest has been acknowledged.
 *
 * @module
 */
import config from "../deno.json" with { type: "json" };
import { SendError } from "../mod.ts";
import { absolutePath, inspectInput } from "./files.ts";
import { Input } from "./input.ts";
import { createJob, type Job } from "./job.ts";
import { LineWriter } from "./lines.ts";
import { count, log, stderr, stdout } from "./log.ts";
import { help, parseOptions } from "./options.ts";
import { showProgress } from "./progress.ts";
import { resumeCommand } from "./resume_command.ts";
import { Interrupts } from "./signals.ts";
import { inTermsOfTheCommand } from "./terms.ts";
import { AccessError, UsageError } from "./errors.ts";

/**
 * What to pass to `deno run` to run this command again: in a clone the absolute
 * path of this file, which works from every directory, else the specifier.
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
 * @returns The exit code: 0, 1, 2 or 3.
 */
export async function main(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parseOptions(args);
    if (values.help || values.version) {
      stdout.write(values.help ? help(PROGRAM) : `${config.version}\n`);
      return 0;
    }
    return await run(await createJob(values, positionals));
  } catch (error) {
    if (error instanceof SendError) { // thrown by createJob(): nothing has been read
      log(inTermsOfTheCommand(error.message));
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    const advice = error instanceof AccessError ? "" : "\nTry --help.";
    log(error.message + advice);
    return 2;
  } finally {
    await Promise.all([stdout.end(), stderr.end()]);
  }
}

/** Runs a job to its end, reports how it went, and returns the exit code. */
async function run(job: Job): Promise<number> {
  const { mode, out } = job;
  const progress = showProgress(job);
  using interrupts = new Interrupts({
    hurry: (deadline) => job.sender.interrupt(deadline),
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
    // The order matters. The buffer may still be waiting for a read. Unless that
    // ends first, it takes bytes after takeUnsent() has been called, and they are
    // lost.
    input.fail(error);
    await out.abort(error);
  }
  progress.stop();

  if (failure !== undefined) {
    log(inTermsOfTheCommand((failure as Error).message));
  }
  const isUnfinished = failure !== undefined || input.error !== undefined ||
    interrupts.received;
  if (isUnfinished || progress.shown || job.refused?.isUsed) {
    const { bytesDelivered, sends } = out.stats;
    log(
      mode === "upload"
        ? `${count(bytesDelivered, "byte")} handed to the connection`
        : `${count(bytesDelivered, "byte")} acknowledged in ${
          count(sends, "request")
        }`,
    );
  }
  // How much the server has of an upload in one request is unknown.
  const isSaved = failure !== undefined && mode !== "upload" &&
    await saveUndelivered(job, input, lines, interrupts);
  if (input.error !== undefined) log(`read failed: ${input.error.message}`);
  // The rest of the object is complete only if the input was read to its end.
  const hasWholeRest = isSaved && job.upload !== undefined &&
    !interrupts.received &&
    input.error === undefined;
  await job.refused?.close();
  await job.unsent?.close(hasWholeRest);
  if (failure !== undefined) await printResumeCommand(job, hasWholeRest);
  if (isUnfinished) return 1;
  return job.refused?.isUsed ? 3 : 0;
}

/** Sends the whole input and closes the buffer; rejects if that fails. */
async function sendAll(
  { mode, out, upload, quiet, start, info }: Job,
  input: Input,
  lines: LineWriter | undefined,
  interrupts: Interrupts,
): Promise<void> {
  if (mode === "tus") {
    const url = await upload!.create();
    // Now, so that the URL is known even if the process is killed later.
    if (!quiet) log(`the upload is at ${url}`);
  }
  await (lines ?? out).readFrom(input);
  input.throwIfFailed();
  // Not left to close(), whose limit of 30 s is shorter than --retry-for.
  await out.flush();
  // Closing the buffer completes the object, and this one lacks its end.
  if (mode !== "records" && (interrupts.received || input.error)) {
    throw new Error("the upload is incomplete");
  }
  if (
    mode === "resume" && info !== undefined &&
    start + out.stats.bytesDelivered !== info.size
  ) {
    throw new Error(
      "the upload is incomplete: the input changed while it was read",
    );
  }
  await out.close();
}

/**
 * Saves everything that was not acknowledged, up to the end of the input, to the
 * `--unsent` file; without one, reports how many bytes are lost.
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
    if (lines !== undefined) yield lines.unaccepted;
    yield* input.remaining();
  }
  if (unsent !== undefined) {
    const end = interrupts.received ? "" : ", up to the end of the input";
    log(`saving undelivered bytes to ${unsent.path}${end}`);
    // Bytes that were never read are not lost.
    return await unsent.save(undelivered(), () => input.stop());
  }
  input.stop(); // as above
  let lost = 0;
  for await (const { length } of undelivered()) lost += length;
  // The rest of an object can be read again if it is in a file.
  if (mode === "records" || (lost > 0 && files.includes("-"))) {
    log(
      `${count(lost, "byte")} ${
        lost === 1 ? "was" : "were"
      } read but not acknowledged; use --unsent FILE to save them next time`,
    );
  }
  return false;
}

/**
 * Prints the command that resumes the job's upload, if it was created.
 *
 * @param isSaved Whether the `--unsent` file has the whole rest of the object.
 */
async function printResumeCommand(
  { out, upload, unsent, start, ...job }: Job,
  isSaved: boolean,
): Promise<void> {
  const url = upload?.url;
  if (url === undefined) return;
  const { header = [], ...values } = job.values;
  // With absolute paths, since it may be run in another directory.
  const command = resumeCommand({
    ...job,
    values: {
      ...values,
      header: header.map((text) => text.replace(/(?<=^@).+/s, absolutePath)),
    },
    files: job.files.map(absolutePath),
    program: PROGRAM,
    url,
    currentInfo: await inspectInput(job.files, job.offset)
      .catch(() => undefined),
    saved: isSaved && unsent !== undefined
      ? {
        path: absolutePath(unsent.path),
        offset: start + out.stats.bytesDelivered,
      }
      : undefined,
  });
  log(
    command ?? "cannot resume: the input has changed since the upload began",
  );
}

if (import.meta.main) {
  let code = 1;
  try {
    code = await main(Deno.args);
  } catch (error) {
    // Not left to the runtime, which would wait until its message is written.
    log(Deno.inspect(error));
    await stderr.end();
  }
  Deno.exit(code);
}
