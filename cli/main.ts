/**
 * The command: sends standard input or files to a URL, in many requests; or as
 * one object, in one request or in an upload that can be resumed.
 *
 * ```sh
 * tail -F app.log | deno run -N jsr:@stream-buffer/stream-buffer/cli --lines https://example.com/ingest
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli https://example.com/upload dump.sql
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli --tus https://example.com/files backup.tar
 * deno run -N -R -W jsr:@stream-buffer/stream-buffer/cli --spool app.spool --follow app.log https://example.com/ingest
 * ```
 *
 * Or the server's half: stores what it is sent, each batch exactly once.
 *
 * ```sh
 * deno run -N -R -W jsr:@stream-buffer/stream-buffer/cli receive --store received.log
 * ```
 *
 * It exits with 0 when every byte of the input has been acknowledged, with 1
 * when it failed or was interrupted, with 2 after invalid usage or for lack of a
 * permission (then nothing was sent), and with 3 when `--refused` has received a
 * part of the input, and the rest has been acknowledged. With `--spool` it exits with
 * 4 when an interrupt or `--drain` ended it, and everything that was read has been
 * acknowledged or is in the spool. `receive` exits with 0 when it is interrupted.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { SendError } from "../mod.ts";
import { follow } from "../spool/mod.ts";
import { absolutePath, inspectInput } from "./files.ts";
import { Input } from "./input.ts";
import { createJob, type Job } from "./job.ts";
import { LineWriter } from "./lines.ts";
import { count, log, stderr, stdout } from "./log.ts";
import { help, parseOptions } from "./options.ts";
import { lookAtSpool } from "./spool_command.ts";
import { receiveCommand } from "./receive_command.ts";
import { INTERPRETER, IS_DENO } from "./platform.ts";
import { runProgram } from "./program.ts";
import { showProgress } from "./progress.ts";
import { deliverCommand, resumeCommand } from "./resume_command.ts";
import { Interrupts } from "./signals.ts";
import type { SpoolFile } from "./spool_file.ts";
import { inTermsOfTheCommand } from "./terms.ts";
import { AccessError, reasonOf, UsageError } from "./errors.ts";
import { NAME, VERSION } from "./version.ts";

/**
 * What runs this command again: in a clone the absolute path of this file, which works
 * from every directory, else the specifier; and from npm, that of the file which
 * `tools/pack.ts` adds to the package.
 */
const PROGRAM = IS_DENO
  ? import.meta.filename ?? `jsr:${NAME}@${VERSION}/cli`
  : fileURLToPath(new URL("bin.js", import.meta.url));

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
 * @returns The exit code: 0, 1, 2, 3 or 4.
 */
