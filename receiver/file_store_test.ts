/** A store in a file: the suite for all of them, and what only this one promises. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fs from "node:fs";
import process from "node:process";
import { DatabaseSync } from "node:sqlite";
import { Spool } from "../spool/mod.ts";
import { turns } from "../testing/event_loop.ts";
import {
  diskFull,
  FaultySqlite,
  sqliteError,
} from "../testing/faulty_sqlite.ts";
import { assertRefused, overwrite, sql } from "../testing/store_files.ts";
import { batchOf, testStore, textOf } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";
import { TracedFiles } from "../testing/traced_files.ts";
import { FileStore } from "./file_store.ts";
import { SqliteStore } from "./sqlite_store.ts";
import { type Batch, StoreError } from "./store.ts";

const MIB = 1024 * 1024;
const QUICK = { durability: "process" } as const;

testStore({
  name: "FileStore",
  isSorted: false,
  survives: true,
  async makePlace() {
    const folder = await temporary();
    const path = folder.file("received.log");
    return {
      open: () => Promise.resolve(new FileStore(path, QUICK)),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});

/** Registers a test with a folder, and a path in it. */
function test(
  name: string,
  work: (path: string, folder: string) => Promise<void>,
  options: Omit<Deno.TestDefinition, "name" | "fn"> = {},
): void {
  Deno.test(`FileStore: ${name}`, options, async () => {
    await using folder = await temporary();
    await work(folder.file("received.log"), folder.file("").slice(0, -1));
  });
}

/** Makes batches "a-0", "a-1" and so on. */
function batchesOf(texts: readonly string[], age = 0): Promise<Batch[]> {
  return Promise.all(texts.map((text, i) => batchOf(`a-${i}`, text, age)));
}

/** Stores batches, and closes the file. */
async function fill(path: string, ...texts: string[]): Promise<void> {
  await using store = new FileStore(path, QUICK);
  for (const batch of await batchesOf(texts)) await store.add(batch);
}

/** What a query of the keys yields, which no store has open. */
function keysOf(path: string, query: string): Record<string, unknown> {
  const db = new DatabaseSync(`${path}-keys`);
  const row = db.prepare(query).get()!;
  db.close();
  return { ...row };
}

// -- What is recognised when it is opened --

test(
  "a file without keys is refused, and not changed",
  async (path, folder) => {
    await Deno.writeTextFile(path, "a log of somebody");
    const reason =
      /it has 17 bytes and no keys beside it, in .*-keys; choose another path/;
    const open = () => new FileStore(path);
    assertRefused(open, folder, "foreign", reason);
    // Nor if the file of the keys is empty.
    await Deno.writeTextFile(`${path}-keys`, "");
    assertRefused(open, folder, "foreign", reason);
  },
);

test(
  "a file that is not that of the keys is refused, although they have no batch",
  async (path, folder) => {
    await fill(path);
    await Deno.rename(path, `${path}-old`); // keeps its inode
    await Deno.writeTextFile(path, "a log of somebody");
    const open = () => new FileStore(path);
    const reason =
      /it has 17 bytes, of which .*-keys has no key; move it away, or choose another path/;
    assertRefused(open, folder, "foreign", reason);
  },
);

test(
  "keys that are those of nothing are refused, and not changed",
  async (path, folder) => {
    await new Spool(`${path}-spool`, () => {}).close();
    await new SqliteStore(`${path}-store`).close();
    sql(`${path}-other`, "create table t (x)");
    await Deno.writeTextFile(`${path}-text`, "hello\n".repeat(100));
    for (const kind of ["spool", "store", "other", "text"]) {
      await Deno.writeTextFile(`${path}-${kind}-log`, "");
      await Deno.copyFile(`${path}-${kind}`, `${path}-${kind}-log-keys`);
      const open = () => new FileStore(`${path}-${kind}-log`);
      const reason =
        /it is not a store, and was not changed; choose another path/;
      assertRefused(open, folder, "foreign", reason);
    }
  },
);

