/** A store in SQLite: the suite for all of them, and what only this one promises. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
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
import { FileStore } from "./file_store.ts";
import { SqliteStore, type SqliteTransaction } from "./sqlite_store.ts";
import { type OnBatch, StoreError } from "./store.ts";

const MIB = 1024 * 1024;
const QUICK = { durability: "process" } as const;

testStore({
  name: "SqliteStore",
  isSorted: true,
  survives: true,
  async makePlace() {
    const folder = await temporary();
    const path = folder.file("received.db");
    return {
      open: () => Promise.resolve(new SqliteStore(path, QUICK)),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});

/** Registers a test with a folder, and a path in it. */
function test(
  name: string,
  work: (path: string, folder: string) => Promise<void>,
): void {
  Deno.test(`SqliteStore: ${name}`, async () => {
    await using folder = await temporary();
    await work(folder.file("received.db"), folder.file("").slice(0, -1));
  });
}

/** Stores batches, and closes the file. */
async function fill(path: string, ...texts: string[]): Promise<void> {
  await using store = new SqliteStore(path, QUICK);
  for (const [i, text] of texts.entries()) {
    await store.add(await batchOf(`a-${i}`, text));
  }
}

// -- What is recognised when it is opened --

const FOREIGN = /it is not a store, and was not changed; choose another path/;

for (
  const [name, text] of [
    ["of text", "hello\n".repeat(100)],
    ["of one byte", "x"],
    ["of zeros", "\0".repeat(100_000)],
    ["that begins like a database", "SQLite format 3\0"],
  ] as const
) {
  test(`a file ${name} is refused, and not changed`, async (path, folder) => {
    await Deno.writeTextFile(path, text);
    assertRefused(() => new SqliteStore(path), folder, "foreign", FOREIGN);
  });
}

test(
  "another database, a spool and the keys of a FileStore are refused, and not changed",
  async (path, folder) => {
    sql(path, "create table t (x)");
    await new Spool(`${path}-spool`, () => {}).close();
    await new FileStore(`${path}-file`).close();
    for (const suffix of ["", "-spool", "-file-keys"]) {
      const open = () => new SqliteStore(path + suffix);
      assertRefused(open, folder, "foreign", FOREIGN);
    }
  },
);

test(
  "a store of a later version is refused, and not changed",
  async (path, folder) => {
    await fill(path, "one");
    sql(path, "pragma user_version = 2");
    const reason =
      /it was made by a later version of this library \(format 2; this one knows up to 1\); use that version/;
    assertRefused(() => new SqliteStore(path), folder, "newer", reason);
  },
);

test(
  "a store that was cut off is refused, and not changed",
  async (path, folder) => {
    await fill(path, "one", "x".repeat(MIB));
    await Deno.truncate(path, 100_000);
    const reason =
      /it is damaged: 100000 bytes are left of \d+; to start over, move it .*/;
    assertRefused(() => new SqliteStore(path), folder, "damaged", reason);
  },
);

test("a folder, and a path in none, are refused", async (path, folder) => {
  await Deno.mkdir(path);
  const open = () => new SqliteStore(path);
  assertRefused(open, folder, "io", /it is a folder/);
  const lost = () => new SqliteStore(`${folder}/none/x.db`);
  assertRefused(lost, folder, "io", /there is no folder .*/);
});

test("an empty file becomes a store", async (path) => {
  await Deno.writeTextFile(path, "");
  await fill(path, "one");
  await using store = new SqliteStore(path);
  assertEquals(await textOf(store, "a"), "one");
});

test("options are checked before anything is created", async (path, folder) => {
  const durability = "all" as "power";
  assertThrows(
    () => new SqliteStore(path, { durability }),
    RangeError,
    'durability must be "power" or "process"',
  );
  assertThrows(() => new SqliteStore(7 as unknown as string), TypeError);
  assertEquals([...Deno.readDirSync(folder)], []);
  await Promise.resolve();
});

test("one store at a time, by whichever name", async (path) => {
  await using store = new SqliteStore(path);
  await store.add(await batchOf("a-0", "one"));
  Deno.symlinkSync(path, `${path}-link`);
  for (const name of [path, `${path}-link`]) {
    const error = assertThrows(() => new SqliteStore(name), StoreError);
    assertEquals(error.code, "in-use");
    assertStringIncludes(error.message, "this process has it open already");
  }
  await store.add(await batchOf("a-1", "two"));
  assertEquals(await textOf(store, "a"), "onetwo");
});

