/**
 * A web server that stores what it receives, for benchmarks: through a receiver, or as
 * one would by hand.
 *
 *     deno run -N -R -W bench/receiver_server.ts KIND PATH
 *
 * It has no protection, and is reached from this machine only.
 */
import { fdatasync, openSync, write } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import {
  FileStore,
  MemoryStore,
  receive,
  SqliteStore,
} from "../receiver/mod.ts";

/** What it stores batches in. */
export type Kind =
  /** Stores of a receiver. */
  | "memory"
  | "file"
  | "file_process"
  | "sqlite"
  /** A file, without and with a sync before each response. */
  | "append"
  | "synced_append"
  /** A table, with a transaction for each request, which is synced. */
  | "insert";

/** A server in its own process. */
export interface ReceiverServer extends AsyncDisposable {
  readonly url: string;
}

/** Starts a server that stores what it receives at a path. */
export async function startReceiver(
  kind: Kind,
  path: string,
): Promise<ReceiverServer> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "-N", "-R", "-W", import.meta.url, kind, path],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = process.stdout.getReader();
  const { value } = await reader.read();
  if (value === undefined) throw new Error("The server did not start");
  return {
    url: new TextDecoder().decode(value).trim(),
    [Symbol.asyncDispose]: async () => {
      await process.stdin.close();
      await reader.cancel();
      await process.status;
    },
  };
}

/** A table of batches, and a statement that inserts one. */
export function openTable(path: string): {
  insert(bytes: Uint8Array): void;
  close(): void;
} {
  const db = new DatabaseSync(path);
  db.exec("pragma journal_mode = wal; pragma synchronous = full");
  db.exec("create table batch (number integer primary key, bytes blob)");
  const statement = db.prepare("insert into batch (bytes) values (?)");
  return {
    insert: (bytes) => void statement.run(bytes),
    close: () => db.close(),
  };
}

type Handler = (request: Request) => Promise<Response>;

const RECEIVERS: Record<Kind, (path: string) => Handler> = {
  memory: () => forgetful(new MemoryStore()),
  file: (path) => receive({ store: new FileStore(path) }),
  file_process: (path) =>
    receive({ store: new FileStore(path, { durability: "process" }) }),
  sqlite: (path) => receive({ store: new SqliteStore(path) }),
  append: (path) => appending(path, false),
  synced_append: (path) => appending(path, true),
  insert: (path) => {
    const { insert } = openTable(path);
    return async (request) => {
      insert(await request.bytes());
      return new Response(null, { status: 204 });
    };
  },
};

/** Keeps a few batches only: there is no end to what it is sent. */
function forgetful(store: MemoryStore): Handler {
  const handler = receive({ store });
  let count = 0;
  return async (request) => {
    const response = await handler(request);
    if (++count % 256 === 0) await store.prune(0);
    return response;
  };
}

function appending(path: string, isSynced: boolean): Handler {
  const file = openSync(path, "a");
  const append = promisify(write);
  const sync = promisify(fdatasync);
  return async (request) => {
    await append(file, await request.bytes());
    if (isSynced) await sync(file);
    return new Response(null, { status: 204 });
  };
}

if (import.meta.main) {
  const [kind, path] = Deno.args as [Kind, string];
  Deno.serve({
    hostname: "127.0.0.1",
    port: 0, // above 10080, the highest one that `fetch` blocks
    onListen: ({ port }) => console.log(`http://127.0.0.1:${port}/`),
  }, RECEIVERS[kind](path));
  // Its input closes when the process that started it exits, for any reason.
  void Deno.stdin.read(new Uint8Array(1)).then(() => Deno.exit());
}