test(
  "keys of a later version are refused, and not changed",
  async (path, folder) => {
    await fill(path, "one");
    sql(`${path}-keys`, "pragma user_version = 2");
    const reason = /it was made by a later version of this library .*/;
    assertRefused(() => new FileStore(path), folder, "newer", reason);
  },
);

const ADVICE =
  /; put back the file that belongs to the keys, or move both away to start over/
    .source;

for (
  const [name, reason, change] of [
    [
      "is missing",
      /it is missing, but .*-keys is not/,
      (path: string) => Deno.removeSync(path),
    ],
    [
      "is too short",
      /it has 5 bytes, and should have 6/,
      (path: string) => Deno.truncateSync(path, 5),
    ],
    [
      "is empty",
      /it has 0 bytes, and should have 6/,
      (path: string) => Deno.truncateSync(path, 0),
    ],
    [
      "has other bytes",
      /its bytes are not those whose keys .*-keys has/,
      (path: string) => overwrite(path, 4, "W"),
    ],
    [
      "is another one",
      /its bytes are not those whose keys .*-keys has/,
      (path: string) => {
        Deno.removeSync(path);
        Deno.writeTextFileSync(path, "a log of somebody");
      },
    ],
  ] as const
) {
  test(
    `a file that ${name} is refused, and not changed`,
    async (path, folder) => {
      await fill(path, "one", "two");
      change(path);
      const open = () => new FileStore(path);
      const whole = new RegExp(reason.source + ADVICE);
      assertRefused(open, folder, "damaged", whole);
      assertRefused(open, folder, "damaged", whole);
    },
  );
}

test("a folder, and a path in none, are refused", async (path, folder) => {
  await Deno.mkdir(path);
  const open = () => new FileStore(path);
  assertRefused(open, folder, "io", /it is a folder/);
  const lost = () => new FileStore(`${folder}/none/x.log`);
  assertRefused(lost, folder, "io", /there is no folder .*/);
});

test("an empty file becomes a store", async (path) => {
  await Deno.writeTextFile(path, "");
  await fill(path, "one");
  assertEquals(await Deno.readTextFile(path), "one");
});

test("options are checked before anything is created", async (path, folder) => {
  const durability = "all" as "power";
  assertThrows(() => new FileStore(path, { durability }), RangeError);
  assertThrows(() => new FileStore(7 as unknown as string), TypeError);
  assertEquals([...Deno.readDirSync(folder)], []);
  await Promise.resolve();
});

test("bytes that have no key are cut off", async (path) => {
  await fill(path, "one", "two");
  await Deno.writeTextFile(path, "half a ba", { append: true });
  await using store = new FileStore(path);
  assertEquals(await Deno.readTextFile(path), "onetwo");
  await store.add(await batchOf("a-2", "three"));
  assertEquals(await Deno.readTextFile(path), "onetwothree");
});

test("bytes that have no key are cut off, although no batch has one", async (path) => {
  await fill(path);
  await Deno.writeTextFile(path, "half a ba");
  await using _ = new FileStore(path);
  assertEquals(await Deno.readTextFile(path), "");
});

test("a copy of its files is a store, too", async (path) => {
  await fill(path, "one", "two");
  const copy = `${path}-copy`;
  await Deno.copyFile(path, copy);
  await Deno.copyFile(`${path}-keys`, `${copy}-keys`);
  for (let i = 0; i < 2; i++) {
    await using store = new FileStore(copy);
    const three = await batchOf("a-2", "three");
    assertEquals(await store.add(three), i === 0 ? "stored" : "known");
    assertEquals(await textOf(store, "a"), "onetwothree");
    await Deno.writeTextFile(copy, "half a batch", { append: true });
  }
});