// -- Transactions --

/** A table of one's own, and how many rows it has. */
function createTable(store: SqliteStore): () => number {
  store.transaction((db) => db.run("create table line (text unique)"));
  return () =>
    store.transaction((db) => db.all("select text from line")).length;
}

test("what onBatch writes is stored with its batch, or not at all", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const onBatch: OnBatch<SqliteTransaction> = ({ sequence }, db) => {
    db.run("insert into line values (?)", `${sequence}`);
    if (sequence % 2 === 1) throw new Error(`refused ${sequence}`);
  };
  const batches = await Promise.all(
    Array.from({ length: 10 }, (_, i) => batchOf(`a-${i}`, `${i}`)),
  );
  // All of one group.
  const results = await Promise.allSettled(
    batches.map((batch) => store.add(batch, onBatch)),
  );
  for (const [i, result] of results.entries()) {
    if (i % 2 === 0) assertEquals(result.status, "fulfilled");
    else {assertEquals(
        (result as PromiseRejectedResult).reason.message,
        `refused ${i}`,
      );}
  }
  assertEquals(count(), 5);
  assertEquals(await textOf(store, "a"), "02468");
});

test("a transaction that throws has changed nothing", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const failure = new Error("no");
  const work = (db: SqliteTransaction) => {
    db.run("insert into line values ('x')");
    assertEquals(db.all("select text from line"), [
      Object.assign(Object.create(null), { text: "x" }),
    ]);
    throw failure;
  };
  assertEquals(assertThrows(() => store.transaction(work)), failure);
  assertEquals(count(), 0);
  assertEquals(store.transaction(() => 7), 7);
});

test("a promise is refused, and what was done before it is undone", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const batch = await batchOf("a-0", "one");
  for (const fails of [false, true]) {
    const work = async (db: SqliteTransaction) => {
      db.run("insert into line values ('x')");
      await Promise.resolve();
      if (fails) throw new Error("which nobody handles");
      db.run("insert into line values ('y')");
    };
    await assertRejects(
      () => store.add(batch, (_, db) => work(db)),
      TypeError,
      "Cannot wait for a promise in a transaction",
    );
    assertThrows(() => store.transaction(work), TypeError, "for a promise");
  }
  const thenable = { then: () => {} };
  assertThrows(() => store.transaction(() => thenable), TypeError);
  assertEquals(count(), 0);
  assertEquals(await textOf(store, "a"), "");
});

for (
  const sql of [
    ...["begin", "COMMIT", "end", "Rollback", "savepoint x", "release batch"],
    ...["attach 'x' as x", "detach x", "vacuum", "pragma journal_mode = off"],
    ...["  commit", "; commit", ";;\n commit", "/* x */ commit"],
    ...["-- x\n commit", "/*/ x */--\n;/**/commit", "\ufeffcommit"],
  ]
) {
  test(`the statement ${JSON.stringify(sql)} is refused`, async (path) => {
    await using store = new SqliteStore(path, QUICK);
    const count = createTable(store);
    for (const method of ["run", "all"] as const) {
      const insert = (db: SqliteTransaction) => {
        db.run("insert into line values ('x')");
        try {
          db[method](sql);
        } catch (error) {
          assert(error instanceof TypeError, `${error}`);
          assertMatch(
            error.message,
            /^Cannot run a statement: \w+ is not allowed/,
          );
          db.run("insert into line values ('y')");
          throw error;
        }
      };
      assertThrows(() => store.transaction(insert), TypeError);
      const batch = await batchOf("a-0", "one");
      await assertRejects(() => store.add(batch, (_, db) => insert(db)));
    }
    assertEquals(count(), 0);
    assertEquals(await textOf(store, "a"), "");
  });
}

test("a second statement is refused, and the first one is not run", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  for (const rest of ["commit", "drop table line", "/* x */ select 1", "("]) {
    for (const method of ["run", "all"] as const) {
      const sql = `insert into line values ('x'); ${rest}`;
      const { message } = assertThrows(
        () => store.transaction((db) => db[method](sql)),
        TypeError,
      );
      assertStringIncludes(
        message,
        `another one follows it, ${JSON.stringify(rest)}`,
      );
    }
  }
  assertEquals(count(), 0);
  for (const rest of ["", ";", " ; \n", "; -- that is all", "; /* all */"]) {
    store.transaction((db) => db.run(`delete from line${rest}`));
  }
});

