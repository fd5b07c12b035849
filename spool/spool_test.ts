/**
 * `Spool` and `spoolTo()`. There is a section for each promise about the spool, and in
 * it a test whose name begins with the promise. What needs a process or a disk of its
 * own is in tests/spool_process_test.ts and tests/spool_full_disk_test.ts, and what
 * concerns the file alone in database_test.ts.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FlushError, StreamBuffer } from "../buffer.ts";
import {
  accept,
  type Attempt,
  BadSender,
  gate,
  ignore,
  refuse,
  stall,
} from "../testing/bad_sender.ts";
import { isPending, turns } from "../testing/event_loop.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import {
  diskFull,
  FaultySqlite,
  sqliteError,
} from "../testing/faulty_sqlite.ts";
import {
  close,
  FaultyServer,
  held,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { FetchSender } from "../sender.ts";
import { inspectSpool, readSpool } from "./inspect.ts";
import type { SpoolError } from "./errors.ts";
import { Spool, type SpoolOptions, spoolTo } from "./spool.ts";

const AWAY = refuse(new Error("the server is away"));
const REFUSED = refuse(
  Object.assign(new Error("bad content"), { refused: true }),
);

/** A sender whose server is away, for good. */
function away(): BadSender {
  return new BadSender([], AWAY);
}

/** Opens a spool, and a buffer over it. Neither waits for the server when it is closed. */
function open(
  path: string,
  sender: ConstructorParameters<typeof Spool>[1],
  options: SpoolOptions = {},
) {
  const spool = new Spool(path, sender, { drainTimeout: 0, ...options });
  const out = new StreamBuffer(spool, { flushInterval: 0 });
  return {
    spool,
    out,
    /** Commits each text by a send of its own. */
    async commit(...texts: string[]) {
      for (const text of texts) {
        await out.write(text);
        await out.flush();
      }
    },
    [Symbol.asyncDispose]: () => out.close(),
  };
}

/** Commits texts while the server is away, and closes the file. */
async function fill(path: string, ...texts: string[]): Promise<BadSender> {
  const sender = away();
  await using file = open(path, sender);
  await file.commit(...texts);
  return sender;
}

/** Delivers what waits in a file. */
async function drain(
  path: string,
  options: SpoolOptions = {},
): Promise<BadSender> {
  const sender = new BadSender();
  await using file = open(path, sender, options);
  await file.spool.drained();
  return sender;
}

/** What waits in a file, by send. */
function waiting(path: string): string[] {
  return [...readSpool(path)].map((bytes) => new TextDecoder().decode(bytes));
}

/**
 * What a server has after these attempts that ignores the keys that it knows.
 *
 * @throws If a key covers two contents.
 */
function deduplicated(attempts: readonly Attempt[]): string {
  const byKey = new Map<string, string>();
  for (const { key, text } of attempts) {
    assert(key !== undefined, "an attempt without a key");
    assertEquals(byKey.get(key) ?? text, text, `two contents of ${key}`);
    byKey.set(key, text);
  }
  return [...byKey.values()].join("");
}

// -- 1. flush() resolves when the bytes are on disk --

Deno.test("1. flush() resolves when the bytes are on disk: they are found there later", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const file = open(path, away());
  await file.commit("one", "two");
  assertEquals(file.spool.stats.bytesWaiting, 6);
  await file.spool.abort();
  assertEquals(waiting(path), ["one", "two"]);
  await file.out.close();
});

Deno.test("1. flush() does not resolve before the transaction is made", async () => {
  await using folder = await temporary();
  using sqlite = new FaultySqlite();
  await using file = open(folder.file("app.spool"), new BadSender([], stall));
  const isCommit = (sql: string) => sql === "commit";
  sqlite.fail = (sql) => isCommit(sql) ? diskFull : undefined;
  const { unsentBytes, cause } = await assertRejects(
    () => file.commit("one"),
    FlushError,
    "the disk is full; free some space on it",
  );
  assertEquals([unsentBytes, (cause as SpoolError).code], [3, "full"]);
  assertEquals(file.spool.stats.bytesWaiting, 0);
  sqlite.fail = () => undefined;
  await file.out.flush();
  assertEquals(file.spool.stats.bytesWaiting, 3);
});

Deno.test("1. close() resolves when all bytes are on disk and the file is closed", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const sender = away();
  const { out, spool } = open(path, sender);
  await out.write("one");
  await out.close();
  assertEquals(waiting(path), ["one"]);
  assertEquals(spool.ended, true);
  assertEquals(sender.events.at(-1), "abort");
});

Deno.test("1. close() closes the sender if nothing waits", async () => {
  await using folder = await temporary();
  const sender = await drain(folder.file("app.spool"));
  assertEquals(sender.events, ["close"]);
});

Deno.test("1. drainTimeout makes close() wait for the server first", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const { step, resolve } = gate();
  const file = open(path, new BadSender([step]), { drainTimeout: 60_000 });
  await file.commit("one");
  const closed = file.out.close();
  assert(await isPending(closed));
  resolve();
  await closed;
  assertEquals(waiting(path), []);
  assertEquals(file.spool.stats.bytesDelivered, 3);
});

Deno.test("1. drainTimeout that runs out is no error", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  using time = fakeTime();
  const file = open(path, new BadSender([], stall), { drainTimeout: 5_000 });
  await file.commit("one");
  const closed = file.spool.close();
  await turns();
  await time.tickAsync(4_999);
  assertEquals(file.spool.ended, false);
  await time.tickAsync(1);
  await closed;
  assertEquals(waiting(path), ["one"]);
  await file.out.close();
});

