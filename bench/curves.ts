/**
 * Measures how throughput and memory depend on the capacity, the latency of the
 * server, the size of the stream, the size of a write, and the number of buffers.
 *
 *     deno task bench:curves [--json FILE]
 *
 * A server that delays its responses stands in for a distant one.
 */
import { parseArgs } from "node:util";
import { undiciTransport } from "../http/undici.ts";
import { type Reader, StreamBuffer, streamTo, type Transport } from "../mod.ts";
import { startServer } from "./server.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const ROUNDS = 3;

/** One point of a curve. */
interface Point {
  x: number;
  /** The median rate of the rounds in MB/s, then the lowest and the highest. */
  rate: number;
  min: number;
  max: number;
  /** The resident set after the rounds, in MiB. */
  memory: number;
}

/** A reader of `size` arbitrary bytes, which costs nothing to read. */
class Source implements Reader {
  #left: number;

  constructor(size: number) {
    this.#left = size;
  }

  read(p: Uint8Array): Promise<number | null> {
    const size = Math.min(p.length, this.#left);
    this.#left -= size;
    return Promise.resolve(size > 0 ? size : null);
  }
}

async function measure(
  x: number,
  size: number,
  work: () => Promise<unknown>,
  rounds = ROUNDS,
): Promise<Point> {
  const rates: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await work();
    rates.push(size / (performance.now() - start) / 1e3);
  }
  rates.sort((a, b) => a - b);
  return {
    x,
    rate: rates[Math.floor(rounds / 2)]!,
    min: rates[0]!,
    max: rates.at(-1)!,
    memory: Deno.memoryUsage().rss / MIB,
  };
}

function bytes(size: number): string {
  if (size >= GIB) return `${size / GIB} GiB`;
  if (size >= MIB) return `${size / MIB} MiB`;
  return size >= KIB ? `${size / KIB} KiB` : `${size} B`;
}

const curves: Record<string, Point[]> = {};

function show(name: string, points: Point[], label = bytes): void {
  curves[name] = points;
  console.log(`\n${name}`);
  for (const { x, rate, min, max, memory } of points) {
    const cells = [
      label(x).padStart(9),
      `${rate.toPrecision(4)} MB/s`.padStart(14),
      `(${min.toPrecision(3)} to ${max.toPrecision(3)})`.padStart(20),
      `${memory.toFixed(0)} MiB resident`.padStart(20),
    ];
    console.log(cells.join(" "));
  }
}

async function transfer(
  url: string,
  size: number,
  capacity: number,
  options: { concurrency?: number; transport?: Transport } = {},
) {
  await using out = streamTo(url, { ...options, capacity });
  await out.readFrom(new Source(size));
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { json: { type: "string" } } });

  await using transport = undiciTransport();
  for (
    const [delay, name, options] of [
      [0, "capacity, 0 ms", {}],
      [0, "capacity, 0 ms, undici", { transport }],
      [10, "capacity, 10 ms", {}],
      [50, "capacity, 50 ms", {}],
      [50, "capacity, 50 ms, 8 at once", { concurrency: 8 }],
      [100, "capacity, 100 ms", {}],
    ] as const
  ) {
    await using server = await startServer(delay);
    const warmUp = delay > 0 ? 8 * MIB : 64 * KIB;
    await transfer(server.url, 64 * MIB, warmUp, options);
    const points: Point[] = [];
    for (let capacity = 8 * KIB; capacity <= 8 * MIB; capacity *= 2) {
      const { concurrency } = { concurrency: 1, ...options };
      const size = delay > 0
        ? 8 * concurrency * capacity
        : Math.max(64 * MIB, 8 * capacity);
      points.push(
        await measure(
          capacity,
          size,
          () => transfer(server.url, size, capacity, options),
        ),
      );
    }
    show(name, points);
  }

  await using server = await startServer();
  const sizes = [MIB, 10 * MIB, 100 * MIB, GIB, 10 * GIB];
  const totals: Point[] = [];
  for (const size of sizes) {
    const rounds = size > GIB ? 1 : ROUNDS;
    const work = () => transfer(server.url, size, MIB);
    totals.push(await measure(size, size, work, rounds));
  }
  show("streamed, capacity 1 MiB", totals);

  // Each write is awaited, as in a program that keeps pace with its server.
  const writes: Point[] = [];
  for (let size = 1; size <= MIB; size *= 4) {
    const count = Math.ceil(Math.min(4e6, 256 * MIB / size));
    const piece = new Uint8Array(size);
    writes.push(
      await measure(size, count * size, async () => {
        await using out = new StreamBuffer(() => {}, { capacity: MIB });
        for (let i = 0; i < count; i++) await out.write(piece);
      }),
    );
  }
  show("size of a write, to a sender that does nothing", writes);

  const buffers: Point[] = [];
  for (let count = 1; count <= 64; count *= 2) {
    const size = 512 * MIB / count;
    buffers.push(
      await measure(count, 512 * MIB, () =>
        Promise.all(
          Array.from(
            { length: count },
            () => transfer(server.url, size, 256 * KIB),
          ),
        )),
    );
  }
  show("buffers at once, 512 MiB in all", buffers, String);

  if (values.json !== undefined) {
    const text = JSON.stringify({ curves }, undefined, 2);
    await Deno.writeTextFile(values.json, `${text}\n`);
  }
}
