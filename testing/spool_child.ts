/**
 * A program that writes numbered records through a spool until it is killed. Its
 * only argument is a {@linkcode SpoolPlan}, as JSON.
 *
 * It writes `open` to standard output once it has opened the spool, and
 * `covered N` when a flush that covers the first N records has fulfilled. What it
 * does to the database is in a file of one byte, the marker of a {@linkcode Moment}:
 * that survives SIGKILL, and costs one system call.
 */
import { Buffer } from "node:buffer";
import { openSync, writeSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { FetchSender, Spool, StreamBuffer } from "../spool/mod.ts";
import { randomFrom } from "./faulty_server.ts";
import { record } from "./records.ts";

/** What a program does, and where it stops. */
export interface SpoolPlan {
  /** The spool's file. */
  readonly path: string;
  /** Where to write the marker. */
  readonly momentPath: string;
  readonly url: string;
  /** The number of this run of the program. */
  readonly run: number;
  readonly seed: number;
  /** Of the `StreamBuffer`, in bytes. */
  readonly capacity: number;
  /** The size of a record in bytes at most. */
  readonly recordLimit: number;
  readonly durability: "power" | "process";
  readonly requestBytes: number;
  readonly maxBytes: number;
  /** How many records to write; `null` for as many as it can. */
  readonly records: number | null;
  /** Whether to wait for the server before it ends. */
  readonly drain: boolean;
  /** Where to write `held`, and wait to be killed. */
  readonly hold?: {
    readonly statement: Statement;
    readonly when: "before" | "after";
    /** Which of those statements, 1 for the first. */
    readonly nth: number;
  };
}

/**
 * The statements that a spool makes, by how they begin. It is the values of an update
 * that tell a cut from a settlement without a new one.
 */
const STATEMENTS = {
  begin: "begin",
  add: "insert or replace into batch",
  cut: "update spool",
  delete: "delete from batch",
  settle: "update spool",
  commit: "commit",
  checkpoint: "pragma wal_checkpoint",
};

/** A statement of a spool. */
export type Statement = keyof typeof STATEMENTS;

/** What a program that was killed was doing to the database, by the marker for it. */
export const MOMENTS = {
  b: "the beginning of a transaction",
  a: "a commit",
  c: "a cut",
  s: "a settlement",
  k: "a checkpoint",
  "-": "none of these",
} as const;

/** A marker. */
export type Moment = keyof typeof MOMENTS;

/** What a transaction is, from this statement on. */
const MARKERS: Partial<Record<Statement, Moment>> = {
  begin: "b",
  add: "a",
  delete: "s",
  cut: "c",
  checkpoint: "k",
};

/** Writes a line to standard output, at once. */
export function report(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

/** Reports what happens to the database, and stops where the plan says. */
export function watchStatements(
  { momentPath, hold }: Pick<SpoolPlan, "momentPath" | "hold">,
): void {
  const descriptor = openSync(momentPath, "w");
  const mark = (moment: Moment) =>
    writeSync(descriptor, Buffer.from(moment), 0, 1, 0);
  mark("-");
  let count = 0;
  const pass = (statement: Statement, when: "before" | "after") => {
    if (statement !== hold?.statement || when !== hold.when) return;
    if (++count < hold.nth) return;
    report("held");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  };
  let ends = "";
  /** Whether it records cuts, and not only what is left of some. */
  const isCut = (value: unknown) => {
    const before = ends;
    ends = `${value ?? ""}`;
    return ends !== "" && !before.endsWith(ends);
  };
  const names = Object.keys(STATEMENTS) as Statement[];
  const { prepare } = DatabaseSync.prototype;
  DatabaseSync.prototype.prepare = function (sql) {
    const prepared = prepare.call(this, sql);
    const found = names.find((name) => sql.startsWith(STATEMENTS[name]));
    if (found === undefined) return prepared;
    const isLast = found === "commit" || found === "checkpoint";
    const endsAt = sql.slice(0, sql.indexOf("cut_ends")).split(",").length - 1;
    for (const method of ["run", "get"] as const) {
      const original = prepared[method] as (...values: unknown[]) => never;
      prepared[method] = (...values: unknown[]) => {
        const statement = found === "cut" && !isCut(values[endsAt])
          ? "settle"
          : found;
        const marker = MARKERS[statement];
        if (marker !== undefined) mark(marker);
        pass(statement, "before");
        const result = original.apply(prepared, values);
        pass(statement, "after");
        if (isLast) mark("-");
        return result;
      };
    }
    return prepared;
  };
}

/** Makes a sender that says which run of the program it is, and does not wait for long. */
export function makeSender(url: string, run: number): FetchSender {
  return new FetchSender(url, {
    headers: ({ offset }) => ({ "x-run": `${run}`, "x-offset": `${offset}` }),
    retry: { initialDelay: 1, maxDelay: 20, maxElapsed: Infinity },
  });
}

async function write(plan: SpoolPlan): Promise<void> {
  const { path, url, run, seed, recordLimit, records, drain } = plan;
  const random = randomFrom(seed);
  const sender = makeSender(url, run);
  const spool = new Spool(path, sender, { ...plan, drainTimeout: 0 });
  report("open");
  const { capacity } = plan;
  const out = new StreamBuffer(spool, { capacity, flushInterval: 20 });
  const [flushRate, pauseRate] = [random() * random(), 0.02 + random() / 5];
  for (let number = 0; number !== records; number++) {
    await out.write(record(run, number, recordLimit));
    if (random() < flushRate) {
      const flushed = out.flush().then(() => report(`covered ${number + 1}`));
      if (random() < 0.5) await flushed;
    }
    if (random() < pauseRate) await sleep(random() * 5);
  }
  await out.flush();
  report(`covered ${records}`);
  if (drain) await spool.drained();
  await out.close();
}

if (import.meta.main) {
  const plan: SpoolPlan = JSON.parse(Deno.args[0]!);
  watchStatements(plan);
  await write(plan);
}