test("one store at a time, by whichever name", async (path) => {
  await using store = new FileStore(path);
  await store.add(await batchOf("a-0", "one"));
  Deno.symlinkSync(path, `${path}-link`);
  for (const name of [path, `${path}-link`]) {
    const error = assertThrows(() => new FileStore(name), StoreError);
    assertEquals(error.code, "in-use");
    assertStringIncludes(error.message, "this process has it open already");
  }
  await store.add(await batchOf("a-1", "two"));
  assertEquals(await textOf(store, "a"), "onetwo");
});

test("a copy that was not finished is removed, and one that was takes its place", async (path) => {
  await fill(path, "one", "two");
  const copy = `${path}-new`;
  await Deno.writeTextFile(copy, "tw");
  sql(`${path}-keys`, "update file set swapping = 2");
  await (new FileStore(path)).close();
  assertThrows(() => Deno.statSync(copy), Deno.errors.NotFound);
  assertEquals(await Deno.readTextFile(path), "onetwo");

  const decide = "update file set base = 3, inode = 'new', swapping = 1";
  sql(`${path}-keys`, decide);
  await Deno.writeTextFile(copy, "two");
  {
    // What is not in the file any more is known, until the next prune() forgets it.
    await using store = new FileStore(path);
    assertEquals(await textOf(store, "a"), "two");
    assertEquals(await store.add(await batchOf("a-0", "one")), "known");
  }
  assertThrows(() => Deno.statSync(copy), Deno.errors.NotFound);
  assertEquals(await Deno.readTextFile(path), "two");
  const row = keysOf(path, "select base, swapping from file");
  assertEquals(row, { base: 3, swapping: 0 });
});

test("a file of the name of the copy that is not the store's is not changed", async (path) => {
  const copy = `${path}-new`;
  await Deno.writeTextFile(copy, "mine");
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "old", 60_000));
  const error = await assertRejects(() => store.prune(0), StoreError);
  assertEquals(error.code, "foreign");
  assertMatch(error.message, /received.log-new exists, .*; move it away$/);
  assertEquals(await Deno.readTextFile(copy), "mine");
  await Deno.remove(copy);
  assertEquals(await store.prune(0), { batches: 1, bytes: 3 });
  // What is put there later is not, either.
  await Deno.writeTextFile(copy, "mine");
  await store.close();
  await (new FileStore(path)).close();
  assertEquals(await Deno.readTextFile(copy), "mine");
});

test("where the folder cannot be synced, a rename that a power cut has undone is made again", async (path) => {
  const { getBuiltinModule } = process;
  const openSync = (name: string, ...rest: [string]) => {
    if (!path.startsWith(`${name}/`)) return fs.openSync(name, ...rest);
    throw new Error("a folder cannot be opened");
  };
  process.getBuiltinModule =
    ((id: string) =>
      id === "node:fs"
        ? { ...fs, openSync }
        : getBuiltinModule.call(process, id)) as typeof getBuiltinModule;
  try {
    await using store = new FileStore(path);
    await store.add(await batchOf("a-0", "old", 60_000));
    await store.add(await batchOf("a-1", "new"));
    await store.prune(30_000);
  } finally {
    process.getBuiltinModule = getBuiltinModule;
  }
  assertEquals(await Deno.readTextFile(path), "new");
  await Deno.rename(path, `${path}-new`);
  await Deno.writeTextFile(path, "oldnew");
  {
    await using store = new FileStore(path);
    assertEquals(await textOf(store, "a"), "new");
  }
  assertEquals(await Deno.readTextFile(path), "new");
  assertEquals(keysOf(path, "select swapping from file"), { swapping: 0 });
});

// -- Adding --

test("the file has whole batches, each once, in the order of arrival", async (path) => {
  await using store = new FileStore(path);
  const batches = await batchesOf(
    Array.from({ length: 300 }, (_, i) => `${i}`.repeat(1 + i % 7) + "\n"),
  );
  await Promise.all(batches.map((batch) => store.add(batch)));
  await Promise.all(batches.map((batch) => store.add(batch)));
  const expected = batches.map(({ bytes }) => new TextDecoder().decode(bytes));
  assertEquals(await Deno.readTextFile(path), expected.join(""));
});

