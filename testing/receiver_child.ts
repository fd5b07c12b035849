/**
 * A program that receives records until it is killed, or its standard input ends. Its
 * only argument is a {@linkcode ReceiverPlan}, as JSON.
 *
 * It writes `open` to standard output once it listens, and `held POINT` where the plan
 * says that it stops. Each statement of SQLite and each call of the file system is such
 * a point, before it and after it.
 */
import nodeFs from "node:fs";
import process from "node:process";
import { DatabaseSync } from "node:sqlite";
import {
  FileStore,
  receive,
  SqliteStore,
  type SqliteTransaction,
} from "../receiver/mod.ts";
import { numbersOf } from "./records.ts";
import { report } from "./spool_child.ts";

/** The stores that live in files. */
export type StoreName = "SqliteStore" | "FileStore";

/** What a program does, and where it stops. */
export interface ReceiverPlan {
  readonly store: StoreName;
  /** The file of the store. */
  readonly path: string;
  readonly port: number;
  readonly durability: "power" | "process";
  /** After how many requests to forget what is older than this, if at all. */
  readonly prune: { readonly every: number; readonly age: number } | null;
  /** At which point to write `held`, and to wait to be killed: 1 for the first. */
  readonly hold: number | null;
}

/** What the store does to files, by names of functions. */
const CALLS = ["openSync", "closeSync", "writeSync", "write", "fdatasync"]
  .concat(
    "fdatasyncSync",
    "fsyncSync",
    "ftruncateSync",
    "renameSync",
    "rmSync",
  );

// Any function of node:fs or of a statement.
// deno-lint-ignore no-explicit-any
type Any = any;

/** Stops at a point. */
function watch(hold: number): void {
  let count = 0;
  const pass = (point: string) => {
    if (++count !== hold) return;
    report(`held ${point}`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  };
  const around = (name: string, work: (...args: Any[]) => Any) =>
  (
    ...args: Any[]
  ) => {
    pass(`before ${name}`);
    const callback = args.at(-1);
    if (typeof callback === "function") {
      args[args.length - 1] = (...results: Any[]) => {
        pass(`after ${name}`);
        callback(...results);
      };
      return work(...args);
    }
    const result = work(...args);
    pass(`after ${name}`);
    return result;
  };
  const { prepare } = DatabaseSync.prototype;
  DatabaseSync.prototype.prepare = function (sql) {
    const statement: Any = prepare.call(this, sql);
    const name = sql.split(/\s+/, 2).join(" ");
    for (const method of ["run", "get", "all"]) {
      statement[method] = around(name, statement[method].bind(statement));
    }
    return statement;
  };
  const fs: Any = { ...nodeFs };
  for (const name of CALLS) fs[name] = around(name, fs[name]);
  const { getBuiltinModule } = process;
  process.getBuiltinModule =
    ((id: string) =>
      id === "node:fs"
        ? fs
        : getBuiltinModule.call(process, id)) as typeof getBuiltinModule;
}

/** Opens the store, and makes the handler; with SQLite each record is a row as well. */
function open({ store: name, path, durability }: ReceiverPlan) {
  if (name === "FileStore") {
    const store = new FileStore(path, { durability });
    return { store, handler: receive({ store }) };
  }
  const store = new SqliteStore(path, { durability });
  store.transaction((db) =>
    db.run("create table if not exists record (id, run, number)")
  );
  const onBatch = (
    { id, bytes }: { id: string; bytes: Uint8Array },
    db: SqliteTransaction,
  ) => {
    for (const line of new TextDecoder().decode(bytes).trimEnd().split("\n")) {
      const { run, number } = numbersOf(line);
      db.run("insert into record values (?, ?, ?)", id, run, number);
    }
  };
  return { store, handler: receive({ store, onBatch }) };
}

if (import.meta.main) {
  const plan: ReceiverPlan = JSON.parse(Deno.args[0]!);
  const { port, prune, hold } = plan;
  if (hold !== null) watch(hold);
  const { store, handler } = open(plan);
  let [requests, isPruning] = [0, false];
  const server = Deno.serve(
    { hostname: "127.0.0.1", port, onListen: () => report("open") },
    async (request) => {
      const response = await handler(request);
      if (prune && ++requests % prune.every === 0 && !isPruning) {
        isPruning = true;
        await store.prune(prune.age);
        isPruning = false;
      }
      return response;
    },
  );
  await Deno.stdin.read(new Uint8Array(1));
  await server.shutdown();
  await store.close();
}
