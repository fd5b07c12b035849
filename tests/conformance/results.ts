/** What is recorded of a run, and how another run differs from it. */
import type { Result } from "./suite.ts";

/** A run, as `results/NAME.json` has it. */
export interface Recorded {
  /** Of the platform. It may change without a difference in the results. */
  readonly version: string;
  /** What became of each check: "passed", "passed: DETAIL" or "refused: DETAIL". */
  readonly checks: Readonly<Record<string, string>>;
}

const RESULTS = new URL("./results/", import.meta.url);

/** What was recorded of a run; undefined if nothing was. */
export function readRecorded(run: string): Recorded | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(fileOf(run)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
}

/** Records a run. */
export function writeRecorded(run: string, recorded: Recorded): void {
  const text = JSON.stringify(recorded, undefined, 2);
  Deno.writeTextFileSync(fileOf(run), `${text}\n`);
}

/** The names of the runs that are recorded. */
export function listRecorded(): string[] {
  return [...Deno.readDirSync(RESULTS)]
    .map(({ name }) => name.replace(/\.json$/, "")).sort();
}

function fileOf(run: string): URL {
  return new URL(`${run}.json`, RESULTS);
}

/** What became of a check, in one line that is the same in each run. */
export function summarize({ outcome, detail }: Result): string {
  if (detail === undefined) return outcome;
  // Ports and paths differ from run to run.
  const stable = detail.replaceAll(/https?:\/\/[\w.:/-]+/g, "URL");
  return `${outcome}: ${stable}`;
}

/** What became of each check. */
export function checksOf(results: readonly Result[]): Recorded["checks"] {
  return Object.fromEntries(
    results.map((result) => [result.name, summarize(result)]),
  );
}

/** What differs, in lines to print. Nothing if all is as recorded. */
export function compare(
  recorded: Recorded["checks"],
  now: Recorded["checks"],
): string[] {
  const names = new Set([...Object.keys(recorded), ...Object.keys(now)]);
  return [...names].filter((name) => recorded[name] !== now[name])
    .flatMap((name) => [
      name,
      `  recorded: ${recorded[name] ?? "no such check"}`,
      `  now:      ${now[name] ?? "it did not run"}`,
    ]);
}