/** What the log has of a kind of statement. */
function countIn({ log }: FaultySqlite, statement: string): number {
  return log.filter((sql) => sql === statement).length;
}

test("what is added at the same time is one transaction", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new FileStore(path, QUICK);
  const batches = await batchesOf(Array(500).fill("x"));
  await store.add(await batchOf("b-0", "the first one of all"));
  sqlite.log.length = 0;
  await Promise.all(batches.map((batch) => store.add(batch)));
  assertEquals(countIn(sqlite, "commit"), 2); // of 256, and the rest
});

test("if the keys cannot be stored, neither are the bytes, and all may come again", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("b-0", "before "));
  const batches = await batchesOf(["one ", "two ", "three "]);
  const addAll = () =>
    Promise.allSettled(batches.map((batch) => store.add(batch)));
  for (
    const [error, code] of [
      [diskFull, "full"],
      [sqliteError(10, "disk I/O error"), "io"],
    ] as const
  ) {
    sqlite.fail = (sql) => sql === "commit" ? error : undefined;
    for (const result of await addAll()) {
      const { reason } = result as PromiseRejectedResult;
      assert(reason instanceof StoreError, `${reason}`);
      assertEquals(reason.code, code);
      assertMatch(reason.message, /^Cannot add to the store .*: /);
    }
    assertEquals(await Deno.readTextFile(path), "before ");
    assertEquals(await textOf(store, "a"), "");
    sqlite.fail = () => undefined;
  }
  for (const result of await addAll()) assertEquals(result.status, "fulfilled");
  assertEquals(await Deno.readTextFile(path), "before one two three ");
});

test("what is rejected is not stored later, although it came twice, or from two epochs", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("b-0", "before "));
  const keys = ["a-0", "a-0", "a.0123456789abcdef-0", "a-1"];
  const batches = await Promise.all(keys.map((key) => batchOf(key, key)));
  let failures = 2; // the second one after a checkpoint
  sqlite.fail = (sql) =>
    sql === "commit" && failures-- > 0 ? diskFull : undefined;
  const results = await Promise.allSettled(
    batches.map((batch) => store.add(batch)),
  );
  assertEquals(results.map(({ status }) => status), keys.map(() => "rejected"));
  // What was left of them would be stored before this one.
  await store.add(await batchOf("b-1", "after"));
  assertEquals(await Deno.readTextFile(path), "before after");
});

test("whichever statement fails, add() rejects with a StoreError, and the batch may come again", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new FileStore(path, QUICK);
  for (let nth = 1;; nth++) {
    const batch = await batchOf(`a-${nth}`, "x");
    let count = 0;
    sqlite.fail = () =>
      ++count === nth ? sqliteError(10, "disk I/O error") : undefined;
    const [result] = await Promise.allSettled([store.add(batch)]);
    sqlite.fail = () => undefined;
    if (result.status === "rejected") {
      assert(result.reason instanceof StoreError, `${result.reason}`);
      assertEquals(await store.add(batch), "stored");
    } else if (count < nth) break;
  }
});

test("a batch whose commit is made although it fails is stored by the next attempt", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "one "));
  let failures = 1;
  sqlite.failAfter = (sql) =>
    sql === "commit" && failures-- > 0
      ? sqliteError(10, "disk I/O error")
      : undefined;
  const batch = await batchOf("a-1", "two ");
  await assertRejects(() => store.add(batch), StoreError);
  assertEquals(await Deno.readTextFile(path), "one ");
  assertEquals(await store.add(batch), "stored");
  assertEquals(await store.add(await batchOf("a-2", "three")), "stored");
  assertEquals(await textOf(store, "a"), "one two three");
  assertEquals(await Deno.readTextFile(path), "one two three");
});

test("onBatch may take its time, and holds up no other batch", async (path) => {
  await using store = new FileStore(path, QUICK);
  const { promise, resolve } = Promise.withResolvers<void>();
  const slow = store.add(await batchOf("a-0", "slow"), () => promise);
  assertEquals(await store.add(await batchOf("a-1", "quick ")), "stored");
  resolve();
  assertEquals(await slow, "stored");
  assertEquals(await Deno.readTextFile(path), "quick slow");
});

