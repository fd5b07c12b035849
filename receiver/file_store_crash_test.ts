/**
 * What a crash leaves of a FileStore: a process that is killed, or a power cut, at each
 * of its steps. `tests/receiver_kills_test.ts` kills real processes.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { randomFrom } from "../testing/faulty_server.ts";
import { batchOf } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";
import { type Fate, TracedDisk } from "../testing/traced_disk.ts";
import { type Step, TracedFiles } from "../testing/traced_files.ts";
import { FileStore } from "./file_store.ts";
import { StoreError } from "./store.ts";

type Durability = "power" | "process";

/** What others rely on from then on. */
interface Note {
  /** This batch is stored. */
  stored?: string;
  /** Batches up to this one may be forgotten from now on. */
  pruned?: number;
}

const NAMES = ["log", "log-new"];
/** How stores are opened after a crash: what is synced then makes no difference. */
const QUICK = { durability: "process" } as const;
/** How large a batch is, in bytes, at most. */
const MAX_SIZE = 3_000;

function numberOf(key: string): number {
  return Number(key.slice("a-".length));
}

/** The content of a batch, which says which it is, and how much there must be. */
function contentOf(key: string): string {
  const size = 20 + numberOf(key) * 7919 % MAX_SIZE;
  return `${key} ${size} `.padEnd(size - 1, "x") + "\n";
}

/** How long ago a batch arrived that is to be forgotten first, or later, in ms. */
const [OLD, RECENT] = [60_000, 10_000];

/** All that a store does which is opened, written to and pruned, twice. */
async function trace(durability: Durability): Promise<Step<Note>[]> {
  await using folder = await temporary();
  const path = folder.file("log");
  using files = new TracedFiles<Note>(
    path.slice(0, path.lastIndexOf("/")),
    NAMES,
    "log-keys",
  );
  let next = 0;
  const add = async (store: FileStore, count: number, age: number) => {
    await Promise.all(Array.from({ length: count }, async () => {
      const key = `a-${next++}`;
      await store.add(await batchOf(key, contentOf(key), age));
      files.note({ stored: key });
    }));
  };
  for (let round = 0; round < 2; round++) {
    await using store = new FileStore(path, { durability });
    await add(store, 1, OLD);
    await add(store, 3, OLD);
    await add(store, 2, RECENT);
    files.note({ pruned: next - 2 });
    await Promise.all([store.prune(30_000), add(store, 2, RECENT)]);
    await add(store, 1, RECENT);
    // Nothing is left.
    files.note({ pruned: next });
    await store.prune(5_000);
    await add(store, round, OLD);
  }
  return files.steps;
}

type Database = Extract<Step<Note>, { database: unknown }>["database"];

/** What is known of a store at a crash. */
interface State {
  readonly disk: TracedDisk;
  /** Copies of the database, from the last one that was synced on. */
  databases: Database[];
  readonly stored: string[];
  /** Number of the first batch that must be there. */
  pruned: number;
}

/** What happens at a crash, and after it. */
interface Crash {
  readonly durability: Durability;
  readonly isPowerCut: boolean;
  /** Whether the files were copied since. */
  readonly isCopy: boolean;
  readonly random: () => number;
}

/** Writes the files that a crash has left. */
function writeFiles(
  path: string,
  { disk, databases }: State,
  { isPowerCut, isCopy, random }: Crash,
): void {
  const below = (limit: number) => Math.floor(limit * random());
  const fates = ["kept", "lost", "torn"] as const;
  const fate = (): Fate => isPowerCut ? fates[below(3)]! : "kept";
  const inodes = new Map<string, number>();
  const files = disk.cut(fate, inodes);
  const folder = path.slice(0, path.lastIndexOf("/"));
  for (const [name, content] of files) {
    Deno.writeFileSync(`${folder}/${name}`, content);
  }
  const which = isPowerCut ? below(databases.length) : databases.length - 1;
  const { file, wal } = databases[which]!;
  Deno.writeFileSync(`${path}-keys`, file);
  Deno.writeFileSync(`${path}-keys-wal`, wal);
  // A sparse one, as the real one would take most of the time.
  Deno.writeTextFileSync(`${path}-keys-reserve`, "");
  Deno.truncateSync(`${path}-keys-reserve`, 2 ** 30);
  if (isCopy) return;
  // The files of a disk keep their inodes; these have new ones.
  const db = new DatabaseSync(`${path}-keys`);
  const { inode } = db.prepare("select inode from file").get()!;
  for (const name of files.keys()) {
    if (`${inodes.get(name)}` !== inode) continue;
    const { ino } = Deno.statSync(`${folder}/${name}`);
    db.prepare("update file set inode = ?").run(`${ino}`);
    break;
  }
  db.close();
}

