/**
 * A program that makes COUNT records, RATE a second, and sends them by a peer. It
 * runs in Deno and in Node.
 *
 *     deno run -A bench/peers/program.ts PEER URL COUNT RATE REPORT
 *
 * When it ends, it writes a {@linkcode ProgramReport} to the file REPORT.
 */
import { writeFileSync } from "node:fs";
import process from "node:process";
import type { Connect } from "./peer.ts";

/** What the program knows at its end. */
export interface ProgramReport {
  /** The records that did not arrive, as far as the program knows. */
  told: number[];
  /** How often the peer reported a loss without saying of what. */
  notices: number;
  /** From the first record to the end of the program. */
  seconds: number;
  /** The largest resident set, in bytes. */
  peak: number;
}

/** How many requests a program has in flight that gets a promise for each. */
const MAX_IN_FLIGHT = 500;
/** How long the program may take to end after its last record is due, in ms. */
const GRACE = 20_000;
/** How often it makes the records that are due, in ms. */
const TICK = 5;
/** How often memory is looked at, in ms. */
const SAMPLING = 50;

const [name, url, ...rest] = process.argv.slice(2);
const [count, rate] = rest.map(Number) as [number, number];
const path = rest[2]!;

// A URL, as Deno takes a template for an import of every module in the folder.
const { href } = new URL(`${name}.ts`, import.meta.url);
const { connect }: { connect: Connect } = await import(href);
const told = new Set<number>();
let notices = 0;
const peer = connect(url!, {
  record: (n) => told.add(n),
  notice: () => notices++,
});

/** The records whose delivery has not settled. */
const pending = new Set<number>();
/** Called when one settles. */
let wake = () => {};
let made = 0;
let peak = 0;

function sample(): void {
  peak = Math.max(peak, process.memoryUsage().rss);
}

function send(n: number): void {
  const delivery = peer.send(n);
  if (delivery === undefined) return;
  pending.add(n);
  delivery.catch(() => told.add(n)).finally(() => {
    pending.delete(n);
    wake();
  });
}

/** Waits until fewer deliveries than `limit` have not settled. */
async function fewerThan(limit: number): Promise<void> {
  while (pending.size >= limit) {
    await new Promise<void>((resolve) => wake = resolve);
  }
}

async function sendAll(start: number): Promise<void> {
  while (made < count) {
    const due = Math.min(count, (performance.now() - start) * rate / 1_000);
    while (made < due) {
      await fewerThan(MAX_IN_FLIGHT);
      send(made++);
    }
    await new Promise((resolve) => setTimeout(resolve, TICK));
  }
  await fewerThan(1);
}

// The server counts the time from here on, too.
const started = await fetch(new URL("/start", url), {
  headers: { Connection: "close" },
});
await started.body?.cancel();
const start = performance.now();

process.on("exit", () => {
  sample();
  // A program that holds a promise or a record knows that it does.
  for (const n of pending) told.add(n);
  for (let n = made; n < count; n++) told.add(n);
  const seconds = (performance.now() - start) / 1_000;
  const report: ProgramReport = { told: [...told], notices, seconds, peak };
  writeFileSync(path, JSON.stringify(report));
});
setInterval(sample, SAMPLING).unref();
setTimeout(() => process.exit(1), 1_000 * count / rate + GRACE).unref();

await sendAll(start);
await peer.close();
