/**
 * The file of a spool: what is recognised before anything is written, what a crash may
 * leave, and how it is looked at and read. `spool_test.ts` tests what it is for.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import process from "node:process";
import { FlushError, StreamBuffer } from "../buffer.ts";
import { BadSender, refuse, stall } from "../testing/bad_sender.ts";
import { turns } from "../testing/event_loop.ts";
import { FaultySqlite, sqliteError } from "../testing/faulty_sqlite.ts";
import { temporary } from "../testing/temporary.ts";
import { SpoolError, type SpoolErrorCode } from "./errors.ts";
import { inspectSpool, readSpool } from "./inspect.ts";
import { Spool } from "./spool.ts";

const AWAY = refuse(new Error("the server is away"));
const PAGE = 16 * 1024;

/** Commits texts while the server is away, and closes the file. */
async function fill(path: string, ...texts: string[]): Promise<void> {
  await using spool = new Spool(path, new BadSender([], AWAY), {
    drainTimeout: 0,
  });
  const out = new StreamBuffer(spool, { flushInterval: 0 });
  for (const text of texts) {
    await out.write(text);
    await out.flush();
  }
  await out.close();
}

/** Delivers what waits, and returns it. */
async function drain(path: string): Promise<string> {
  const sender = new BadSender();
  await using spool = new Spool(path, sender);
  await spool.drained();
  return sender.text;
}

/**
 * Commits texts, and copies the file as it is before the WAL has been moved to it, as
 * after a crash.
 */
async function crashed(
  path: string,
  ...texts: string[]
): Promise<void> {
  const busy = `${path}-busy`;
  await using spool = new Spool(busy, new BadSender([], AWAY), {
    drainTimeout: 0,
  });
  await using out = new StreamBuffer(spool, { flushInterval: 0 });
  for (const text of texts) {
    await out.write(text);
    await out.flush();
  }
  // Not by reading it in this process, which would drop its lock.
  for (const suffix of ["", "-wal"]) {
    const names = JSON.stringify([busy + suffix, path + suffix]);
    const { success } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", `Deno.copyFileSync(...${names})`],
    }).output();
    assert(success);
  }
}

/** What the file and those that SQLite makes beside it hold. */
function contents(path: string): Record<string, Uint8Array | undefined> {
  return Object.fromEntries(["", "-wal", "-journal"].map((suffix) => {
    try {
      return [suffix, Deno.readFileSync(path + suffix)];
    } catch {
      return [suffix, undefined];
    }
  }));
}

/** Every way to open a file. */
const OPENERS: Record<string, (path: string) => unknown> = {
  "new Spool()": (path) => new Spool(path, () => {}),
  "inspectSpool()": (path) => inspectSpool(path),
  "readSpool()": (path) => [...readSpool(path)],
};

/** Checks that a file is refused by every way to open it, and is left as it is. */
function assertRefused(
  path: string,
  code: SpoolErrorCode,
  reason: string,
): void {
  const before = contents(path);
  for (const open of Object.values(OPENERS)) {
    const error = assertThrows(() => open(path), SpoolError);
    assertEquals(error.code, code, error.message);
    assertStringIncludes(error.message, "Cannot open the spool ");
    assertStringIncludes(error.message, reason);
    assertEquals(contents(path), before);
  }
}

/** Changes some bytes of a file. */
function overwrite(path: string, at: number, bytes: Uint8Array): void {
  using file = Deno.openSync(path, { write: true });
  file.seekSync(at, Deno.SeekMode.Start);
  file.writeSync(bytes);
}

function sql(path: string, statements: string): void {
  const db = new DatabaseSync(path);
  db.exec(statements);
  db.close();
}

// -- What is not a spool --

const FOREIGN = "it is not a spool, and was not changed; choose another path";

for (
  const [name, text] of [
    ["of text", "hello\n".repeat(100)],
    ["of one byte", "x"],
    ["of zeros", "\0".repeat(100_000)],
    ["that begins like a database", "SQLite format 3\0"],
  ] as const
) {
  Deno.test(`a file ${name} is refused, and not changed`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool", text);
    assertRefused(path, "foreign", FOREIGN);
  });
}

