/** What every store of a receiver promises, as tests. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  type AddResult,
  type Batch,
  MemoryStore,
  type OnBatch,
  type Pruned,
  receive,
  type Store,
  StoreError,
} from "../receiver/mod.ts";

/** What the stores of this package can do. */
export interface OpenStore extends Store<unknown>, AsyncDisposable {
  prune(age: number): Promise<Pruned>;
}

/** Where a store keeps what it is given. Disposing of it removes that. */
export interface Place extends AsyncDisposable {
  /** Opens the store that is there. */
  open(): Promise<OpenStore>;
}

/** A kind of store, as the suite has to know it. */
export interface StoreKind {
  /** The name of the class. */
  readonly name: string;
  /** Makes a new place. */
  makePlace(): Promise<Place>;
  /** Whether streams are sorted by sequence number, or else by arrival. */
  readonly isSorted: boolean;
  /** Whether a store that is opened again has what it had. */
  readonly survives: boolean;
  /** Whether tests are skipped, because what they need is missing. */
  readonly ignore?: boolean;
}

/**
 * Makes the batch that a request with this key would become, by the way of a receiver.
 *
 * @param age How long ago it arrived, in milliseconds.
 */
export async function batchOf(
  key: string,
  content: string | Uint8Array<ArrayBuffer>,
  age = 0,
): Promise<Batch> {
  let batch: Batch | undefined;
  const handler = receive({
    store: new MemoryStore(),
    onBatch: (received) => void (batch = received),
  });
  const headers = { "Idempotency-Key": JSON.stringify(key) };
  await handler(
    new Request("http://localhost/", {
      method: "POST",
      headers,
      body: content,
    }),
  );
  assert(batch !== undefined, `${key} is no key of a batch`);
  return { ...batch, received: batch.received - age };
}

/** All bytes of a stream, as text. */
export async function textOf(store: Store, id: string): Promise<string> {
  return await new Response(store.read(id)).text();
}