test("values are bound: none of them is part of a statement", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const evil = "'); drop table line; --";
  const onBatch: OnBatch<SqliteTransaction> = ({ id, bytes }, db) => {
    db.run("insert into line values (?)", id);
    db.run("insert into line values (?)", new TextDecoder().decode(bytes));
  };
  await store.add(await batchOf(`${evil} id-0`, evil), onBatch);
  assertEquals(count(), 2);
  assertEquals(await textOf(store, `${evil} id`), evil);
});

test("a transaction cannot be used once its function has returned", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const kept: SqliteTransaction[] = [];
  store.transaction((db) => void kept.push(db));
  assertThrows(() =>
    store.transaction((db) => {
      kept.push(db);
      throw new Error("no");
    })
  );
  await store.add(await batchOf("a-0", "one"), (_, db) => void kept.push(db));
  const use = (other: SqliteTransaction) => {
    assertThrows(
      () => other.run("insert into line values ('x')"),
      TypeError,
      "the transaction has ended",
    );
    assertThrows(() => other.all("select 1"), TypeError);
  };
  for (const transaction of kept) {
    use(transaction);
    // Nor while another one is under way.
    store.transaction(() => use(transaction));
  }
  assertEquals(kept.length, 3);
  assertEquals(count(), 0);
});

test("a transaction in another one is refused, and the store remains usable", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  const batch = await batchOf("a-0", "one");
  const within = () => store.transaction(() => {});
  for (
    const work of [
      () => Promise.resolve(store.transaction(within)),
      () => store.add(batch, within),
    ]
  ) {
    await assertRejects(
      async () => await work(),
      TypeError,
      "a transaction of it is under way",
    );
  }
  // What waits for the end of it is no trouble.
  const later: Promise<unknown>[] = [];
  store.transaction(() => void later.push(store.add(batch)));
  assertEquals(await Promise.all(later), ["stored"]);
});

/** Statements after which SQLite has undone the whole transaction. */
const UNDOING: Record<string, (db: SqliteTransaction) => void> = {
  "insert or rollback": (db) => {
    db.run("insert into line values ('first')");
    db.run("insert or rollback into line values ('first')");
  },
  "raise(rollback)": (db) => db.run("insert into forbidden values (1)"),
};

for (const [name, undo] of Object.entries(UNDOING)) {
  test(`after ${name}, which undoes everything, no statement is run outside of a transaction`, async (path) => {
    await using store = new SqliteStore(path, QUICK);
    const count = createTable(store);
    store.transaction((db) => {
      db.run("create table forbidden (x)");
      db.run(
        "create trigger no before insert on forbidden begin select raise(rollback, 'no'); end",
      );
    });
    const work = (db: SqliteTransaction) => {
      const first = assertThrows(() => undo(db), Error);
      const second = assertThrows(() =>
        db.run("insert into line values ('x')")
      );
      assertEquals(second, first);
      // It is of no use to go on as if nothing had happened.
    };
    assertThrows(() => store.transaction(work));
    assertEquals(count(), 0);
    const batches = await Promise.all(
      Array.from({ length: 5 }, (_, i) => batchOf(`a-${i}`, `${i}`)),
    );
    const results = await Promise.allSettled(
      batches.map((batch) =>
        store.add(batch, ({ sequence }, db) => {
          if (sequence === 2) work(db);
          else db.run("insert into line values (?)", `${sequence}`);
        })
      ),
    );
    assertEquals(
      results.map(({ status }) => status === "fulfilled"),
      [true, true, false, true, true],
    );
    // What it was, and not what became of the transaction.
    const { reason } = results[2] as PromiseRejectedResult;
    assert(reason instanceof StoreError, `${reason}`);
    assertEquals(reason.code, "io");
    assertMatch(reason.message, /: (UNIQUE constraint failed: line.text|no)$/);
    assertEquals(count(), 4);
    assertEquals(await textOf(store, "a"), "0134");
  });
}