Deno.test("another database is refused, and not changed", async () => {
  await using folder = await temporary();
  for (
    const [name, statements] of [
      ["plain", "create table t (x); insert into t values (1)"],
      ["named", "pragma application_id = 7; create table t (x)"],
      ["wal", "pragma journal_mode = wal; create table t (x)"],
    ] as const
  ) {
    const path = folder.file(name);
    sql(path, statements);
    assertRefused(path, "foreign", FOREIGN);
  }
});

Deno.test("another database with a WAL that was left is refused, and not changed", async () => {
  await using folder = await temporary();
  const [busy, path] = [folder.file("busy"), folder.file("path")];
  const db = new DatabaseSync(busy);
  db.exec("pragma journal_mode = wal; create table t (x)");
  for (const suffix of ["", "-wal"]) {
    Deno.copyFileSync(busy + suffix, path + suffix);
  }
  db.close();
  assertRefused(path, "foreign", FOREIGN);
});

for (const size of [1, 16, 100]) {
  Deno.test(`a spool whose first ${size} bytes are garbled is refused, and not changed`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "one");
    overwrite(path, 0, new Uint8Array(size).fill(0x5a));
    assertRefused(path, "foreign", FOREIGN);
  });
}

Deno.test("a spool of a later version is refused, and not changed", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one");
  sql(path, "pragma user_version = 2");
  const reason =
    "it was made by a later version of this library (format 2; this one knows up to 1); use that version";
  assertRefused(path, "newer", reason);
});

Deno.test("a spool of a later version is refused even if a process with this id was killed", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one");
  sql(path, "pragma user_version = 2");
  folder.file("app.spool-owner", JSON.stringify({ pid: process.pid }));
  assertRefused(
    path,
    "newer",
    "it was made by a later version of this library",
  );
});

Deno.test("an empty file becomes a spool", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool", "");
  await fill(path, "one");
  assertEquals(await drain(path), "one");
});

// -- What is damaged --

for (const left of [100, PAGE - 1, PAGE, 2 * PAGE + 1, 4 * PAGE]) {
  Deno.test(`a file that was cut off after ${left} bytes is refused, and not changed`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "one", "x".repeat(2 * PAGE));
    const { size } = Deno.statSync(path);
    Deno.truncateSync(path, left);
    assertRefused(
      path,
      "damaged",
      `it is damaged: ${left} bytes are left of ${size}`,
    );
  });
}

for (const left of [PAGE, 3 * PAGE]) {
  Deno.test(`a file that was cut off after ${left} bytes is refused, and not changed, although it has a WAL`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "one", "x".repeat(10 * PAGE));
    await crashed(folder.file("other"), "one");
    Deno.copyFileSync(folder.file("other-wal"), `${path}-wal`);
    Deno.truncateSync(path, left);
    const { size: wal } = Deno.statSync(`${path}-wal`);
    assert(left + wal < 10 * PAGE);
    assertRefused(path, "damaged", `${left} bytes are left of`);
  });
}

for (const name of ["empty", "missing"]) {
  Deno.test(`a file that is ${name}, while its WAL is not, is not taken for a new one`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await crashed(path, "one");
    if (name === "empty") Deno.truncateSync(path);
    else Deno.removeSync(path);
    const before = contents(path);
    const { code, message } = assertThrows(
      () => new Spool(path, () => {}),
      SpoolError,
    );
    assertEquals(code, "damaged");
    assertStringIncludes(message, "app.spool-wal is not");
    assertEquals(contents(path), before);
  });
}

Deno.test("a WAL that was cut off looks like a crash: what was whole in it is there", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await crashed(path, "one", "two");
  const { size } = Deno.statSync(`${path}-wal`);
  Deno.truncateSync(`${path}-wal`, size - 1);
  assertEquals(inspectSpool(path).bytesWaiting, 3);
  assertEquals(await drain(path), "one");
});

Deno.test("a crash during a checkpoint, after which the file is shorter than it says, loses nothing", async () => {
  await using folder = await temporary();
  const [path, whole] = [folder.file("app.spool"), folder.file("whole.spool")];
  const text = "x".repeat(20 * PAGE);
  await crashed(path, text);
  for (const suffix of ["", "-wal"]) {
    Deno.copyFileSync(path + suffix, whole + suffix);
  }
  inspectSpool(whole);
  // The checkpoint got as far as the first page.
  overwrite(path, 0, Deno.readFileSync(whole).subarray(0, PAGE));
  assert(Deno.statSync(path).size < Deno.statSync(whole).size);
  assertEquals(await drain(path), text);
});

