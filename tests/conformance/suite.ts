/**
 * The conformance suite: what the library promises, checked on the platform that
 * runs it. It uses nothing but the web platform, and the library by its public
 * names, so that it runs in Deno, Node, Bun, Workers and browsers alike. The server
 * that it talks to is a process of its own (`server.ts`).
 */
import { BUFFER_CHECKS } from "./suite/buffer_checks.ts";
import { type Check, type Environment, Refused, Tools } from "./suite/check.ts";
import { ENCODING_CHECKS } from "./suite/encoding_checks.ts";
import { turn } from "./suite/memory.ts";
import { PLATFORM_CHECKS } from "./suite/platform_checks.ts";
import { SENDER_CHECKS } from "./suite/sender_checks.ts";
import { STREAM_CHECKS } from "./suite/stream_checks.ts";
import { TUS_CHECKS } from "./suite/tus_checks.ts";
import { UPLOAD_CHECKS } from "./suite/upload_checks.ts";

export type { Check, Environment } from "./suite/check.ts";

/** How a check has ended. */
export interface Result {
  readonly name: string;
  /** It is refused if the platform cannot do it, and the library says so. */
  readonly outcome: "passed" | "refused" | "failed";
  /** Why it failed or was refused; or what was observed. */
  readonly detail?: string;
}

/** All checks, in the order in which they run. */
export const CHECKS: readonly Check[] = [
  ...BUFFER_CHECKS,
  ...ENCODING_CHECKS,
  ...STREAM_CHECKS,
  ...SENDER_CHECKS,
  ...UPLOAD_CHECKS,
  ...TUS_CHECKS,
  ...PLATFORM_CHECKS,
];

/**
 * Runs the checks one after another.
 *
 * @param report Called with each result, as soon as it is there.
 */
export async function run(
  environment: Environment,
  report: (result: Result) => void = () => {},
): Promise<Result[]> {
  const results: Result[] = [];
  const { filter = "" } = environment;
  // Runs may share a server, and a page may be loaded twice.
  const run = Math.random().toString(36).slice(2);
  for (const [index, check] of CHECKS.entries()) {
    if (!check.name.includes(filter)) continue;
    const tools = new Tools(environment, `${run}-${index}`);
    const result = await runCheck(check, tools);
    results.push(result);
    report(result);
  }
  return results;
}

async function runCheck(
  { name, run, limit }: Check,
  tools: Tools,
): Promise<Result> {
  const rejections = new Rejections();
  try {
    const detail = await within(limit, async () => {
      const detail = await run(tools);
      await tools.end();
      return detail;
    });
    await rejections.check();
    return { name, outcome: "passed", ...detail && { detail } };
  } catch (error) {
    // In the background: it may be what has failed.
    tools.end().catch(() => {});
    const outcome = error instanceof Refused ? "refused" : "failed";
    return { name, outcome, detail: describe(error) };
  } finally {
    rejections.stop();
  }
}

/**
 * Notes promises that reject unhandled, where the platform reports them by an event;
 * Node ends the process instead.
 */
class Rejections {
  readonly #reasons = new Map<unknown, unknown>();
  readonly #note = (event: Event) => {
    event.preventDefault();
    const { promise, reason } = event as Event & Rejection;
    this.#reasons.set(promise, reason);
  };
  /** Workers report a rejection at once, and one that is handled a moment later too. */
  readonly #forget = (event: Event) => {
    this.#reasons.delete((event as Event & Rejection).promise);
  };

  constructor() {
    globalThis.addEventListener?.("unhandledrejection", this.#note);
    globalThis.addEventListener?.("rejectionhandled", this.#forget);
  }

  /** @throws {Error} If there is one. */
  async check(): Promise<void> {
    await turn();
    const [reason] = this.#reasons.values();
    if (this.#reasons.size === 0) return;
    throw new Error(`unhandled rejection: ${describe(reason)}`);
  }

  stop(): void {
    globalThis.removeEventListener?.("unhandledrejection", this.#note);
    globalThis.removeEventListener?.("rejectionhandled", this.#forget);
  }
}

/** What the event of a rejection has. */
interface Rejection {
  readonly promise: unknown;
  readonly reason: unknown;
}

async function within<T>(limit: number, work: () => Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error(`it took longer than ${limit} ms`)),
    limit,
  );
  try {
    return await Promise.race([work(), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function describe(error: unknown): string {
  if (error instanceof Refused) return error.message;
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : ` (${describe(error.cause)})`;
  return `${error.name}: ${error.message}${cause}`;
}
