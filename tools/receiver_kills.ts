/**
 * Kills a receiver with SIGKILL, at random moments, and starts it again on the same
 * port, until there have been as many kills as it is told; while a `FetchSender` whose
 * sends overlap, and a process with a spool, which is killed now and then as well, send
 * numbered records to it. Proves that each batch that was acknowledged is stored once and
 * whole, none is stored twice, and no other bytes are. A seed repeats the plan of a run,
 * but not its timing.
 *
 *     deno task kills:receive --count 2000 --seed 42
 */
import { assert, assertEquals } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { FetchSender, StreamBuffer } from "../mod.ts";
import { FileStore, SqliteStore } from "../receiver/mod.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import type { ReceiverPlan, StoreName } from "../testing/receiver_child.ts";
import { MIN_RECORD_LIMIT, numbersOf, record } from "../testing/records.ts";
import type { SpoolPlan } from "../testing/spool_child.ts";
import { temporary } from "../testing/temporary.ts";

/** Stores at a time; each of their processes often waits. */
const CONCURRENCY = 2;
/** How long a process may take before it has to be where it is killed, in ms. */
const MAX_TIME = 60_000;
const RECEIVER = fileURLToPath(
  import.meta.resolve("../testing/receiver_child.ts"),
);
const WRITER = fileURLToPath(import.meta.resolve("../testing/spool_child.ts"));
/** The id of the stream whose sends overlap. */
const OVERLAPPING = "overlapping";

/** Totals over all stores of a kind. */
export interface Tally {
  stores: number;
  /** Of receivers. */
  kills: number;
  /** Of processes with a spool. */
  spoolKills: number;
  batches: number;
  /** Those of them that were forgotten. */
  pruned: number;
  /** How many kills fell before or after which statements and calls. */
  readonly points: Map<string, number>;
}

/** A process that is killed, or ends. */
interface Child extends AsyncDisposable {
  /** Is fulfilled when it has ended by the kill, or as it should. */
  readonly ended: Promise<void>;
  kill(): void;
  /** Ends its standard input. */
  end(): void;
}

/** Starts a program. If it ends by itself with an error, or is too late, `ended` rejects. */
function start(
  program: string,
  plan: unknown,
  onLine: (word: string, rest: string) => void,
): Child {
  // Without a configuration it starts in half the time.
  const flags = ["-q", "-A", "--no-config", "--no-lock", "--no-npm"];
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", ...flags, program, JSON.stringify(plan)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  let [isKilled, isLate] = [false, false];
  const kill = () => {
    isKilled = true;
    try {
      process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  const end = () => void process.stdin.close().catch(() => {});
  const timer = setTimeout(() => {
    isLate = true;
    kill();
  }, MAX_TIME);
  const readLines = async () => {
    let rest = "";
    const texts = process.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of texts) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const [word = "", ...words] = line.split(" ");
        onLine(word, words.join(" "));
      }
    }
  };
  const wait = async () => {
    const [{ success }, stderr] = await Promise.all([
      process.status,
      new Response(process.stderr).text(),
      readLines(),
    ]);
    clearTimeout(timer);
    end();
    assertEquals(stderr, "");
    assert(
      !isLate,
      `still running after ${MAX_TIME} ms: ${JSON.stringify(plan)}`,
    );
    assert(success || isKilled, "it has failed");
  };
  const ended = wait();
  ended.catch(() => {});
  return {
    ...{ ended, kill, end },
    async [Symbol.asyncDispose]() {
      kill();
      await ended.catch(() => {});
    },
  };
}

/** What was sent, and must be stored. */
interface Sent {
  /** The bytes of each batch whose sends overlap, by its number. */
  readonly batches: Map<number, Uint8Array>;
  readonly acknowledged: Set<number>;
  /** Of each process with a spool, how many records it knew to be on disk. */
  readonly covered: number[];
}

