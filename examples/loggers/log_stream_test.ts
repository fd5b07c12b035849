import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
} from "@std/assert";
import { BufferFullError, FlushError } from "../../mod.ts";
import { turns } from "../../testing/event_loop.ts";
import {
  anyBehaviour,
  deduplicate,
  FaultyServer,
  held,
  never,
  respond,
} from "../../testing/faulty_server.ts";
import { LogStream, type Loss } from "./log_stream.ts";

const decoder = new TextDecoder();

/** Room for two records of 4 bytes in flight, two in a store and two that wait. */
const SMALL = { capacity: 8, maxQueuedBytes: 8 };

/** A monotonic clock that stands still, until the test moves it. */
function stoppedClock(): Disposable & { now: number } {
  const { now } = performance;
  const clock = {
    now: 60_000,
    [Symbol.dispose]: () => void (performance.now = now),
  };
  performance.now = () => clock.now;
  return clock;
}

/** A server that never responds, and a stream to it whose losses are kept. */
function setUp(onLoss?: (loss: Loss) => unknown) {
  const server = new FaultyServer([], never);
  const losses: Loss[] = [];
  const logs = new LogStream(server.url, {
    ...SMALL,
    closeTimeout: 1,
    onLoss: (loss) => {
      losses.push(loss);
      return onLoss?.(loss);
    },
  });
  const writeMany = (count: number) => {
    for (let i = 0; i < count; i++) logs.write("abc\n");
  };
  return { server, losses, logs, writeMany };
}

Deno.test("LogStream reports a burst of losses once, and later ones after a while", async () => {
  using clock = stoppedClock();
  const { server, losses, logs, writeMany } = setUp();
  await using _ = server;
  writeMany(106);
  await turns();
  assertEquals(losses.map(({ records }) => records), [100]);
  assertInstanceOf(losses[0]!.error, BufferFullError);
  writeMany(20);
  await turns();
  assertEquals(losses.length, 1);
  clock.now += 10_000;
  writeMany(3);
  await turns();
  assertEquals(losses.map(({ records }) => records), [100, 20]);
  await logs.close();
});

Deno.test("LogStream reports earlier losses at a write that succeeds", async () => {
  using clock = stoppedClock();
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  const losses: number[] = [];
  await using logs = new LogStream(server.url, {
    ...SMALL,
    onLoss: ({ records }) => losses.push(records),
  });
  for (let i = 0; i < 7; i++) logs.write("abc\n");
  await turns();
  logs.write("abc\n"); // lost, and not reported yet
  await turns();
  assertEquals(losses, [1]);
  release();
  await logs.flush();
  clock.now += 10_000;
  logs.write("abc\n");
  await turns();
  assertEquals(losses, [1, 1]);
});

for (
  const [name, fail] of [
    ["throws", () => {
      throw new Error("the terminal has gone");
    }],
    ["rejects", () => Promise.reject(new Error("the disk is full"))],
    ["never settles", () => new Promise(() => {})],
  ] as const
) {
  Deno.test(`LogStream goes on if onLoss ${name}`, async () => {
    using clock = stoppedClock();
    const { server, losses, logs, writeMany } = setUp(fail);
    await using _ = server;
    writeMany(7);
    await turns();
    clock.now += 10_000;
    writeMany(2);
    await turns();
    await logs.close();
    assertEquals(losses.map(({ records }) => records).slice(0, 2), [1, 2]);
  });
}

Deno.test("LogStream.close() does not reject, and reports what was not sent", async () => {
  const { server, losses, logs, writeMany } = setUp();
  await using _ = server;
  writeMany(6);
  await logs.close();
  assertEquals(losses.length, 1);
  const [{ records, unsent, error }] = losses as [Loss];
  assertInstanceOf(error, FlushError);
  // Two are in flight, two in the store, and two were never accepted.
  assertEquals([records, decoder.decode(unsent)], [2, "abc\nabc\nabc\nabc\n"]);
});

Deno.test("LogStream.close() reports nothing when nothing is lost", async () => {
  await using server = new FaultyServer();
  const losses: Loss[] = [];
  {
    await using logs = new LogStream(server.url, {
      onLoss: (loss) => losses.push(loss),
    });
    logs.write("abc\n");
  }
  assertEquals([server.bodies, losses], [["abc\n"], []]);
});

