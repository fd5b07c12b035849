/** `receive`: a server that stores what it is sent, each batch exactly once. */
import {
  MemoryStore,
  type Pruned,
  receive,
  StoreError,
} from "../receiver/mod.ts";
import { reasonOf, UsageError } from "./errors.ts";
import { count, log, stdout, writeToStdout } from "./log.ts";
import { requestHost } from "./permissions.ts";
import { BatchLog } from "./receive_log.ts";
import {
  parseReceiveOptions,
  receiveHelp,
  type ReceiveTask,
} from "./receive_options.ts";
import { type CommandStore, nameOf, openStore } from "./receive_store.ts";
import { hostOf, serve } from "./serve.ts";
import { Interrupts } from "./signals.ts";
import { inTermsOfTheCommand } from "./terms.ts";

type ServeTask = Extract<ReceiveTask, { name: "serve" }>;

/**
 * Runs `receive`.
 *
 * @param args What follows "receive" on the command line.
 * @param program What runs it, for the help text.
 * @returns The exit code.
 * @throws {UsageError} If the arguments are invalid, or the store or the address cannot
 *   be used.
 */
export async function receiveCommand(
  args: string[],
  program: string | undefined,
): Promise<number> {
  const task = parseReceiveOptions(args);
  if (task.name === "help") {
    stdout.write(receiveHelp(program));
    return 0;
  }
  if (task.name === "serve") {
    checkOptions(task);
    await requestHost("listen on", hostOf(task.address));
  }
  const store = await openStore(task.store, task.name === "serve");
  try {
    switch (task.name) {
      case "read":
        return await read(store, task.id);
      case "prune":
        return report(await store.prune(task.age));
      case "serve":
        return await run(store, task);
    }
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    log(inTermsOfTheCommand(error.message));
    return 1;
  } finally {
    await store[Symbol.asyncDispose]();
  }
}

/** Throws if an option is invalid, which `run` would find too late. */
function checkOptions({ maxBytes }: ServeTask): void {
  if (maxBytes === undefined) return;
  try {
    receive({ store: new MemoryStore(), maxBytes });
  } catch (error) {
    throw new UsageError(inTermsOfTheCommand((error as Error).message));
  }
}

/** Writes a stream to standard output. */
async function read(store: CommandStore, id: string): Promise<number> {
  let size = 0;
  for await (const bytes of store.read(id)) {
    size += bytes.length;
    try {
      await writeToStdout(bytes);
    } catch (error) {
      log(`cannot write to standard output: ${reasonOf(error as Error)}`);
      return 1;
    }
  }
  if (size > 0) return 0;
  log(`nothing is stored of the stream ${id}`);
  return 1;
}

function report({ batches, bytes }: Pruned): number {
  log(
    `${count(bytes, "byte")} of ${
      batches === 1 ? "1 batch" : `${batches} batches`
    } forgotten`,
  );
  return 0;
}

/** Runs the server until it is interrupted. */
async function run(store: CommandStore, task: ServeTask): Promise<number> {
  const { address, maxBytes, requireKey, quiet } = task;
  const batches = new BatchLog(quiet);
  const handler = receive({
    store: batches.over(store),
    requireKey,
    ...maxBytes !== undefined && { maxBytes },
    onError: (error) => batches.fail(error),
  });
  const server = await serve(handler, address);
  const { promise: stopped, resolve: stop } = Promise.withResolvers<void>();
  const interrupts = new Interrupts({
    hurry: () => void server.stop().then(stop),
    stopReading() {},
    giveUp: stop, // whatever is under way ends with the process
  }, "finishing the requests that have arrived");
  if (!quiet) {
    const { hostname } = address;
    const url = `http://${hostOf({ hostname, port: server.port })}/`;
    log(
      `receiving at ${url}, storing in ${
        nameOf(task.store)
      }; interrupt to stop`,
    );
  }
  try {
    await stopped;
  } finally {
    interrupts[Symbol.dispose]();
    batches[Symbol.dispose]();
  }
  return 0;
}