/** A pseudo-random number generator: mulberry32, from 0 to 1. */
function randomFrom(seed: number): () => number {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** Registers the tests of one kind of store. */
export function testStore(kind: StoreKind): void {
  const { name, isSorted, survives, ignore = false } = kind;
  const test = (
    criterion: string,
    work: (store: OpenStore, place: Place) => Promise<void>,
  ) =>
    Deno.test({
      name: `${name}: ${criterion}`,
      ignore,
      async fn() {
        await using place = await kind.makePlace();
        await using store = await place.open();
        await work(store, place);
      },
    });
  const add = async (
    store: Store,
    key: string,
    content: string | Uint8Array<ArrayBuffer>,
    age = 0,
  ): Promise<AddResult> => await store.add(await batchOf(key, content, age));

  test("a batch is stored once, however often it comes", async (store) => {
    assertEquals(await add(store, "a-0", "one\n"), "stored");
    assertEquals(await add(store, "a-0", "one\n"), "known");
    assertEquals(await add(store, "a-1", "two\n"), "stored");
    assertEquals(await add(store, "a-0", "one\n"), "known");
    assertEquals(await textOf(store, "a"), "one\ntwo\n");
  });

  test("a key with other bytes is a conflict", async (store) => {
    await add(store, "a-0", "one\n");
    assertEquals(await add(store, "a-0", "One\n"), "conflict");
    assertEquals(await add(store, "a-0", ""), "conflict");
    assertEquals(await textOf(store, "a"), "one\n");
  });

  test("a stream is in order", async (store) => {
    for (const sequence of [2, 0, 10, 1]) {
      assertEquals(await add(store, `a-${sequence}`, `${sequence} `), "stored");
    }
    const expected = isSorted ? "0 1 2 10 " : "2 0 10 1 ";
    assertEquals(await textOf(store, "a"), expected);
  });

  test("two epochs with one number are both stored, and reported", async (store) => {
    const [one, two] = ["0123456789abcdef", "fedcba9876543210"];
    assertEquals(await add(store, `a.${one}-0`, "0 "), "stored");
    assertEquals(await add(store, `a.${one}-1`, "1 "), "stored");
    assertEquals(await add(store, `a.${two}-1`, "1' "), "overlap");
    assertEquals(await add(store, `a.${two}-1`, "1' "), "known");
    assertEquals(await add(store, `a.${two}-2`, "2 "), "stored");
    assertEquals(await textOf(store, "a"), "0 1 1' 2 ");
  });

  test("two epochs that come at the same time are reported", async (store) => {
    const batches = await Promise.all(
      ["0123456789abcdef", "fedcba9876543210"]
        .map((epoch) => batchOf(`a.${epoch}-0`, epoch)),
    );
    const results = await Promise.all(batches.map((batch) => store.add(batch)));
    assertEquals(results.sort(), ["overlap", "stored"]);
  });

  test("the parts of a batch are in order", async (store) => {
    assertEquals(await add(store, "a-1", "later"), "stored");
    assertEquals(await add(store, "a-0/10-20", "z".repeat(10)), "stored");
    assertEquals(await add(store, "a-0/2-10", "y".repeat(8)), "stored");
    assertEquals(await add(store, "a-0/0-2", "x".repeat(2)), "stored");
    assertEquals(await add(store, "a-0/2-10", "y".repeat(8)), "known");
    assertEquals(await add(store, "a-0/2-10", "Y".repeat(8)), "conflict");
    if (!isSorted) return;
    assertEquals(await textOf(store, "a"), "xxyyyyyyyyzzzzzzzzzzlater");
  });

  test("streams have nothing to do with each other", async (store) => {
    const ids = ["a", "A", "a.b", "a-1", "a ", "'; drop table batch; --", "%"]
      .concat("a/0", "$1", "?", "a.0123456789abcde", "x".repeat(400));
    for (const id of ids) {
      assertEquals(await add(store, `${id}-0`, `of ${id}`), "stored", id);
    }
    for (const id of ids) {
      assertEquals(await textOf(store, id), `of ${id}`);
      assertEquals(await add(store, `${id}-0`, `of ${id}`), "known", id);
    }
    assertEquals(await textOf(store, "b"), "");
  });

  test("numbers and batches may be large, and batches empty", async (store) => {
    const large = new Uint8Array(3 * 1024 * 1024 + 1);
    for (let i = 0; i < large.length; i += 65_536) {
      crypto.getRandomValues(large.subarray(i, i + 65_536));
    }
    const max = Number.MAX_SAFE_INTEGER;
    assertEquals(await add(store, "a-0", ""), "stored");
    assertEquals(await add(store, `a-${2 ** 31}`, large), "stored");
    assertEquals(await add(store, `a-${max - 1}`, "x"), "stored");
    assertEquals(await add(store, `a-${max}`, "y"), "stored");
    assertEquals(await add(store, `a-${max}`, "y"), "known");
    assertEquals(await add(store, "a-0", ""), "known");
    const bytes = await new Response(store.read("a")).bytes();
    assertEquals(bytes.length, large.length + 2);
    const same = large.every((byte, i) => byte === bytes[i]);
    assert(same, "the bytes have changed");
  });

  test("what is added at the same time is stored once", async (store) => {
    const batches = await Promise.all(
      Array.from({ length: 40 }, (_, i) => batchOf(`a-${i >> 2}`, `${i >> 2}`)),
    );
    const results = await Promise.all(batches.map((batch) => store.add(batch)));
    assertEquals(results.filter((result) => result === "stored").length, 10);
    assertEquals(results.filter((result) => result === "known").length, 30);
    const text = await textOf(store, "a");
    assertEquals([...text].sort().join(""), "0123456789");
  });

  test("onBatch sees what is stored, and nothing else", async (store) => {
    const seen: unknown[] = [];
    const onBatch: OnBatch<unknown> = ({ id, epoch, sequence, part, bytes }) =>
      void seen.push([
        ...[id, epoch, sequence, part],
        new TextDecoder().decode(bytes),
      ]);
    const epoch = "0123456789abcdef";
    const key = `a.${epoch}-7`;
    await store.add(await batchOf(key, "seven"), onBatch);
    await store.add(await batchOf(key, "seven"), onBatch);
    await store.add(await batchOf(key, "SEVEN"), onBatch);
    await store.add(await batchOf("b-0/3-9", "-part-"), onBatch);
    assertEquals(seen, [
      ["a", epoch, 7, "", "seven"],
      ["b", "", 0, "3-9", "-part-"],
    ]);
  });

  test("what onBatch fails for is not stored, and may come again", async (store) => {
    const batch = await batchOf("a-0", "one\n");
    const failure = new Error("no");
    const onBatch = () => {
      throw failure;
    };
    const before = await batchOf("a-1", "before\n");
    const after = await batchOf("a-2", "after\n");
    const results = await Promise.allSettled([
      store.add(before),
      store.add(batch, onBatch),
      store.add(after),
    ]);
    const states = results.map(({ status }) => status);
    assertEquals(states, ["fulfilled", "rejected", "fulfilled"]);
    const thrown = await assertRejects(() => store.add(batch, onBatch), Error);
    assertEquals(thrown, failure);
    assertEquals(await textOf(store, "a"), "before\nafter\n");
    assertEquals(await store.add(batch), "stored");
  });

  test("a reader may leave early, and batches come meanwhile", async (store) => {
    for (let i = 0; i < 10; i++) await add(store, `a-${i}`, `${i}`);
    const reader = store.read("a").getReader();
    assertEquals(new TextDecoder().decode((await reader.read()).value), "0");
    await add(store, "a-10", "10");
    await reader.cancel();
    assertEquals(await textOf(store, "a"), "012345678910");
  });

  test("what is forgotten stays known, and nothing else is", async (store) => {
    const epoch = "0123456789abcdef";
    const old = ["a-0", "a-1", "a-3", "a-7", `a.${epoch}-5`, "a-6/0-3"];
    for (const key of old) await add(store, key, "old", 60_000);
    await add(store, "a-8", "new");
    await add(store, "b-0", "new");
    assertEquals(await store.prune(120_000), { batches: 0, bytes: 0 });
    assertEquals(await store.prune(30_000), { batches: 6, bytes: 18 });
    assertEquals(await store.prune(30_000), { batches: 0, bytes: 0 });
    assertEquals(await textOf(store, "a"), "new");
    assertEquals(await textOf(store, "b"), "new");
    for (const key of [...old, "a-8", "b-0"]) {
      const content = old.includes(key) ? "old" : "new";
      assertEquals(await add(store, key, content), "known", key);
    }
    // They arrive late, as sends overlap, or under another key.
    const late = ["a-2", "a-4", "a-5", "a-6", `a.${epoch}-0`, "a-0/0-3"]
      .concat("a-6/3-5", `b.${epoch}-1`, "b-1");
    for (const key of late) {
      const result = await add(store, key, "late");
      assert(result === "stored" || result === "overlap", `${key}: ${result}`);
    }
    for (const key of late) {
      assertEquals(await add(store, key, "late"), "known", key);
    }
  });

  test("prune rejects what is no age", async (store) => {
    for (const age of [-1, NaN]) {
      await assertRejects(() => store.prune(age), RangeError, "age must be");
    }
    for (const age of ["1", null, undefined]) {
      await assertRejects(
        () => store.prune(age as unknown as number),
        TypeError,
        "age must be",
      );
    }
    await add(store, "a-0", "kept");
    assertEquals(await store.prune(Infinity), { batches: 0, bytes: 0 });
  });

  test(
    "any order of batches, of forgetting and of reopening",
    async (first, place) => {
      const seed = Math.floor(2 ** 32 * Math.random());
      const random = randomFrom(seed);
      const below = (limit: number) => Math.floor(limit * random());
      const epochs = ["", ".0123456789abcdef", ".fedcba9876543210"];
      const stored = new Map<string, { content: string; isOld: boolean }>();
      const forgotten = new Set<string>();
      let store = first;
      for (let step = 0; step < 200; step++) {
        const label = `seed ${seed}, step ${step}`;
        const action = random();
        if (action < 0.9) {
          const key = `s${below(2)}${epochs[below(3)]}-${below(25)}`;
          const content = `${below(2)}`;
          const isOld = random() < 0.5;
          const result = await add(store, key, content, isOld ? 60_000 : 0);
          const before = stored.get(key)?.content;
          if (forgotten.has(key) || before === content) {
            assertEquals(result, "known", `${label}: ${key}`);
          } else if (before !== undefined) {
            assertEquals(result, "conflict", `${label}: ${key}`);
          } else {
            const isStored = result === "stored" || result === "overlap";
            assert(isStored, `${label}: ${key} is ${result}`);
            stored.set(key, { content, isOld });
          }
        } else if (action < 0.96) {
          let batches = 0;
          for (const [key, { isOld }] of stored) {
            if (!isOld && isSorted) continue;
            if (!isOld) break; // a file can only lose its beginning
            batches++;
            forgotten.add(key);
            stored.delete(key);
          }
          const pruned = await store.prune(30_000);
          assertEquals(pruned, { batches, bytes: batches }, label);
        } else if (survives) {
          await store[Symbol.asyncDispose]();
          store = await place.open();
        }
      }
      let left = 0;
      for (const id of ["s0", "s1"]) left += (await textOf(store, id)).length;
      assertEquals(left, stored.size, `seed ${seed}`);
      await store[Symbol.asyncDispose]();
    },
  );

  if (!survives) return;

  test("everything is there when it is opened again", async (store, place) => {
    await add(store, "a-0", "old", 60_000);
    await add(store, "a-1", "one ");
    await add(store, "a-2", "two ");
    await store.prune(30_000);
    await store[Symbol.asyncDispose]();
    await using again = await place.open();
    assertEquals(await textOf(again, "a"), "one two ");
    assertEquals(await add(again, "a-0", "old"), "known");
    assertEquals(await add(again, "a-1", "one "), "known");
    assertEquals(await add(again, "a-2", "three "), "conflict");
    assertEquals(await add(again, "a-3", "three "), "stored");
    assertEquals(await textOf(again, "a"), "one two three ");
  });

  test("close() waits for what has begun, and nothing more may begin", async (store) => {
    const [before, after] = [
      await batchOf("a-0", ""),
      await batchOf("a-1", ""),
    ];
    const added = store.add(before);
    const closed = store[Symbol.asyncDispose]();
    for (const use of [() => store.add(after), () => store.prune(0)]) {
      const error = await assertRejects(use, StoreError);
      assertEquals(error.code, "closed");
    }
    await closed;
    assertEquals(await added, "stored");
  });

  test("once it is closed, it says so", async (store) => {
    const batch = await batchOf("a-0", "one");
    await store[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
    for (
      const use of [
        () => store.add(batch),
        () => store.prune(0),
        () => textOf(store, "a"),
      ]
    ) {
      const error = await assertRejects(use, StoreError);
      assertEquals(error.code, "closed");
    }
  });
}
