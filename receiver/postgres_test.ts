/** A store in PostgreSQL: the suite for all of them, and what only this one promises. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { fileURLToPath } from "node:url";
import { Condition } from "../testing/condition.ts";
import { POSTGRES, Postgres, type Row } from "../testing/postgres.ts";
import { find, poll, testWith } from "../testing/real_servers.ts";
import { printed } from "../testing/sending.ts";
import { batchOf, testStore, textOf } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";
import {
  PostgresStore,
  type PostgresStoreOptions,
  type PostgresTransaction,
} from "./postgres.ts";
import { receive } from "./receive.ts";
import {
  type AddResult,
  BatchRefusedError,
  StoreError,
  type StoreErrorCode,
} from "./store.ts";

/** Short, for what waits for it to pass, in ms. */
const TIMEOUT = 300;
/** Of connections to nobody: no service has the port, and only root may take it. */
const NOBODY = "postgres://app:hunter2@127.0.0.1:2/app";

const isMissing = find(POSTGRES) === undefined;
const testIt = testWith(POSTGRES);
let postgres: Postgres;
let places = 0;

Deno.test.beforeAll(async () => {
  if (!isMissing) postgres = await Postgres.start();
});
Deno.test.afterAll(async () => {
  if (!isMissing) await postgres[Symbol.asyncDispose]();
});

/** A schema of its own, which is dropped in the end. */
class Place implements AsyncDisposable {
  readonly schema = `place_${places++}`;

  open(options?: PostgresStoreOptions, url = postgres.url): PostgresStore {
    return new PostgresStore(url, { schema: this.schema, ...options });
  }

  /** Opens it by connections for which a setting has another default. */
  openWith(setting: string): PostgresStore {
    const parameters = new URLSearchParams({ options: `-c ${setting}` });
    return this.open({}, `${postgres.url}?${parameters}`);
  }

  /** Runs a query in which `S` is the schema. */
  query(sql: string, values?: unknown[]): Promise<Row[]> {
    return postgres.query(this.sql(sql), values);
  }

  sql(text: string): string {
    return text.replaceAll("S.", `${this.schema}.`);
  }

  /** How many rows a table has. */
  async count(table: string): Promise<number> {
    const [row] = await this.query(`select count(*)::int from S.${table}`);
    return row!.count as number;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await postgres.query(`drop schema if exists ${this.schema} cascade`);
  }
}

testStore({
  name: "PostgresStore",
  isSorted: true,
  survives: true,
  ignore: isMissing,
  makePlace() {
    const place = new Place();
    return Promise.resolve({
      open: () => Promise.resolve(place.open()),
      [Symbol.asyncDispose]: () => place[Symbol.asyncDispose](),
    });
  },
});

function test(
  criterion: string,
  work: (store: PostgresStore, place: Place) => Promise<void>,
): void {
  testIt(`PostgresStore: ${criterion}`, async () => {
    await using place = new Place();
    await using store = place.open();
    await work(store, place);
  });
}

/** Asserts that it fails with a code, and returns the error. */
async function assertFails(
  work: () => Promise<unknown>,
  code: StoreErrorCode,
): Promise<StoreError> {
  const error = await assertRejects(work, StoreError);
  assertEquals([error.code, printed(error).includes("hunter2")], [code, false]);
  return error;
}

/** Adds a batch, again and again for as long as the database is busy. */
async function persist(add: () => Promise<AddResult>): Promise<AddResult> {
  let result: AddResult | undefined;
  await poll("a batch to be added", async () => {
    try {
      result = await add();
    } catch (error) {
      if (!(error instanceof StoreError && error.code === "busy")) throw error;
    }
    return result !== undefined;
  });
  return result!;
}

/** Opens it with a connection that is not waited for any more, and a short timeout. */
async function openImpatient(
  place: Place,
  url = postgres.url,
): Promise<PostgresStore> {
  const store = place.open({ maxConnections: 1, timeout: TIMEOUT }, url);
  const batch = await batchOf(`${crypto.randomUUID()}-0`, "");
  assertEquals(await persist(() => store.add(batch)), "stored");
  return store;
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, number) => number);
}

// -- Several receivers --

test("several stores create the tables at the same time", async (_, place) => {
  const stores = numbers(8).map(() => place.open());
  const results = await Promise.all(
    stores.map(async (store, i) => store.add(await batchOf(`a-${i}`, `${i}`))),
  );
  assertEquals(results, stores.map(() => "stored"));
  assertEquals(await textOf(stores[0]!, "a"), "01234567");
  assertEquals(await place.count("store"), 1);
  for (const store of stores) await store.close();
});

