/**
 * Compares StreamBuffer with the alternatives. The two sides of a pair run
 * alternately for several rounds, and their medians are compared. A ratio above 1
 * means that StreamBuffer is better.
 *
 *     deno task bench [--json FILE] [--folder FOLDER] [NAME...]
 *
 * NAME selects the pairs whose names begin with it: `string`, `file`, `memory`. The
 * spools of `spool`, `records_spool` and `memory_growth_spool`, and the stores of
 * `receiver`, are in FOLDER, by default that of temporary files. If a sync costs nothing
 * there, they are skipped.
 */
import { cpus, tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Agent, RetryAgent } from "undici";
import { undiciTransport } from "../http/undici.ts";
import { type StreamBufferOptions, streamTo, type Transport } from "../mod.ts";
import { postedBatches, receivedRecords, sqliteBatches } from "./receiver.ts";
import { clock, type Server, startServer } from "./server.ts";
import {
  commits,
  drain,
  inspectDisk,
  isDisk,
  openings,
  type Sides,
  spooledRecords,
  withFolder,
} from "./spool.ts";
import {
  encodedWrites,
  LINE,
  RECORD,
  sets,
  sonicBoomWrites,
  TEXTS,
  writerWrites,
  writes,
} from "./workloads.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** Rounds that differ by more than this factor are marked as noisy. */
const NOISE = 1.5;

/** One row of the table. */
interface Ratio {
  ours: number;
  peer: number;
  unit: string;
  /** The ratio of the medians. */
  ratio: number;
  /** The ratios of the worst and of the best round. */
  min: number;
  max: number;
  /** What the ratio has to be at least. */
  goal?: number;
}

/** Does `count` writes, or sends `count` records, batches or bytes. */
type Side = (count: number) => Promise<unknown>;