test("a constraint that is checked at the end of the transaction refuses only the batch that violates it", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  store.transaction((db) => {
    db.run("create table host (name primary key)");
    db.run(
      "create table event (host references host deferrable initially deferred)",
    );
    db.run("insert into host values ('known')");
  });
  const batches = await Promise.all(
    Array.from({ length: 5 }, (_, i) => batchOf(`a-${i}`, `${i}`)),
  );
  const results = await Promise.allSettled(
    batches.map((batch) =>
      store.add(batch, ({ sequence }, db) => {
        const host = sequence === 2 ? "unknown" : "known";
        db.run("insert into event values (?)", host);
      })
    ),
  );
  assertEquals(
    results.map(({ status }) => status === "fulfilled"),
    [true, true, false, true, true],
  );
  assertEquals(await textOf(store, "a"), "0134");
});

// -- Groups --

/** What the log has of a kind of statement. */
function countIn({ log }: FaultySqlite, statement: string): number {
  return log.filter((sql) => sql === statement).length;
}

test("what is added at the same time is one transaction", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  const batches = await Promise.all(
    Array.from({ length: 500 }, (_, i) => batchOf(`a-${i}`, `${i} `)),
  );
  sqlite.log.length = 0;
  await Promise.all(batches.map((batch) => store.add(batch)));
  assertEquals(countIn(sqlite, "commit"), 2); // of 256, and the rest
  const large = await Promise.all(
    Array.from({ length: 5 }, (_, i) => batchOf(`b-${i}`, "x".repeat(MIB + 1))),
  );
  sqlite.log.length = 0;
  await Promise.all(large.map((batch) => store.add(batch)));
  assertEquals(countIn(sqlite, "commit"), 2); // of three, and two
});

test("if a commit fails, all that it had is rejected, none of it is stored, and it may come again", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  const batches = await Promise.all(
    Array.from({ length: 10 }, (_, i) => batchOf(`a-${i}`, `${i}`)),
  );
  const onBatch: OnBatch<SqliteTransaction> = ({ sequence }, db) =>
    db.run("insert into line values (?)", `${sequence}`);
  const addAll = () =>
    Promise.allSettled(batches.map((batch) => store.add(batch, onBatch)));
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
    sqlite.fail = () => undefined;
    assertEquals(count(), 0);
    assertEquals(await textOf(store, "a"), "");
  }
  for (const result of await addAll()) assertEquals(result.status, "fulfilled");
  assertEquals(count(), 10);
  assertEquals(await textOf(store, "a"), "0123456789");
});

test("if the disk is full for a statement of onBatch, the error says so, and nothing is stored", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  const count = createTable(store);
  sqlite.fail = (sql) =>
    sql.startsWith("insert into line values") ? diskFull : undefined;
  const error = await assertRejects(
    async () =>
      await store.add(
        await batchOf("a-0", "one"),
        (_, db) => db.run("insert into line values ('x')"),
      ),
    StoreError,
  );
  assertEquals(error.code, "full");
  assertEquals(count(), 0);
  assertEquals(await textOf(store, "a"), "");
});

test("if the disk is full once, a checkpoint makes room, and the sender does not notice", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  let failures = 0;
  sqlite.fail = (sql) =>
    sql === "commit" && failures++ === 0 ? diskFull : undefined;
  assertEquals(await store.add(await batchOf("a-0", "one")), "stored");
  assertEquals(failures, 2);
  assertEquals(await textOf(store, "a"), "one");
});

test('each commit is synced with durability "power", and none with "process"', async (path) => {
  for (const durability of ["power", "process"] as const) {
    using sqlite = new FaultySqlite();
    await using store = new SqliteStore(`${path}-${durability}`, {
      durability,
    });
    await store.add(await batchOf("a-0", "one"));
    store.transaction(() => {});
    const modes = sqlite.log.filter((sql) =>
      sql.startsWith("pragma synchronous")
    );
    const mode = durability === "power" ? "full" : "normal";
    assertEquals(modes, [`pragma synchronous = ${mode}`]);
  }
});

// -- Reading and forgetting --

test("bytes that have changed are not read", async (path) => {
  const text = "a text that is nowhere else";
  await fill(path, "before ", text, " after");
  const bytes = Deno.readFileSync(path);
  const at = new TextDecoder("latin1").decode(bytes).indexOf(text);
  assert(at > 0);
  overwrite(path, at + 3, "X");
  await using store = new SqliteStore(path);
  const reader = store.read("a").getReader();
  assertEquals(
    new TextDecoder().decode((await reader.read()).value),
    "before ",
  );
  const error = await assertRejects(() => reader.read(), StoreError);
  assertEquals(error.code, "damaged");
  assertMatch(
    error.message,
    /^Cannot read from the store .*: batch 1 of a is not what was stored$/,
  );
});