test(
  "a batch that two stores add at the same time is stored once",
  async (store, place) => {
    await place.query("create schema S".replace("S", place.schema));
    await place.query("create table S.seen (number int)");
    await using other = place.open();
    const onBatch = async (
      { sequence }: { sequence: number },
      transaction: PostgresTransaction,
    ) => {
      const insert = place.sql("insert into S.seen values ($1)");
      await transaction.query(insert, [sequence]);
    };
    const count = 200;
    const batches = await Promise.all(
      numbers(count).map((i) => batchOf(`a-${i}`, `${i};`)),
    );
    // Each with onBatch and without it, as the ways to the database differ.
    const results = await Promise.all(
      [store, other].flatMap((store) =>
        batches.flatMap((batch) => [
          store.add(batch, onBatch),
          store.add(batch, onBatch),
        ])
      ),
    );
    const stored = results.filter((result) => result === "stored");
    const known = results.filter((result) => result === "known");
    assertEquals([stored.length, known.length], [count, 3 * count]);
    assertEquals(await textOf(store, "a"), numbers(count).join(";") + ";");
    const seen = await place.query("select number from S.seen order by number");
    assertEquals(seen.map(({ number }) => number), numbers(count));
  },
);

test(
  "a batch that another store is adding is waited for",
  async (store, place) => {
    await using other = place.open();
    const batch = await batchOf("a-0", "one");
    const [isAdding, mayEnd] = [
      Promise.withResolvers<void>(),
      Promise.withResolvers<void>(),
    ];
    const first = store.add(batch, async () => {
      isAdding.resolve();
      await mayEnd.promise;
      throw new BatchRefusedError("no");
    });
    await isAdding.promise;
    const second = other.add(batch);
    await poll("the second to wait", async () => {
      const waiting = await postgres.query(
        "select from pg_stat_activity where wait_event_type = 'Lock'",
      );
      return waiting.length === 1;
    });
    mayEnd.resolve();
    await assertRejects(() => first, BatchRefusedError);
    assertEquals(await second, "stored");
  },
);

test(
  "an epoch with a number that another one is adding waits for it",
  async (store, place) => {
    await using other = place.open();
    const [isAdding, mayEnd] = [
      Promise.withResolvers<void>(),
      Promise.withResolvers<void>(),
    ];
    const first = store.add(
      await batchOf("a.0123456789abcdef-0", "one"),
      async () => {
        isAdding.resolve();
        await mayEnd.promise;
      },
    );
    await isAdding.promise;
    let hasEnded = false;
    const second = other.add(await batchOf("a.fedcba9876543210-0", "two"))
      .finally(() => hasEnded = true);
    await poll("the second to wait", async () => {
      const waiting = await postgres.query(
        "select from pg_stat_activity where wait_event_type = 'Lock'",
      );
      return waiting.length === 1 || hasEnded;
    });
    mayEnd.resolve();
    assertEquals(await first, "stored");
    assertEquals(await second, "overlap");
  },
);

test(
  "a batch that is forgotten while it comes again is not stored twice",
  async (store, place) => {
    await using other = place.open();
    const count = 40;
    const batches = await Promise.all(
      numbers(count).map((i) => batchOf(`s${i % 2}-${i}`, `${i}`, 60_000)),
    );
    const stored = numbers(count).map(() => 0);
    let hasEnded = false;
    let forgotten = 0;
    const prune = async (store: PostgresStore) => {
      while (!hasEnded) {
        const { batches } = await store.prune(30_000);
        forgotten += batches;
      }
    };
    const pruning = Promise.all([prune(store), prune(other)]);
    const add = async (store: PostgresStore, i: number) => {
      const result = await store.add(batches[i]!);
      if (result === "stored") stored[i]!++;
      else assertEquals(result, "known");
    };
    try {
      // Some come for the first time while others come again.
      for (let end = 1; end <= count; end++) {
        const last = numbers(end).slice(-8);
        await Promise.all(
          last.flatMap((i) => [add(store, i), add(other, i), add(store, i)]),
        );
      }
    } finally {
      hasEnded = true;
      await pruning;
    }
    forgotten += (await store.prune(30_000)).batches;
    assertEquals(stored, numbers(count).map(() => 1));
    assertEquals([forgotten, await place.count("batch")], [count, 0]);
  },
);

