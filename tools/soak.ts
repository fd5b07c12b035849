/**
 * Streams from many buffers at once to a server with random faults, optionally
 * with an outage, for any length of time. Checks every byte, and reports how
 * memory and open files grow.
 *
 *     deno task soak --seconds 3600 --stall 60
 */
import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { StreamBuffer } from "../buffer.ts";
import { FetchSender } from "../sender.ts";
import { Condition } from "../testing/condition.ts";
import {
  anyBehaviour,
  type Behaviour,
  BEHAVIOURS,
  type Exchange,
  FaultyServer,
  keyOf,
  randomFrom,
  sequenceOf,
} from "../testing/faulty_server.ts";

const HELP = `Streams to a server with random faults, and checks every byte.

Usage: deno task soak [options]

Options:
      --seconds N    Duration (default: 10).
      --buffers N    Number of buffers at once (default: 64).
      --stall N      Afterwards, make the server stall for N seconds while
                     writes are not awaited (default: 0).
      --good         Use a server without faults, for more flushes per second.
      --seed N       Seed for the random choices (default: a new one each time).
      --help         Show this help.
`;

const MIB = 2 ** 20;
const CAPACITY = 4096;
const MAX_QUEUED = MIB;
/** The maximum of a timer, in ms: no timeout ends a stall. */
const FOREVER = 2 ** 31 - 1;
/** Writes per stream, on average, of the streams that end. */
const WRITES_PER_STREAM = 300;
/** A prime, so that bytes in a wrong place differ. */
const PERIOD = 65_521;

/** The content of all streams, long enough for a write at any position. */
const PATTERN = makePattern();

function makePattern(): Uint8Array<ArrayBuffer> {
  const random = randomFrom(1);
  const period = Uint8Array.from({ length: PERIOD }, () => 256 * random());
  return new Uint8Array(Buffer.concat([period, period, period]));
}

/** Returns the bytes of a stream at `position`. */
function bytesAt(position: number, size: number): Uint8Array<ArrayBuffer> {
  const start = position % PERIOD;
  return PATTERN.subarray(start, start + size);
}

// -- The server --

/** The report of the server at its end. */
interface Report {
  streams: number;
  bytes: number;
  repeats: number;
}

/**
 * Prints the port, carries out the commands on standard input, one per line, and
 * prints a report at its end.
 */
async function serve(seed: number, good: boolean): Promise<void> {
  /** The positions at which the requests of a stream begin, the next one last. */
  const streams = new Map<string, number[]>();
  let repeats = 0;
  let stalled: PromiseWithResolvers<void> | undefined;
  const random = randomFrom(seed + 1);
  const faults = anyBehaviour(seed, (name) => {
    // This fault hits all connections, and would be 64 times as frequent.
    const skip = name.includes("refuse") && random() < 0.98;
    return BEHAVIOURS[skip ? "200" : name]!;
  });

  const check = async ({ receive }: Exchange) => {
    const request = await receive();
    const stream = keyOf(request)!.replace(/-\d+"$/, "");
    const sequence = sequenceOf(request);
    const ends = streams.get(stream) ?? [0];
    streams.set(stream, ends);
    const start = ends[sequence] ?? -1;
    const end = start + request.body.length;
    // A request that the client gave up may arrive after newer ones.
    const repeated = sequence + 1 < ends.length;
    const expected = bytesAt(start, request.body.length);
    if (
      start < 0 || Buffer.compare(expected, request.body) !== 0 ||
      (repeated && ends[sequence + 1] !== end)
    ) throw new Error(`Key ${keyOf(request)} has unexpected bytes`);
    if (repeated) repeats++;
    else ends.push(end);
  };
  const behave: Behaviour = async (exchange) => {
    await stalled?.promise;
    const behaviour = good || stalled ? BEHAVIOURS["200"]! : faults;
    try {
      const store = () => exchange.store().then(() => check(exchange));
      await behaviour({ ...exchange, store });
    } finally {
      server.requests.length =
        server.incomplete.length =
        server.stored.length =
          0;
    }
  };

  await using server = new FaultyServer([], behave);
  console.log(server.port);
  for await (const command of lines(Deno.stdin.readable)) {
    if (command === "disconnect") server.refuse(0);
    if (command === "stall") stalled = Promise.withResolvers();
    if (command === "resume without faults") stalled?.resolve();
  }
  const bytes = streams.values().reduce((sum, ends) => sum + ends.at(-1)!, 0);
  const report: Report = { streams: streams.size, bytes, repeats };
  console.log(JSON.stringify(report));
}

/** Starts the server in its own process, so that its memory does not count. */
async function startServer(seed: number, good: boolean) {
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", import.meta.filename!, "--serve", "--seed", `${seed}`],
      ...good ? ["--good"] : [],
    ],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  // It has printed the reason.
  void process.status.then(({ success }) => success || Deno.exit(1));
  const output = lines(process.stdout);
  const line = async () => {
    const { value } = await output.next();
    return value ?? "";
  };
  const port = Number(await line());
  const input = process.stdin.getWriter();
  return {
    url: `http://127.0.0.1:${port}/`,
    command: (name: string) =>
      input.write(new TextEncoder().encode(`${name}\n`)),
    async end(): Promise<Report> {
      await input.close();
      const report = JSON.parse(await line());
      await process.status;
      return report;
    },
  };
}