/** Sends records, up to four batches at once, until it is told to end. */
async function sendOverlapping(
  url: string,
  random: () => number,
  sent: Sent,
  signal: AbortSignal,
): Promise<void> {
  const sender = new FetchSender(url, {
    idempotencyKey: OVERLAPPING,
    retry: { initialDelay: 1, maxDelay: 20, maxElapsed: Infinity },
  });
  const capacity = MIN_RECORD_LIMIT + Math.floor(random() * 16 * 1024);
  const out = new StreamBuffer({
    async send(bytes, context) {
      sent.batches.set(context.sequence, bytes.slice());
      await sender.send(bytes, context);
      sent.acknowledged.add(context.sequence);
    },
    close: () => sender.close(),
  }, { capacity, concurrency: 4, flushInterval: 5, closeTimeout: MAX_TIME });
  for (let number = 0; !signal.aborted; number++) {
    await out.write(record(0, number, MIN_RECORD_LIMIT));
    if (random() < 0.3) await out.flush();
  }
  await out.close();
}

/** A batch that is stored. */
interface StoredBatch {
  readonly id: string;
  readonly epoch: string;
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

/** A range of batches that were stored, and forgotten. */
interface Range {
  readonly id: string;
  readonly epoch: string;
  readonly first: number;
  readonly last: number;
}

interface Stored {
  readonly batches: readonly StoredBatch[];
  readonly pruned: readonly Range[];
  /** What `onBatch` has written, if it did. */
  readonly records: readonly { id: string; run: number; number: number }[];
}

/** Reads what a store has, without its help. */
function readStore(name: StoreName, path: string): Stored {
  const isFile = name === "FileStore";
  const db = new DatabaseSync(isFile ? `${path}-keys` : path);
  const rows = db.prepare("select * from batch order by number").all();
  const pruned = db.prepare("select * from pruned").all();
  const records = isFile ? [] : db.prepare("select * from record").all();
  const base = isFile ? db.prepare("select base from file").get()!.base : 0;
  db.close();
  const file = isFile ? Deno.readFileSync(path) : undefined;
  let end = 0;
  const batches: unknown[] = [];
  for (const row of rows) {
    const { sequence, position, size, bytes } = row;
    const start = Number(position) - Number(base);
    if (file === undefined) batches.push({ ...row, bytes });
    else if (start >= 0) {
      assertEquals(start, end, "the file has a gap");
      end += Number(size);
      batches.push({ ...row, bytes: file.subarray(start, end) });
    } else {
      // prune() was killed after it had exchanged the file. The next one does the rest.
      pruned.push({ ...row, first: sequence!, last: sequence! });
    }
  }
  assertEquals(end, file?.length ?? 0, "the file has other bytes");
  return { batches, pruned, records } as unknown as Stored;
}

/** Checks that everything is stored, once. */
function checkStore(
  { batches, pruned, records }: Stored,
  sent: Sent,
): void {
  const isOverlapping = ({ id }: { id: string }) => id === OVERLAPPING;
  const isForgotten = (batch: Omit<StoredBatch, "bytes">) =>
    pruned.some(({ id, epoch, first, last }) =>
      id === batch.id && epoch === batch.epoch &&
      first <= batch.sequence && batch.sequence <= last
    );
  for (const batch of batches) {
    assert(
      !isForgotten(batch),
      `${batch.id}-${batch.sequence} is stored twice`,
    );
  }
  // -- The one whose sends overlap
  assertEquals(sent.acknowledged.size, sent.batches.size);
  const own = new Map(
    batches.filter(isOverlapping).map((
      { sequence, bytes },
    ) => [sequence, bytes]),
  );
  for (const [sequence, bytes] of sent.batches) {
    const stored = own.get(sequence);
    const batch = { id: OVERLAPPING, epoch: "", sequence };
    if (stored !== undefined) assertEquals(stored, bytes);
    else assert(isForgotten(batch), `batch ${sequence} is lost`);
    own.delete(sequence);
  }
  assertEquals(own.size, 0, "a batch that nobody sent");
  // -- The spool
  const spooled = batches.filter((batch) => !isOverlapping(batch))
    .sort((a, b) => a.sequence - b.sequence);
  const numbers = spooled.map(({ sequence }) => sequence);
  for (const { id, first, last } of pruned) {
    if (id === OVERLAPPING) continue;
    for (let number = first; number <= last; number++) numbers.push(number);
  }
  numbers.sort((a, b) => a - b);
  assertEquals(numbers, numbers.map((_, i) => i), "the numbers of the spool");
  const hasAll = spooled.length === numbers.length;
  const text = spooled.map(({ bytes }) => new TextDecoder().decode(bytes));
  checkRecords(
    text.join("").trimEnd().split("\n").filter((line) => line !== "")
      .map(numbersOf),
    hasAll ? sent.covered : undefined,
  );
  // -- What onBatch has written
  if (records.length === 0) return;
  checkRecords(
    records.filter((record) => !isOverlapping(record)),
    sent.covered,
  );
  const written = records.filter(isOverlapping).map(({ number }) => number);
  written.sort((a, b) => a - b);
  assertEquals(written, written.map((_, i) => i), "records of onBatch");
}

/**
 * Checks that records of the spool are there once, in order.
 *
 * @param covered If they are all, how many of each process there must be.
 */
function checkRecords(
  records: readonly { run: number; number: number }[],
  covered: readonly number[] | undefined,
): void {
  const counts: number[] = [];
  let last = records[0];
  for (const { run, number } of records) {
    const isFirst = last === records[0] && counts.length === 0;
    const follows = run === last!.run
      ? number === last!.number + 1
      : number === 0;
    if (!isFirst) {
      assert(
        run >= last!.run && follows,
        `${run}:${number} after ${last!.run}:${last!.number}`,
      );
    }
    counts[run] = number + 1;
    last = { run, number };
  }
  if (covered === undefined) return;
  assertEquals(records[0]?.number ?? 0, 0);
  for (const [run, count] of covered.entries()) {
    assert(
      (counts[run] ?? 0) >= count,
      `run ${run}: ${counts[run]} of ${count}`,
    );
  }
}

/** Kills the receivers that use one store, one after the other, then checks it. */
async function useStore(
  store: StoreName,
  seed: number,
  isEnough: () => boolean,
  tally: Tally,
): Promise<void> {
  const random = randomFrom(seed);
  const upTo = (max: number) => Math.floor(random() * (max + 1));
  await using folder = await temporary();
  const path = folder.file("received");
  const port = freePort();
  const url = `http://127.0.0.1:${port}/`;
  const sent: Sent = {
    batches: new Map(),
    acknowledged: new Set(),
    covered: [],
  };
  const ending = new AbortController();
  const prune = random() < 0.5 ? null : { every: 1 + upTo(20), age: upTo(300) };

  const runReceiver = (
    hold: number | null,
    onOpen: () => void,
    onHeld: (point: string) => void,
  ) => {
    const plan: ReceiverPlan = {
      ...{ store, path, port, prune, hold },
      durability: random() < 0.8 ? "process" : "power",
    };
    return start(RECEIVER, plan, (word, rest) => {
      if (word === "open") onOpen();
      else if (word === "held") onHeld(rest);
    });
  };
  const killReceivers = async () => {
    for (let left = 5 + upTo(20); left > 0 && !isEnough(); left--) {
      // Opening has some 50 points, and a batch some 10.
      const hold = 1 + upTo(random() < 0.3 ? 100 : 1_000);
      const isTimed = random() < 0.3;
      const ms = upTo(200);
      let timer: ReturnType<typeof setTimeout> | undefined;
      let at = "at any time";
      await using child = runReceiver(
        isTimed ? null : hold,
        () => {
          // The point may not be reached: senders may wait.
          timer = setTimeout(() => child.kill(), isTimed ? ms : 1_000);
        },
        (point) => {
          at = point;
          child.kill();
        },
      );
      await child.ended;
      clearTimeout(timer);
      tally.kills++;
      tally.points.set(at, (tally.points.get(at) ?? 0) + 1);
    }
  };
  const runSpool = async (isLast: boolean) => {
    const run = sent.covered.push(0) - 1;
    const capacity = MIN_RECORD_LIMIT + upTo(4 * 1024);
    const plan: SpoolPlan = {
      path: folder.file("spool"),
      momentPath: folder.file("moment"),
      ...{ url, run, capacity, recordLimit: MIN_RECORD_LIMIT },
      seed: upTo(2 ** 31),
      durability: "process",
      requestBytes: 1 + upTo(isLast ? 256 * 1024 : 8 * 1024),
      maxBytes: 64 * 1024,
      records: isLast ? 0 : null,
      drain: isLast,
    };
    const ms = 100 + upTo(700);
    let timer: ReturnType<typeof setTimeout> | undefined;
    await using child = start(WRITER, plan, (word, rest) => {
      if (word === "covered") sent.covered[run] = Number(rest);
      else if (!isLast) timer = setTimeout(() => child.kill(), ms);
    });
    await child.ended;
    clearTimeout(timer);
    if (!isLast) tally.spoolKills++;
  };
  const killSpools = async () => {
    while (!ending.signal.aborted) await runSpool(false);
  };

  const sending = sendOverlapping(url, random, sent, ending.signal);
  sending.catch(() => {});
  const spooling = killSpools();
  spooling.catch(() => {});
  try {
    await killReceivers();
  } finally {
    ending.abort();
  }
  {
    await using last = runReceiver(null, () => {}, () => {});
    await Promise.race([
      Promise.all([sending, spooling.then(() => runSpool(true))]),
      last.ended.then(() =>
        Promise.reject(new Error("the receiver has ended"))
      ),
    ]);
    last.end();
    await last.ended;
  }
  await new { SqliteStore, FileStore }[store](path).close();
  const stored = readStore(store, path);
  checkStore(stored, sent);
  tally.stores++;
  tally.batches += stored.batches.length;
  for (const { first, last } of stored.pruned) tally.pruned += last - first + 1;
}

/** Kills `count` receivers, or a few more. */
export async function checkReceiverKills(
  store: StoreName,
  count: number,
  seed = Date.now() & 0xfffffff,
): Promise<Tally> {
  const tally: Tally = {
    ...{ stores: 0, kills: 0, spoolKills: 0, batches: 0, pruned: 0 },
    points: new Map(),
  };
  console.log(`${store}s with seeds from ${seed} on`);
  let next = seed;
  let hasFailed = false;
  const isEnough = () => hasFailed || tally.kills >= count;
  await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
    while (!isEnough()) {
      const seed = next++;
      try {
        await useStore(store, seed, isEnough, tally);
      } catch (error) {
        hasFailed = true;
        throw new Error(`The ${store} with seed ${seed} failed`, {
          cause: error,
        });
      }
    }
  }));
  const { stores, kills, spoolKills, batches, pruned, points } = tally;
  console.log(
    `${kills} kills of receivers, ${spoolKills} of spools, with ${stores} stores: ${batches} batches are stored, and ${pruned} were forgotten. Kills fell`,
  );
  for (const [point, times] of [...points].sort()) {
    console.log(`${`${times}`.padStart(7)} ${point}`);
  }
  return tally;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      count: { type: "string", default: "1000" },
      seed: { type: "string" },
    },
  });
  for (const store of ["SqliteStore", "FileStore"] as const) {
    const seed = values.seed === undefined ? undefined : Number(values.seed);
    await checkReceiverKills(store, Number(values.count), seed);
  }
}