Deno.test("1. close() makes a delivery that waits for its next attempt try at once", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const sender = new BadSender([AWAY]);
  const file = open(folder.file("app.spool"), sender, { drainTimeout: 5_000 });
  await file.commit("one");
  await turns();
  await time.tickAsync(1);
  assertEquals(sender.events, ["send 0", "fail 0"]);
  await file.spool.close();
  assertEquals(sender.events, ["send 0", "fail 0", "send 0", "ack 0", "close"]);
  await file.out.close();
});

Deno.test("1. spoolTo() delivers, and its close() waits for the server", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const path = folder.file("app.spool");
  {
    await using out = spoolTo(path, server.url);
    await out.write("one\n");
    await out.flush();
    await out.write("two\n");
  }
  assertEquals(server.bodies.join(""), "one\ntwo\n");
  assertEquals(waiting(path), []);
});

Deno.test("1. spoolTo() sets closeTimeout above drainTimeout", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("app.spool");
  const out = spoolTo(path, "http://localhost/", {
    ...{ closeTimeout: 1_000, drainTimeout: 10_000 },
    transport: ({ signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
      }),
  });
  await out.write("one\n");
  const closed = out.close();
  closed.catch(() => {});
  for (let i = 0; i < 10; i++) {
    await turns(5);
    await time.tickAsync(1_000);
  }
  await closed;
  assertEquals(waiting(path), ["one\n"]);
});

Deno.test("1. spoolTo(): deadLetter and onError are those of the spool", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer([respond(400), close]);
  const path = folder.file("app.spool");
  const diverted: string[] = [];
  const { promise, resolve } = Promise.withResolvers<Error>();
  {
    await using out = spoolTo(path, server.url, {
      retry: { maxElapsed: 0 },
      onError: resolve,
      deadLetter(bytes, { message }, { key }) {
        assertMatch(
          message,
          /^Cannot deliver 4 bytes at offset 0 of the spool/,
        );
        assertEquals(`"${key}"`, server.keys[0]);
        diverted.push(new TextDecoder().decode(bytes));
        return true;
      },
    });
    await out.write("one\n");
    await out.flush();
    await server.received(1);
    await out.write("two\n");
    await out.flush();
    assertStringIncludes((await promise).message, "Cannot deliver 4 bytes");
    assertEquals(out.stats.bytesDiverted, 0);
  }
  assertEquals(diverted, ["one\n"]);
  assertEquals(inspectSpool(path).bytesDiverted, 4);
  assertEquals(inspectSpool(path).bytesDelivered, 4);
});

Deno.test("1. spoolTo() opens no file if an option of the buffer or the sender is wrong", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  for (
    const options of [{ capacity: -1 }, { timeout: 0 }, { requestBytes: 0 }]
  ) {
    assertThrows(() => spoolTo(path, "http://localhost/", options), RangeError);
  }
  assertThrows(() => Deno.statSync(path), Deno.errors.NotFound);
});

// -- 2. Exactly once, in whatever process --

Deno.test("2. exactly once: a cut is sent under the same key by the next opening", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const first = await fill(path, "one");
  const second = await fill(path, "two");
  const third = await drain(path);
  const [{ key }] = first.attempts as [Attempt];
  assertMatch(key!, /^[0-9a-f-]{36}\.[0-9a-f]{16}-0$/);
  const attempts = [first, second, third].flatMap(({ attempts }) => attempts);
  for (const attempt of attempts.slice(0, -1)) {
    assertEquals(attempt, { sequence: 0, offset: 0, text: "one", key: key! });
  }
  assertEquals(deduplicated(attempts), "onetwo");
});

Deno.test("2. exactly once: each opening cuts under an epoch of its own", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const epochs: (string | undefined)[] = [];
  for (const text of ["one", "two", "three"]) {
    const sender = new BadSender();
    await using file = open(path, sender);
    await file.commit(text);
    await file.spool.drained();
    const [id, epoch] = sender.attempts[0]!.key!.split(/[.]|-\d+$/);
    assertEquals(id, file.spool.stats.id);
    epochs.push(epoch);
  }
  assertEquals(new Set(epochs).size, 3);
});

Deno.test("2. exactly once: sequence and offset go on where they were, even when nothing waits", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const seen: Attempt[] = [];
  for (const text of ["one", "three", "four"]) {
    await fill(path, text);
    seen.push(...(await drain(path)).deliveries);
  }
  assertEquals(
    seen.map(({ sequence, offset }) => [sequence, offset]),
    [[0, 0], [1, 3], [2, 8]],
  );
});

for (const durability of ["power", "process"] as const) {
  Deno.test(`2. exactly once: a key is recorded and synced before its first attempt, with durability "${durability}"`, async () => {
    await using folder = await temporary();
    using sqlite = new FaultySqlite();
    const { log } = sqlite;
    const keysAt: number[] = [];
    const first = gate();
    await using file = open(folder.file("app.spool"), async () => {
      if (keysAt.push(log.length) === 1) await first.promise;
    }, { durability });
    await file.commit("one");
    await turns();
    await file.commit("two");
    // The second cut is made when the first one is settled.
    first.resolve();
    await file.spool.drained();
    assertEquals(keysAt.length, 2);
    for (const end of keysAt) {
      const before = log.slice(0, end);
      const recorded = before.findLastIndex((sql) =>
        sql.startsWith("update spool")
      );
      assert(recorded >= 0, "no key was recorded");
      const synced = before.slice(0, recorded).findLast((sql) =>
        sql.startsWith("pragma synchronous")
      );
      assertEquals(synced, "pragma synchronous = full");
      assert(before.slice(recorded).includes("commit"), "it was not committed");
    }
  });
}