test(
  "what is forgotten takes few rows, in whatever order",
  async (store, place) => {
    await using other = place.open();
    const count = 600;
    const order = numbers(count).map((i) => 7 * i % count);
    // At the same time: many are the oldest.
    const received = Date.now() - 60_000;
    await Promise.all(order.map(async (i) => {
      await store.add({ ...await batchOf(`a-${i}`, "old"), received });
    }));
    await store.add(await batchOf(`a-${count}`, "new"));
    const pruned = await Promise.all([
      store.prune(30_000),
      other.prune(30_000),
    ]);
    assertEquals(pruned[0].batches + pruned[1].batches, count);
    assertEquals(pruned[0].bytes + pruned[1].bytes, 3 * count);
    const rows = await place.query(
      "select first::int, last::int from S.pruned",
    );
    assertEquals(rows, [{ first: 0, last: count - 1 }]);
    assertEquals(await textOf(store, "a"), "new");
  },
);

test(
  "what is forgotten is a row for each run of numbers, in whatever order that was",
  async (store, place) => {
    const count = 60;
    const order = numbers(count).sort(() => Math.random() - 0.5);
    const forgotten = new Set<number>();
    while (order.length > 0) {
      const some = order.splice(0, 1 + Math.floor(9 * Math.random()));
      for (const i of some) {
        await store.add(await batchOf(`a-${i}`, "old", 60_000));
        forgotten.add(i);
      }
      assertEquals((await store.prune(30_000)).batches, some.length);
      const sorted = [...forgotten].sort((a, b) => a - b);
      const expected = {
        firsts: sorted.filter((i) => !forgotten.has(i - 1)),
        lasts: sorted.filter((i) => !forgotten.has(i + 1)),
      };
      const rows = await place.query(
        "select array_agg(first::int order by first) as firsts, array_agg(last::int order by last) as lasts from S.pruned",
      );
      assertEquals(rows, [expected]);
      for (const i of numbers(count)) {
        if (!forgotten.has(i)) continue;
        assertEquals(await store.add(await batchOf(`a-${i}`, "old")), "known");
      }
    }
  },
);

test(
  "a step of prune() reads no more than it forgets, however long the stream, and however many gaps it has",
  async (store, place) => {
    await store.add(await batchOf("a-0", "one"));
    await place.query(
      "insert into S.batch select 'a', '', i, '', 0, now(), '', '' from generate_series(1, 5000) i",
    );
    await place.query(
      "insert into S.pruned select 'a', '', '', -2 * i, -2 * i from generate_series(1, 5000) i",
    );
    await using connection = await postgres.connect();
    await connection.query("begin");
    await connection.query(
      place.sql("select S.forget('a', '', '', array[1, 2, 3, 5, 8, 4999])"),
    );
    const rows = await connection.query(
      "select relname, (seq_tup_read + idx_tup_fetch)::int as read from pg_stat_xact_user_tables where schemaname = $1",
      [place.schema],
    );
    for (const { relname, read } of rows) {
      assert(Number(read) < 50, `${read} rows of ${relname} were read`);
    }
  },
);

// -- Transactions --

test("what onBatch changes is atomic with the batch", async (store, place) => {
  await store.add(await batchOf("a-0", "before "));
  await place.query("create table S.line (text text unique)");
  const insert = place.sql("insert into S.line values ($1)");
  const one = await batchOf("a-1", "one ");
  const failure = new BatchRefusedError("no");
  const error = await assertRejects(() =>
    store.add(one, async (_, transaction) => {
      await transaction.query(insert, ["one"]);
      throw failure;
    })
  );
  assertEquals(error, failure);
  assertEquals([await place.count("line"), await textOf(store, "a")], [
    0,
    "before ",
  ]);
  await store.add(one, async (_, transaction) => {
    const { rows, rowCount } = await transaction.query(insert, ["one"]);
    assertEquals([rows, rowCount], [[], 1]);
    const read = await transaction.query(place.sql("select text from S.line"));
    assertEquals(read.rows, [{ text: "one" }]);
  });
  assertEquals([await place.count("line"), await textOf(store, "a")], [
    1,
    "before one ",
  ]);
});

test(
  "queries that onBatch does not wait for are part of the transaction",
  async (store, place) => {
    await store.add(await batchOf("a-0", ""));
    await place.query("create table S.line (text text unique)");
    const insert = place.sql("insert into S.line values ($1)");
    await store.add(await batchOf("a-1", "one "), (_, transaction) => {
      for (const i of numbers(5)) void transaction.query(insert, [`${i}`]);
    });
    assertEquals(await place.count("line"), 5);
    const two = await batchOf("a-2", "two ");
    const add = () =>
      store.add(two, (_, transaction) => {
        void transaction.query(insert, ["6"]);
        void transaction.query(insert, ["1"]); // it is there
      });
    await assertFails(add, "io");
    assertEquals(await place.count("line"), 5);
    assertEquals(await textOf(store, "a"), "one ");
  },
);