Deno.test("what is in the WAL after a crash is there", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await crashed(path, "one", "two");
  assertEquals(await drain(path), "onetwo");
});

Deno.test("a spool without its state is refused", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  for (
    const statement of [
      "delete from spool",
      "update spool set settled = 1",
      "update spool set settled = 'x'",
      "update spool set cut_ends = '100'",
      "update spool set cut_ends = '0'",
      "drop table batch",
    ]
  ) {
    await fill(path, "one", "two");
    sql(path, statement);
    assertRefused(
      path,
      "damaged",
      "; to start over, move it and its -wal file away",
    );
    Deno.removeSync(path);
  }
});

/** Opens a damaged file, and returns what its delivery does. */
async function deliverDamaged(path: string) {
  const sender = new BadSender();
  const errors: FlushError[] = [];
  await using spool = new Spool(path, sender, {
    requestBytes: 1,
    drainTimeout: 0,
    onError: (error) => errors.push(error),
  });
  const out = new StreamBuffer(spool, { flushInterval: 0 });
  const error = await assertRejects(() => spool.drained(), FlushError);
  assertEquals((error.cause as SpoolError).code, "damaged", error.message);
  assertEquals(errors, [error]);
  const { bytesWaiting } = spool.stats;
  await out.write("more");
  await out.flush();
  assertEquals(spool.stats.bytesWaiting, bytesWaiting + 4);
  await turns();
  await out.close();
  return { sends: sender.sends, message: error.message };
}

for (
  const [name, statement] of [
    ["bytes", "update batch set bytes = x'000000' where offset = 3"],
    ["type", "update batch set bytes = 'two' where offset = 3"],
    ["one bit", "update batch set bytes = x'747770' where offset = 3"],
    ["time", "update batch set at = at + 1 where offset = 3"],
    ["number", "update batch set number = 7 where offset = 3"],
    ["checksum", "update batch set crc = crc + 1 where offset = 3"],
    ["offset", "update batch set offset = 4 where offset = 3"],
    ["absence", "delete from batch where offset = 3"],
  ] as const
) {
  Deno.test(`a row with another ${name} stops the delivery, while writes go on`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "one", "two", "three");
    sql(path, statement);
    // Opening does not look at it.
    assertEquals(inspectSpool(path).bytesWaiting, 11);
    const { sends, message } = await deliverDamaged(path);
    assertEquals(sends, ["one"]);
    assertStringIncludes(
      message,
      " is damaged: the bytes at offset 3 are not those that were added; readSpool, with onDamage, reads the rest",
    );
  });
}

for (
  const [name, statement] of [
    ["is garbled", "update batch set bytes = x'747770' where offset = 3"],
    ["is shorter", "update batch set bytes = x'74' where offset = 3"],
    ["is no blob", "update batch set bytes = 'two' where offset = 3"],
    ["is missing", "delete from batch where offset = 3"],
  ] as const
) {
  Deno.test(`readSpool() ends at a row that ${name}, or leaves it out with onDamage`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path, "one", "two", "three", "four");
    sql(path, statement);
    const texts: string[] = [];
    const error = assertThrows(() => {
      for (const bytes of readSpool(path)) {
        texts.push(new TextDecoder().decode(bytes));
      }
    }, SpoolError);
    assertEquals([error.code, texts], ["damaged", ["one"]]);
    assertStringIncludes(error.message, "offset 3 ");
    const errors: SpoolError[] = [];
    const rest = [...readSpool(path, { onDamage: (e) => errors.push(e) })]
      .map((bytes) => new TextDecoder().decode(bytes));
    assertEquals(rest, ["one", "three", "four"]);
    assertEquals(errors.map(({ message }) => message), [error.message]);
  });
}

Deno.test("a page that is garbled stops the delivery", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const texts = ["a", "b", "c"].map((letter) => letter.repeat(20 * PAGE));
  await fill(path, ...texts);
  const file = Deno.readFileSync(path);
  // A page that holds nothing but b.
  const page = Array.from({ length: file.length / PAGE }, (_, i) => i).find(
    (i) => file.subarray(i * PAGE + 8, (i + 1) * PAGE).every((x) => x === 98),
  );
  assert(page !== undefined);
  overwrite(path, page * PAGE + 100, new Uint8Array(100));
  const { sends, message } = await deliverDamaged(path);
  const text = sends.join("");
  assert(text.startsWith(texts[0]!) && text.length < 40 * PAGE);
  assert(texts.join("").startsWith(text), "garbled bytes were sent");
  assertStringIncludes(message, "is damaged");
});