Deno.test("2. exactly once: a cut that cannot be recorded is not sent", async () => {
  await using folder = await temporary();
  using sqlite = new FaultySqlite();
  using time = fakeTime();
  const sender = new BadSender();
  await using file = open(folder.file("app.spool"), sender);
  sqlite.fail = (sql) => sql.startsWith("update spool") ? diskFull : undefined;
  await file.commit("one");
  await turns();
  assertEquals(sender.attempts, []);
  assertMatch(
    file.spool.stats.lastError!.message,
    /^Cannot record what is sent next in the spool .*: the disk is full; /,
  );
  sqlite.fail = () => undefined;
  await time.tickAsync(1_000);
  await turns();
  assertEquals(sender.text, "one");
});

/** Copies a spool that nobody has open. */
function copy(from: string, to: string): void {
  Deno.copyFileSync(from, to);
}

Deno.test("2. exactly once: a copy of the file never gives one key two contents", async () => {
  await using folder = await temporary();
  const [path, other] = [folder.file("app.spool"), folder.file("copy.spool")];
  const attempts = (await fill(path, "one", "two")).attempts;
  copy(path, other);
  for (const file of [path, other]) {
    await fill(file, `three in ${file}`);
    attempts.push(...(await drain(file, { requestBytes: 6 })).attempts);
    attempts.push(...(await fill(file, `four in ${file}`)).attempts);
    attempts.push(...(await drain(file)).attempts);
  }
  const text = deduplicated(attempts);
  // What was cut before the copy was made is recognised, the rest comes twice.
  assertEquals(text.match(/one/g)?.length, 1);
  assertEquals(text.match(/two/g)?.length, 2);
});

Deno.test("2. exactly once: an older copy that is put back never gives one key two contents", async () => {
  await using folder = await temporary();
  const [path, old] = [folder.file("app.spool"), folder.file("old.spool")];
  const attempts = (await fill(path, "one")).attempts;
  copy(path, old);
  attempts.push(...(await drain(path)).attempts);
  await fill(path, "two");
  attempts.push(...(await drain(path)).attempts);
  copy(old, path);
  await fill(path, "another two");
  attempts.push(...(await drain(path)).attempts);
  assertEquals(deduplicated(attempts), "onetwoanother two");
});

Deno.test("2. exactly once: the key is the Idempotency-Key of every attempt", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer([close, respond(503)]);
  const sender = new FetchSender(server.url, {
    retry: { initialDelay: 1, maxDelay: 1 },
  });
  await using file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await file.spool.drained();
  assertEquals(server.bodies, ["one", "one", "one"]);
  assertEquals(new Set(server.keys).size, 1);
  assertStringIncludes(server.keys[0]!, file.spool.stats.id);
});

// -- 3. Small commits, large requests --

Deno.test("3. small commits become large requests, cut between sends", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  // The first one is cut alone, as it is alone at that time.
  await fill(path, "first", ..."abcdefgh".split("").map((x) => x.repeat(10)));
  const { sends } = await drain(path, { requestBytes: 35 });
  assertEquals(
    sends.map((text) => text.replace(/(.)\1+/g, "$1")),
    ["first", "abc", "def", "gh"],
  );
});

for (const size of [1, 9, 10, 11, 19, 20, 21, 80, 1_000]) {
  Deno.test(`3. small commits: requests of up to ${size} bytes hold as much as they can`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "first", ..."abcdefgh".split("").map((x) => x.repeat(10)));
    const { sends } = await drain(path, { requestBytes: size });
    const each = Math.max(1, Math.floor(size / 10)) * 10;
    const expected = ["first", ...chunks(80, each)];
    assertEquals(sends.map((text) => text === "first" ? text : text.length), [
      ...expected,
    ]);
  });
}

function chunks(total: number, size: number): number[] {
  return Array.from(
    { length: Math.ceil(total / size) },
    (_, i) => Math.min(size, total - i * size),
  );
}

Deno.test("3. small commits: a send that is larger than a request goes alone", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const large = "L".repeat(100);
  await fill(path, "first", "a", large, "b", "c");
  const { sends } = await drain(path, { requestBytes: 10 });
  assertEquals(sends, ["first", "a", large, "bc"]);
});

Deno.test("3. small commits: what was recorded is not cut anew with another requestBytes", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "first", "a", "b", "c");
  // The second cut is recorded with the end of the first one.
  const before = new BadSender([accept], AWAY);
  {
    await using file = open(path, before);
    while (before.attempts.length < 2) await turns(1);
    assertEquals(file.spool.stats.bytesWaiting, 3);
  }
  assertEquals(before.sends, ["first", "abc"]);
  const { attempts } = await drain(path, { requestBytes: 2 });
  assertEquals(attempts, before.attempts.slice(1));
});

// -- 4. What is written is what is delivered --

for (
  const [durability, mode] of [["power", "full"], [
    "process",
    "normal",
  ]] as const
) {
  Deno.test(`4. durability "${durability}" commits with synchronous = ${mode}`, async () => {
    await using folder = await temporary();
    using sqlite = new FaultySqlite();
    await using file = open(
      folder.file("app.spool"),
      new BadSender([], stall),
      {
        durability,
      },
    );
    await file.commit("one", "two", "three");
    const { log } = sqlite;
    let synchronous: string | undefined;
    const modes: (string | undefined)[] = [];
    for (const sql of log) {
      if (sql.startsWith("pragma synchronous")) synchronous = sql;
      if (sql.startsWith("insert or replace into batch")) {
        modes.push(synchronous);
      }
    }
    assertEquals(modes, Array(3).fill(`pragma synchronous = ${mode}`));
  });
}