/** Splits a stream into lines; each of its chunks ends with a whole one. */
async function* lines(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<string, undefined> {
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    yield* chunk.trimEnd().split("\n");
  }
}

// -- The client --

interface Sample {
  flushes: number;
  objects: number;
  files: number;
}

class Soak {
  readonly #url: string;
  readonly #random: () => number;
  readonly #buffers: number;
  readonly #open = new Set<StreamBuffer>();
  #resting: PromiseWithResolvers<void> | undefined;
  readonly #changes = new Condition();
  #idle = 0;
  #flushes = 0;
  /** Writes are not awaited, so that as many as possible are queued. */
  impatient = false;
  running = true;
  streams = 0;
  delivered = 0;

  constructor(url: string, buffers: number, seed: number) {
    this.#url = url;
    this.#buffers = buffers;
    this.#random = randomFrom(seed);
  }

  /** Runs all buffers; resolves when the last stream has closed. */
  async run(): Promise<void> {
    await Promise.all(
      Array.from({ length: this.#buffers }, async (_, i) => {
        // Every other buffer keeps one stream until the end.
        while (this.running) await this.#stream(i % 2 / WRITES_PER_STREAM);
      }),
    );
  }

  async #stream(mortality: number): Promise<void> {
    const random = this.#random;
    const sender = new FetchSender(this.#url, {
      timeout: 1_000,
      retry: { initialDelay: 1, maxDelay: 20, maxElapsed: FOREVER },
    });
    const out = new StreamBuffer(sender, {
      capacity: CAPACITY,
      maxQueuedBytes: MAX_QUEUED,
      closeTimeout: FOREVER,
    });
    this.#open.add(out);
    this.streams++;
    let position = 0;
    do {
      const size = Math.ceil(1.5 * CAPACITY * random());
      const before = out.stats.bytesRejected;
      const write = out.write(bytesAt(position, size));
      // A write that is rejected at once was not accepted; any other was.
      const rejected = out.stats.bytesRejected > before;
      if (!rejected) position += size;
      if (!this.impatient) await write;
      else await sleep(1); // nothing to await: the queue stays full
      if (random() < 0.05 && !this.impatient) await out.flush();
      if (this.#resting) {
        await out.flush();
        this.#idle++;
        this.#changes.notify();
        await this.#resting.promise;
        this.#idle--;
      }
    } while (this.running && random() >= mortality);
    await out.close();
    this.#open.delete(out);
    const { sends, bytesDelivered } = out.stats;
    this.#flushes += sends;
    this.delivered += bytesDelivered;
    if (bytesDelivered !== position) {
      throw new Error(
        `Only ${bytesDelivered} of ${position} bytes were delivered`,
      );
    }
  }

  /** Lets all buffers deliver everything and pause, during `work`. */
  async rest<T>(work: () => Promise<T>): Promise<T> {
    this.#resting = Promise.withResolvers();
    await this.#changes.wait(
      "all buffers to pause",
      () => this.#idle === this.#buffers,
    );
    const result = await work();
    this.#resting.resolve();
    this.#resting = undefined;
    return result;
  }

  async show(): Promise<Sample> {
    // Finalizers run some time after a collection, and nothing reports it.
    for (let i = 0; i < 5; i++) {
      (globalThis as { gc?: () => void }).gc?.();
      await sleep(20);
    }
    const { rss, heapUsed, external } = Deno.memoryUsage();
    const objects = heapUsed + external;
    let flushes = this.#flushes;
    for (const { stats } of this.#open) flushes += stats.sends;
    let files = 0;
    if (Deno.build.os === "linux") {
      for (const _ of Deno.readDirSync("/proc/self/fd")) files++;
    }
    console.log(
      `${String(flushes).padStart(9)} flushes, ${
        mib(objects)
      } MiB of objects and arrays, ${mib(rss)} MiB resident, ${
        String(files).padStart(4)
      } open files`,
    );
    return { flushes, objects, files };
  }
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1).padStart(6);
}