interface Pair {
  unit: "ns" | "commits/s" | "batches/s" | "records/s" | "MB/s";
  /** The size of a record in bytes. */
  size?: number;
  /** The count of a round, and that of the peer if it differs. */
  count: number;
  peerCount?: number;
  goal?: number;
  /** Called before and after `ours`, and not measured. */
  prepare?: () => Promise<unknown>;
  finish?: () => Promise<unknown>;
  ours: Side;
  peer: Side;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

function toRatio(unit: string, ours: number[], peer: number[]): Ratio {
  const less = unit === "ns" || unit === "ms" || unit === "MiB";
  const compare = (a: number, b: number) => less ? b / a : a / b;
  const rounds = ours.map((value, i) => compare(value, peer[i]!));
  return {
    ours: median(ours),
    peer: median(peer),
    unit,
    ratio: compare(median(ours), median(peer)),
    min: Math.min(...rounds),
    max: Math.max(...rounds),
  };
}

async function measure(
  pair: Pair,
  rounds: number,
  server?: Server,
): Promise<Ratio> {
  const { unit, size = RECORD.length, count, peerCount = count } = pair;
  const time = async (side: Side, count: number) => {
    const start = performance.now();
    await side(count);
    const ms = performance.now() - start;
    if (server !== undefined) {
      const expected = unit === "MB/s" ? count : count * size;
      const { bytes } = await server.report();
      if (bytes !== expected) {
        throw new Error(`The server got ${bytes} of ${expected} bytes`);
      }
    }
    if (unit === "ns") return 1e6 * ms / count;
    return unit === "MB/s" ? count / ms / 1e3 : 1e3 * count / ms;
  };
  const results: [number[], number[]] = [[], []];
  // The first round compiles the code, and is not counted.
  for (let round = 0; round <= rounds; round++) {
    await pair.prepare?.();
    const ours = await time(pair.ours, count);
    await pair.finish?.();
    const peer = await time(pair.peer, peerCount);
    if (round === 0) continue;
    results[0].push(ours);
    results[1].push(peer);
  }
  const ratio = toRatio(unit, ...results);
  return pair.goal === undefined ? ratio : { ...ratio, goal: pair.goal };
}

async function post(url: string, body: BodyInit): Promise<void> {
  const response = await fetch(url, { method: "POST", body });
  await response.body?.cancel();
  if (!response.ok) {
    throw new Error(`The server responded with ${response.status}`);
  }
}

// -- Small writes --

function smallWrites(): Record<string, Pair> {
  const ours = (count: number) => writes(RECORD, count);
  const count = 400_000;
  const pairs: Record<string, Pair> = {
    write64_vs_set: { unit: "ns", count, ours, peer: sets },
    write64_vs_writer: { unit: "ns", count, ours, peer: writerWrites },
    write64_vs_sonic_boom: { unit: "ns", count, ours, peer: sonicBoomWrites },
  };
  for (const [name, text] of Object.entries(TEXTS)) {
    pairs[`${name}_vs_encode`] = {
      unit: "ns",
      count: count / 2,
      ours: (count) => writes(text, count),
      peer: (count) => encodedWrites(text, count),
    };
  }
  return pairs;
}

// -- Streams to a server --

/** What the names of the pairs that need a file begin with. */
const FILES = ["file", "readable", "pipe"];

/** Options of a buffer whose name in the table has "fast" in it, or not. */
type Options = StreamBufferOptions & { transport?: Transport };

function records(url: string, fast: Options): Record<string, Pair> {
  const unit = "records/s";
  const write = (options: Options) => async (count: number) => {
    await using out = streamTo(url, options);
    for (let i = 0; i < count; i++) await out.write(RECORD);
  };
  const fetches = async (count: number) => {
    for (let i = 0; i < count; i++) await post(url, RECORD);
  };
  const stream = async (count: number) => {
    const { readable, writable } = new TransformStream();
    const posted = post(url, readable);
    const writer = writable.getWriter();
    for (let i = 0; i < count; i++) await writer.write(RECORD);
    await writer.close();
    await posted;
  };
  const count = 4_000_000;
  const toFetches = { unit, count, peerCount: 4_000, peer: fetches } as const;
  const toStream = { unit, count, peerCount: 8_000, peer: stream } as const;
  return {
    records_vs_fetch: { ...toFetches, ours: write({}) },
    records_vs_stream: { ...toStream, ours: write({}) },
    records_fast_vs_fetch: { ...toFetches, ours: write(fast) },
    records_fast_vs_stream: { ...toStream, ours: write(fast) },
    batches_fast_vs_undici: {
      ...{ unit, size: LINE.length, count: 200_000 },
      ours: async (count) => {
        await using out = streamTo(url, { ...fast, capacity: 100_000 });
        for (let i = 0; i < count; i++) await out.write(LINE);
      },
      peer: (count) => batchesByHand(url, count),
    },
  };
}

/** Batches of 100 kB, as one would write them for undici's own retries. */
async function batchesByHand(url: string, count: number): Promise<void> {
  const agent = new RetryAgent(new Agent());
  const { origin, pathname } = new URL(url);
  const send = async (lines: Uint8Array[]) => {
    const { statusCode, body } = await agent.request({
      ...{ origin, path: pathname, method: "POST" },
      body: Buffer.concat(lines),
    });
    await body.dump();
    if (statusCode >= 300) throw new Error(`The server sent ${statusCode}`);
  };
  let lines: Uint8Array[] = [];
  for (let i = 0; i < count; i++) {
    lines.push(LINE);
    if (lines.length < 1_000) continue;
    await send(lines);
    lines = [];
  }
  if (lines.length > 0) await send(lines);
  await agent.close();
}

function files(
  url: string,
  path: string,
  fast: Options,
): Record<string, Pair> {
  const open = () => Deno.open(path);
  const shared = { unit: "MB/s", count: GIB } as const;
  const pipe = async () => {
    const out = streamTo(url, { capacity: MIB });
    await (await open()).readable.pipeTo(out.writable);
  };
  const read = (options: Options) => async () => {
    await using out = streamTo(url, { ...options, capacity: MIB });
    using file = await open();
    await out.readFrom(file);
  };
  const readable = async () => {
    await using out = streamTo(url, { ...fast, capacity: MIB });
    await out.readFrom((await open()).readable);
  };
  const stream = async () => await post(url, (await open()).readable);
  const barePosts = async () => {
    using file = await open();
    const bytes = new Uint8Array(MIB);
    for (let size; (size = await file.read(bytes)) !== null;) {
      await post(url, bytes.subarray(0, size));
    }
  };
  const run = async (command: string, ...args: string[]) => {
    const { success, stderr } = await new Deno.Command(command, { args })
      .output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  };
  const fromPipe = (...command: string[]) =>
    run("sh", "-c", 'cat "$0" | "$@"', path, ...command);
  const cli = fileURLToPath(import.meta.resolve("../cli/main.ts"));
  const command = ["run", "-N", "--ignore-env", cli, "--capacity=1M", url];
  return {
    file_vs_fetch_stream: { ...shared, ours: pipe, peer: stream },
    file_by_read_from_vs_fetch_stream: {
      ...shared,
      ours: read({}),
      peer: stream,
    },
    file_vs_bare_posts: { ...shared, ours: read({}), peer: barePosts },
    file_fast_vs_fetch_stream: { ...shared, ours: read(fast), peer: stream },
    readable_fast_vs_fetch_stream: { ...shared, ours: readable, peer: stream },
    file_fast_vs_curl: {
      ...shared,
      ours: read(fast),
      peer: () => run("curl", "-sST", path, url),
    },
    pipe_vs_curl: {
      ...shared,
      ours: () => fromPipe(Deno.execPath(), ...command),
      peer: () => fromPipe("curl", "-sST", "-", url),
    },
  };
}

/** 64 buffers at once, which share what one sends. */
function spread(url: string): Record<string, Pair> {
  const send = async (size: number) => {
    await using out = streamTo(url);
    const piece = new Uint8Array(64 * 1024);
    for (let at = 0; at < size; at += piece.length) await out.write(piece);
  };
  return {
    spread_64_buffers: {
      ...{ unit: "MB/s", count: GIB, peer: send },
      ours: (size) =>
        Promise.all(Array.from({ length: 64 }, () => send(size / 64))),
    },
  };
}

/** A server that is 50 ms away, with one request at a time and with eight. */
function distance(url: string): Record<string, Pair> {
  const write = (concurrency: number) => async (count: number) => {
    await using out = streamTo(url, { concurrency });
    for (let i = 0; i < count; i++) await out.write(RECORD);
  };
  const count = 8 * 32 * 4_096; // 32 batches of the default capacity, eight times
  return {
    distance_50ms: {
      ...{ unit: "records/s", count, ours: write(8) },
      ...{ peerCount: count / 8, peer: write(1) },
    },
  };
}

/** The time from a write to its arrival in ms, while nothing else is sent. */
async function latency(
  server: Server,
  rounds: number,
  options: Options,
): Promise<Ratio> {
  const { url } = server;
  await using out = streamTo(url, options);
  const results: [number[], number[]] = [[], []];
  for (let round = 0; round <= rounds; round++) {
    await server.report();
    const starts: number[] = [];
    for (let i = 0; i < 50; i++) {
      starts.push(clock());
      void out.write(RECORD);
      await out.flush();
      starts.push(clock());
      await post(url, RECORD);
    }
    const { arrivals } = await server.report();
    const times = arrivals.map((arrival, i) => arrival - starts[i]!);
    if (round === 0) continue;
    for (const side of [0, 1]) {
      results[side]!.push(median(times.filter((_, i) => i % 2 === side)));
    }
  }
  return toRatio("ms", ...results);
}

// -- Memory --

/** The peak of the resident set of a process that sends so many bytes, in MiB. */
async function peak(
  size: number,
  way: string[],
  stall = 0,
): Promise<number> {
  await using server = await startServer(0, stall);
  const script = fileURLToPath(import.meta.resolve("./peak.ts"));
  const { success, stdout, stderr } = await new Deno.Command(
    Deno.execPath(),
    { args: ["run", "-A", script, server.url, `${size}`, ...way] },
  ).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const { bytes } = await server.report();
  if (bytes !== size) throw new Error(`The server got ${bytes} bytes`);
  return Number(new TextDecoder().decode(stdout)) / MIB;
}

/** Growths, in MiB, and in place of a peer the limit of 16 MiB. */
function toGrowth(growths: number[]): Ratio {
  // Less than 1 MiB is noise.
  const ours = growths.map((mib) => Math.max(mib, 1));
  return toRatio("MiB", ours, ours.map(() => 16));
}

/**
 * The growth of the peak resident set from sending 256 MiB: to sending 4 GiB, and to
 * sending 256 MiB to a server that does not read for the first 5 s.
 */
async function memory(
  transport: "fetch" | "undici",
): Promise<[long: Ratio, stalled: Ratio]> {
  const growths: [long: number[], stalled: number[]] = [[], []];
  for (let round = 0; round < 3; round++) {
    const few = await peak(256 * MIB, [transport]);
    growths[0].push(await peak(4 * GIB, [transport]) - few);
    growths[1].push(await peak(256 * MIB, [transport], 5_000) - few);
  }
  return [toGrowth(growths[0]), toGrowth(growths[1])];
}

// -- On a disk --

/** Runs a pair if it is wanted, in a folder of its own. */
type RunOnDisk = (
  name: string,
  pair: Omit<Pair, keyof Sides>,
  rounds: number,
  open: (folder: string) => Sides | Promise<Sides>,
  server?: Server,
) => Promise<void>;

/** Runs the pairs that need a disk, if any is wanted and there is one. */
async function onDisk(
  parent: string,
  wanted: (name: string) => boolean,
  add: (name: string, ratio: Ratio) => void,
): Promise<void> {
  const PAIRS = ["spool", "records_spool", "memory_growth_spool", "receiver"];
  if (!PAIRS.some(wanted)) return;
  const disk = await inspectDisk(parent);
  const sync = `${parent} is on ${disk.name}: a sync of 4 KiB takes ${
    disk.sync.toPrecision(2)
  } ms`;
  if (!isDisk(disk)) {
    console.log(`${sync}; what needs a disk is skipped: name one by --folder`);
    return;
  }
  console.log(sync);
  const run: RunOnDisk = async (name, pair, rounds, open, server) => {
    if (!wanted(name)) return;
    await withFolder(parent, async (folder) => {
      await using sides = await open(folder);
      add(name, await measure({ ...pair, ...sides }, rounds, server));
    });
  };
  await spools(parent, wanted, add, run);
  await receivers(run);
}

/** Through a spool. */
async function spools(
  parent: string,
  wanted: (name: string) => boolean,
  add: (name: string, ratio: Ratio) => void,
  run: RunOnDisk,
): Promise<void> {
  for (
    const [name, size, count, durability] of [
      ["spool_commit_vs_append", 256 * 1024, 400, "power"],
      ["spool_commit_4k_vs_append", 4 * 1024, 2_000, "power"],
      ["spool_process_vs_append", 256 * 1024, 400, "process"],
    ] as const
  ) {
    await run(
      name,
      { unit: "commits/s", count },
      7,
      (folder) => commits(folder, size, durability),
    );
  }
  await using server = await startServer();
  const { url } = server;
  await run(
    "records_spool_vs_records",
    { unit: "records/s", count: 4_000_000 },
    5,
    (folder) => spooledRecords(folder, url),
    server,
  );
  await run(
    "spool_drain_vs_file",
    { unit: "MB/s", count: GIB },
    3,
    (folder) => drain(folder, url),
    server,
  );
  for (
    const [name, backlog] of [
      ["spool_open_1gib_vs_empty", "1 GiB"],
      ["spool_open_rows_vs_empty", "a million rows"],
    ] as const
  ) {
    if (!wanted(name)) continue;
    await withFolder(parent, async (folder) => {
      add(name, toRatio("ms", ...await openings(folder, backlog, 11)));
    });
  }
  if (wanted("memory_growth_spool_mib")) {
    const growths: number[] = [];
    for (let round = 0; round < 3; round++) {
      await withFolder(parent, async (folder) => {
        const way = ["fetch", `${folder}/spool`];
        const few = await peak(256 * MIB, way);
        growths.push(await peak(4 * GIB, way) - few);
      });
    }
    add("memory_growth_spool_mib", toGrowth(growths));
  }
}

/** To a receiver. */
async function receivers(run: RunOnDisk): Promise<void> {
  const unit = "batches/s";
  for (
    const [name, size, count, atOnce, goal] of [
      ["receiver_sqlite_vs_insert", 256 * 1024, 200, 8, 0.7],
      ["receiver_sqlite_one_vs_insert", 256 * 1024, 200, 1, 0.7],
      ["receiver_sqlite_4k_vs_insert", 4 * 1024, 2_000, 64],
      ["receiver_sqlite_4k_one_vs_insert", 4 * 1024, 1_000, 1],
    ] as const
  ) {
    await run(
      name,
      { unit, count, ...goal && { goal } },
      7,
      (folder) => sqliteBatches(folder, size, atOnce),
    );
  }
  for (
    const [ours, peer] of [
      ["file", "synced_append"],
      ["file_process", "append"],
      ["file", "append"],
    ] as const
  ) {
    for (const [way, atOnce] of [["", 8], ["_one", 1]] as const) {
      await run(
        `receiver_${ours}${way}_vs_${peer}`,
        { unit, count: 200, goal: 0.6 },
        7,
        (folder) => postedBatches(folder, [ours, peer], 256 * 1024, atOnce),
      );
    }
  }
  await run(
    "receiver_records_vs_insert",
    { unit: "records/s", count: 1_000_000, peerCount: 1_000, goal: 200 },
    5,
    receivedRecords,
  );
  for (const kind of ["file", "sqlite"] as const) {
    for (
      const [name, size, atOnce, count] of [
        ["4k_1", 4 * 1024, 1, 1_000],
        ["4k_64", 4 * 1024, 64, 4_000],
        ["256k_1", 256 * 1024, 1, 200],
        ["256k_64", 256 * 1024, 64, 400],
      ] as const
    ) {
      await run(
        `receiver_${name}_${kind}_vs_memory`,
        { unit, count },
        5,
        (folder) => postedBatches(folder, [kind, "memory"], size, atOnce),
      );
    }
  }
}

// -- The table --

async function isInstalled(command: string): Promise<boolean> {
  try {
    await new Deno.Command(command, { args: ["--version"] }).output();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Runs `use` with a temporary file of 1 GiB, in the cache of the system. */
async function withFile(use: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile();
  const remove = () => Deno.removeSync(path);
  const interrupt = () => {
    remove();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupt);
  try {
    await fill(path);
    await use(path);
  } finally {
    Deno.removeSignalListener("SIGINT", interrupt);
    remove();
  }
}

async function fill(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true });
  const bytes = new Uint8Array(MIB);
  for (let i = 0; i < bytes.length; i += 65_536) {
    crypto.getRandomValues(bytes.subarray(i, i + 65_536));
  }
  for (let size = 0; size < GIB;) size += await file.write(bytes);
}

function show(
  name: string,
  { ours, peer, unit, ratio, min, max, goal }: Ratio,
) {
  const number = (value: number) =>
    value >= 1_000
      ? Math.round(value).toLocaleString("en")
      : value.toPrecision(3);
  console.log(
    [
      name.padEnd(34),
      number(ours).padStart(10),
      number(peer).padStart(10),
      unit.padEnd(9),
      number(ratio).padStart(8),
      `${number(min)} to ${number(max)}`.padStart(16),
      goal === undefined ? "" : ` goal ${goal}`,
      max / min > NOISE ? " noisy" : "",
    ].join(" ").trimEnd(),
  );
}

if (import.meta.main) {
  const { values, positionals: names } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: "string" },
      folder: { type: "string", default: tmpdir() },
    },
  });
  // "file" selects all pairs that begin with it, and is selected by each of them.
  const wanted = (name: string) =>
    names.length === 0 ||
    names.some((part) => name.startsWith(part) || part.startsWith(name));
  const cpu = `${cpus()[0]?.model} x ${navigator.hardwareConcurrency}`;
  const runtime = `Deno ${Deno.version.deno}, V8 ${Deno.version.v8}`;
  const load = Deno.loadavg()[0]!;
  console.log(`${runtime}, ${cpu}\n`);
  if (load > 0.5) {
    console.log(
      `The load average is ${load.toFixed(1)}: other programs are running.\n`,
    );
  }
  console.log(
    "name                                     ours       peer               ratio           rounds",
  );

  const ratios: Record<string, Ratio> = {};
  const add = (name: string, ratio: Ratio) => show(name, ratios[name] = ratio);
  const run = async (
    pairs: Record<string, Pair>,
    rounds: number,
    server?: Server,
  ) => {
    for (const [name, pair] of Object.entries(pairs)) {
      if (!wanted(name)) continue;
      if (name.endsWith("_vs_curl") && !await isInstalled("curl")) {
        console.log(`${name} is skipped: curl is not installed`);
        continue;
      }
      add(name, await measure(pair, rounds, server));
    }
  };

  await run(smallWrites(), 11);
  {
    await using server = await startServer();
    await using transport = undiciTransport();
    const fast = { transport };
    await run(records(server.url, fast), 5, server);
    for (const [name, options] of Object.entries({ "": {}, "fast_": fast })) {
      if (!wanted(`latency_${name}vs_naive`)) continue;
      add(`latency_${name}vs_naive`, await latency(server, 9, options));
    }
    await run(spread(server.url), 3, server);
    if (FILES.some(wanted)) {
      await withFile((path) => run(files(server.url, path, fast), 3, server));
    }
  }
  {
    await using server = await startServer(50);
    await run(distance(server.url), 3, server);
  }
  for (const transport of ["fetch", "undici"] as const) {
    const fast = transport === "undici" ? "fast_" : "";
    const [long, stalled] = [
      `memory_growth_${fast}mib`,
      `memory_growth_stalled_${fast}mib`,
    ] as const;
    if (!wanted(long) && !wanted(stalled)) continue;
    const growth = await memory(transport);
    add(long, growth[0]);
    add(stalled, growth[1]);
  }
  await onDisk(values.folder, wanted, add);
  if (Object.keys(ratios).length === 0) {
    console.error(`No pair is named ${names.join(" or ")}`);
    Deno.exit(2);
  }
  if (values.json !== undefined) {
    const text = JSON.stringify({ runtime, cpu, load, ratios }, undefined, 2);
    await Deno.writeTextFile(values.json, `${text}\n`);
  }
}