Deno.test("4. writes go on during a delivery, and deliveries while nothing is written", async () => {
  await using folder = await temporary();
  const { step, resolve } = gate();
  const sender = new BadSender([step]);
  await using file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await turns();
  assertEquals(sender.events, ["send 0"]);
  await file.commit("two", "three");
  resolve();
  await file.spool.drained();
  assertEquals(sender.sends, ["one", "twothree"]);
});

// -- 5. Bounded, and it gives back --

Deno.test("5. bounded: at maxBytes writers wait until something is delivered", async () => {
  await using folder = await temporary();
  const { step, resolve } = gate();
  const sender = new BadSender([step]);
  await using file = open(folder.file("app.spool"), sender, { maxBytes: 10 });
  await file.commit("123456");
  await turns();
  await file.commit("7890");
  const committed = file.commit("x");
  assert(await isPending(committed));
  assertEquals(file.spool.stats.bytesWaiting, 10);
  resolve();
  await committed;
  await file.spool.drained();
  assertEquals(sender.text, "1234567890x");
});

Deno.test("5. bounded: a send larger than maxBytes waits until the spool is empty", async () => {
  await using folder = await temporary();
  const { step, resolve } = gate();
  const sender = new BadSender([step]);
  await using file = open(folder.file("app.spool"), sender, { maxBytes: 2 });
  await file.commit("1");
  await turns();
  const committed = file.commit("23456");
  assert(await isPending(committed));
  resolve();
  await committed;
  await file.spool.drained();
  assertEquals(sender.text, "123456");
});

for (const end of ["close", "abort"] as const) {
  Deno.test(`5. bounded: ${end}() of the spool ends the wait of a writer, whose bytes the buffer keeps`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    const { out, spool, commit } = open(path, away(), { maxBytes: 1 });
    await commit("1");
    await out.write("2");
    const flushed = out.flush();
    flushed.catch(() => {});
    assert(await isPending(flushed));
    await spool[end]();
    await assertRejects(() => flushed, FlushError);
    await assertRejects(() => out.close(), FlushError);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), "2");
    assertEquals(waiting(path), ["1"]);
  });
}

Deno.test("5. bounded: abort() of the buffer ends the wait of a writer", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const { out, commit } = open(path, away(), { maxBytes: 1 });
  await commit("1");
  await out.write("2");
  const flushed = out.flush();
  flushed.catch(() => {});
  await turns();
  await out.abort();
  await assertRejects(() => flushed);
  assertEquals(new TextDecoder().decode(out.takeUnsent()), "2");
  assertEquals(waiting(path), ["1"]);
});

const MIB = 1024 * 1024;

/** Commits this many times a mebibyte. */
async function backlog(file: ReturnType<typeof open>, count: number) {
  for (let i = 0; i < count; i++) await file.commit("x".repeat(MIB));
}

function sizeOf(path: string): number {
  return Deno.statSync(path).size;
}

Deno.test("5. it gives back: the file shrinks when nothing has arrived for a while", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("app.spool");
  const { step, resolve } = gate();
  const sender = new BadSender([step]);
  await using file = open(path, sender, { durability: "process" });
  await backlog(file, 20);
  assert(sizeOf(path) > 12 * MIB);
  resolve();
  await file.spool.drained();
  assert(sizeOf(path) > 12 * MIB, "it has been given back too early");
  await turns();
  await time.tickAsync(1_000);
  await turns();
  assert(sizeOf(path) < MIB, `${sizeOf(path)} bytes are left`);
});

Deno.test("5. it gives back: the file shrinks when it is closed, and its reserve is removed", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const { step, resolve } = gate();
  const file = open(path, new BadSender([step]), { durability: "process" });
  await backlog(file, 20);
  assert(sizeOf(`${path}-reserve`) >= 8 * MIB);
  resolve();
  await file.spool.drained();
  await file.out.close();
  assert(sizeOf(path) < MIB, `${sizeOf(path)} bytes are left`);
  assertEquals([...Deno.readDirSync(folder.file(""))].map(({ name }) => name), [
    "app.spool",
  ]);
});

Deno.test("5. it gives back: the space of what was delivered is used again, and the WAL is bounded", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using file = open(path, new BadSender(), { durability: "process" });
  const sizes: number[] = [];
  for (let i = 0; i < 100; i++) {
    await backlog(file, 1);
    await file.spool.drained();
    sizes.push(sizeOf(path));
    assert(sizeOf(`${path}-wal`) <= 9 * MIB, "the WAL grows");
  }
  assert(sizes.at(-1)! <= 16 * MIB, `${sizes.at(-1)} bytes after 100 MiB`);
});

Deno.test("5. bounded: while no checkpoint can be made, commits fail before the WAL grows without end", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  using sqlite = new FaultySqlite();
  await using file = open(path, new BadSender([], stall), {
    durability: "process",
  });
  sqlite.fail = (sql) =>
    sql.startsWith("pragma wal_checkpoint") ? diskFull : undefined;
  await assertRejects(() => backlog(file, 20), FlushError, "the disk is full");
  assert(sizeOf(`${path}-wal`) <= 6 * MIB, "the WAL grows");
  sqlite.fail = () => undefined;
  await file.out.flush();
  await backlog(file, 1);
});