for (
  const sql of [
    "insert into nowhere values (1)",
    "rollback",
    "commit",
    "rollback and chain",
    "rollback; begin",
  ]
) {
  test(`a batch is not said to be stored if onBatch runs: ${sql}`, async (store) => {
    const add = async () =>
      store.add(await batchOf("a-0", "one"), async (_, transaction) => {
        await transaction.query(sql).catch(() => {});
      });
    await assertFails(add, "io");
    const isStored = sql === "commit";
    assertEquals(await textOf(store, "a"), isStored ? "one" : "");
    const again = await store.add(await batchOf("a-0", "one"));
    assertEquals(again, isStored ? "known" : "stored");
  });
}

test("a transaction that has ended makes no query", async (store) => {
  let kept: PostgresTransaction | undefined;
  await store.add(await batchOf("a-0", "one"), (_, transaction) => {
    kept = transaction;
  });
  await assertRejects(
    () => kept!.query("select 1"),
    TypeError,
    "the transaction has ended",
  );
});

test("a query of onBatch may fail within a savepoint", async (store) => {
  await store.add(await batchOf("a-0", "one"), async (_, transaction) => {
    await transaction.query("savepoint mine");
    const error = await assertRejects(
      () => transaction.query("select 1 / $1::int", [0]),
    );
    assertEquals((error as { code?: string }).code, "22012");
    await transaction.query("rollback to savepoint mine");
  });
  assertEquals(await textOf(store, "a"), "one");
});

test("values are bound", async (store, place) => {
  const evil = "'; drop table S.batch; --";
  await store.add(await batchOf("a-0", evil), async (_, transaction) => {
    const { rows } = await transaction.query("select $1 as value", [evil]);
    assertEquals(rows, [{ value: evil }]);
  });
  for (const id of [evil, `${place.schema}"`, "\\", "$1", "{}", "%s"]) {
    await store.add(await batchOf(`${id}-0`, id, 60_000));
    assertEquals(await textOf(store, id), id);
  }
  assertEquals((await store.prune(30_000)).batches, 6);
  assertEquals(await textOf(store, "a"), evil);
});

// -- Durability --

for (
  const [setting, expected] of [
    ["off", "on"],
    ["on", "on"],
    ["local", "local"],
    ["remote_apply", "remote_apply"],
  ]
) {
  test(
    `a commit waits for the disk if synchronous_commit is ${setting}`,
    async (store, place) => {
      await store.add(await batchOf("a-0", ""));
      // What is deferred to the end of a transaction sees the setting of its commit.
      await place.query(`
      create table S.note (setting text);
      create function S.note() returns trigger language plpgsql as $$ begin
        insert into S.note values (current_setting('synchronous_commit'));
        return null;
      end $$;
      create constraint trigger note after insert on S.batch
        deferrable initially deferred for each row execute function S.note();`);
      await using other = place.openWith(`synchronous_commit=${setting}`);
      await other.add(await batchOf("a-1", ""));
      await other.add(await batchOf("a-2", ""), () => {});
      const notes = await place.query("select setting from S.note");
      assertEquals(notes, [{ setting: expected }, { setting: expected }]);
    },
  );
}

for (const isolation of ["repeatable read", "serializable"]) {
  test(
    `transactions that are ${isolation} by default are not`,
    async (_, place) => {
      const value = isolation.replace(" ", "\\ ");
      await using store = place.openWith(
        `default_transaction_isolation=${value}`,
      );
      await store.add(await batchOf("a-0", ""), async (_, transaction) => {
        const { rows } = await transaction.query("show transaction_isolation");
        assertEquals(rows, [{ transaction_isolation: "read committed" }]);
      });
      assertEquals(await store.add(await batchOf("a-1", "")), "stored");
      // Where a pooler undoes that, nothing is stored.
      await assertRejects(
        () =>
          place.query(`begin isolation level ${isolation};
          select S.add('a', '', 2, '', 0, now(), '', '');
          commit`),
        Error,
        "the transaction must be READ COMMITTED",
      );
      assertEquals(await place.count("batch"), 2);
    },
  );
}

// -- A database that fails --

testIt(
  "PostgresStore: a database that is down makes a receiver busy",
  async () => {
    await using store = new PostgresStore(NOBODY);
    const errors: unknown[] = [];
    const handler = receive({ store, onError: (error) => errors.push(error) });
    const { status, headers } = await handler(
      new Request("http://localhost/", {
        method: "POST",
        headers: { "Idempotency-Key": '"a-0"' },
        body: "one",
      }),
    );
    assertEquals([status, headers.get("Retry-After")], [503, "1"]);
    const message =
      "Cannot add to the store at 127.0.0.1:2/app: connect ECONNREFUSED 127.0.0.1:2";
    assertEquals(errors.map((error) => (error as Error).message), [message]);
    await assertFails(() => textOf(store, "a"), "busy");
    await assertFails(() => store.prune(0), "busy");
  },
);