test("prune() forgets in small steps, between which batches are added", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  const old = await Promise.all(
    Array.from({ length: 600 }, (_, i) => batchOf(`old-${i}`, `${i}`, 60_000)),
  );
  await Promise.all(old.map((batch) => store.add(batch)));
  sqlite.log.length = 0;
  const pruned = store.prune(30_000);
  const order: string[] = [];
  void pruned.then(() => order.push("pruned"));
  await store.add(await batchOf("new-0", "new"));
  order.push("added");
  assertEquals(await pruned, { batches: 600, bytes: 10 + 180 + 1500 });
  assertEquals(order, ["added", "pruned"]);
  // Three steps, one that finds nothing, and the batch.
  assertEquals(countIn(sqlite, "commit"), 5);
  assertEquals(await textOf(store, "new"), "new");
  assertEquals(await textOf(store, "old"), "");
});

test("prune() counts a batch once, although it is made again on a full disk", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  await store.add(await batchOf("a-0", "old", 60_000));
  let failures = 0;
  sqlite.fail = (sql) =>
    sql === "commit" && failures++ === 0 ? diskFull : undefined;
  assertEquals(await store.prune(30_000), { batches: 1, bytes: 3 });
  // Once more after a checkpoint, and the step that finds nothing.
  assertEquals(failures, 3);
});

test("whichever statement fails, add() rejects with a StoreError, and the batch may come again", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  for (const isLasting of [false, true]) {
    for (let nth = 1;; nth++) {
      const batch = await batchOf(`${isLasting}-${nth}`, "x");
      let count = 0;
      sqlite.fail = (sql) =>
        !sql.startsWith("rollback") && ++count >= nth &&
          (isLasting || count === nth)
          ? sqliteError(10, "disk I/O error")
          : undefined;
      const [result] = await Promise.allSettled([store.add(batch)]);
      sqlite.fail = () => undefined;
      if (result.status === "rejected") {
        assert(result.reason instanceof StoreError, `${result.reason}`);
        assertEquals(await store.add(batch), "stored");
      } else if (count < nth) break;
    }
  }
});

test("if nothing can be read on a full disk, that it is full is what is reported", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  const [one, two] = [await batchOf("a-0", "one"), await batchOf("a-1", "two")];
  await store.add(one);
  let isBroken = true;
  sqlite.fail = (sql) => {
    if (!isBroken) return;
    if (sql === "begin immediate") return diskFull;
    if (sql.includes("from pruned")) return sqliteError(10, "disk I/O error");
  };
  for (const batches of [[two], [one, two]]) {
    const adding = batches.map((batch) => store.add(batch));
    const last = adding.at(-1)!;
    await Promise.allSettled(adding);
    assertEquals((await assertRejects(() => last, StoreError)).code, "full");
  }
  isBroken = false;
  assertEquals(await store.add(two), "stored");
});

test("an opening that fails leaves the file to the next one", async (path) => {
  using sqlite = new FaultySqlite();
  await fill(path, "one");
  for (const statement of ["begin", "commit", "pragma"]) {
    for (let nth = 1;; nth++) {
      let count = 0;
      sqlite.fail = (sql) =>
        sql.startsWith(statement) && ++count === nth
          ? sqliteError(10, "disk I/O error")
          : undefined;
      try {
        await new SqliteStore(path, QUICK).close();
      } catch (error) {
        assertEquals((error as StoreError).code, "io");
      }
      sqlite.fail = () => undefined;
      await using store = new SqliteStore(path, QUICK);
      assertEquals(await textOf(store, "a"), "one");
      if (count < nth) break;
    }
  }
});

test("prune() counts what it has forgotten once, although the disk was full", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  await store.add(await batchOf("a-0", "one", 60_000));
  let failures = 1;
  sqlite.fail = (sql) =>
    sql === "commit" && failures-- > 0 ? diskFull : undefined;
  assertEquals(await store.prune(0), { batches: 1, bytes: 3 });
});

for (const pragma of ["page_count", "freelist_count"]) {
  test(`prune() rejects with a StoreError if the disk fails at the end, in ${pragma}`, async (path) => {
    using sqlite = new FaultySqlite();
    await using store = new SqliteStore(path, QUICK);
    sqlite.fail = (sql) =>
      sql === `pragma ${pragma}`
        ? sqliteError(10, "disk I/O error")
        : undefined;
    const error = await assertRejects(() => store.prune(0), StoreError);
    assertEquals(error.code, "io");
    assertMatch(error.message, /^Cannot prune the store .*: disk I\/O error$/);
  });
}