test("what is unsynced is bounded and remembered, and synced when it is closed", async (path) => {
  const synced = () => keysOf(path, "select synced from file").synced;
  const copy = `${path}-copy`;
  /** As no other connection may read the keys while they are in use. */
  const syncedInCopy = () => {
    for (const suffix of ["", "-wal"]) {
      Deno.copyFileSync(`${path}-keys${suffix}`, `${copy}-keys${suffix}`);
    }
    return keysOf(copy, "select synced from file").synced;
  };
  {
    await using store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-0", "one"));
    assertEquals(syncedInCopy(), 0);
    for (let i = 1; i <= 5; i++) {
      await store.add(await batchOf(`a-${i}`, "x".repeat(15 * MIB)));
    }
    // It is done after the batch has been acknowledged, before the next one.
    await store.add(await batchOf("a-6", ""));
    assertEquals(syncedInCopy(), 6);
  }
  assertEquals(synced(), null);
  {
    await using store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-7", ""));
    assertEquals(syncedInCopy(), 7);
  }
  {
    await using store = new FileStore(path);
    assertEquals(syncedInCopy(), null);
    await store.add(await batchOf("a-8", ""));
    await store.add(await batchOf("a-9", ""));
    // Bytes and keys are synced at the same time: only of the last one is it not sure.
    assertEquals(syncedInCopy(), 9);
  }
  assertEquals(synced(), null);
});

/** Stands in for the sync of a file, until disposed. */
function replaceSync(
  sync: (descriptor: number, callback: (error: Error) => void) => void,
): Disposable {
  const { fdatasync } = fs;
  Object.assign(fs, { fdatasync: sync });
  return { [Symbol.dispose]: () => void Object.assign(fs, { fdatasync }) };
}

const NO_ROOM = Object.assign(new Error("no room"), { code: "ENOSPC" });

test("onBatch is called for a batch that another add has failed to sync meanwhile", async (path) => {
  await using store = new FileStore(path);
  const batch = await batchOf("a-0", "one");
  const syncing = Promise.withResolvers<(error: Error) => void>();
  let first: Promise<unknown>;
  let fail: (error: Error) => void;
  {
    using _ = replaceSync((_, callback) => syncing.resolve(callback));
    first = store.add(batch);
    fail = await syncing.promise; // its key is in the database
  }
  let calls = 0;
  const second = store.add(batch, () => void calls++);
  await turns(3);
  fail(NO_ROOM);
  await assertRejects(() => first, StoreError);
  assertEquals(await second, "stored");
  assertEquals(calls, 1);
});

test("an add whose bytes cannot be synced stores nothing, though its keys were", async (path) => {
  await using store = new FileStore(path);
  await store.add(await batchOf("a-0", "one"));
  const batch = await batchOf("a-1", "two");
  {
    using _ = replaceSync((_, callback) => callback(NO_ROOM));
    const error = await assertRejects(() => store.add(batch), StoreError);
    assertEquals(error.code, "full");
  }
  assertEquals(Deno.readTextFileSync(path), "one");
  assertEquals(await store.add(await batchOf("a-1", "three")), "stored");
  assertEquals(Deno.readTextFileSync(path), "onethree");
  assertEquals(await textOf(store, "a"), "onethree");
});

test("what a power cut has taken of unsynced batches is forgotten, with all behind it", async (path) => {
  await fill(path, "one", "two", "three", "four");
  // Three is lost, and so is where four was; but two is surely synced.
  overwrite(path, "onetwo".length, "\0\0\0\0\0");
  const damage = "its bytes are not those whose keys";
  overwrite(path, "onetwothree".length, "FOUR");
  assertThrows(() => new FileStore(path), StoreError, damage);
  sql(`${path}-keys`, "update file set synced = 2");
  await using store = new FileStore(path);
  assertEquals(await textOf(store, "a"), "onetwo");
  assertEquals(await Deno.readTextFile(path), "onetwo");
  assertEquals(await store.add(await batchOf("a-2", "three")), "stored");
  assertEquals(await Deno.readTextFile(path), "onetwothree");
});