testIt(
  "PostgresStore: a database that is down at first, and stopped in between, loses nothing",
  async () => {
    await using server = await Postgres.start();
    await server.crash();
    await using store = new PostgresStore(server.url, { maxConnections: 4 });
    await assertFails(
      async () => store.add(await batchOf("a-0", "0;")),
      "busy",
    );
    await server.start();

    const count = 400;
    let added = 0;
    let failures = 0;
    const changes = new Condition();
    const next = numbers(count);
    const onBatch = () => {};
    const add = async () => {
      for (let i; (i = next.shift()) !== undefined;) {
        const batch = await batchOf(`a-${i}`, `${i};`);
        const result = await persist(async () => {
          try {
            return await store.add(batch, i % 2 === 0 ? onBatch : undefined);
          } catch (error) {
            failures++;
            throw error;
          }
        });
        assert(result === "stored" || result === "known", result);
        added++;
        changes.notify();
      }
    };
    const adding = Promise.all(numbers(8).map(add));
    for (const reached of [50, 150, 250]) {
      await Promise.race([
        changes.wait("progress", () => added >= reached),
        adding,
      ]);
      await server.crash();
      await server.start();
    }
    await adding;
    assertEquals(await textOf(store, "a"), numbers(count).join(";") + ";");
    assert(failures > 0, "no add was interrupted");
  },
);

test("a connection that is lost in onBatch ends nothing but the attempt", async (store) => {
  const batch = await batchOf("a-0", "one");
  const terminate = async (transaction: PostgresTransaction) => {
    const { rows } = await transaction.query("select pg_backend_pid() as pid");
    await postgres.query("select pg_terminate_backend($1, 5000)", [
      rows[0]!.pid,
    ]);
  };
  // It is noticed before the next query, and by it.
  await assertFails(
    () => store.add(batch, (_, transaction) => terminate(transaction)),
    "busy",
  );
  await assertFails(() =>
    store.add(batch, async (_, transaction) => {
      await terminate(transaction);
      await transaction.query("select 1");
    }), "busy");
  assertEquals(await textOf(store, "a"), "");
  assertEquals(await store.add(batch), "stored");
});

test(
  "connections that are lost while nobody uses them are replaced",
  async (store, place) => {
    await using small = place.open({ maxConnections: 2 });
    for (const i of numbers(3)) {
      assertEquals(await small.add(await batchOf(`a-${i}`, `${i}`)), "stored");
      await postgres.query(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'",
      );
    }
    assertEquals(await textOf(store, "a"), "012");
  },
);

test(
  "a statement that takes too long, and one that waits for a lock, is busy",
  async (store, place) => {
    await store.add(await batchOf("a-0", "one"));
    await using other = await openImpatient(place);
    const locked = Promise.withResolvers<void>();
    const unlock = Promise.withResolvers<void>();
    const locking = store.add(
      await batchOf("b-0", ""),
      async (_, transaction) => {
        await transaction.query(
          place.sql("lock table S.batch in exclusive mode"),
        );
        locked.resolve();
        await unlock.promise;
      },
    );
    await locked.promise;
    const batch = await batchOf("a-1", "two");
    const error = await assertFails(() => other.add(batch), "busy");
    assertMatch(error.message, /canceling statement due to statement timeout$/);
    await assertFails(() => other.add(batch, () => {}), "busy");
    unlock.resolve();
    assertEquals(await locking, "stored");
    const slow = async (_: unknown, transaction: PostgresTransaction) =>
      void await transaction.query("select pg_sleep(60)");
    await assertFails(() => other.add(batch, slow), "busy");
    assertEquals(await persist(() => other.add(batch)), "stored");
  },
);

test(
  "a transaction whose onBatch never ends is undone",
  async (store, place) => {
    await using other = await openImpatient(place);
    const batch = await batchOf("a-0", "one");
    const isAdding = Promise.withResolvers<void>();
    const adding = other.add(batch, () => {
      isAdding.resolve();
      return new Promise(() => {});
    });
    await isAdding.promise;
    // It waits until the other transaction has ended.
    const second = store.add(batch);
    await assertFails(() => adding, "busy");
    assertEquals(await second, "stored");
    // Its only connection has been replaced.
    assertEquals(await other.add(batch), "known");
  },
);

