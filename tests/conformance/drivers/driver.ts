/** How the suite is run on a platform. */
import type { Stage } from "../stage.ts";
import type { Environment } from "../suite.ts";

/** An origin of the server, by its name in `ServerInfo`. */
export type Front = "http" | "cors" | "https";

/** What there is to run. */
export interface Job {
  readonly environment: Environment;
  readonly front: Front;
  readonly stage: Stage;
  /** Called with each line that the client prints: a `Result`, or something else. */
  readonly print: (line: string) => void;
  /** Ends the run, and all that it has started. */
  readonly signal: AbortSignal;
}

/**
 * Runs the suite once. When it settles, nothing is left running.
 *
 * @returns The version of the platform.
 * @throws {Missing} (`missing.ts`) If the platform is not installed.
 */
export type Drive = (job: Job) => Promise<string>;
