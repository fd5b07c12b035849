/**
 * What a power cut leaves of a spool. It cannot be made by killing a process: what
 * that has written stays in the memory of the system. So a process is traced, and
 * the tests look at what it had synced by the time others relied on it, and build the
 * files that a power cut would have left at some of its system calls.
 *
 * The spool relies on these promises of SQLite:
 *
 * - In WAL mode with `synchronous = full` "an additional sync operation of the WAL file
 *   happens after each transaction commit", which makes it durable. With `normal` there
 *   is none: the latest transactions "might roll back following a power loss", but what
 *   is left is consistent
 *   (https://www.sqlite.org/pragma.html#pragma_synchronous).
 * - A frame of the WAL is valid only if its checksum, which covers all frames before
 *   it, matches; the first one that does not ends the WAL
 *   (https://www.sqlite.org/fileformat2.html#the_write_ahead_log). So what is torn or
 *   missing in the end of it takes nothing else away.
 * - In either case "the WAL file is synchronized before each checkpoint", the database
 *   after it, and the head of the WAL when it begins to be used again (the same page).
 * - The tables are created in one transaction with a rollback journal, which is atomic
 *   (https://www.sqlite.org/atomiccommit.html).
 */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import { Spool, StreamBuffer } from "../spool/mod.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import { RECORD_LIMIT, RECORDS } from "../testing/power_cut_child.ts";
import { numbersOf, record } from "../testing/records.ts";
import { temporary } from "../testing/temporary.ts";
import {
  type Call,
  canTrace,
  type Fate,
  parseTrace,
  straceArgs,
  TracedDisk,
} from "../testing/traced_disk.ts";

const PROGRAM = fileURLToPath(
  import.meta.resolve("../testing/power_cut_child.ts"),
);
const ignore = !canTrace();
if (ignore) console.log("power_cut_test: strace is missing, or not allowed");

type Durability = "power" | "process";

/** A request that was made. */
interface Attempt {
  readonly key: string;
  readonly offset: number;
  readonly text: string;
}

/** One thing that the traced process did. */
type Event =
  | { call: Call }
  | { attempt: Attempt }
  | { covered: number };

/** All that the traced process writes. */
const STREAM = Array.from(
  { length: RECORDS },
  (_, number) => record(0, number, RECORD_LIMIT),
).join("");