test(
  "what is surely synced is not forgotten, whatever has become of it",
  async (path, folder) => {
    await fill(path, "one", "two", "three");
    sql(`${path}-keys`, "update file set synced = 2");
    // A power cut takes nothing that was synced, and makes no other file of it.
    await Deno.copyFile(path, `${path}-copy`);
    overwrite(`${path}-copy`, 0, "other bytes");
    await Deno.rename(path, `${path}-own`);
    await Deno.rename(`${path}-copy`, path);
    const reason = new RegExp(
      /its bytes are not those whose keys .*-keys has/.source + ADVICE,
    );
    assertRefused(() => new FileStore(path), folder, "damaged", reason);
    await Deno.rename(`${path}-own`, path);
    overwrite(path, "one".length, "TWO");
    await using store = new FileStore(path);
    assertEquals(await Deno.readTextFile(path), "oneTWOthree");
    await assertRejects(() => textOf(store, "a"), StoreError, "batch 1 of a");
  },
);

test(
  'what was not synced is, before a store with durability "power" says that it was',
  async (path, folder) => {
    await fill(path, "one", "two");
    sql(`${path}-keys`, "update file set synced = 0"); // as if it had been killed
    const name = "received.log";
    using files = new TracedFiles<never>(folder, [name], `${name}-keys`);
    await (new FileStore(path)).close();
    const steps = files.steps.map((step) =>
      "call" in step ? step.call.do : "database" in step && step.isSynced
    );
    const isSynced = steps.indexOf("sync");
    assert(isSynced >= 0 && isSynced < steps.lastIndexOf(true), `${steps}`);
    assertEquals(keysOf(path, "select synced from file"), { synced: null });
  },
);

// -- Reading and forgetting --

test("bytes that have changed are not read", async (path) => {
  await fill(path, "before ", "changed", " after");
  overwrite(path, "before ".length + 3, "X");
  await using store = new FileStore(path);
  const reader = store.read("a").getReader();
  const { value } = await reader.read();
  assertEquals(new TextDecoder().decode(value), "before ");
  const error = await assertRejects(() => reader.read(), StoreError);
  assertEquals(error.code, "damaged");
  assertMatch(
    error.message,
    /^Cannot read from the store .*: batch 1 of a is not what was stored$/,
  );
});

test("prune() leaves a file that has what is kept, whatever is added meanwhile", async (path) => {
  await using store = new FileStore(path, QUICK);
  const old = await batchesOf(Array(5).fill("o".repeat(MIB)), 60_000);
  for (const batch of old) await store.add(batch);
  await store.add(await batchOf("b-0", "kept ".repeat(MIB)));
  const [pruned] = await Promise.all([
    store.prune(30_000),
    ...Array.from(
      { length: 100 },
      async (_, i) => await store.add(await batchOf(`c-${i}`, `${i} `)),
    ),
  ]);
  assertEquals(pruned, { batches: 5, bytes: 5 * MIB });
  const [kept, added] = [await textOf(store, "b"), await textOf(store, "c")];
  assertEquals(kept, "kept ".repeat(MIB));
  assertEquals(added.split(" ").length, 101);
  assertEquals(await Deno.readTextFile(path), kept + added);
  assertEquals(await textOf(store, "a"), "");
  assertEquals(await store.add(old[0]!), "known");
});

test("prune() keeps the mode of the file", async (path) => {
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "old", 60_000));
  for (const mode of [0o600, 0o666]) {
    await Deno.chmod(path, mode);
    await store.add(await batchOf(`a-${mode}`, "old", 60_000));
    assertEquals((await store.prune(30_000)).batches > 0, true);
    assertEquals((await Deno.stat(path)).mode! & 0o777, mode);
  }
}, { ignore: Deno.build.os === "windows" });