test(
  "adds that wait for a connection for too long are busy",
  async (_, place) => {
    await using one = await openImpatient(place);
    const isAdding = Promise.withResolvers<void>();
    let mayEnd = false;
    const batch = await batchOf("a-0", "one");
    const adding = one.add(batch, async (_, transaction) => {
      isAdding.resolve();
      // Neither it nor the transaction takes too long.
      while (!mayEnd) await transaction.query("select pg_sleep(0.01)");
    });
    await isAdding.promise;
    await assertFails(async () => one.add(await batchOf("a-1", "two")), "busy");
    mayEnd = true;
    assertEquals(await adding, "stored");
  },
);

async function writeAll(to: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let size = 0; size < bytes.length;) {
    size += await to.write(bytes.subarray(size));
  }
}

/** A listener in front of the database that can stop passing anything on. */
class Proxy implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections: Deno.Conn[] = [];
  #passing = Promise.withResolvers<void>();
  /** How many bytes it has passed on. */
  passed = 0;
  readonly #work: Promise<unknown>;

  constructor() {
    this.release();
    this.#work = this.#accept();
  }

  get url(): string {
    const url = new URL(postgres.url);
    url.port = `${this.#listener.addr.port}`;
    return url.href;
  }

  hold(): void {
    this.#passing = Promise.withResolvers();
  }

  release(): void {
    this.#passing.resolve();
  }

  async #accept(): Promise<void> {
    const work: Promise<void>[] = [];
    for await (const client of this.#listener) {
      const server = await Deno.connect({
        hostname: "127.0.0.1",
        port: postgres.port,
      });
      this.#connections.push(client, server);
      work.push(this.#pass(client, server), this.#pass(server, client));
    }
    await Promise.all(work);
  }

  async #pass(from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    try {
      for (let size; (size = await from.read(buffer)) !== null;) {
        await this.#passing.promise;
        await writeAll(to, buffer.subarray(0, size));
        this.passed += size;
      }
      await this.#passing.promise;
      await to.closeWrite();
    } catch {
      // It has been closed.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#connections) {
      try {
        connection.close();
      } catch {
        // It has been closed already.
      }
    }
    this.release();
    await this.#work;
  }
}

test(
  "a network that passes nothing on is not waited for",
  async (store, place) => {
    await using proxy = new Proxy();
    // With a query that is under way, with one that is not begun, and when it connects.
    for (const isUnderWay of [true, false]) {
      const hung = await openImpatient(place, proxy.url);
      const key = isUnderWay ? "a-0" : "a-1";
      if (isUnderWay) proxy.hold();
      const batch = await batchOf(key, "one");
      const adding = assertFails(
        () => hung.add(batch, () => proxy.hold()),
        "busy",
      );
      await adding;
      await assertFails(() => hung.add(batch), "busy");
      await hung.close();
      proxy.release();
      assertEquals(await persist(() => store.add(batch)), "stored");
    }
  },
);

for (
  const [state, code] of [
    ["53100", "full"],
    ["53200", "busy"],
    ["53300", "busy"],
    ["40001", "busy"],
    ["40P01", "busy"],
    ["55P03", "busy"],
    ["57P01", "busy"],
    ["08006", "busy"],
    ["42P01", "damaged"],
    ["XX001", "damaged"],
    ["22P05", "io"],
    ["42501", "io"],
  ] as const
) {
  test(`the server's error ${state} is "${code}"`, async (store, place) => {
    await store.add(await batchOf("a-0", "one"));
    await place.query(`
      create function S.fail() returns trigger language plpgsql as $$ begin
        raise exception 'it went wrong' using errcode = '${state}';
      end $$;
      create trigger fail before insert on S.batch
        for each row execute function S.fail();`);
    const batch = await batchOf("a-1", "two");
    const { port } = new URL(postgres.url);
    const { message } = await assertFails(() => store.add(batch), code);
    assertEquals(
      message,
      `Cannot add to the store at 127.0.0.1:${port}/postgres: it went wrong`,
    );
    await assertFails(() => store.add(batch, () => {}), code);
    await place.query("drop trigger fail on S.batch");
    assertEquals(await store.add(batch), "stored");
  });
}

test("what the server reports to onBatch is passed on, as far as it is its own fault", async (store) => {
  const run = async (sql: string) =>
    store.add(await batchOf("a-0", "one"), async (_, transaction) => {
      await transaction.query(sql);
    });
  const raise = (state: string) =>
    run(`do $$ begin raise exception using errcode = '${state}'; end $$`);
  await assertFails(() => raise("53100"), "full");
  await assertFails(() => raise("40001"), "busy");
  const error = await assertRejects(() => raise("23505"));
  assert(!(error instanceof StoreError));
  assertEquals((error as { code?: string }).code, "23505");
});