export async function main(args: string[]): Promise<number> {
  const program = IS_DENO ? PROGRAM : undefined;
  try {
    if (args[0] === "receive") {
      return await receiveCommand(args.slice(1), program);
    }
    const { values, positionals } = parseOptions(args);
    if (values.help || values.version) {
      stdout.write(values.help ? help(program) : `${VERSION}\n`);
      return 0;
    }
    const [first, ...files] = positionals;
    if (first === "spool") return await lookAtSpool(values, files);
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

/**
 * Runs a job to its end, reports how it went, and returns the exit code. (Without
 * `using`, which Node 22 does not know.)
 */
async function run(job: Job): Promise<number> {
  const input = new Input(job.files, job.start - job.offset);
  const following = new AbortController();
  try {
    const interrupts = interruptsOf(job, () => {
      input.stop();
      following.abort();
    });
    try {
      return await transfer(job, input, interrupts, following.signal);
    } finally {
      interrupts[Symbol.dispose]();
    }
  } finally {
    input[Symbol.dispose]();
  }
}

/** What a signal does to a job. */
function interruptsOf(
  { out, sender, spool }: Job,
  stopReading: () => void,
): Interrupts {
  const abort = () => void out.abort(new Error("interrupted"));
  return new Interrupts({
    hurry: (deadline) => {
      sender.interrupt(deadline);
      spool?.interrupt();
    },
    stopReading,
    giveUp: () => {
      if (spool === undefined) return abort();
      stopReading();
      spool.giveUp(abort);
    },
  });
}

/**
 * Transfers the input to the server.
 *
 * @param following Ends `--follow` when aborted.
 */
async function transfer(
  job: Job,
  input: Input,
  interrupts: Interrupts,
  following: AbortSignal,
): Promise<number> {
  const { mode, out, spool, refused } = job;
  const progress = showProgress(job);
  const lines = job.lines ? new LineWriter(out, job.capacity) : undefined;
  void job.backgroundFailure.then((error) => input.fail(error));

  let failure: unknown;
  try {
    if (spool === undefined) await sendAll(job, input, lines, interrupts);
    else await spoolAll(job, spool, input, lines, following);
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
  const hasFailed = failure !== undefined || input.error !== undefined ||
    spool?.isStuck === true;
  const isUnfinished = hasFailed || interrupts.received ||
    spool !== undefined && spool.bytesWaiting > 0;
  if (isUnfinished || progress.shown || refused?.isUsed) reportSent(job);
  // How much the server has of an upload in one request is unknown.
  const isSaved = failure !== undefined && mode !== "upload" &&
    await saveUndelivered(job, input, lines, interrupts);
  if (input.error !== undefined) log(`read failed: ${reasonOf(input.error)}`);
  // The rest of the object is complete only if the input was read to its end.
  const hasWholeRest = isSaved && job.upload !== undefined &&
    !interrupts.received &&
    input.error === undefined;
  await refused?.close();
  await job.unsent?.close(hasWholeRest);
  if (failure !== undefined) await printResumeCommand(job, hasWholeRest);
  if (spool !== undefined) printDeliverCommand(job, spool);
  if (hasFailed) return 1;
  if (interrupts.received && !isAllSpooled(job, input)) return 1;
  const waits = spool !== undefined && spool.bytesWaiting > 0;
  if (waits || interrupts.received && !input.isComplete) return 4;
  return refused?.isUsed ? 3 : 0;
}

/** Whether an interrupt has left nothing that a later run with the same spool lacks. */
function isAllSpooled({ spool, files }: Job, input: Input): boolean {
  // The rest of a file is in no spool. That of a pipe was never there.
  return spool !== undefined &&
    (input.isComplete || files.every((file) => file === "-"));
}

/** Reports how much has been sent. */
function reportSent({ mode, out, spool }: Job): void {
  const { bytesDelivered, sends } = spool === undefined
    ? out.stats
    : { ...spool.spool.stats, bytesDelivered: spool.bytesDelivered };
  log(
    mode === "upload"
      ? `${count(bytesDelivered, "byte")} handed to the connection`
      : `${count(bytesDelivered, "byte")} acknowledged in ${
        count(sends, "request")
      }`,
  );
}

/**
 * Puts the whole input into the spool, and waits for the server as long as `--drain`
 * says; rejects if anything that was read could not be put there.
 */
async function spoolAll(
  { out, follow: path, capacity }: Job,
  spool: SpoolFile,
  input: Input,
  lines: LineWriter | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (path === undefined) {
    await (lines ?? out).readFrom(input);
    input.throwIfFailed();
    await out.flush();
  } else {
    const onError = (error: Error) => spool.reportFailure(error);
    await follow(path, spool.spool, { signal, capacity, onError });
  }
  await spool.drain();
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
  { mode, out, files, unsent, spool }: Job,
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
  if (spool !== undefined) {
    if (lost > 0) {
      log(
        `${
          count(lost, "byte")
        } read, but not acknowledged or put into ${spool.path}`,
      );
    }
    return false;
  }
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
      header: header.map(absoluteHeader),
    },
    files: job.files.map(absolutePath),
    ...{ program: PROGRAM, interpreter: INTERPRETER },
    origin: new URL(job.url).origin,
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

/** Prints how much waits in the spool, and the command that delivers it. */
function printDeliverCommand(job: Job, { path, bytesWaiting }: SpoolFile) {
  if (bytesWaiting === 0) return;
  const waiting = `${count(bytesWaiting, "byte")} ${
    bytesWaiting === 1 ? "waits" : "wait"
  } in ${path}`;
  const { header = [], refused, ...values } = job.values;
  const command = deliverCommand({
    ...job,
    values: {
      ...values,
      header: header.map(absoluteHeader),
      ...refused !== undefined && { refused: absolutePath(refused) },
    },
    ...{ program: PROGRAM, interpreter: INTERPRETER },
    path: absolutePath(path),
  });
  log(`${waiting}; ${command}`);
}

/** A value of `--header`; if it is a file, by its absolute path. */
function absoluteHeader(text: string): string {
  return text.replace(/(?<=^@).+/s, absolutePath);
}

if (import.meta.main) await runProgram(main);
