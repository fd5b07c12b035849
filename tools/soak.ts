/**
 * Many buffers at once against a server with random faults, for as long as one
 * likes; a server that is away for a while; every byte checked.
 *
 *     deno task soak --seconds 3600
 */
import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { StreamBuffer } from "../buffer.ts";
import { FetchSender } from "../sender.ts";
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
      --seconds N    How long (default: 10).
      --buffers N    How many at once (default: 64).
      --stall N      Then so many seconds in which the server neither reads nor
                     answers, while nobody awaits a write (default: 0).
      --good         A server without faults, for more flushes a second.
      --seed N       (default: another each time).
      --help         Show this.
`;

const MIB = 2 ** 20;
const CAPACITY = 4096;
const MAX_QUEUED = MIB;
/** The longest that a timer takes, in ms: a stall may last. */
const FOR_EVER = 2 ** 31 - 1;
/** Of those that end, on the average. */
const WRITES_A_STREAM = 300;
/** Prime, so that bytes in a wrong place are wrong bytes. */
const PERIOD = 65_521;

/** The pattern of all streams: two periods of it, and then some. */
const PATTERN = makePattern();

function makePattern(): Uint8Array<ArrayBuffer> {
  const random = randomFrom(1);
  const period = Uint8Array.from({ length: PERIOD }, () => 256 * random());
  return new Uint8Array(Buffer.concat([period, period, period]));
}

/** What a stream has from `position` on. */
function bytesAt(position: number, size: number): Uint8Array<ArrayBuffer> {
  const start = position % PERIOD;
  return PATTERN.subarray(start, start + size);
}

// -- The server --

/** What the server tells at the end. */
interface Report {
  streams: number;
  bytes: number;
  repeats: number;
}

/** Says its port, does what it is told line by line, and reports at the end. */
async function serve(seed: number, good: boolean): Promise<void> {
  /** Where each request of a stream begins, and the next one will. */
  const streams = new Map<string, number[]>();
  let repeats = 0;
  let stalled: PromiseWithResolvers<void> | undefined;
  const random = randomFrom(seed + 1);
  const faults = anyBehaviour(seed, (name) => {
    // That is a fault of all connections, and so 64 times as frequent.
    const spare = name.includes("refuse") && random() < 0.98;
    return BEHAVIOURS[spare ? "200" : name]!;
  });

  const check = async ({ receive }: Exchange) => {
    const request = await receive();
    const stream = keyOf(request)!.replace(/-\d+"$/, "");
    const sequence = sequenceOf(request);
    const ends = streams.get(stream) ?? [0];
    streams.set(stream, ends);
    const start = ends[sequence] ?? -1;
    const end = start + request.body.length;
    // One that the client gave up may still come after newer ones.
    const repeated = sequence + 1 < ends.length;
    const expected = bytesAt(start, request.body.length);
    if (
      start < 0 || Buffer.compare(expected, request.body) !== 0 ||
      (repeated && ends[sequence + 1] !== end)
    ) throw new Error(`${keyOf(request)} has other bytes than it should`);
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
  for await (const order of lines(Deno.stdin.readable)) {
    if (order === "disconnect") server.refuse(0);
    if (order === "stall") stalled = Promise.withResolvers();
    if (order === "go on without faults") stalled?.resolve();
  }
  const bytes = streams.values().reduce((sum, ends) => sum + ends.at(-1)!, 0);
  const report: Report = { streams: streams.size, bytes, repeats };
  console.log(JSON.stringify(report));
}

/** The server in a process of its own, so that its memory is not ours. */
async function startServer(seed: number, good: boolean) {
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", import.meta.filename!, "--serve", "--seed", `${seed}`],
      ...good ? ["--good"] : [],
    ],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  // It has said why.
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
    tell: (order: string) =>
      input.write(new TextEncoder().encode(`${order}\n`)),
    async end(): Promise<Report> {
      await input.close();
      const report = JSON.parse(await line());
      await process.status;
      return report;
    },
  };
}

/** The lines of a stream that ends each chunk with one. */
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
  #idle = 0;
  #flushes = 0;
  /** Nobody awaits a write, so that as much waits as may. */
  impatient = false;
  running = true;
  streams = 0;
  delivered = 0;

  constructor(url: string, buffers: number, seed: number) {
    this.#url = url;
    this.#buffers = buffers;
    this.#random = randomFrom(seed);
  }

  /** Resolves when nothing runs any more. */
  async run(): Promise<void> {
    await Promise.all(
      Array.from({ length: this.#buffers }, async (_, i) => {
        // Every other one lives for ever.
        while (this.running) await this.#stream(i % 2 / WRITES_A_STREAM);
      }),
    );
  }

  async #stream(mortality: number): Promise<void> {
    const random = this.#random;
    const sender = new FetchSender(this.#url, {
      timeout: 1_000,
      retry: { initialDelay: 1, maxDelay: 20, maxElapsed: FOR_EVER },
    });
    const out = new StreamBuffer(sender, {
      capacity: CAPACITY,
      maxQueuedBytes: MAX_QUEUED,
      closeTimeout: FOR_EVER,
    });
    this.#open.add(out);
    this.streams++;
    let position = 0;
    do {
      const size = Math.ceil(1.5 * CAPACITY * random());
      const before = out.stats.bytesRejected;
      const write = out.write(bytesAt(position, size));
      // One that is refused at once was not accepted; any other must be.
      const refused = out.stats.bytesRejected > before;
      if (!refused) position += size;
      if (!this.impatient) await write;
      else await sleep(1);
      if (random() < 0.05 && !this.impatient) await out.flush();
      if (this.#resting) {
        await out.flush();
        this.#idle++;
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
      throw new Error(`Of ${position} bytes only ${bytesDelivered} went out`);
    }
  }

  /** Lets everything be delivered, does something, and goes on. */
  async rest<T>(work: () => Promise<T>): Promise<T> {
    this.#resting = Promise.withResolvers();
    while (this.#idle < this.#buffers) await sleep(10);
    const result = await work();
    this.#resting.resolve();
    this.#resting = undefined;
    return result;
  }

  async show(): Promise<Sample> {
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
      } MiB of objects and arrays, ${mib(rss)} MiB in all, ${
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
      await server.tell("disconnect");
      await sleep(100);
      console.log("at rest:");
      return soak.show();
    });

  // What is made once is made by then.
  await watch(seconds / 5, 2);
  const before = await measure();
  await watch(seconds * 4 / 5, 8);
  const after = await measure();
  const flushes = (after.flushes - before.flushes) / 1e6;
  const growth = (after.objects - before.objects) / MIB;
  console.log(
    `growth over ${flushes.toFixed(3)} million flushes: ${
      growth.toFixed(2)
    } MiB, ${after.files - before.files} open files; for a million that is ${
      flushes > 0.1 ? `${(growth / flushes).toFixed(2)} MiB` : "too few to tell"
    }`,
  );
  if (stall > 0) {
    console.log(`the server stalls for ${stall} s`);
    await soak.rest(async () => {
      await server.tell("stall");
      soak.impatient = true;
    });
    await watch(stall, 4);
    const held = (await soak.show()).objects - after.objects;
    // What is under way has been copied, too.
    const allowed = buffers * (3 * CAPACITY + MAX_QUEUED);
    console.log(`held${mib(held)} MiB, and may hold${mib(allowed)} MiB`);
    if (held > 1.1 * allowed) throw new Error("That is too much");
    await server.tell("go on without faults");
    soak.impatient = false;
    await measure();
  }
  soak.running = false;
  await work;
  const { bytes, streams, repeats } = await server.end();
  if (bytes !== soak.delivered || streams !== soak.streams) {
    throw new Error(
      `${soak.delivered} bytes of ${soak.streams} streams were sent, ${bytes} of ${streams} arrived`,
    );
  }
  console.log(
    `${bytes} bytes of ${streams} streams arrived, each once and in its place; the keys told of ${repeats} repeats`,
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
