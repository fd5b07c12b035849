/**
 * What it costs to put everything on disk first. The file of a spool and that of its
 * peer are in the same folder, which must not be in memory: there a sync costs
 * nothing, and the ratios would mean nothing.
 */
import { closeSync, fdatasyncSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { FetchSender, type Sender, StreamBuffer, streamTo } from "../mod.ts";
import { Spool } from "../spool/mod.ts";
import { RECORD } from "./workloads.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** A sync that takes less, in ms, writes to no disk. */
const MIN_SYNC = 0.02;

/** A server that has been away since before the spool was opened. */
const AWAY: Sender = {
  send: (_, { signal }) =>
    new Promise((_, reject) =>
      signal.addEventListener("abort", () => reject(signal.reason))
    ),
};

/** What a folder is on, and what a sync costs there. */
export interface Disk {
  readonly name: string;
  /** Of 4 KiB appended to a file, in ms. */
  readonly sync: number;
}

/** Looks at the disk of a folder. */
export async function inspectDisk(folder: string): Promise<Disk> {
  const times = await withFolder(folder, (inner) => {
    const file = openSync(join(inner, "file"), "w");
    const bytes = new Uint8Array(4 * KIB).fill(1);
    const times = Array.from({ length: 101 }, () => {
      const start = performance.now();
      writeSync(file, bytes);
      fdatasyncSync(file);
      return performance.now() - start;
    });
    closeSync(file);
    return Promise.resolve(times);
  });
  const sync = times.sort((a, b) => a - b)[50]!;
  return { name: await mountOf(folder), sync };
}

/** Whether a sync does anything there. */
export function isDisk({ sync }: Disk): boolean {
  return sync >= MIN_SYNC;
}

async function mountOf(folder: string): Promise<string> {
  try {
    const args = ["-n", "-o", "FSTYPE,SOURCE", "-T", folder];
    const { stdout } = await new Deno.Command("findmnt", { args }).output();
    return new TextDecoder().decode(stdout).trim().replace(/\s+/g, " on ");
  } catch {
    return "an unknown file system";
  }
}

/** Runs `use` with a new folder in another one. */
export async function withFolder<T>(
  folder: string,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  const inner = await Deno.makeTempDir({ dir: folder, prefix: "spool_bench_" });
  try {
    return await use(inner);
  } finally {
    await Deno.remove(inner, { recursive: true });
  }
}

/** Both sides of a comparison, until it is disposed of. */
export interface Sides extends AsyncDisposable {
  readonly ours: (count: number) => Promise<unknown>;
  readonly peer: (count: number) => Promise<unknown>;
  /** Called before and after `ours`, and not measured. */
  readonly prepare?: () => Promise<unknown>;
  readonly finish?: () => Promise<unknown>;
}

/** Commits of `size` bytes to a spool, and as many appended to a file by hand. */
export function commits(
  folder: string,
  size: number,
  durability: "power" | "process",
): Sides {
  const spool = new Spool(join(folder, "spool"), AWAY, {
    durability,
    maxBytes: 64 * GIB,
    drainTimeout: 0,
  });
  const out = new StreamBuffer(spool, { capacity: size, flushInterval: 0 });
  const file = openSync(join(folder, "file"), "w");
  const bytes = new Uint8Array(size).fill(65);
  return {
    ours: async (count) => {
      for (let i = 0; i < count; i++) {
        void out.write(bytes);
        await out.flush();
      }
    },
    peer: (count) => {
      for (let i = 0; i < count; i++) {
        writeSync(file, bytes);
        if (durability === "power") fdatasyncSync(file);
      }
      return Promise.resolve();
    },
    [Symbol.asyncDispose]: async () => {
      await out.close();
      closeSync(file);
    },
  };
}

/** Records to a server through a spool, and without one. */
export function spooledRecords(folder: string, url: string): Sides {
  const write = async (out: StreamBuffer, count: number) => {
    for (let i = 0; i < count; i++) await out.write(RECORD);
    await out.flush();
  };
  const spool = new Spool(join(folder, "spool"), new FetchSender(url));
  const spooled = new StreamBuffer(spool);
  const direct = streamTo(url);
  return {
    ours: async (count) => {
      await write(spooled, count);
      await spool.drained();
    },
    peer: (count) => write(direct, count),
    [Symbol.asyncDispose]: async () => {
      await spooled.close();
      await direct.close();
    },
  };
}

/** 1 GiB that waits in a spool, and a file of that size, to a server. */
export async function drain(folder: string, url: string): Promise<Sides> {
  const path = join(folder, "spool");
  const backlog = join(folder, "backlog");
  await fill(backlog, GIB);
  const file = join(folder, "file");
  await Deno.writeFile(
    file,
    ReadableStream.from(Array<Uint8Array>(1_024).fill(new Uint8Array(MIB))),
  );
  let spool: Spool;
  return {
    prepare: async () => {
      await Deno.copyFile(backlog, path);
      using copy = await Deno.open(path, { write: true });
      await copy.syncData();
    },
    ours: async () => {
      spool = new Spool(path, new FetchSender(url));
      await spool.drained();
    },
    // Gives back the space of 1 GiB, which is not a part of the delivery.
    finish: () => spool.close(),
    peer: async () => {
      await using out = streamTo(url, { capacity: MIB });
      using source = await Deno.open(file);
      await out.readFrom(source);
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/**
 * The time that it takes to open a spool in which 1 GiB waits, or a million rows, and
 * an empty one, in ms.
 */
export async function openings(
  folder: string,
  backlog: "1 GiB" | "a million rows",
  rounds: number,
): Promise<[ours: number[], peer: number[]]> {
  const path = join(folder, "spool");
  const empty = join(folder, "empty");
  await fill(path, backlog === "1 GiB" ? GIB : RECORD.length);
  if (backlog === "a million rows") multiplyRows(path);
  const time = async (path: string) => {
    const start = performance.now();
    const spool = new Spool(path, AWAY, { drainTimeout: 0 });
    const ms = performance.now() - start;
    await spool.close();
    return ms;
  };
  await time(empty); // creates it
  const times: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    times[0].push(await time(path));
    times[1].push(await time(empty));
  }
  return times;
}

/**
 * Makes 2^20 rows of one. To commit each would take a minute. Their checksums are
 * wrong, which nobody looks at who does not read them.
 */
function multiplyRows(path: string): void {
  const database = new DatabaseSync(path);
  for (let rows = 1; rows < 2 ** 20; rows *= 2) {
    database.exec(
      `insert into batch select offset + ${
        rows * RECORD.length
      }, number + ${rows}, at, crc, bytes from batch`,
    );
  }
  database.close();
}

/** Fills a spool, and closes it. */
async function fill(path: string, size: number): Promise<void> {
  const spool = new Spool(path, AWAY, {
    durability: "process",
    maxBytes: 2 * GIB,
    drainTimeout: 0,
  });
  await using out = new StreamBuffer(spool);
  const piece = new Uint8Array(Math.min(size, 64 * KIB)).fill(65);
  for (let at = 0; at < size; at += piece.length) await out.write(piece);
}