Deno.test("6. it outlasts the outage: attempts follow after delays that double, up to a minute", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  using _ = fixedRandom(1);
  const times: number[] = [];
  const errors: FlushError[] = [];
  await using file = open(folder.file("app.spool"), () => {
    times.push(time.now);
    throw new Error("the server is away");
  }, { onError: (error) => errors.push(error) });
  await file.commit("one");
  await turns();
  for (let i = 0; i < 400; i++) {
    await time.tickAsync(1_000);
    await turns(2);
  }
  const delays = times.slice(1).map((at, i) => (at - times[i]!) / 1_000);
  assertEquals(delays.slice(0, 10), [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
  assertEquals(errors.length, times.length);
  assertEquals(file.spool.stats.failures, times.length);
  assertEquals(file.spool.stats.lastError, errors.at(-1));
  assertEquals((file.spool.lastFailure as Error).message, "the server is away");
});

Deno.test("6. it outlasts the outage: delays are at least half of their bound, and begin anew after a delivery", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  using _ = fixedRandom(0);
  const sender = new BadSender([AWAY, AWAY, AWAY, accept, AWAY]);
  await using file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await turns();
  for (const delay of [500, 1_000, 2_000]) {
    const { length } = sender.attempts;
    await time.tickAsync(delay - 1);
    await turns();
    assertEquals(sender.attempts.length, length);
    await time.tickAsync(1);
    await turns();
    assertEquals(sender.attempts.length, length + 1);
  }
  await file.commit("two");
  await turns();
  await time.tickAsync(500);
  await turns();
  assertEquals(sender.sends, ["one", "one", "one", "one", "two", "two"]);
  assertEquals(file.spool.stats.lastError, undefined);
  assertEquals(file.spool.lastFailure, undefined);
});

Deno.test("6. it outlasts the outage: new writes do not hasten the next attempt", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  using _ = fixedRandom(1);
  const sender = away();
  await using file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await turns();
  await file.commit("two");
  await time.tickAsync(999);
  await turns();
  assertEquals(sender.sends, ["one"]);
});

Deno.test("6. it outlasts the outage: no attempt before retryAfter has passed, not even while closing", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const error = Object.assign(new Error("busy"), { retryAfter: 100_000 });
  const sender = new BadSender([refuse(error)]);
  const file = open(folder.file("app.spool"), sender, {
    drainTimeout: 200_000,
  });
  await file.commit("one");
  await turns();
  await time.tickAsync(50_000);
  const closed = file.spool.close();
  await time.tickAsync(49_999);
  await turns();
  assertEquals(sender.attempts.length, 1);
  await time.tickAsync(1_001);
  await closed;
  assertEquals(sender.text, "one");
  await file.out.close();
});

Deno.test("6. it outlasts the outage: a server that comes back, over real connections", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using server = new FaultyServer([close, close, respond(503)]);
  const retry = { initialDelay: 1, maxDelay: 1 };
  await using out = spoolTo(path, server.url, { retry });
  await out.write("one\n");
  await out.flush();
  await server.waitFor("a delivery", () => server.stored.length === 1);
  assertEquals(new Set(server.keys).size, 1);
});

Deno.test("6. refused content goes to deadLetter, and the stream continues", async () => {
  await using folder = await temporary();
  const sender = new BadSender([REFUSED]);
  const offers: unknown[] = [];
  await using file = open(folder.file("app.spool"), sender, {
    deadLetter(bytes, error, { key, sequence, offset }) {
      assert(error instanceof FlushError);
      const text = new TextDecoder().decode(bytes);
      offers.push({ text, key, sequence, offset });
      return true;
    },
  });
  await file.commit("bad");
  await file.spool.drained();
  await file.commit("good");
  await file.spool.drained();
  assertEquals(offers, sender.attempts.slice(0, 1));
  const { bytesDelivered, bytesDiverted, sends, failures } = file.spool.stats;
  assertEquals([bytesDelivered, bytesDiverted, sends, failures], [4, 3, 1, 0]);
  assertEquals(sender.deliveries[0]!.sequence, 1);
});

Deno.test("6. refused content: what deadLetter is given is a copy of its own", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "first", ..."abcdef");
  const sender = new BadSender([accept, REFUSED]);
  let kept: Uint8Array | undefined;
  await using file = open(path, sender, {
    requestBytes: 2,
    deadLetter: (bytes) => {
      kept = bytes;
      return true;
    },
  });
  await file.spool.drained();
  assertEquals(sender.sends, ["first", "ab", "cd", "ef"]);
  assertEquals(new TextDecoder().decode(kept), "ab");
});

for (
  const [name, deadLetter, reason] of [
    ["returns false", () => false, "deadLetter did not take them"],
    [
      "returns 1",
      () => 1 as unknown as boolean,
      "deadLetter did not take them",
    ],
    ["throws", () => {
      throw new Error("no room");
    }, "deadLetter failed: no room"],
    ["rejects", () => Promise.reject(new Error("no")), "deadLetter failed: no"],
    ["is absent", undefined, "bad content"],
  ] as const
) {
  Deno.test(`6. refused content stops the delivery and says so, while writes go on, if deadLetter ${name}`, async () => {
    await using folder = await temporary();
    using time = fakeTime();
    const errors: string[] = [];
    const sender = new BadSender([REFUSED]);
    await using file = open(folder.file("app.spool"), sender, {
      ...(deadLetter && { deadLetter }),
      onError: ({ message }) => errors.push(message),
    });
    await file.commit("bad");
    const error = await assertRejects(() => file.spool.drained(), FlushError);
    assert(error.message.endsWith(reason), error.message);
    assertEquals(errors, [error.message]);
    await assertRejects(() => file.spool.drained(), FlushError, reason);
    await file.commit("good");
    assertEquals(file.spool.stats.bytesWaiting, 7);
    assertEquals(sender.attempts.length, 1);
    // Somebody may have mended the server.
    await time.tickAsync(1_000);
    await turns();
    assertEquals(sender.text, "badgood");
    await file.spool.drained();
  });
}

