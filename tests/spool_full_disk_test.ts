/**
 * A spool on a disk that is full: a small one of its own, which only root can mount.
 * Elsewhere `spool/spool_test.ts` injects the errors.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { fileURLToPath } from "node:url";
import {
  type Sender,
  Spool,
  SpoolError,
  type SpoolOptions,
} from "../spool/mod.ts";
import { run } from "../testing/child.ts";
import { fastTimers } from "../testing/fake_time.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import {
  findObstacle,
  hog,
  mount,
  remount,
  type SmallDisk,
  unhog,
} from "../testing/small_disk.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** Room for a reserve, and about as much again. */
const DISK_SIZE = 24 * MIB;

/** Mounts a disk for a spool. */
async function mountForSpool(): Promise<SmallDisk & { path: string }> {
  const disk = await mount(`size=${DISK_SIZE}`);
  return { ...disk, path: `${disk.folder}/app.spool` };
}

const obstacle = await findObstacle();
if (obstacle !== undefined) {
  console.log(`The tests of a full disk are skipped: ${obstacle}`);
}

function test(name: string, work: () => Promise<void>): void {
  Deno.test(name, { ignore: obstacle !== undefined }, work);
}

/** Adds numbered records to a spool, and checks what a server makes of them. */
class Records {
  readonly #bodies = new Map<string, Uint8Array>();
  /** What came again under the same key, and what that was the first time. */
  readonly #repeats: [Uint8Array, Uint8Array][] = [];
  readonly #size: number;
  /** One for each opening of the file. */
  #controller = new AbortController();
  #offset = 0;
  #spool: Spool | undefined;
  /** Whether the server takes nothing. */
  isAway = true;
  /** Called before each acknowledgement. */
  onRequest = () => {};
  /** How many have been committed. */
  count = 0;

  constructor(size: number) {
    this.#size = size;
  }

  open(path: string, options: SpoolOptions = {}): Spool {
    this.#controller = new AbortController();
    this.#offset = 0;
    const send: Sender["send"] = (bytes, { key }) => {
      if (this.isAway) throw new Error("the server is away");
      const before = this.#bodies.get(key!);
      if (before === undefined) this.#bodies.set(key!, bytes.slice());
      else this.#repeats.push([before, bytes.slice()]);
      this.onRequest();
    };
    const quick = { durability: "process", drainTimeout: 0 } as const;
    return this.#spool = new Spool(path, send, { ...quick, ...options });
  }

  /** Commits a record; it is in the file when this returns, unless that fails. */
  commit(size = this.#size): Promise<void> {
    const record = new Uint8Array(size);
    for (let i = 0; i < size; i += NOISE.length) {
      record.set(NOISE.subarray(0, size - i), i);
    }
    new DataView(record.buffer).setUint32(0, this.count);
    const { signal } = this.#controller;
    const context = {
      ...{ sequence: 0, offset: this.#offset, signal, closing: signal },
      deadline: Infinity,
    };
    return this.#spool!.send(record, context).then(() => {
      this.#offset += size;
      this.count++;
    });
  }

  /** Commits records until that fails, and returns why. */
  async fill(count = Infinity): Promise<SpoolError | undefined> {
    for (let i = 0; i < count; i++) {
      try {
        await this.commit();
      } catch (error) {
        assert(error instanceof SpoolError);
        return error;
      }
    }
  }

  /** Checks that each record has arrived, once, in order. */
  check(): void {
    for (const [before, bytes] of this.#repeats) assertEquals(bytes, before);
    let next = 0;
    for (const body of this.#bodies.values()) {
      const view = new DataView(body.buffer);
      for (let i = 0; i < body.length; i += this.#size) {
        assertEquals(view.getUint32(i), next++);
      }
    }
    assertEquals(next, this.count);
  }
}

/** Not zeros, which some file systems do not store. */
const NOISE = crypto.getRandomValues(new Uint8Array(64 * KIB));

for (const size of [100, 4 * KIB, 100 * KIB, MIB, 3 * MIB]) {
  for (const isReopened of [false, true]) {
    const when = isReopened ? ", after it was closed and opened again" : "";
    test(`a spool that has filled its disk with sends of ${size} bytes still drains${when}`, async () => {
      await using disk = await mountForSpool();
      const records = new Records(size);
      let spool = records.open(disk.path);
      const error = await records.fill();
      assertEquals(error?.code, "full");
      assertMatch(
        error!.message,
        /^Cannot add \d+ bytes to the spool .*: the disk is full; free some space on it$/,
      );
      hog(disk);
      if (isReopened) {
        await spool.close();
        // What the side file had is taken as well.
        hog(disk);
        records.isAway = false;
        spool = records.open(disk.path);
      }
      records.isAway = false;
      await spool.drained();
      records.check();
      // It has made room itself.
      assertEquals(await records.fill(2), undefined);
      await spool.drained();
      records.check();
      await spool.close();
    });
  }
}

for (const size of [4 * KIB, 100 * KIB, MIB]) {
  test(`a spool with sends of ${size} bytes drains even if others take at once whatever it gives back`, async () => {
    await using disk = await mountForSpool();
    const records = new Records(size);
    await using spool = records.open(disk.path);
    await records.fill();
    records.onRequest = () => hog(disk);
    records.isAway = false;
    await spool.drained();
    records.check();
  });
}

