/**
 * The command: sends standard input, or files, to a URL; in many requests, or as
 * one object, in one request or in an upload that can be resumed.
 *
 * ```sh
 * tail -F app.log | deno run -N jsr:@stream-buffer/stream-buffer/cli --lines https://example.com/ingest
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli https://example.com/upload dump.sql
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli --tus https://example.com/files backup.tar
 * ```
 *
 * It exits with 0 when every byte of the input has been acknowledged, with 1
 * when some were not, or it was interrupted, and with 2 when it was called
 * wrongly; then nothing was sent.
 *
 * @module
 */
import config from "../deno.json" with { type: "json" };
import { SendError } from "../mod.ts";
import { Input } from "./input.ts";
import { type Job, prepare } from "./job.ts";
import { LineWriter } from "./lines.ts";
import { say } from "./log.ts";
import { HELP, parse } from "./options.ts";
import { showProgress } from "./progress.ts";
import { tellHowToGoOn } from "./resume.ts";
import { save } from "./unsent.ts";
import { UsageError } from "./usage.ts";

/** How long a first interrupt lets what was read be sent, in ms. */
const LAST_CHANCE = 5_000;
/** How long an interrupted read may take to end, in ms. */
const GRACE = 100;
const SIGNALS: Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP"];

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
    const { values, positionals } = parse(args);
    if (values.help || values.version) {
      console.log(values.help ? HELP.trimEnd() : config.version);
      return 0;
    }
    return await run(await prepare(values, positionals));
  } catch (error) {
    if (error instanceof SendError) { // nothing has been read
      say(error.message);
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    say(`${error.message}\nTry --help.`);
    return 2;
  }
}

async function run(job: Job): Promise<number> {
  const { out, files, unsent } = job;
  const progress = showProgress(job);
  let interrupted = false;
  const timers: ReturnType<typeof setTimeout>[] = [];
  const interrupt = () => {
    const giveUp = () => void out.abort(new Error("interrupted"));
    if (interrupted) return giveUp();
    timers.push(setTimeout(giveUp, LAST_CHANCE));
    // What is on its way from the kernel counts as read.
    timers.push(setTimeout(() => input.stop(), GRACE));
    interrupted = true;
    say("interrupted: sending what was read (interrupt again to stop)");
  };
  for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupt);
  using input = new Input(files, job.skip);
  const lines = job.lines ? new LineWriter(out, job.capacity) : undefined;
  void job.failed.then((error) => input.fail(error));

  let failure: unknown;
  try {
    if (job.mode === "tus") {
      const url = await job.upload!.create();
      if (!job.quiet) say(`the upload is at ${url}`);
    }
    await (lines ?? out).readFrom(input);
    input.throwIfFailed();
    await out.flush();
    if (job.mode !== "records" && (interrupted || input.error)) {
      throw new Error("the object is not complete");
    }
    await out.close();
  } catch (error) {
    failure = error;
    input.fail(error);
    await out.abort(error);
  }
  progress.stop();

  if (failure !== undefined) {
    const { message } = failure as Error;
    say(message.replace("so give `length`", "so send a file"));
  }
  const { bytesDelivered, sends } = out.stats;
  const unfinished = failure !== undefined || input.error !== undefined ||
    interrupted;
  if (unfinished || progress.shown) {
    say(
      job.mode === "upload"
        ? `${bytesDelivered} bytes handed to the connection`
        : `${bytesDelivered} bytes acknowledged in ${sends} requests`,
    );
  }
  let saved: string | undefined;
  if (failure !== undefined && job.mode !== "upload") {
    const left = [out.takeUnsent(), ...lines?.unaccepted ?? []];
    if (unsent === undefined) {
      let lost = left.reduce((sum, { length }) => sum + length, 0);
      input.stop();
      for await (const { length } of input.remaining()) lost += length;
      // The rest of an object is still where it was, if that is a file.
      if (job.mode === "records" || (lost > 0 && files.includes("-"))) {
        say(
          `${lost} bytes were read and not acknowledged (--unsent keeps them)`,
        );
      }
    } else {
      const end = interrupted ? "" : ", to the end of the input";
      say(`saving what is left in ${unsent.path}${end}`);
      // Only then is it all that the object lacks.
      const isAll = await save(unsent, left, input) && !interrupted &&
        input.error === undefined;
      if (isAll && job.upload !== undefined) saved = unsent.path;
    }
  }
  if (input.error !== undefined) say(`cannot read on: ${input.error.message}`);
  if (unsent !== undefined) {
    const { size } = await unsent.file.stat();
    unsent.file.close();
    if (unsent.created && size === 0 && saved === undefined) {
      await Deno.remove(unsent.path).catch(() => {});
    }
  }
  if (failure !== undefined) await tellHowToGoOn(job, saved, import.meta.url);
  for (const timer of timers) clearTimeout(timer);
  for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupt);
  return unfinished ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
