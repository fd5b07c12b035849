import { assertEquals } from "@std/assert";
import {
  type AddResult,
  type Batch,
  MemoryStore,
  type Store,
  StoreError,
} from "../receiver/mod.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { BatchLog } from "./receive_log.ts";

const PREFIX = "stream-buffer: ";

/** Collects what this process writes to standard error. */
function captureStderr(): Disposable & { takeLines(): Promise<string[]> } {
  const { write } = Deno.stderr;
  let text = "";
  Deno.stderr.write = (p) => {
    text += new TextDecoder().decode(p);
    return Promise.resolve(p.length);
  };
  return {
    async takeLines() {
      for (let turn = 0; turn < 20; turn++) await Promise.resolve();
      const lines = text.split("\n").slice(0, -1);
      text = "";
      return lines.map((line) => line.slice(PREFIX.length));
    },
    [Symbol.dispose]: () => void (Deno.stderr.write = write),
  };
}

/** A store in which each batch has the outcome that is next. */
function scripted(...results: AddResult[]): Store {
  return {
    add: () => Promise.resolve(results.shift()!),
    read: (id) => new MemoryStore().read(id),
  };
}

function batch(sequence: number, rest: Partial<Batch> = {}): Batch {
  return {
    key: `app-${sequence}`,
    ...{ id: "app", epoch: "", sequence, part: "", from: 0, received: 0 },
    bytes: new Uint8Array(10),
    ...{ digest: new Uint8Array(32), headers: new Headers() },
    ...rest,
  };
}

for (
  const [result, rest, line] of [
    ["stored", {}, "stored 10 bytes of batch 7 of app"],
    [
      "stored",
      { bytes: new Uint8Array(1), part: "0-1" },
      "stored 1 byte of a part of batch 7 of app",
    ],
    ["stored", { part: "0-0" }, "stored 10 bytes of the request app"],
    [
      "stored",
      { id: "\x1b[31m\x9b31m\né" },
      "stored 10 bytes of batch 7 of ?[31m?31m??",
    ],
    [
      "overlap",
      {},
      "stored 10 bytes of batch 7 of app, which another spool has sent as well: one is a copy",
    ],
    ["known", {}, "batch 7 of app was stored before"],
    [
      "conflict",
      {},
      "refused batch 7 of app: it was stored before, with other bytes",
    ],
  ] as const
) {
  Deno.test(`BatchLog() says at once: ${line}`, async () => {
    using stderr = captureStderr();
    using log = new BatchLog(false);
    assertEquals(await log.over(scripted(result)).add(batch(7, rest)), result);
    assertEquals(await stderr.takeLines(), [line]);
  });
}

Deno.test("BatchLog() writes a line a second for all batches of that second", async () => {
  using time = fakeTime();
  using stderr = captureStderr();
  {
    using log = new BatchLog(false);
    const store = log.over(scripted(
      ...[
        "stored",
        "stored",
        "stored",
        "overlap",
        "known",
        "conflict",
      ] as const,
      ...["known", "known", "known", "stored"] as const,
    ));
    const add = async (count: number) => {
      for (let i = 0; i < count; i++) await store.add(batch(i));
    };
    await add(6);
    assertEquals(await stderr.takeLines(), [
      "stored 10 bytes of batch 0 of app",
    ]);
    await time.tickAsync(999);
    assertEquals(await stderr.takeLines(), []);
    await time.tickAsync(1);
    assertEquals(await stderr.takeLines(), [
      "stored 30 bytes of 3 batches; 1 batch another spool has sent as well; 1 batch stored before; refused 1 batch stored before, with other bytes",
    ]);
    // One alone is described.
    await add(1);
    await time.tickAsync(1_000);
    assertEquals(await stderr.takeLines(), [
      "batch 0 of app was stored before",
    ]);
    await add(2);
    await time.tickAsync(1_000);
    assertEquals(await stderr.takeLines(), ["2 batches stored before"]);
    // After a pause there is nothing to wait for.
    await time.tickAsync(1_000);
    await add(1);
    assertEquals(await stderr.takeLines(), [
      "stored 10 bytes of batch 0 of app",
    ]);
  }
  await time.tickAsync(10_000);
  assertEquals(await stderr.takeLines(), []);
});

Deno.test("BatchLog() writes the rest when it is disposed", async () => {
  using time = fakeTime();
  using stderr = captureStderr();
  {
    using log = new BatchLog(false);
    const store = log.over(scripted("stored", "stored", "stored"));
    for (let i = 0; i < 3; i++) await store.add(batch(i));
    await stderr.takeLines();
  }
  assertEquals(await stderr.takeLines(), ["stored 20 bytes of 2 batches"]);
  await time.tickAsync(10_000);
  assertEquals(await stderr.takeLines(), []);
});

Deno.test("BatchLog() when quiet writes only what is wrong", async () => {
  using stderr = captureStderr();
  using log = new BatchLog(true);
  const store = log.over(scripted("stored", "known", "conflict"));
  for (let i = 0; i < 3; i++) await store.add(batch(i));
  assertEquals(await stderr.takeLines(), [
    "refused batch 2 of app: it was stored before, with other bytes",
  ]);
});

Deno.test("BatchLog() reports a failure once, until a batch is stored", async () => {
  using stderr = captureStderr();
  using log = new BatchLog(true);
  const full = new StoreError("Cannot add to the store x: the disk is full", {
    code: "full",
  });
  const busy = new StoreError("Cannot add to the store x: it is busy", {
    code: "busy",
  });
  const overlap = new StoreError("Batch 7 …", { code: "overlap" });
  for (const error of [full, full, busy, busy, overlap]) log.fail(error);
  assertEquals(await stderr.takeLines(), [
    "cannot add to the store x: the disk is full",
    "cannot add to the store x: it is busy",
  ]);
  await log.over(scripted("stored")).add(batch(0));
  log.fail(busy);
  assertEquals(await stderr.takeLines(), [
    "cannot add to the store x: it is busy",
  ]);
});

Deno.test("BatchLog() leaves the rest to the store", async () => {
  using stderr = captureStderr();
  using log = new BatchLog(false);
  const memory = new MemoryStore();
  const store = log.over(memory);
  const seen: unknown[] = [];
  await store.add(batch(0), (batch) => void seen.push(batch.sequence));
  assertEquals(seen, [0]);
  const bytes = await new Response(store.read("app")).arrayBuffer();
  assertEquals(bytes.byteLength, 10);
  const failing = log.over({
    ...memory,
    add: () => Promise.reject(new Error("no")),
    read: memory.read,
  });
  assertEquals(
    await failing.add(batch(1)).catch((error) => error.message),
    "no",
  );
  assertEquals((await stderr.takeLines()).length, 1);
});