test(
  "a server that takes no writes, as a standby, is busy",
  async (store, place) => {
    await store.add(await batchOf("a-0", "one"));
    await using standby = place.openWith("default_transaction_read_only=on");
    await assertFails(
      async () => standby.add(await batchOf("a-1", "")),
      "busy",
    );
    assertEquals(await textOf(standby, "a"), "one");
  },
);

// -- Reading --

test("a stream of any length is read in steps", async (store) => {
  const large = "x".repeat(700_000);
  const texts = numbers(600).map((i) => i % 150 === 7 ? large : `${i};`);
  await Promise.all(
    texts.map(async (text, i) => store.add(await batchOf(`a-${i}`, text))),
  );
  await store.add(await batchOf("a-600/0-3", "abc"));
  await store.add(await batchOf("a-600/3-4", "d"));
  await store.add(await batchOf("a.0123456789abcdef-600", "e"));
  const text = await textOf(store, "a");
  assert(text === texts.join("") + "abcde", `${text.length} bytes differ`);
});

test("a stream that is being read takes no connection", async (_, place) => {
  await using one = place.open({ maxConnections: 1, timeout: 5_000 });
  const add = async (i: number) => one.add(await batchOf(`a-${i}`, `${i}`));
  for (const i of numbers(3)) await add(i);
  const readers = numbers(3).map(() => one.read("a").getReader());
  for (const reader of readers) await reader.read();
  assertEquals(await add(3), "stored");
  for (const reader of readers) await reader.cancel();
});

test("bytes that have changed are not read", async (store, place) => {
  for (const i of numbers(3)) await store.add(await batchOf(`a-${i}`, `${i}`));
  await place.query("update S.batch set bytes = 'x' where sequence = 1");
  const reader = store.read("a").getReader();
  assertEquals(new TextDecoder().decode((await reader.read()).value), "0");
  const { message } = await assertFails(() => reader.read(), "damaged");
  assertMatch(message, /: batch 1 of a is not what was stored$/);
});

test(
  "a stream that is being read takes no more memory than a step",
  async (store, place) => {
    const large = new Uint8Array(1024 * 1024);
    await Promise.all(
      numbers(12).map(async (i) => store.add(await batchOf(`a-${i}`, large))),
    );
    await using proxy = new Proxy();
    await using other = place.open({}, proxy.url);
    const reader = other.read("a").getReader();
    assertEquals((await reader.read()).value?.length, large.length);
    // Two batches, in hexadecimal digits.
    const passed = proxy.passed;
    assert(passed < 6 * large.length, `${passed} bytes were read`);
    await reader.cancel();
  },
);

// -- What is not its own --

test("tables of a later version are left alone", async (store, place) => {
  await store.add(await batchOf("a-0", "one"));
  await place.query("update S.store set version = version + 1");
  await using later = place.open();
  const batch = await batchOf("a-1", "two");
  const { message } = await assertFails(() => later.add(batch), "newer");
  assertMatch(message, /tables of version 2; update the library$/);
  await assertFails(() => textOf(later, "a"), "newer");
  assertEquals(await place.count("batch"), 1);
  await place.query("update S.store set version = 1");
  assertEquals(await later.add(batch), "stored");
});

for (
  const sql of [
    "create table S.batch (id int)",
    "create table S.pruned (id int)",
    "create table S.store (id int)",
    "create table S.store (version int)",
    "create table S.store (version text); insert into S.store values ('1')",
    "create table S.store (version int); insert into S.store values (0)",
    "create function S.forget(text, text, text, bigint[]) returns int language sql as 'select 1'",
  ]
) {
  test(`a schema of others is left alone: ${sql}`, async (store, place) => {
    await postgres.query(`create schema ${place.schema}`);
    await place.query(sql);
    const relations = () =>
      postgres.query(
        "select relname from pg_class where relnamespace = $1::regnamespace",
        [place.schema],
      );
    const before = await relations();
    const batch = await batchOf("a-0", "one");
    const { message } = await assertFails(() => store.add(batch), "foreign");
    assertStringIncludes(message, `the schema ${place.schema} is not that of`);
    assertEquals(await relations(), before);
  });
}

test("a table that is dropped is missed", async (store, place) => {
  await store.add(await batchOf("a-0", "one"));
  await place.query("drop table S.batch");
  await assertFails(async () => store.add(await batchOf("a-1", "")), "damaged");
  await assertFails(() => textOf(store, "a"), "damaged");
});