Deno.test("6. refused content that deadLetter takes while the spool ends is not kept", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const taken = Promise.withResolvers<boolean>();
  const file = open(path, new BadSender([REFUSED]), {
    deadLetter: () => taken.promise,
  });
  await file.commit("bad");
  await turns();
  const aborted = file.spool.abort();
  taken.resolve(true);
  await aborted;
  await file.out.close();
  assertEquals(waiting(path), []);
});

Deno.test("6. refused content is not offered after the end", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("app.spool");
  const { step, reject } = gate();
  let offers = 0;
  const file = open(path, new BadSender([step]), {
    deadLetter: () => ++offers > 0,
  });
  await file.commit("bad");
  await turns();
  const ended = file.spool.abort();
  await turns();
  await time.tickAsync(1_000);
  await ended;
  reject(Object.assign(new Error("bad content"), { refused: true }));
  await turns();
  await file.out.close();
  assertEquals(offers, 0);
  assertEquals(waiting(path), ["bad"]);
});

Deno.test("6. refused content is offered again by the next opening, under the same key", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const keys: string[] = [];
  for (const isTaken of [false, true]) {
    await using file = open(path, new BadSender([REFUSED]), {
      deadLetter: (_bytes, _error, { key }) => {
        keys.push(key);
        return isTaken;
      },
    });
    if (!isTaken) await file.commit("bad");
    await file.spool.drained().catch(() => {});
  }
  assertEquals(keys[0], keys[1]);
  assertEquals(waiting(path), []);
});

Deno.test("6. an acknowledgement that cannot be recorded is remembered: the bytes are not sent again", async () => {
  await using folder = await temporary();
  using sqlite = new FaultySqlite();
  using time = fakeTime();
  const sender = new BadSender();
  await using file = open(folder.file("app.spool"), sender);
  sqlite.fail = (sql) =>
    sql.startsWith("delete from batch") ? diskFull : undefined;
  await file.commit("one");
  for (let i = 0; i < 10; i++) {
    await turns();
    await time.tickAsync(1_000);
  }
  assertEquals(sender.sends, ["one"]);
  assertEquals(file.spool.stats.bytesWaiting, 3);
  assertMatch(
    file.spool.stats.lastError!.message,
    /^Cannot delete what was delivered in the spool .*: the disk is full; /,
  );
  await file.commit("two");
  sqlite.fail = () => undefined;
  await time.tickAsync(60_000);
  await file.spool.drained();
  assertEquals(sender.sends, ["one", "two"]);
});

Deno.test("6. what onError throws or rejects with is ignored", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const sender = new BadSender([AWAY, AWAY]);
  let calls = 0;
  await using file = open(folder.file("app.spool"), sender, {
    onError: () => {
      if (++calls === 1) throw new Error("oh");
      return Promise.reject(new Error("oh")) as unknown as void;
    },
  });
  await file.commit("one");
  await turns();
  await time.tickAsync(1_000);
  await turns();
  await time.tickAsync(2_000);
  await file.spool.drained();
  assertEquals([calls, sender.text], [2, "one"]);
});

// -- Senders that misbehave --

Deno.test("a sender that throws synchronously, or throws anything, has failed", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const thrown: unknown[] = [undefined, null, "text", new Error("e")];
  let calls = 0;
  const errors: unknown[] = [];
  await using file = open(folder.file("app.spool"), () => {
    if (calls < thrown.length) throw thrown[calls++];
  }, { onError: ({ cause }) => errors.push(cause) });
  await file.commit("one");
  for (let i = 0; i < 20; i++) {
    await turns(5);
    await time.tickAsync(1_000);
  }
  await file.spool.drained();
  assertEquals(errors, thrown);
});

for (const end of ["close", "abort"] as const) {
  Deno.test(`a sender that never settles and ignores its signal does not hang ${end}()`, async () => {
    await using folder = await temporary();
    using time = fakeTime();
    const path = folder.file("app.spool");
    const file = open(path, new BadSender([], ignore));
    await file.commit("one");
    await turns();
    const ended = file.spool[end]();
    await turns();
    await time.tickAsync(1_000);
    await ended;
    await file.out.close();
    assertEquals(waiting(path), ["one"]);
  });
}

Deno.test("an acknowledgement that arrives after the end does not count", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("app.spool");
  const { step, resolve } = gate();
  const sender = new BadSender([step]);
  const file = open(path, sender);
  await file.commit("one");
  await turns();
  const ended = file.spool.abort();
  await turns();
  await time.tickAsync(1_000);
  await ended;
  resolve();
  await turns();
  assertEquals(sender.events, ["send 0", "abort", "ack 0"]);
  await file.out.close();
  assertEquals(waiting(path), ["one"]);
});

Deno.test("abort() aborts the request with its reason", async () => {
  await using folder = await temporary();
  const sender = new BadSender([], stall);
  const file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await turns();
  const reason = new Error("enough");
  await file.spool.abort(reason);
  assertEquals(sender.signal!.reason, reason);
  await file.out.close();
});

Deno.test("a sender that has ended is not called again, and drained() rejects", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const sender = Object.assign(new BadSender([AWAY]), { ended: true });
  await using file = open(folder.file("app.spool"), sender);
  await file.commit("one");
  await assertRejects(() => file.spool.drained(), FlushError, "away");
  await time.tickAsync(1_000_000);
  await turns();
  assertEquals(sender.attempts.length, 1);
  await file.commit("two");
});

Deno.test("a sender may call close() of the spool", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const file: ReturnType<typeof open> = open(path, async () => {
    await Promise.race([file.spool.close(), turns(1)]);
  });
  await file.commit("one");
  await file.out.close();
  assertEquals(waiting(path), []);
});

