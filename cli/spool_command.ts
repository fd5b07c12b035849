/** `spool FILE`: shows what waits in a spool, or writes it to standard output. */
import {
  inspectSpool,
  readSpool,
  SpoolError,
  type SpoolInfo,
} from "../spool/mod.ts";
import { AccessError, reasonOf, UsageError } from "./errors.ts";
import { count, log, stdout, writeToStdout } from "./log.ts";
import type { Values } from "./options.ts";
import { duration } from "./progress.ts";
import { requestSpool } from "./spool_file.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/**
 * Runs it.
 *
 * @param files What follows "spool" on the command line.
 * @returns The exit code: 1 if the file is damaged or, with `--export`, in use, or if
 *   standard output cannot be written.
 * @throws {UsageError} If the file cannot be opened, or is not a spool.
 */
export async function lookAtSpool(
  { export: isExport = false, ...others }: Values,
  [file, ...rest]: readonly string[],
): Promise<number> {
  const [other] = Object.keys(others);
  if (other !== undefined) {
    throw new UsageError(`--${other} cannot be used with spool`);
  }
  if (file === undefined || rest.length > 0) {
    throw new UsageError("spool must be followed by one FILE");
  }
  await requestSpool(file);
  try {
    if (isExport) return await exportSpool(file);
    stdout.write(describe(inspectSpool(file)));
    return 0;
  } catch (error) {
    if (!(error instanceof SpoolError)) throw error;
    const message = inTermsOfTheCommand(error.message);
    if (error.code !== "in-use" && error.code !== "damaged") {
      throw new AccessError(message);
    }
    log(message);
    return 1;
  }
}

/** The figures, one per line. */
function describe(info: SpoolInfo): string {
  const { owner, oldest } = info;
  const lines = [
    `stream: ${info.id}`,
    `waiting: ${count(info.bytesWaiting, "byte")}`,
    `batches waiting: ${info.batchesWaiting}`,
    `oldest: ${oldest === undefined ? "none" : `${since(oldest)} ago`}`,
    `delivered: ${count(info.bytesDelivered, "byte")}`,
  ];
  const { bytesDiverted, bytesLost } = info;
  if (bytesDiverted > 0) {
    lines.push(`refused: ${count(bytesDiverted, "byte")}`);
  }
  if (bytesLost > 0) lines.push(`lost: ${count(bytesLost, "byte")}`);
  if (owner === undefined) lines.push("open: no");
  else {
    const { pid, host, updated } = owner;
    const place = host === undefined ? "" : ` on ${host}`;
    lines.push(
      `open: by process ${pid}${place}`,
      `figures: of ${since(updated)} ago`,
    );
  }
  return `${lines.join("\n")}\n`;
}

function since(date: Date): string {
  return duration(Math.max(Date.now() - date.getTime(), 0) / 1_000);
}

/**
 * Writes what waits to standard output. Nothing is removed. What is damaged is
 * reported, and left out.
 */
async function exportSpool(file: string): Promise<number> {
  let damaged = 0;
  const onDamage = ({ message }: SpoolError) => {
    damaged++;
    // What it advises is what is being done.
    log(message.replace(/; readSpool, .*$/s, "; left out"));
  };
  for (const bytes of readSpool(file, { onDamage })) {
    try {
      await writeToStdout(bytes);
    } catch (error) {
      log(`cannot write to standard output: ${reasonOf(error)}`);
      return 1;
    }
  }
  return damaged > 0 ? 1 : 0;
}