Deno.test("a page that SQLite itself cannot read stops the delivery in the same way", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  using sqlite = new FaultySqlite();
  await fill(path, "one", "two");
  sqlite.fail = (sql) =>
    sql.startsWith("select * from batch")
      ? sqliteError(11, "database disk image is malformed")
      : undefined;
  const { sends, message } = await deliverDamaged(path);
  assertEquals(sends, []);
  assertStringIncludes(
    message,
    ": database disk image is malformed; to start over, move it",
  );
});

Deno.test("a damaged row leaves no statement open: checkpoints still empty the WAL", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one");
  sql(path, "update batch set at = 1");
  await using spool = new Spool(path, new BadSender(), { drainTimeout: 0 });
  await using out = new StreamBuffer(spool, { flushInterval: 0 });
  await assertRejects(() => spool.drained(), FlushError);
  for (let i = 0; i < 20; i++) {
    await out.write("x".repeat(1024 * 1024));
    await out.flush();
  }
  const { size } = Deno.statSync(`${path}-wal`);
  assert(size < 10 * 1024 * 1024, `the WAL has ${size} bytes`);
});

Deno.test("opening reads no rows but the first and the last", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one", "two", "three");
  using sqlite = new FaultySqlite();
  inspectSpool(path);
  const reads = sqlite.log.filter((sql) => sql.includes("from batch"));
  assert(reads.length > 0);
  for (const sql of reads) assert(sql.endsWith(" limit 1"), sql);
});

// -- Killed while the file is created --

/** The header of a rollback journal (https://www.sqlite.org/fileformat2.html#the_rollback_journal) of a file that was empty. */
function journalOfNothing(): Uint8Array {
  const bytes = new Uint8Array(512);
  bytes.set([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
  const view = new DataView(bytes.buffer);
  view.setInt32(8, 0); // records
  view.setInt32(20, 512); // the size of a sector
  view.setInt32(24, PAGE);
  return bytes;
}

for (const pages of [0, 1, 2, 4]) {
  Deno.test(`killed while the file is created, with ${pages} pages written: it is created anew`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    await fill(path);
    Deno.truncateSync(path, pages * PAGE);
    Deno.writeFileSync(`${path}-journal`, journalOfNothing());
    await fill(path, "one");
    assertEquals(await drain(path), "one");
  });
}

Deno.test("killed after the tables were made: the file is set up", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path);
  sql(path, "pragma journal_mode = delete");
  assertEquals(Deno.readFileSync(path)[18], 1); // not WAL
  await fill(path, "one");
  assertEquals(Deno.readFileSync(path)[18], 2);
  assertEquals(await drain(path), "one");
});

Deno.test("killed at any time, a side file that is empty or garbled does no harm", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  for (const text of ["", "{", "null", "1", " ".repeat(512)]) {
    await fill(path, "x");
    folder.file("app.spool-owner", text);
    folder.file("app.spool-reserve", text);
    await fill(path, "x");
  }
  assertEquals(inspectSpool(path).bytesWaiting, 10);
});

// -- Where it is --

Deno.test("a folder, a missing folder and a file in place of a folder are refused", async () => {
  await using folder = await temporary();
  const file = folder.file("file", "x");
  const root = folder.file("").slice(0, -1);
  for (
    const [path, reason] of [
      [root, /it is a folder$/],
      [`${root}/none/app.spool`, /there is no folder .*none$/],
      [`${file}/app.spool`, /there is no folder .*file$|not a directory/],
    ] as const
  ) {
    const { code, message } = assertThrows(
      () => new Spool(path, () => {}),
      SpoolError,
    );
    assertEquals(code, "io");
    assertStringIncludes(message, "Cannot open the spool ");
    assertMatch(message, reason);
  }
});

Deno.test(
  "a device is refused",
  { ignore: Deno.build.os === "windows" },
  () => {
    assertThrows(
      () => new Spool("/dev/null", () => {}),
      SpoolError,
      "Cannot open the spool /dev/null: it is not a regular file",
    );
  },
);