async function trace(durability: Durability): Promise<Event[]> {
  await using folder = await temporary();
  const path = folder.file("spool");
  const parent = path.slice(0, -"/spool".length);
  const log = folder.file("log");
  const names = ["spool", "spool-wal", "spool-journal", "marks"];
  const { success, stderr } = await new Deno.Command("strace", {
    args: [
      ...straceArgs(log, parent, names),
      ...[Deno.execPath(), "run", "-q", "-A", "--no-config", "--no-lock"],
      ...["--no-npm", PROGRAM, path, folder.file("marks"), durability],
    ],
    stdout: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  const calls = parseTrace(await Deno.readTextFile(log), parent);
  return calls.flatMap((call) => {
    if (!("name" in call) || call.name !== "marks") return { call };
    if (call.do !== "write") return [];
    const [mark, ...values] = new TextDecoder().decode(call.bytes).trim()
      .split(" ");
    if (mark === "covered") return { covered: Number(values[0]) };
    const [offset, size, crc] = values.slice(1).map(Number);
    const text = STREAM.slice(offset!, offset! + size!);
    assertEquals(crc32(text), crc, "the bytes of an attempt");
    return { attempt: { key: values[0]!, offset: offset!, text } };
  });
}

const traces = new Map<Durability, Promise<Event[]>>();
function traceOf(durability: Durability): Promise<Event[]> {
  const known = traces.get(durability) ?? trace(durability);
  traces.set(durability, known);
  return known;
}

for (const durability of ["power", "process"] as const) {
  Deno.test({
    name:
      `Spool syncs what others rely on before they can, with durability: "${durability}"`,
    ignore,
    async fn() {
      const disk = new TracedDisk();
      const keys = new Set<string>();
      let [covered, wasUnsynced] = [0, false];
      for (const event of await traceOf(durability)) {
        if ("call" in event) disk.apply(event.call);
        if ("attempt" in event) {
          const { key, offset, text } = event.attempt;
          // Two columns, one after the other: the epoch, and where the cuts end.
          const [, epoch] = key.match(/\.(.+)-/)!;
          const cut = new RegExp(`${epoch}(\\d+,)*${offset + text.length}`);
          assert(disk.hasSynced(cut), `an attempt before ${key} was synced`);
          keys.add(key);
        } else if ("covered" in event) {
          covered = event.covered;
          const latest = record(0, covered - 1, RECORD_LIMIT);
          const isSynced = disk.hasSynced(new RegExp(latest.trimEnd()));
          if (durability === "process") wasUnsynced ||= !isSynced;
          else assert(isSynced, `record ${covered - 1} was not synced`);
        }
      }
      assertEquals(covered, RECORDS);
      assert(keys.size > 5, `only ${keys.size} requests`);
      assertEquals(wasUnsynced, durability === "process");
    },
  });
}

/** What the traced process had done by one of its system calls. */
interface Moment {
  readonly disk: TracedDisk;
  readonly attempts: Attempt[];
  readonly covered: number;
}

function momentAt(events: readonly Event[]): Moment {
  const disk = new TracedDisk();
  const attempts: Attempt[] = [];
  let covered = 0;
  for (const event of events) {
    if ("call" in event) disk.apply(event.call);
    else if ("attempt" in event) attempts.push(event.attempt);
    else covered = event.covered;
  }
  return { disk, attempts, covered };
}

/** How many records a process writes that opens the spool after the power cut. */
const LATER_RECORDS = 3;

/** Opens the files, writes some more, and returns all requests until nothing waits. */
async function resume(
  files: Map<string, Uint8Array<ArrayBuffer>>,
): Promise<Attempt[]> {
  await using folder = await temporary();
  for (const [name, bytes] of files) {
    Deno.writeFileSync(folder.file(name), bytes);
  }
  const path = folder.file("spool");
  // As large as it has to be, and of no cost.
  Deno.writeFileSync(`${path}-reserve`, new Uint8Array());
  Deno.truncateSync(`${path}-reserve`, 2 ** 30);
  const attempts: Attempt[] = [];
  const spool = new Spool(path, (bytes, { key, offset }) => {
    attempts.push({ key: key!, offset, text: new TextDecoder().decode(bytes) });
    return Promise.resolve();
  }, { durability: "process" });
  await using out = new StreamBuffer(spool);
  for (let number = 0; number < LATER_RECORDS; number++) {
    await out.write(record(1, number, RECORD_LIMIT));
  }
  await out.flush();
  await spool.drained();
  return attempts;
}

/** What a server has that stores one body per key, in the order of arrival. */
function storedBy(attempts: readonly Attempt[]): Attempt[] {
  const stored = new Map<string, Attempt>();
  for (const attempt of attempts) {
    const { key, text } = stored.get(attempt.key) ?? attempt;
    assertEquals(attempt.text, text, `key ${key} has two contents`);
    if (!stored.has(key)) stored.set(key, attempt);
  }
  return [...stored.values()];
}

/** Checks that a server has the beginning of both streams, each once and in order. */
function checkStored(stored: readonly Attempt[], covered: number): void {
  let size = 0;
  for (const { offset, text } of stored) {
    assertEquals(offset, size);
    size += text.length;
  }
  const lines = stored.map(({ text }) => text).join("").split("\n");
  assertEquals(lines.pop(), "");
  const first = lines.filter((line) => numbersOf(line).run === 0).length;
  assert(first >= covered, `${first} of ${covered} covered records`);
  assertEquals(
    lines,
    [
      ...Array.from({ length: first }, (_, i) => record(0, i, RECORD_LIMIT)),
      ...Array.from(
        { length: LATER_RECORDS },
        (_, i) => record(1, i, RECORD_LIMIT),
      ),
    ].map((line) => line.trimEnd()),
  );
}

/** How many system calls are followed by a power cut, in a test. */
const CUTS = 200;

for (
  const [durability, promise] of [
    ["power", "loses nothing that was flushed"],
    ["process", "repeats nothing, and gives no key two contents"],
  ] as const
) {
  Deno.test({
    name:
      `a power cut at any system call ${promise}, with durability: "${durability}"`,
    ignore,
    async fn() {
      const events = await traceOf(durability);
      const seed = Date.now() & 0xfffffff;
      const random = randomFrom(seed);
      for (let cut = 0; cut < CUTS; cut++) {
        const at = Math.floor(random() * (events.length + 1));
        const { disk, attempts, covered } = momentAt(events.slice(0, at));
        // Half of the time nothing survives but what was synced.
        const fate = (): Fate => {
          const what = cut % 2 === 0 ? 1 : random();
          return what < 0.4 ? "kept" : what < 0.6 ? "torn" : "lost";
        };
        try {
          const later = await resume(disk.cut(fate));
          const stored = storedBy([...attempts, ...later]);
          checkStored(stored, durability === "power" ? covered : 0);
        } catch (error) {
          throw new Error(
            `Cut ${cut} with seed ${seed}, after ${at} of ${events.length} events, failed`,
            { cause: error },
          );
        }
      }
    },
  });
}

Deno.test({
  name: "a spool that is restored from an older copy gives no key two contents",
  ignore,
  async fn() {
    const events = await traceOf("power");
    const { attempts } = momentAt(events);
    const random = randomFrom(Date.now());
    for (let copy = 0; copy < 20; copy++) {
      const at = Math.floor(random() * (events.length + 1));
      const { disk } = momentAt(events.slice(0, at));
      const later = await resume(disk.cut(() => "kept"));
      storedBy([...attempts, ...later]);
    }
  },
});