test("a program that has the old file open reads on in that", async (path) => {
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "old", 60_000));
  using file = await Deno.open(path);
  await store.prune(30_000);
  await store.add(await batchOf("a-1", "new"));
  const bytes = new Uint8Array(10);
  assertEquals(await file.read(bytes), 3);
  assertEquals(await file.read(bytes), null);
  assertEquals(await Deno.readTextFile(path), "new");
});

test("a reader reads on while the file is exchanged", async (path) => {
  await using store = new FileStore(path, QUICK);
  const add = async (key: string, text: string, age = 0) =>
    await store.add(await batchOf(key, text, age));
  await add("a-0", "zero", 60_000);
  await add("a-1", "one", 60_000);
  await add("a-2", "two");
  const reader = store.read("a").getReader();
  const next = async () =>
    new TextDecoder().decode((await reader.read()).value);
  assertEquals(await next(), "zero");
  await store.prune(30_000);
  assertEquals(await next(), "two");
  await add("a-3", "three");
  assertEquals(await next(), "three");
  await store.close();
  const error = await assertRejects(next, StoreError);
  assertEquals(error.code, "closed");
});

test(
  "a prune() that fails leaves the file as it is, and may be made again",
  async (path, folder) => {
    using sqlite = new FaultySqlite();
    await using store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-0", "old ", 60_000));
    await store.add(await batchOf("a-1", "new"));
    for (const step of ["base = ?", "swapping = ?"]) {
      sqlite.fail = (sql) =>
        sql.startsWith(`update file set ${step}`) ? diskFull : undefined;
      const error = await assertRejects(() => store.prune(30_000), StoreError);
      assertEquals(error.code, "full");
      assertMatch(error.message, /: the disk is full; free some space on it$/);
      assertEquals(await Deno.readTextFile(path), "old new");
      assertEquals(await textOf(store, "a"), "old new");
      assert(
        !Array.from(Deno.readDirSync(folder)).some(({ name }) =>
          name.endsWith("-new")
        ),
      );
    }
    // The last step of all: the exchange has happened.
    let count = 0;
    sqlite.fail = (sql) =>
      sql === "update file set swapping = ?" && count++ > 0
        ? diskFull
        : undefined;
    await assertRejects(() => store.prune(30_000), StoreError);
    assertEquals(await Deno.readTextFile(path), "new");
    sqlite.fail = () => undefined;
    await store.add(await batchOf("a-2", "er"));
    assertEquals(await store.prune(30_000), { batches: 1, bytes: 4 });
    assertEquals(await textOf(store, "a"), "newer");
    assertEquals(await Deno.readTextFile(path), "newer");
  },
);

test("a prune() whose copy cannot take its place ends the store, and the next one has all", async (path) => {
  const store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "old", 60_000));
  await store.add(await batchOf("a-1", "new"));
  await Deno.remove(path);
  await Deno.mkdir(path);
  const error = await assertRejects(() => store.prune(30_000), StoreError);
  assertEquals(error.code, "io");
  const batch = await batchOf("a-2", "er");
  const closed = await assertRejects(() => store.add(batch), StoreError);
  assertEquals(closed.code, "closed");
  await store.close();
  await Deno.remove(path);
  await using again = new FileStore(path);
  assertEquals(await again.add(batch), "stored");
  assertEquals(await Deno.readTextFile(path), "newer");
});