async function soak(
  seconds: number,
  buffers: number,
  stall: number,
  good: boolean,
  seed: number,
): Promise<void> {
  console.log(`${buffers} buffers, ${seconds} s, seed ${seed}`);
  const server = await startServer(seed, good);
  const soak = new Soak(server.url, buffers, seed);
  const work = soak.run();
  const watch = async (seconds: number, samples: number) => {
    for (let i = 0; i < samples; i++) {
      await sleep(1_000 * seconds / samples);
      await soak.show();
    }
  };
  const measure = () =>
    soak.rest(async () => {
      await server.command("disconnect");
      // Until the client has noticed; its pool of connections reports nothing.
      await sleep(100);
      console.log("all buffers paused:");
      return soak.show();
    });

  // After a fifth of the time, everything that is allocated once has been.
  await watch(seconds / 5, 2);
  const before = await measure();
  await watch(seconds * 4 / 5, 8);
  const after = await measure();
  const flushes = (after.flushes - before.flushes) / 1e6;
  const growth = (after.objects - before.objects) / MIB;
  console.log(
    `growth over ${flushes.toFixed(3)} million flushes: ${
      growth.toFixed(2)
    } MiB, ${after.files - before.files} open files; per million flushes: ${
      flushes > 0.1 ? `${(growth / flushes).toFixed(2)} MiB` : "too few to tell"
    }`,
  );
  if (stall > 0) {
    console.log(`the server stalls for ${stall} s`);
    await soak.rest(async () => {
      await server.command("stall");
      soak.impatient = true;
    });
    await watch(stall, 4);
    const held = (await soak.show()).objects - after.objects;
    // A send in flight has been copied, too.
    const allowed = buffers * (3 * CAPACITY + MAX_QUEUED);
    console.log(`held${mib(held)} MiB of at most${mib(allowed)} MiB`);
    if (held > 1.1 * allowed) throw new Error("The limit is exceeded");
    await server.command("resume without faults");
    soak.impatient = false;
    await measure();
  }
  soak.running = false;
  await work;
  const { bytes, streams, repeats } = await server.end();
  if (bytes !== soak.delivered || streams !== soak.streams) {
    throw new Error(
      `${soak.delivered} bytes of ${soak.streams} streams were delivered, but ${bytes} bytes of ${streams} streams arrived`,
    );
  }
  console.log(
    `${bytes} bytes of ${streams} streams arrived, once and in order; ${repeats} repeats were recognised by their keys`,
  );
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string", default: "10" },
      buffers: { type: "string", default: "64" },
      stall: { type: "string", default: "0" },
      seed: { type: "string", default: `${Date.now() % 1e6}` },
      good: { type: "boolean", default: false },
      serve: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  const [seconds, buffers, stall, seed] = [
    values.seconds,
    values.buffers,
    values.stall,
    values.seed,
  ].map(Number) as [number, number, number, number];
  if (values.help) console.log(HELP.trimEnd());
  else if (values.serve) await serve(seed, values.good);
  else await soak(seconds, buffers, stall, values.good, seed);
}