test("prune() takes no more bytes in one step than that may free", async (path) => {
  using sqlite = new FaultySqlite();
  await using store = new SqliteStore(path, QUICK);
  for (let i = 0; i < 6; i++) {
    await store.add(await batchOf(`a-${i}`, "x".repeat(3 * MIB), 60_000));
  }
  sqlite.log.length = 0;
  await store.prune(0);
  const deletions = sqlite.log.filter((sql) =>
    sql === "commit" || sql.startsWith("delete from batch")
  );
  const deletion = "delete from batch where number = ?";
  assertEquals(deletions.slice(0, 4), [deletion, "commit", deletion, "commit"]);
});

test("what is known of forgotten batches is one row for each run of numbers", async (path) => {
  {
    await using store = new SqliteStore(path, QUICK);
    for (const sequence of [3, 0, 1, 2, 5, 9, 7, 8]) {
      await store.add(await batchOf(`a-${sequence}`, "", 60_000));
      if (sequence % 2 === 0) await store.prune(30_000);
    }
    await store.prune(30_000);
  }
  const db = new DatabaseSync(path);
  const rows = db.prepare("select first, last from pruned order by first")
    .all();
  db.close();
  assertEquals(
    rows.map(({ first, last }) => [first, last]),
    [[0, 3], [5, 5], [7, 9]],
  );
});

test("the file becomes shorter when most of it has been forgotten", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  for (let i = 0; i < 20; i++) {
    await store.add(
      await batchOf(`a-${i}`, "x".repeat(MIB), i < 19 ? 60_000 : 0),
    );
  }
  const before = Deno.statSync(path).size;
  assert(before > 15 * MIB, `${before}`);
  await store.prune(30_000);
  const after = Deno.statSync(path).size;
  assert(after < 6 * MIB, `${after}`);
  assertEquals((await textOf(store, "a")).length, MIB);
});

test("the WAL stays small, although each batch changes other pages", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  let largest = 0;
  for (let round = 0; round < 12; round++) {
    const batches = await Promise.all(Array.from(
      { length: 256 },
      () => batchOf(`${crypto.randomUUID()}${"x".repeat(400)}-0`, "x", 60_000),
    ));
    await Promise.all(batches.map((batch) => store.add(batch)));
    largest = Math.max(largest, Deno.statSync(`${path}-wal`).size);
  }
  await store.prune(0);
  largest = Math.max(largest, Deno.statSync(`${path}-wal`).size);
  // What one transaction adds, on top of what makes a checkpoint due.
  assert(largest < 16 * MIB, `${largest / MIB} MiB`);
});

test("a reader that is under way reads on after prune() and close() as far as it may", async (path) => {
  await using store = new SqliteStore(path, QUICK);
  for (let i = 0; i < 4; i++) {
    await store.add(await batchOf(`a-${i}`, `${i}`, i < 3 ? 60_000 : 0));
  }
  const reader = store.read("a").getReader();
  const next = async () =>
    new TextDecoder().decode((await reader.read()).value);
  assertEquals(await next(), "0");
  await store.prune(30_000);
  assertEquals(await next(), "3");
  await store.close();
  const error = await assertRejects(next, StoreError);
  assertEquals(error.code, "closed");
});

test("close() stores what has been added, and ends a prune() that is under way", async (path) => {
  const store = new SqliteStore(path, QUICK);
  const old = await Promise.all(
    Array.from({ length: 600 }, (_, i) => batchOf(`old-${i}`, "", 60_000)),
  );
  await Promise.all(old.map((batch) => store.add(batch)));
  const batch = await batchOf("a-0", "one");
  // From here on in one turn: otherwise prune() could be done before.
  const pruned = assertRejects(() => store.prune(0), StoreError);
  const added = store.add(batch);
  await store.close();
  assertEquals(await added, "stored");
  assertEquals((await pruned).code, "closed");
  assertThrows(
    () => store.transaction(() => {}),
    StoreError,
    "has been closed",
  );
  await turns(2);
  const db = new DatabaseSync(path);
  const { rows } = db.prepare("select count(*) as rows from batch").get()!;
  db.close();
  assert(Number(rows) > 0 && Number(rows) <= 345, `${rows} rows are left`);
});