Deno.test("inspectSpool() and readSpool() do not create a file", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  for (const open of [OPENERS["inspectSpool()"]!, OPENERS["readSpool()"]!]) {
    const { code, message } = assertThrows(() => open(path), SpoolError);
    assertEquals(code, "io");
    assertStringIncludes(message, "there is no such file");
  }
  assertThrows(() => Deno.statSync(path), Deno.errors.NotFound);
});

Deno.test("a file that is opened through a link is the same spool", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  const [path, link] = [folder.file("app.spool"), folder.file("link.spool")];
  await fill(path, "one");
  Deno.symlinkSync(path, link);
  await fill(link, "two");
  assertThrows(() => Deno.statSync(`${link}-reserve`), Deno.errors.NotFound);
  assertEquals(await drain(path), "onetwo");
});

// -- Looking at it --

Deno.test("inspectSpool() says what is in a file that nobody has open, and leaves that there", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const before = Date.now();
  await fill(path, "one", "two");
  const info = inspectSpool(path);
  assertEquals(inspectSpool(path), info);
  const { id: _, oldest, ...rest } = info;
  assertEquals(rest, {
    ...{ bytesWaiting: 6, batchesWaiting: 2, bytesDelivered: 0 },
    ...{ bytesDiverted: 0, bytesLost: 0, owner: undefined },
  });
  assert(oldest!.getTime() >= before && oldest!.getTime() <= Date.now());
  assertEquals(await drain(path), "onetwo");
  assertEquals(inspectSpool(path), {
    ...info,
    ...{ bytesWaiting: 0, batchesWaiting: 0, oldest: undefined },
    bytesDelivered: 6,
  });
});

Deno.test("inspectSpool() of a file in use says who has it, and what that has published", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one");
  await using spool = new Spool(path, new BadSender([], AWAY), {
    drainTimeout: 0,
  });
  const { owner, ...info } = inspectSpool(path);
  assertEquals(owner?.pid, process.pid);
  assertEquals([info.bytesWaiting, info.id], [3, spool.stats.id]);
});

Deno.test("readSpool() takes nothing out, and closes the file when it is left early", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await fill(path, "one", "two");
  for (const bytes of readSpool(path)) {
    assertEquals(new TextDecoder().decode(bytes), "one");
    break;
  }
  assertEquals(await drain(path), "onetwo");
});

Deno.test("a platform without node:sqlite is named, with those that have it", async () => {
  await using folder = await temporary();
  const { getBuiltinModule } = process;
  for (
    const lacking of [
      () => undefined,
      undefined,
      () => {
        throw new Error("no such module");
      },
    ]
  ) {
    process.getBuiltinModule = lacking as typeof getBuiltinModule;
    try {
      for (const open of Object.values(OPENERS)) {
        assertThrows(
          () => open(folder.file("app.spool")),
          TypeError,
          ": this platform has no node:sqlite; Deno 2.8, Node 22.13 and Bun 1.4.5 or newer have it",
        );
      }
    } finally {
      process.getBuiltinModule = getBuiltinModule;
    }
  }
});

Deno.test("opening empties the WAL that a killed process has left", async () => {
  await using folder = await temporary();
  const [path, copy] = [folder.file("app.spool"), folder.file("copy.spool")];
  await using spool = new Spool(path, new BadSender([], stall), {
    drainTimeout: 0,
  });
  const { signal } = new AbortController();
  const context = { sequence: 0, offset: 0, signal, closing: signal };
  await spool.send(new Uint8Array(1024 * 1024), {
    ...context,
    deadline: Infinity,
  });
  // A killed process leaves the files as they are.
  for (const end of ["", "-wal"]) Deno.copyFileSync(path + end, copy + end);
  const before = Deno.statSync(copy).size;
  await using _ = new Spool(copy, new BadSender([], stall), {
    drainTimeout: 0,
  });
  assert(before < 1024 * 1024, "the WAL had been emptied before");
  assert(Deno.statSync(copy).size > 1024 * 1024);
});

Deno.test("a WAL without its file is not deleted, whoever is said to have it open", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  Deno.writeTextFileSync(`${path}-wal`, "commits");
  const owner = { pid: Deno.pid, host: null };
  Deno.writeTextFileSync(`${path}-owner`, JSON.stringify(owner));
  const error = assertThrows(() => new Spool(path, () => {}), SpoolError);
  assertEquals(error.code, "damaged");
  assertStringIncludes(error.message, "it is missing, but");
  assertEquals(Deno.readTextFileSync(`${path}-wal`), "commits");
});