Deno.test("a sender whose sends do not stand alone is refused, and no file is made", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const sender = { send() {}, ordered: true };
  assertThrows(
    () => new Spool(path, sender),
    TypeError,
    "Cannot create Spool: sender must be one whose sends stand alone, such as a FetchSender, received an object (Object)",
  );
  const spool = new Spool(path, () => {});
  assertThrows(() => new Spool(folder.file("b"), spool), TypeError);
  await spool.close();
  assertThrows(() => Deno.statSync(folder.file("b")), Deno.errors.NotFound);
});

// -- Who writes --

Deno.test("a second buffer is refused", async () => {
  await using folder = await temporary();
  await using file = open(folder.file("app.spool"), new BadSender());
  await file.commit("one");
  const second = new StreamBuffer(file.spool);
  await second.write("two");
  await assertRejects(
    () => second.flush(),
    FlushError,
    "Cannot send: the Spool serves another stream; open one for each",
  );
  await second.abort().catch(() => {});
});

Deno.test("6. deadLetter gets the bytes that are in the file, whatever the sender did to them", async () => {
  await using folder = await temporary();
  const taken: string[] = [];
  const send = (bytes: Uint8Array<ArrayBuffer>) => {
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    throw Object.assign(new Error("bad content"), { refused: true });
  };
  await using file = open(folder.file("app.spool"), send, {
    deadLetter: (bytes) => taken.push(new TextDecoder().decode(bytes)) > 0,
  });
  await file.commit("bad");
  await file.spool.drained();
  assertEquals(taken, ["bad"]);
});

Deno.test("6. close() of the buffer ends a delay while a write waits for room", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const sender = new BadSender([AWAY]);
  const file = open(folder.file("app.spool"), sender, { maxBytes: 3 });
  await file.commit("one");
  await turns();
  const committed = file.commit("two");
  await turns();
  assertEquals(sender.attempts.length, 1);
  const closed = file.out.close();
  // Less than half of the first delay.
  await time.tickAsync(100);
  await turns();
  await Promise.all([committed, closed]);
  assertEquals(sender.text.slice(0, 3), "one");
});

Deno.test("a sender that is done at once does not stop the event loop", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  let sends = 0;
  const file = open(path, () => {
    sends++;
  }, { requestBytes: 1 });
  let turnsTaken = 0;
  let timer = setImmediate(function next() {
    turnsTaken++;
    timer = setImmediate(next);
  });
  const texts = Array.from({ length: 50 }, () => "x");
  await Promise.all(texts.map((text) => file.commit(text)));
  await file.spool.drained();
  clearImmediate(timer);
  assert(turnsTaken >= sends - 1, `${turnsTaken} turns for ${sends} sends`);
  await file.out.close();
});

Deno.test("an acknowledgement that comes after the end leaves the files of the next owner alone", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("app.spool");
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = open(path, () => promise);
  await first.commit("one");
  await turns();
  const aborted = first.spool.abort();
  await time.tickAsync(1_000);
  await aborted;
  await using second = open(path, new BadSender([], stall));
  await second.commit("two");
  resolve();
  await turns();
  assertEquals(Deno.statSync(`${path}-reserve`).isFile, true);
  assertEquals(second.spool.stats.bytesWaiting, 6);
  await first.out.close();
});

Deno.test("a disk that is gone rejects writes, and the buffer keeps their bytes", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  using sqlite = new FaultySqlite();
  const file = open(path, new BadSender([], stall));
  await file.commit("one");
  sqlite.fail = () => sqliteError(10, "disk I/O error");
  const error = await assertRejects(
    () => file.commit("two"),
    FlushError,
    "Cannot add 3 bytes to the spool",
  );
  assertEquals((error.cause as SpoolError).code, "io");
  await file.out.abort().catch(() => {});
  assertEquals(new TextDecoder().decode(file.out.takeUnsent()), "two");
});

Deno.test("send() does not commit a batch twice whose commit seemed to fail", async () => {
  for (const failures of [1, 2]) {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    using sqlite = new FaultySqlite();
    const file = open(path, new BadSender([], stall));
    let left = failures;
    sqlite.failAfter = (sql) =>
      sql === "commit" && left-- > 0
        ? sqliteError(10, "disk I/O error")
        : undefined;
    const committed = file.commit("one");
    if (failures === 1) await committed;
    else await assertRejects(() => committed, FlushError, "disk I/O error");
    await file.out.flush();
    assertEquals(file.spool.stats.bytesWaiting, 3);
    await file.spool.abort();
    assertEquals(waiting(path), ["one"]);
  }
});

Deno.test("send() of no bytes commits nothing, and does not harm what follows", async () => {
  await using folder = await temporary();
  await using file = open(folder.file("app.spool"), new BadSender());
  const { signal } = new AbortController();
  const context = (offset: number) => ({
    ...{ sequence: 0, offset, signal, closing: signal, deadline: Infinity },
  });
  await file.spool.send(new Uint8Array(0), context(0));
  assertEquals(file.spool.stats.batchesWaiting, 0);
  await file.spool.send(new Uint8Array(2), context(0));
  await file.spool.send(new Uint8Array(2), context(2));
  await file.spool.drained();
  assertEquals(file.spool.stats.bytesDelivered, 4);
});

Deno.test("send() and drained() of a closed spool reject", async () => {
  await using folder = await temporary();
  const file = open(folder.file("app.spool"), away());
  await file.commit("one");
  const drained = file.spool.drained();
  drained.catch(() => {});
  await file.spool.close();
  const message = "Cannot wait for the server: the Spool is closed";
  await assertRejects(() => drained, TypeError, message);
  await assertRejects(() => file.spool.drained(), TypeError, message);
  await file.out.write("two");
  await assertRejects(
    () => file.out.flush(),
    FlushError,
    "the Spool is closed",
  );
  await file.out.abort().catch(() => {});
});

