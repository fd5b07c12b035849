/**
 * Compares StreamBuffer with the alternatives. The two sides of a pair run
 * alternately for several rounds, and their medians are compared. A ratio above 1
 * means that StreamBuffer is better.
 *
 *     deno task bench [--json FILE] [NAME...]
 *
 * NAME selects the pairs whose names begin with it: `string`, `file`, `memory`.
 */
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { streamTo } from "../mod.ts";
import { clock, type Server, startServer } from "./server.ts";
import {
  encodedWrites,
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
}

/** Does `count` writes, or sends `count` records or bytes. */
type Side = (count: number) => Promise<unknown>;

interface Pair {
  unit: "ns" | "records/s" | "MB/s";
  /** The count of a round, and that of the peer if it differs. */
  count: number;
  peerCount?: number;
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
  { unit, count, peerCount = count, ours, peer }: Pair,
  rounds: number,
  server?: Server,
): Promise<Ratio> {
  const time = async (side: Side, count: number) => {
    const start = performance.now();
    await side(count);
    const ms = performance.now() - start;
    if (server !== undefined) {
      const expected = unit === "MB/s" ? count : count * RECORD.length;
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
    const pair = [await time(ours, count), await time(peer, peerCount)];
    if (round > 0) pair.forEach((result, i) => results[i]!.push(result));
  }
  return toRatio(unit, ...results);
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

function records(url: string): Record<string, Pair> {
  const ours = async (count: number) => {
    await using out = streamTo(url);
    for (let i = 0; i < count; i++) await out.write(RECORD);
  };
  return {
    records_vs_fetch: {
      unit: "records/s",
      count: 4_000_000,
      peerCount: 4_000,
      ours,
      peer: async (count) => {
        for (let i = 0; i < count; i++) await post(url, RECORD);
      },
    },
    records_vs_stream: {
      unit: "records/s",
      count: 4_000_000,
      peerCount: 8_000,
      ours,
      peer: async (count) => {
        const { readable, writable } = new TransformStream();
        const posted = post(url, readable);
        const writer = writable.getWriter();
        for (let i = 0; i < count; i++) await writer.write(RECORD);
        await writer.close();
        await posted;
      },
    },
  };
}

function files(url: string, path: string): Record<string, Pair> {
  const open = () => Deno.open(path);
  const shared = { unit: "MB/s", count: GIB } as const;
  const pipe = async () => {
    const out = streamTo(url, { capacity: MIB });
    await (await open()).readable.pipeTo(out.writable);
  };
  const read = async () => {
    await using out = streamTo(url, { capacity: MIB });
    using file = await open();
    await out.readFrom(file);
  };
  const stream = async () => await post(url, (await open()).readable);
  const barePosts = async () => {
    using file = await open();
    const bytes = new Uint8Array(MIB);
    for (let size; (size = await file.read(bytes)) !== null;) {
      await post(url, bytes.subarray(0, size));
    }
  };
  const fromPipe = async (...command: string[]) => {
    const { success, stderr } = await new Deno.Command("sh", {
      args: ["-c", 'cat "$0" | "$@"', path, ...command],
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  };
  const cli = fileURLToPath(import.meta.resolve("../cli/main.ts"));
  return {
    file_vs_fetch_stream: { ...shared, ours: pipe, peer: stream },
    file_by_read_from_vs_fetch_stream: { ...shared, ours: read, peer: stream },
    file_vs_curl: {
      ...shared,
      ours: () =>
        fromPipe(Deno.execPath(), "run", "-N", cli, "--capacity=1M", url),
      peer: () => fromPipe("curl", "-sST", "-", url),
    },
    file_vs_bare_posts: { ...shared, ours: read, peer: barePosts },
  };
}

/** The time from a write to its arrival in ms, while nothing else is sent. */
async function latency(server: Server, rounds: number): Promise<Ratio> {
  const { url } = server;
  await using out = streamTo(url);
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

/**
 * The growth of the peak resident set from sending 256 MiB: to sending 4 GiB, and to
 * sending 256 MiB to a server that does not read for the first 5 s. In place of a
 * peer, the limit of 16 MiB.
 */
async function memory(): Promise<Record<string, Ratio>> {
  const peak = async (size: number, stall = 0) => {
    await using server = await startServer(0, stall);
    const { success, stdout, stderr } = await new Deno.Command(
      Deno.execPath(),
      {
        args: [
          ...["run", "-A", fileURLToPath(import.meta.resolve("./peak.ts"))],
          ...[server.url, `${size}`],
        ],
      },
    ).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    const { bytes } = await server.report();
    if (bytes !== size) throw new Error(`The server got ${bytes} bytes`);
    return Number(new TextDecoder().decode(stdout)) / MIB;
  };
  const growths: [long: number[], stalled: number[]] = [[], []];
  for (let round = 0; round < 3; round++) {
    const few = await peak(256 * MIB);
    growths[0].push(await peak(4 * GIB) - few);
    growths[1].push(await peak(256 * MIB, 5_000) - few);
  }
  const [long, stalled] = growths.map((growth) =>
    // Less than 1 MiB is noise.
    toRatio("MiB", growth.map((mib) => Math.max(mib, 1)), [16, 16, 16])
  );
  return { memory_growth_mib: long!, memory_growth_stalled_mib: stalled! };
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

function show(name: string, { ours, peer, unit, ratio, min, max }: Ratio) {
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
      max / min > NOISE ? " noisy" : "",
    ].join(" ").trimEnd(),
  );
}

if (import.meta.main) {
  const { values, positionals: names } = parseArgs({
    allowPositionals: true,
    options: { json: { type: "string" } },
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
      if (name === "file_vs_curl" && !await isInstalled("curl")) {
        console.log(`${name} is skipped: curl is not installed`);
        continue;
      }
      add(name, await measure(pair, rounds, server));
    }
  };

  await run(smallWrites(), 11);
  {
    await using server = await startServer();
    await run(records(server.url), 5, server);
    if (wanted("latency_vs_naive")) {
      add("latency_vs_naive", await latency(server, 9));
    }
    if (wanted("file")) {
      await withFile((path) => run(files(server.url, path), 3, server));
    }
  }
  if (wanted("memory")) {
    for (const [name, ratio] of Object.entries(await memory())) {
      add(name, ratio);
    }
  }
  if (Object.keys(ratios).length === 0) {
    console.error(`No pair is named ${names.join(" or ")}`);
    Deno.exit(2);
  }
  if (values.json !== undefined) {
    const text = JSON.stringify({ runtime, cpu, load, ratios }, undefined, 2);
    await Deno.writeTextFile(values.json, `${text}\n`);
  }
}
