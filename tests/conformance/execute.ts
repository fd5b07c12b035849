/** Runs the suite once on one platform. */
import { type Run, RUNTIMES } from "./runtimes.ts";
import type { Stage } from "./stage.ts";
import { CHECKS, type Result } from "./suite.ts";

/** How long a run may take, in ms. Each check has a limit of its own. */
const LIMIT = 150_000;

/** What every run needs. */
export interface Setting {
  readonly stage: Stage;
  /** Ends the run. */
  readonly signal: AbortSignal;
  /** Only checks are run whose name has this. */
  readonly filter?: string;
}

/** What a run has found. */
export interface Report {
  /** Of the platform. */
  readonly version: string;
  readonly results: readonly Result[];
}

/**
 * Runs the suite. When it settles, nothing is left running.
 *
 * @throws If not every check has a result.
 */
export async function execute(
  { name, runtime, front }: Run,
  { stage, signal, filter = "" }: Setting,
): Promise<Report> {
  const results: Result[] = [];
  /** What else was printed. */
  const output: string[] = [];
  const limit = new AbortController();
  const timer = setTimeout(
    () => limit.abort(new Error(`it took longer than ${LIMIT} ms`)),
    LIMIT,
  );
  try {
    const version = await RUNTIMES[runtime].drive({
      environment: {
        ...{ name, filter },
        server: stage.server[front],
        tus: stage.server.tus[front],
      },
      ...{ front, stage },
      print: (line) => {
        const result = parse(line);
        if (result === undefined) output.push(line);
        else results.push(result);
      },
      signal: AbortSignal.any([signal, limit.signal]),
    });
    const expected = CHECKS.filter(({ name }) => name.includes(filter)).length;
    if (results.length === expected) return { version, results };
    throw new Error(`only ${results.length} of ${expected} checks have ended`);
  } catch (error) {
    signal.throwIfAborted();
    const last = results.at(-1)?.name ?? "none";
    throw new Error(
      [`its last check was: ${last}`, ...output.slice(-20)].join("\n"),
      { cause: error },
    );
  } finally {
    clearTimeout(timer);
  }
}

function parse(line: string): Result | undefined {
  if (!line.startsWith('{"name":')) return;
  try {
    return JSON.parse(line);
  } catch {
    return;
  }
}