Deno.test("close() and abort() again return the same promise", async () => {
  await using folder = await temporary();
  const spool = new Spool(folder.file("app.spool"), away());
  const closed = spool.close();
  assertEquals(spool.close(), closed);
  assertEquals(spool.abort(), closed);
  assertEquals(spool[Symbol.asyncDispose](), closed);
  await closed;
});

// -- stats --

Deno.test("stats say what waits and what has happened", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const { step, resolve } = gate();
  const path = folder.file("app.spool");
  await using file = open(path, new BadSender([step]));
  const { id, ...empty } = file.spool.stats;
  assertMatch(id, /^[0-9a-f-]{36}$/);
  assertEquals(empty, {
    ...{ bytesWaiting: 0, batchesWaiting: 0, oldestAge: 0, bytesDelivered: 0 },
    ...{ bytesDiverted: 0, bytesLost: 0, sends: 0, failures: 0 },
    lastError: undefined,
  });
  await file.commit("one");
  await time.tickAsync(700);
  await file.commit("two");
  const { bytesWaiting, batchesWaiting, oldestAge } = file.spool.stats;
  assertEquals([bytesWaiting, batchesWaiting, oldestAge], [6, 2, 700]);
  resolve();
  await file.spool.drained();
  const after = file.spool.stats;
  assertEquals([after.bytesDelivered, after.sends, after.oldestAge], [6, 2, 0]);
});

Deno.test("stats outlast the opening", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one", "two");
  {
    await using file = open(path, away());
    const { bytesWaiting, batchesWaiting } = file.spool.stats;
    assertEquals([bytesWaiting, batchesWaiting], [6, 2]);
  }
  await drain(path);
  await using file = open(path, away());
  assertEquals(file.spool.stats.bytesDelivered, 6);
});

Deno.test("a clock that is set back: the age is never negative, and the delivery does not mind", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  using time = fakeTime();
  using _ = fixedRandom(1);
  const sender = new BadSender([AWAY]);
  await using file = open(path, sender);
  await file.commit("one");
  await turns();
  time.setSystemTime(-1_000_000_000_000);
  assertEquals(file.spool.stats.oldestAge, 0);
  await file.commit("two");
  assertEquals(file.spool.stats.oldestAge, 0);
  await time.tickAsync(1_000);
  await file.spool.drained();
  assertEquals(sender.text, "onetwo");
});

// -- Bad input --

for (
  const [options, type, message] of [
    [{ durability: "ram" }, RangeError, "durability"],
    [{ durability: 1 }, TypeError, "durability"],
    [{ requestBytes: 0 }, RangeError, "requestBytes"],
    [{ requestBytes: 2 ** 40 }, RangeError, "requestBytes"],
    [{ requestBytes: "1" }, TypeError, "requestBytes"],
    [{ maxBytes: 0 }, RangeError, "maxBytes"],
    [{ maxBytes: 1.5 }, RangeError, "maxBytes"],
    [{ maxBytes: Infinity }, RangeError, "maxBytes"],
    [{ drainTimeout: -1 }, RangeError, "drainTimeout"],
    [{ drainTimeout: 2 ** 31 }, RangeError, "drainTimeout"],
    [{ onError: 1 }, TypeError, "onError"],
    [{ deadLetter: {} }, TypeError, "deadLetter"],
  ] as const
) {
  Deno.test(`new Spool() refuses the options ${Deno.inspect(options)}, and makes no file`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    assertThrows(
      () => new Spool(path, () => {}, options as unknown as SpoolOptions),
      type,
      `Cannot create Spool: ${message} must be `,
    );
    assertThrows(() => Deno.statSync(path), Deno.errors.NotFound);
  });
}

for (
  const [path, type, message] of [
    [undefined, TypeError, "must be a path or a file: URL, received undefined"],
    [null, TypeError, "must be a path or a file: URL, received null"],
    [1, TypeError, "must be a path or a file: URL, received 1"],
    [
      new URL("http://localhost/a"),
      TypeError,
      "must be a path or a file: URL, received an object (URL)",
    ],
    ["", RangeError, 'received ""'],
    ["a\0b", RangeError, 'received "a\\u0000b"'],
  ] as const
) {
  Deno.test(`new Spool() refuses the path ${Deno.inspect(path)}`, () => {
    assertThrows(
      () => new Spool(path as unknown as string, () => {}),
      type,
      message,
    );
  });
}

for (const sender of [undefined, null, 1, {}, { send: 1 }]) {
  Deno.test(`new Spool() refuses the sender ${Deno.inspect(sender)}`, async () => {
    await using folder = await temporary();
    assertThrows(
      () => new Spool(folder.file("a"), sender as unknown as BadSender),
      TypeError,
      'sender must be a function or have a method "send", received ',
    );
  });
}

Deno.test("new Spool() takes a file: URL", async () => {
  await using folder = await temporary();
  const path = folder.file("app spool");
  const url = new URL(`file://${path.replaceAll(" ", "%20")}`);
  await fill(url as unknown as string, "one");
  assertEquals(waiting(path), ["one"]);
});

Deno.test("a request held by the server does not hold up commits", async () => {
  await using folder = await temporary();
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using file = open(
    folder.file("app.spool"),
    new FetchSender(server.url),
  );
  await file.commit("one");
  await server.received(1);
  await file.commit("two", "three");
  release();
  await file.spool.drained();
  assertEquals(server.bodies, ["one", "twothree"]);
});
