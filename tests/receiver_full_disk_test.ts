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
const DISK = `size=${24 * MIB}`;
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
      await remount(disk, `size=${40 * MIB}`);
      assertEquals(await again.add(next), "stored");
      assert(await textOf(again, "a") === text + bodyOf(count));
    });
  }

  for (let seed = 1; seed <= 6; seed++) {
    test(`${name}: a sender with a spool waits until there is room, and then everything is stored once (seed ${seed})`, async () => {
      await sendAtRandom(Store, seed);
    });
  }
}

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