for (const seed of [1, 2, 3]) {
  Deno.test(`LogStream delivers or counts every record, seed ${seed}`, async () => {
    await using server = new FaultyServer([], anyBehaviour(seed));
    let lost = 0;
    const logs = new LogStream(server.url, {
      ...{ capacity: 100, maxQueuedBytes: 300, timeout: 50 },
      retry: { initialDelay: 1, maxDelay: 20 },
      onLoss: ({ records }) => lost += records,
    });
    const count = 500;
    for (let i = 0; i < count; i++) {
      logs.write(`${i}\n`);
      if (i % 10 === 0) await turns(1);
    }
    await logs.close();
    const delivered = deduplicate(server.stored)
      .flatMap((body) => decoder.decode(body).trimEnd().split("\n"))
      .map(Number);
    assertEquals(delivered.length + lost, count);
    assertEquals(delivered, delivered.toSorted((a, b) => a - b));
    assertEquals(new Set(delivered).size, delivered.length);
  });
}

Deno.test("LogStream reports what is written after the end", async () => {
  await using server = new FaultyServer();
  const losses: Loss[] = [];
  const logs = new LogStream(server.url, {
    onLoss: (loss) => losses.push(loss),
  });
  await logs.close();
  logs.write("abc\n");
  await turns();
  assertEquals(losses.map(({ records }) => records), [1]);
  assertInstanceOf(losses[0]!.error, TypeError);
});

Deno.test("LogStream.flush() waits for at most closeTimeout, and keeps the records", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using logs = new LogStream(server.url, { closeTimeout: 1 });
  logs.write("abc\n");
  const error = await assertRejects(() => logs.flush(), DOMException);
  assertEquals(error.name, "TimeoutError");
  release();
  await server.received(1);
  await turns();
  assertEquals(server.bodies, ["abc\n"]);
});

Deno.test("LogStream adds a Content-Type to the caller's headers, unless they have one", async () => {
  await using server = new FaultyServer();
  const type = { "content-type": "text/plain" };
  const token = { Authorization: "Bearer token" };
  for (
    const headers of [
      ...[token, type, [["Authorization", "Bearer token"]]],
      ...[new Headers(token), () => token, () => Promise.resolve(type)],
    ]
  ) {
    await using logs = new LogStream(server.url, { headers });
    logs.write("abc\n");
  }
  assertEquals(
    server.requests.map(({ headers }) => [
      headers.get("content-type"),
      headers.get("authorization"),
    ]),
    [
      ["application/x-ndjson", "Bearer token"],
      ["text/plain", null],
      ["application/x-ndjson", "Bearer token"],
      ["application/x-ndjson", "Bearer token"],
      ["application/x-ndjson", "Bearer token"],
      ["text/plain", null],
    ],
  );
});

Deno.test("LogStream sends a record larger than its capacity in one request", async () => {
  await using server = new FaultyServer();
  await using logs = new LogStream(server.url, SMALL);
  logs.write("a long record\n");
  await logs.flush();
  assertEquals(server.bodies, ["a long record\n"]);
});

Deno.test("LogStream keeps to the caller's options", async () => {
  await using server = new FaultyServer([respond(503)]);
  const losses: Loss[] = [];
  const logs = new LogStream(server.url, {
    ...SMALL,
    oversize: "reject",
    retry: { maxElapsed: 0 },
    onLoss: (loss) => losses.push(loss),
  });
  logs.write("a long record\n");
  logs.write("abc\n");
  await assertRejects(() => logs.flush(), FlushError);
  await logs.close();
  assertEquals(losses.map(({ records }) => records), [1]);
  assertEquals(server.bodies, ["abc\n", "abc\n"]);
});

Deno.test("LogStream prints losses by the console that was there first", async () => {
  const printed: unknown[][] = [];
  const { error } = console;
  console.error = (...args) => void printed.push(args);
  // A module of its own, which meets this console.
  const { LogStream } = await import("./log_stream.ts?printing");
  console.error = () => printed.push(["printed by a replacement"]);
  try {
    await using server = new FaultyServer([], never);
    const logs = new LogStream(server.url, { closeTimeout: 1 });
    logs.write("abc\n");
    await logs.close();
  } finally {
    console.error = error;
  }
  assertEquals(printed.length, 1);
  assertMatch(
    `${printed[0]}`,
    /^4 bytes not delivered: FlushError: Cannot close/,
  );
});

Deno.test("LogStream reports everything that is written after its end", async () => {
  await using server = new FaultyServer();
  let records = 0;
  const logs = new LogStream(server.url, {
    onLoss: (loss) => records += loss.records,
  });
  await logs.close();
  for (let i = 0; i < 3; i++) {
    logs.write("late\n");
    await turns(1);
  }
  assertEquals(records, 3);
});
