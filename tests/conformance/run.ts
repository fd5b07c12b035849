/**
 * Runs the conformance suite on every platform, and compares the results with those
 * that are recorded:
 *
 *     deno task conformance [--update] [--table] [--filter TEXT] [NAME...]
 *
 * A name is that of a runtime, such as `chromium`, or of one run, such as
 * `chromium-https`; by default all are run. `--update` records the results, and
 * writes the tables of `docs/runtimes.md`; `--table` does only the latter, and runs
 * nothing. `--filter` runs only checks whose name has the text.
 */
import { parseArgs } from "node:util";
import { Missing } from "./drivers/missing.ts";
import { execute, type Report, type Setting } from "./execute.ts";
import { checksOf, compare, readRecorded, writeRecorded } from "./results.ts";
import {
  EXCUSED,
  type Run,
  RUNS,
  RUNTIME_NAMES,
  RUNTIMES,
} from "./runtimes.ts";
import { setStage } from "./stage.ts";
import type { Result } from "./suite.ts";
import { writeTables } from "./tables.ts";

/** Runs at a time: each is mostly one process that waits for the server. */
const CONCURRENCY = 2;

/** What the arguments ask for. */
interface Request {
  readonly runs: readonly Run[];
  readonly update: boolean;
  readonly filter: string | undefined;
}

/** Runs all of them, and prints what became of each. Returns the number that failed. */
async function runAll(
  { runs, ...how }: Request,
  setting: Setting,
): Promise<number> {
  let failed = 0;
  const queue = [...runs];
  const work = async () => {
    for (let run; (run = queue.shift()) !== undefined;) {
      if (!await runOne(run, how, setting)) failed++;
    }
  };
  const all = Array.from({ length: CONCURRENCY }, work);
  // When it is interrupted, each of them has something to close.
  await Promise.allSettled(all);
  await Promise.all(all);
  return failed;
}

/** What became of a run. */
interface Verdict {
  readonly isGood: boolean;
  readonly text: string;
  /** What to print below it. */
  readonly lines?: readonly string[];
}

/** Returns whether all is well. */
async function runOne(
  run: Run,
  how: Omit<Request, "runs">,
  setting: Setting,
): Promise<boolean> {
  const begin = performance.now();
  const { isGood, text, lines = [] } = await execute(run, setting).then(
    (report) => judge(run, report, how),
    (error) => {
      setting.signal.throwIfAborted();
      return explain(run, error);
    },
  );
  const seconds = ((performance.now() - begin) / 1_000).toFixed(1);
  console.log(`${run.name.padEnd(16)} ${text} (${seconds} s)`);
  for (const line of lines) console.log(`    ${line}`);
  return isGood;
}

/** Why a run has not ended. */
function explain({ runtime }: Run, error: Error): Verdict {
  const { cause } = error;
  if (!(cause instanceof Missing)) {
    const lines = error.message.split("\n");
    return { isGood: false, text: `did not end: ${messageOf(cause)}`, lines };
  }
  const excuse = EXCUSED[Deno.build.os]?.[runtime];
  return excuse === undefined
    ? { isGood: false, text: `is missing: ${cause.message}` }
    : { isGood: true, text: `skipped: ${excuse}` };
}

/** Compares the results of a run with what is recorded, or records them. */
function judge(
  { name, runtime }: Run,
  { version, results }: Report,
  { update, filter = "" }: Omit<Request, "runs">,
): Verdict {
  const text = `${RUNTIMES[runtime].title} ${version}: ${countsOf(results)}`;
  const failures = results.filter(({ outcome }) => outcome === "failed");
  if (failures.length > 0) {
    return {
      isGood: false,
      text: `${text}; a failure cannot be recorded`,
      lines: failures.flatMap(({ name, detail }) => [name, `  ${detail}`]),
    };
  }
  const checks = checksOf(results);
  if (update) {
    writeRecorded(name, { version, checks });
    return { isGood: true, text: `${text}, recorded` };
  }
  const recorded = readRecorded(name);
  const expected = Object.entries(recorded?.checks ?? {})
    .filter(([check]) => check.includes(filter));
  const differences = compare(Object.fromEntries(expected), checks);
  if (differences.length === 0) {
    return { isGood: true, text: `${text}, as recorded` };
  }
  const reference = recorded === undefined
    ? "nothing is recorded"
    : `that differs from what is recorded of ${recorded.version}`;
  return {
    isGood: false,
    text: `${text}, but ${reference}`,
    lines: [
      ...differences,
      `If that is right, record it: deno task conformance --update ${name}`,
    ],
  };
}

function countsOf(results: readonly Result[]): string {
  return (["passed", "refused", "failed"] as const).flatMap((outcome) => {
    const { length } = results.filter((result) => result.outcome === outcome);
    return length > 0 ? [`${length} ${outcome}`] : [];
  }).join(", ");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function parse(args: string[]): Request & { readonly table: boolean } {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      update: { type: "boolean", default: false },
      table: { type: "boolean", default: false },
      filter: { type: "string" },
    },
  });
  const { update, table, filter } = values;
  const known: readonly string[] = [
    ...RUNTIME_NAMES,
    ...RUNS.map(({ name }) => name),
  ];
  const unknown = positionals.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new TypeError(
      `${unknown.join(", ")}: not one of ${[...new Set(known)].join(", ")}`,
    );
  }
  if (update && filter !== undefined) {
    throw new TypeError(
      "What is recorded has all checks: --update takes no --filter",
    );
  }
  const runs = RUNS.filter(({ name, runtime }) =>
    positionals.length === 0 || positionals.includes(name) ||
    positionals.includes(runtime)
  );
  return { runs, update, table, filter };
}

async function main(): Promise<number> {
  let request;
  try {
    request = parse(Deno.args);
  } catch (error) {
    console.error(messageOf(error));
    return 2;
  }
  if (request.table) {
    await writeTables();
    return 0;
  }
  const controller = new AbortController();
  const interrupt = () => controller.abort(new Error("interrupted"));
  Deno.addSignalListener("SIGINT", interrupt);
  Deno.addSignalListener("SIGTERM", interrupt);
  try {
    await using stage = await setStage();
    const failed = await runAll(request, {
      stage,
      signal: controller.signal,
      ...request.filter !== undefined && { filter: request.filter },
    });
    if (request.update) await writeTables();
    console.log(`${request.runs.length} runs, ${failed} failed`);
    return failed > 0 ? 1 : 0;
  } catch (error) {
    if (!controller.signal.aborted) throw error;
    console.error("interrupted");
    return 130;
  } finally {
    Deno.removeSignalListener("SIGINT", interrupt);
    Deno.removeSignalListener("SIGTERM", interrupt);
  }
}

Deno.exit(await main());