test("a send for which there is no room leaves the reserve of the others as it is", async () => {
  await using disk = await mountForSpool();
  const records = new Records(100 * KIB);
  await using spool = records.open(disk.path);
  await records.fill(50);
  const reserve = () => Deno.statSync(`${disk.path}-reserve`).size;
  const before = reserve();
  await assertRejects(
    () => records.commit(9 * MIB),
    SpoolError,
    "disk is full",
  );
  assertEquals(reserve(), before);
  hog(disk);
  records.isAway = false;
  await spool.drained();
  records.check();
});

test("nothing is added to a disk without room for the reserve", async () => {
  await using disk = await mountForSpool();
  hog(disk, 16 * MIB);
  const records = new Records(100);
  await using spool = records.open(disk.path);
  assertEquals((await records.fill(1))?.code, "full");
  assertEquals(spool.stats.bytesWaiting, 0);
  assertThrows(() => Deno.statSync(`${disk.path}-reserve`));
  Deno.removeSync(`${disk.folder}/hog`);
  assertEquals(await records.fill(1), undefined);
});

test("a disk that is full before the first cut is recorded", async () => {
  await using disk = await mountForSpool();
  const records = new Records(100);
  records.isAway = false;
  await using spool = records.open(disk.path);
  const committed = records.commit();
  hog(disk);
  await committed;
  await spool.drained();
  records.check();
});

test("a process that is killed on a full disk leaves a spool that drains", async () => {
  await using disk = await mountForSpool();
  const code = `
    import { Spool, StreamBuffer } from ${
    JSON.stringify(import.meta.resolve("../spool/mod.ts"))
  };
    const away = () => Promise.reject(new Error("the server is away"));
    const spool = new Spool(Deno.args[0], away);
    const out = new StreamBuffer(spool, { flushInterval: 0 });
    const record = new Uint8Array(${100 * KIB});
    for (let i = 0;; i++) {
      new DataView(record.buffer).setUint32(0, i);
      await out.write(record);
      try {
        await out.flush();
      } catch {
        console.log("committed", i, ".");
        await Deno.stdin.read(new Uint8Array(1));
      }
    }`;
  const config = fileURLToPath(import.meta.resolve("../deno.json"));
  const data = `data:text/javascript,${encodeURIComponent(code)}`;
  await using child = run(["-A", "--config", config, data, disk.path]);
  await child.waitForOutput(".");
  child.kill("SIGKILL");
  const { stdout } = await child.outcome;
  hog(disk);
  const records = new Records(100 * KIB);
  records.count = Number(stdout.match(/\d+/)![0]);
  assert(records.count > 20);
  records.isAway = false;
  await using spool = records.open(disk.path);
  await spool.drained();
  records.check();
});

/** Uses a spool at random on a disk that others fill and empty at random. */
async function useAtRandom(seed: number): Promise<void> {
  const random = randomFrom(seed);
  const below = (limit: number) => Math.floor(limit * random());
  using _ = fastTimers();
  await using disk = await mountForSpool();
  const records = new Records([100, 5_000, 64 * KIB, 700_000][below(4)]!);
  records.isAway = false;
  records.onRequest = () => {
    if (random() < 0.3) hog(disk, below(2 * MIB));
    if (random() < 0.2) unhog(disk);
    if (random() < 0.2) throw new Error("the response is lost");
  };
  let spool = records.open(disk.path, { requestBytes: 1 + below(MIB) });
  for (let i = 0; i < 60; i++) {
    const committed = records.fill(1 + below(8));
    if (random() < 0.4) hog(disk, below(12 * MIB));
    await committed;
    if (random() < 0.2) unhog(disk);
    if (random() < 0.1) hog(disk);
    if (random() < 0.1) {
      await (random() < 0.5 ? spool.close() : spool.abort());
      if (random() < 0.5) unhog(disk);
      try {
        spool = records.open(disk.path, { requestBytes: 1 + below(MIB) });
      } catch (error) {
        // Without a reserve, a byte for the side file is not always there.
        assertEquals((error as SpoolError).code, "full");
        unhog(disk);
        spool = records.open(disk.path, { requestBytes: 1 + below(MIB) });
      }
    }
  }
  unhog(disk);
  records.onRequest = () => {};
  // What waits may fill the disk.
  await spool.drained();
  assertEquals(await records.fill(1), undefined);
  await spool.drained();
  records.check();
  await spool.close();
  const names = [...Deno.readDirSync(disk.folder)].map(({ name }) => name);
  assertEquals(names, ["app.spool"]);
}

for (let seed = 1; seed <= 30; seed++) {
  test(`nothing is lost, and nothing comes twice, on a disk that is full now and then (seed ${seed})`, async () => {
    await useAtRandom(seed);
  });
}

test("a spool on a read-only disk is refused, and says so", async () => {
  await using disk = await mountForSpool();
  const records = new Records(100);
  await records.open(disk.path).close();
  await remount(disk, "ro");
  for (const path of [disk.path, `${disk.folder}/new.spool`]) {
    const { code, message } = assertThrows(
      () => records.open(path),
      SpoolError,
    );
    assertEquals(code, "io");
    assertMatch(
      message,
      /Cannot open the spool .*: .*(read-only file system|Read-only file system|its folder must exist and be writable)/,
    );
  }
});