test("its user needs no more than a schema", async (_, place) => {
  const { schema } = place;
  await postgres.query(`create role ${schema}_user login password 'hunter2'`);
  const url = new URL(postgres.url);
  url.username = `${schema}_user`;
  url.password = "hunter2";
  {
    await using store = place.open({}, url.href);
    const batch = await batchOf("a-0", "one");
    const { message } = await assertFails(() => store.add(batch), "io");
    assertMatch(message, /permission denied for database postgres$/);
    await postgres.query(
      `create schema ${schema} authorization ${schema}_user`,
    );
    assertEquals(await store.add(batch), "stored");
    assertEquals(await textOf(store, "a"), "one");
  }
  await place[Symbol.asyncDispose]();
  await postgres.query(`drop role ${schema}_user`);
});

// -- Options, and the end --

test("the longest timeout is a timeout", async (_, place) => {
  await using patient = place.open({ timeout: 2 ** 31 - 1 });
  assertEquals(await patient.add(await batchOf("a-0", "one")), "stored");
});

Deno.test("new PostgresStore() rejects what is wrong, and shows no password", async () => {
  const wrong: [unknown, PostgresStoreOptions, RegExp][] = [
    ["app:hunter2@localhost/app", {}, /^url must be/],
    ["http://app:hunter2@localhost/app", {}, /^url must be/],
    ["postgres://app:hunter2@[/app", {}, /^url must be/],
    ["postgres://app:12/hunter2@127.0.0.1/app", {}, /^url must be/],
    [undefined, {}, /^url must be/],
    [
      NOBODY,
      { maxConnections: 0 },
      /^maxConnections must be an integer from 1/,
    ],
    [NOBODY, { timeout: 0 }, /^timeout must be an integer from 1/],
    [NOBODY, { schema: "" }, /^schema must be a name/],
    [NOBODY, { schema: 'a"; drop table b' }, /^schema must be a name/],
    [NOBODY, { schema: "a".repeat(64) }, /^schema must be a name/],
    [NOBODY, { schema: 1 as never }, /^schema must be a name/],
  ];
  for (const [url, options, message] of wrong) {
    const error = assertThrows(
      () => new PostgresStore(url as string, options),
      Error,
      "Cannot create PostgresStore: ",
    );
    assertMatch(
      error.message.replace("Cannot create PostgresStore: ", ""),
      message,
    );
    assert(!printed(error).includes("hunter2"), printed(error));
  }
  await using store = new PostgresStore(new URL(NOBODY), { schema: "Ab_1" });
  assert(!printed(store).includes("hunter2"));
});

test("no error shows the password", async (_, place) => {
  for (
    const [name, value] of [
      ["username", "nobody"],
      ["password", "hunter23"],
      ["pathname", "/no"],
    ] as const
  ) {
    const url = new URL(postgres.url);
    url[name] = value;
    await using store = place.open({}, url.href);
    const batch = await batchOf("a-0", "one");
    await assertFails(() => store.add(batch), "io");
    await assertFails(() => store.add(batch, () => {}), "io");
  }
});

test("a password that is missing is asked for", async (_, place) => {
  const url = new URL(postgres.url);
  url.password = "";
  await using store = place.open({}, url.href);
  const batch = await batchOf("a-0", "one");
  const { message } = await assertFails(() => store.add(batch), "busy");
  assertMatch(message, /put one into the URL, or into PGPASSWORD$/);
});

Deno.test("PostgresStore: what Deno may not read of the environment is explained", async () => {
  await using folder = await temporary();
  const module = new URL("postgres.ts", import.meta.url);
  const program = folder.file(
    "program.ts",
    `
      import { PostgresStore } from "${module}";
      await new PostgresStore("${NOBODY}").prune(0);
    `,
  );
  const config = fileURLToPath(new URL("../deno.json", import.meta.url));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-net", "--config", config, program],
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 1);
  assertMatch(
    new TextDecoder().decode(stderr),
    /StoreError: Cannot prune .* --allow-env flag, or with --ignore-env\n/,
  );
});

test("close() waits for what is under way", async (store, place) => {
  await using one = place.open({ maxConnections: 1 });
  const batches = await Promise.all(
    numbers(20).map((i) => batchOf(`a-${i}`, `${i}`)),
  );
  const adding = Promise.all(batches.map((batch) => one.add(batch, () => {})));
  const closing = one.close();
  await assertFails(() => one.add(batches[0]!), "closed");
  await closing;
  assertEquals(one.close(), closing);
  assertEquals(new Set(await adding), new Set(["stored"]));
  assertEquals(await place.count("batch"), 20);
  assertEquals(await store.add(batches[0]!), "known");
});