for (const isReadable of [true, false]) {
  const name = isReadable ? "" : ", and so does what looks for that,";
  test(`a prune() whose commit is made, although it fails${name} ends the store`, async (path) => {
    using sqlite = new FaultySqlite();
    const store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-0", "old", 60_000));
    await store.add(await batchOf("a-1", "new"));
    let hasFailed = false;
    sqlite.failAfter = (sql) => {
      const isLast = sqlite.log.at(-2)?.startsWith("update file set base = ?");
      if (sql !== "commit" || !isLast) return;
      hasFailed = true;
      return diskFull;
    };
    sqlite.fail = (sql) =>
      hasFailed && !isReadable && sql === "select swapping from file"
        ? sqliteError(10, "disk I/O error")
        : undefined;
    await assertRejects(() => store.prune(30_000), StoreError);
    const batch = await batchOf("a-2", "er");
    const error = await assertRejects(() => store.add(batch), StoreError);
    assertEquals(error.code, "closed");
    sqlite.fail = () => undefined;
    await using again = new FileStore(path);
    assertEquals(await again.add(batch), "stored");
    assertEquals(await Deno.readTextFile(path), "newer");
  });
}

test(
  "close() waits for a prune() that is under way, which fails",
  async (path, folder) => {
    const store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-0", "old", 60_000));
    for (let i = 1; i <= 8; i++) {
      await store.add(await batchOf(`a-${i}`, `${i}`.repeat(MIB)));
    }
    const batch = await batchOf("a-9", "nine");
    // From here on in one turn: otherwise prune() could be done before.
    const pruned = assertRejects(() => store.prune(30_000), StoreError);
    const added = store.add(batch);
    await store.close();
    assertEquals((await pruned).code, "closed");
    assertEquals(await added, "stored");
    const names = Array.from(Deno.readDirSync(folder), ({ name }) => name);
    assertEquals(
      names.sort(),
      ["", "-keys", "-keys-reserve"].map((suffix) => `received.log${suffix}`),
    );
    await using again = new FileStore(path);
    assertEquals(await again.prune(30_000), { batches: 1, bytes: 3 });
    assertEquals((await textOf(again, "a")).length, 8 * MIB + 4);
  },
);

test("close() waits for the end of prune(), whose copy would be in the way of the next store", async (path) => {
  const { getBuiltinModule } = process;
  const called = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const fdatasync = (descriptor: number, callback: fs.NoParamCallback) => {
    called.resolve();
    released.promise.then(() => fs.fdatasync(descriptor, callback));
  };
  process.getBuiltinModule =
    ((id: string) =>
      id === "node:fs"
        ? { ...fs, fdatasync }
        : getBuiltinModule.call(process, id)) as typeof getBuiltinModule;
  try {
    const store = new FileStore(path, QUICK);
    await store.add(await batchOf("a-0", "old", 60_000));
    const pruned = assertRejects(() => store.prune(30_000), StoreError);
    await called.promise;
    let isClosed = false;
    const closed = store.close().then(() => isClosed = true);
    await turns();
    assertEquals(isClosed, false);
    released.resolve();
    await closed;
    assertEquals((await pruned).code, "closed");
  } finally {
    process.getBuiltinModule = getBuiltinModule;
  }
});

test("prune() leaves nothing of a batch that is being synced meanwhile, and is forgotten", async (path) => {
  const { getBuiltinModule } = process;
  const called = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  let isHeld = false;
  const fdatasync = (descriptor: number, callback: fs.NoParamCallback) => {
    if (!isHeld) return fs.fdatasync(descriptor, callback);
    called.resolve();
    released.promise.then(() => fs.fdatasync(descriptor, callback));
  };
  process.getBuiltinModule =
    ((id: string) =>
      id === "node:fs"
        ? { ...fs, fdatasync }
        : getBuiltinModule.call(process, id)) as typeof getBuiltinModule;
  try {
    await using store = new FileStore(path);
    await store.add(await batchOf("a-0", "old", 60_000));
    isHeld = true;
    const adding = store.add(await batchOf("a-1", "late", 60_000));
    await called.promise;
    isHeld = false;
    const pruning = store.prune(30_000);
    await turns();
    released.resolve();
    assertEquals(await adding, "stored");
    assertEquals(await pruning, { batches: 2, bytes: 7 });
    assertEquals(await Deno.readTextFile(path), "");
  } finally {
    process.getBuiltinModule = getBuiltinModule;
  }
});