/**
 * Opens a copy of a store without batches: the bytes in it may be those of a batch that
 * was not stored, or of anyone. `undefined` if there are keys of a batch that was not
 * stored, and no bytes that tell whose they are.
 */
function openEmpty(path: string): FileStore | undefined {
  try {
    return new FileStore(path, QUICK);
  } catch (error) {
    assert(error instanceof StoreError, `${error}`);
    if (error.code === "damaged") return undefined;
    assertEquals(error.code, "foreign");
    Deno.removeSync(path);
    return new FileStore(path, QUICK);
  }
}

/** Opens what a crash has left, and checks that nothing is missing. */
async function check(state: State, crash: Crash): Promise<void> {
  await using folder = await temporary();
  const path = folder.file("log");
  writeFiles(path, state, crash);
  const { durability, isPowerCut, isCopy } = crash;
  const isEmpty = state.stored.every((key) => numberOf(key) < state.pruned);
  await using store = isCopy && isEmpty
    ? openEmpty(path)
    : new FileStore(path, QUICK);
  if (store === undefined) return;
  const kept: string[] = [];
  for await (const bytes of store.read("a")) {
    const text = new TextDecoder().decode(bytes);
    const [key = ""] = text.split(" ");
    assertEquals(text, contentOf(key));
    kept.push(key);
  }
  assertEquals(new Set(kept).size, kept.length, "a batch is there twice");
  assertEquals(Deno.readTextFileSync(path), kept.map(contentOf).join(""));
  assertThrows(() => Deno.statSync(`${path}-new`), Deno.errors.NotFound);
  const isKept = durability === "power" || !isPowerCut;
  for (const key of isKept ? state.stored : []) {
    const isThere = kept.includes(key) || numberOf(key) < state.pruned;
    assert(isThere, `${key} is lost`);
    const again = await batchOf(key, contentOf(key));
    assertEquals(await store.add(again), "known", key);
  }
  // It is as good as any other. This takes longer than all the rest.
  if (crash.random() < 0.8) return;
  const key = "a-1000000";
  await store.add(await batchOf(key, contentOf(key), OLD));
  await store.prune(5_000);
  assertEquals(Deno.readTextFileSync(path), "");
}

const KILL = { isPowerCut: false, isCopy: false };
const POWER_CUT = { isPowerCut: true, isCopy: false };

for (
  const [name, durability, ...crashes] of [
    ["a process that is killed", "process", KILL],
    ["a process that is killed and whose files are copied", "process", {
      ...KILL,
      isCopy: true,
    }],
    ["a power cut", "power", POWER_CUT, POWER_CUT],
    ["a power cut, after which the files are copied", "power", {
      ...POWER_CUT,
      isCopy: true,
    }],
    ["a power cut with nothing synced", "process", POWER_CUT, POWER_CUT],
  ] as const
) {
  Deno.test(`FileStore: ${name}, at any step, leaves all that was stored, once and whole`, async () => {
    const seed = Math.floor(2 ** 32 * Math.random());
    const random = randomFrom(seed);
    const state: State = {
      disk: new TracedDisk(),
      databases: [],
      stored: [],
      pruned: 0,
    };
    for (const [i, step] of (await trace(durability)).entries()) {
      if ("call" in step) state.disk.apply(step.call);
      else if ("note" in step) {
        const { stored, pruned } = step.note;
        if (stored !== undefined) state.stored.push(stored);
        if (pruned !== undefined) state.pruned = pruned;
      } else {
        if (step.isSynced) state.databases = [];
        state.databases.push(step.database);
      }
      if (state.databases.length === 0) continue; // it does not exist yet
      for (const crash of crashes) {
        try {
          await check(state, { ...crash, durability, random });
        } catch (error) {
          throw new Error(`Failed at step ${i} with seed ${seed}`, {
            cause: error,
          });
        }
      }
    }
  });
}
