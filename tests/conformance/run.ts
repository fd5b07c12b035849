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
import { execute, type Setting } from "./execute.ts";
import { checksOf, compare, readRecorded, writeRecorded } from "./results.ts";
import {
  EXCUSED,
  type Run,
  RUNS,
  RUNTIME_NAMES,
  RUNTIMES,
} from "./runtimes.ts";
import { setStage } from "./stage.ts";
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

/** Returns whether all is well. */
async function runOne(
  run: Run,
  { update, filter = "" }: Omit<Request, "runs">,
  setting: Setting,
): Promise<boolean> {
  const begin = performance.now();
  const show = (text: string, lines: string[] = []) => {
    const seconds = ((performance.now() - begin) / 1_000).toFixed(1);
    console.log(`${run.name.padEnd(16)} ${text} (${seconds} s)`);
    for (const line of lines) console.log(`    ${line}`);
  };
  const { version, results } = await execute(run, setting).catch((error) => {
    setting.signal.throwIfAborted();
    return { version: error as Error, results: [] };
  });
  if (version instanceof Error) {
    const excuse = EXCUSED[Deno.build.os]?.[run.runtime];
    const { cause } = version;
    if (cause instanceof Missing && excuse !== undefined) {
      show(`skipped: ${excuse}`);
      return true;
    }
    show(`did not end: ${messageOf(cause)}`, version.message.split("\n"));
    return false;
  }

  const failures = results.filter(({ outcome }) => outcome === "failed");
  const refused = results.filter(({ outcome }) => outcome === "refused");
  const passed = results.length - failures.length - refused.length;
  const counts = [
    `${passed} passed`,
    ...refused.length > 0 ? [`${refused.length} refused`] : [],
    ...failures.length > 0 ? [`${failures.length} failed`] : [],
  ].join(", ");
  const platform = `${RUNTIMES[run.runtime].title} ${version}`;
  if (failures.length > 0) {
    show(`${platform}: ${counts}; a failure cannot be recorded`, [
      ...failures.flatMap(({ name, detail }) => [name, `  ${detail}`]),
    ]);
    return false;
  }
  const checks = checksOf(results);
  if (update) {
    writeRecorded(run.name, { version, checks });
    show(`${platform}: ${counts}, recorded`);
    return true;
  }
  const recorded = readRecorded(run.name);
  if (recorded === undefined) {
    show(`${platform}: ${counts}, but nothing is recorded: run --update`);
    return false;
  }
  const expected = Object.entries(recorded.checks)
    .filter(([name]) => name.includes(filter));
  const differences = compare(Object.fromEntries(expected), checks);
  if (differences.length === 0) {
    show(`${platform}: ${counts}, as recorded`);
    return true;
  }
  show(
    `${platform}: ${counts}, but that differs from what is recorded of ${recorded.version}`,
    [
      ...differences,
      `If that is right, record it: deno task conformance --update ${run.name}`,
    ],
  );
  return false;
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
