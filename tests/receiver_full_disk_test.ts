/** A receiver whose disk is full: a small one of its own, which only root can mount. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  FileStore,
  receive,
  SqliteStore,
  StoreError,
} from "../receiver/mod.ts";
import {
  FetchSender,
  inspectSpool,
  Spool,
  StreamBuffer,
} from "../spool/mod.ts";
import { fastTimers } from "../testing/fake_time.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import {
  findObstacle,
  hog,
  mount,
  remount,
  unhog,
} from "../testing/small_disk.ts";
import { batchOf, textOf } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const DISK = `size=${40 * MIB}`;
const FULL = /: the disk is full; free some space on it$/;
const QUICK = { durability: "process" } as const;
const CLASSES = { SqliteStore, FileStore };
type AnyStore = SqliteStore | FileStore;

const obstacle = await findObstacle();
if (obstacle !== undefined) {
  console.log(`The tests of a full disk are skipped: ${obstacle}`);
}

function test(name: string, work: () => Promise<void>): void {
  Deno.test(name, { ignore: obstacle !== undefined }, work);
}

/** Serves a store, and collects what is wrong with it. */
function serve(store: AnyStore) {
  const errors: unknown[] = [];
  const onError = (error: unknown) => void errors.push(error);
  const handler = store instanceof SqliteStore
    ? receive({ store, onError })
    : receive({ store, onError });
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    handler,
  );
  const url = `http://127.0.0.1:${server.addr.port}/`;
  return {
    ...{ errors, url },
    post: async (key: string, body: string) => {
      const headers = { "Idempotency-Key": `"${key}"` };
      const response = await fetch(url, { method: "POST", headers, body });
      return [response.status, await response.text()];
    },
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

for (const name of ["SqliteStore", "FileStore"] as const) {
  const Store = CLASSES[name];

  for (const size of [100, 100 * KIB, 3 * MIB]) {
    test(`${name}: batches of ${size} bytes that fill the disk are refused with 507, and not stored by half`, async () => {
      await using disk = await mount(DISK);
      const path = `${disk.folder}/received`;
      await using store = new Store(path, QUICK);
      await using server = serve(store);
      const bodyOf = (number: number) => `${number % 10}`.repeat(size);
      let count = 0;
      // The smallest ones would take long to fill it.
      while (
        count < 50 &&
        (await server.post(`a-${count}`, bodyOf(count)))[0] === 204
      ) count++;
      assert(count > 2, `${count}`);
      hog(disk);
      const failed: number[] = [];
      for (let i = 0; i < 200 && failed.length < 3; i++) {
        const [status, text] = await server.post(`a-${count}`, bodyOf(count));
        if (status === 204) count++;
        else {
          assertEquals([status, text], [507, "the disk is full\n"]);
          failed.push(count);
        }
      }
      assertEquals(failed.length, 3);
      for (const error of server.errors) {
        assert(error instanceof StoreError && error.code === "full");
        assertMatch(error.message, FULL);
      }
      const text = Array.from({ length: count }, (_, i) => bodyOf(i)).join("");
      assert(await textOf(store, "a") === text, "something else is stored");
      assertEquals((await server.post("a-0", bodyOf(0)))[0], 204); // known
      // On a full disk, it can also be opened.
      await server[Symbol.asyncDispose]();
      await store.close();
      hog(disk);
      await using again = new Store(path, QUICK);
      assert(await textOf(again, "a") === text);
      const next = await batchOf(`a-${count}`, bodyOf(count));
      await assertRejects(() => again.add(next), StoreError, "full");
      await remount(disk, `size=${80 * MIB}`);
      assertEquals(await again.add(next), "stored");
      assert(await textOf(again, "a") === text + bodyOf(count));
    });
  }

  for (const size of [100, 10 * KIB, MIB]) {
    test(`${name}: prune() makes room on a disk that batches of ${size} bytes have filled`, async () => {
      await using disk = await mount(DISK);
      const path = `${disk.folder}/received`;
      let store = new Store(path, QUICK);
      let [count, bytes] = [0, 0];
      /** Adds old batches of many streams, until there is no room. */
      const fill = async () => {
        for (let i = 0; i < 40; i++) {
          const batches = await Promise.all(
            Array.from(
              { length: 100 },
              (_, j) => batchOf(`${j}-${count}`, "x".repeat(size), 60_000),
            ),
          );
          const results = await Promise.allSettled(
            batches.map((batch) => store.add(batch)),
          );
          const stored = results.filter(({ status }) => status === "fulfilled");
          bytes += size * stored.length;
          count++;
          if (stored.length < results.length) return;
        }
      };
      for (const isReopened of [false, true]) {
        const before = bytes;
        await fill();
        assert(bytes > before);
        hog(disk);
        if (isReopened) {
          await store.close();
          hog(disk);
          store = new Store(path, QUICK);
        }
        const pruned = await store.prune(30_000);
        assertEquals(pruned, {
          batches: (bytes - before) / size,
          bytes: bytes - before,
        });
        // It has made room itself.
        const next = await batchOf(`next-${count}`, "x".repeat(size), 60_000);
        assertEquals(await store.add(next), "stored");
        bytes += size;
        await store.prune(30_000);
        assertEquals(await textOf(store, "0"), "");
        bytes = 0;
        assertEquals(await store.add(next), "known");
      }
      await store.close();
    });
  }

  for (let seed = 1; seed <= 6; seed++) {
    test(`${name}: a sender with a spool waits until there is room, and then everything is stored once (seed ${seed})`, async () => {
      await sendAtRandom(Store, seed);
    });
  }
}

test("FileStore: prune() says that there is no room for a copy of what is kept", async () => {
  await using disk = await mount(DISK);
  const path = `${disk.folder}/received`;
  await using store = new FileStore(path, QUICK);
  await store.add(await batchOf("a-0", "x".repeat(8 * MIB), 60_000));
  await store.add(await batchOf("a-1", "y".repeat(10 * MIB)));
  hog(disk);
  const error = await assertRejects(() => store.prune(30_000), StoreError);
  assertEquals(error.code, "full");
  assertMatch(
    error.message,
    /^Cannot prune the store .*: the disk is full; free/,
  );
  assertEquals((await textOf(store, "a")).length, 18 * MIB);
  unhog(disk);
  assertEquals(await store.prune(30_000), { batches: 1, bytes: 8 * MIB });
  assertEquals((await textOf(store, "a")).length, 10 * MIB);
});

/** Sends through a spool to a store whose disk others fill and empty at random. */
async function sendAtRandom(
  Store: typeof SqliteStore | typeof FileStore,
  seed: number,
): Promise<void> {
  const random = randomFrom(seed);
  const below = (limit: number) => Math.floor(limit * random());
  using _ = fastTimers();
  await using folder = await temporary();
  await using disk = await mount(DISK);
  await using store: AnyStore = new Store(`${disk.folder}/received`, QUICK);
  await using server = serve(store);
  const sender = new FetchSender(server.url, {
    retry: { maxElapsed: 5_000, initialDelay: 1, maxDelay: 1 },
  });
  const spool = new Spool(folder.file("spool"), sender, {
    ...QUICK,
    requestBytes: 1 + below(256 * KIB),
  });
  const out = new StreamBuffer(spool, { capacity: 64 * KIB });
  let text = "";
  for (let i = 0; i < 60; i++) {
    const record = `${i}:${"x".repeat(below(100 * KIB))}\n`;
    text += record;
    await out.write(record);
    await out.flush();
    if (random() < 0.2) hog(disk, random() < 0.5 ? Infinity : below(8 * MIB));
    if (random() < 0.1) unhog(disk);
  }
  hog(disk);
  await out.write(`the end:${"x".repeat(64 * KIB)}\n`.repeat(100));
  text += `the end:${"x".repeat(64 * KIB)}\n`.repeat(100);
  await out.flush();
  unhog(disk);
  await spool.drained();
  await out.close();
  const { id } = inspectSpool(folder.file("spool"));
  assert(await textOf(store, id) === text, "it is not what was sent");
  for (const error of server.errors) {
    assert(error instanceof StoreError && error.code === "full", `${error}`);
  }
}
