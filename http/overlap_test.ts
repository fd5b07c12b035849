/** Sends of one sender that overlap: what they share, and what is each one's own. */
import { assertEquals, assertRejects } from "@std/assert";
import { FlushError } from "../buffer.ts";
import { FetchSender, SendError, streamTo } from "../sender.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import {
  type Behaviour,
  FaultyServer,
  held,
  respond,
  sequenceOf,
} from "../testing/faulty_server.ts";
import { BYTES, context, FAST, skipDelays } from "../testing/sending.ts";

/** Handles each request by the sequence number in its key, and that of its attempt. */
function bySequence(...scripts: Behaviour[][]): Behaviour {
  return async (exchange) => {
    const script = scripts[sequenceOf(exchange.request)] ?? [];
    await (script.shift() ?? respond(200))(exchange);
  };
}

/** Responds, but not before `count` requests have been read. */
function together(count: number, rest: Behaviour): Behaviour {
  const { release, behaviour } = held(rest);
  let waiting = 0;
  return async (exchange) => {
    await exchange.receive();
    if (++waiting === count) release();
    await behaviour(exchange);
  };
}

Deno.test("sends of a buffer overlap, each with its key, and every byte is there once", async () => {
  const all = together(4, respond(200));
  await using server = new FaultyServer(
    [],
    bySequence([all], [all], [all], [all]),
  );
  let text = "";
  {
    await using out = streamTo(server.url, { capacity: 8, concurrency: 4 });
    for (let i = 0; i < 40; i++) {
      text += `${i};`.padEnd(8);
      await out.write(text.slice(-8));
    }
  }
  assertEquals(new Set(server.keys).size, 40);
  const bodies = server.stored.toSorted((a, b) => sequenceOf(a) - sequenceOf(b))
    .map(({ body }) => new TextDecoder().decode(body));
  assertEquals(bodies.join(""), text);
});

Deno.test("the buffer keeps the one batch of several that the server does not take", async () => {
  await using server = new FaultyServer([], bySequence([], [respond(404)]));
  const out = streamTo(server.url, {
    capacity: 8,
    concurrency: 3,
    retry: FAST,
  });
  for (let i = 0; i < 3; i++) await out.write(`${i}`.repeat(8));
  const error = await assertRejects(() => out.flush(), FlushError);
  assertEquals((error.cause as SendError).status, 404);
  await server.received(3);
  await out.abort();
  const { bytesDelivered, bytesAhead } = out.stats;
  assertEquals(bytesDelivered, 8);
  assertEquals(
    new TextDecoder().decode(out.takeUnsent()),
    bytesAhead === 8 ? "1".repeat(8) : "1".repeat(8) + "2".repeat(8),
  );
});

Deno.test("failures that overlap are one: the delays grow as with one send at a time", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const { delays, onRetry } = skipDelays(time);
  const rounds = [1, 2, 3].map(() => together(4, respond(503)));
  await using server = new FaultyServer(
    [],
    bySequence(...[0, 1, 2, 3].map(() => [...rounds])),
  );
  const sender = new FetchSender(server.url, { onRetry });
  const { signal } = new AbortController();
  await Promise.all(
    [0, 1, 2, 3].map((sequence) =>
      sender.send(BYTES, context(sequence, signal))
    ),
  );
  assertEquals(
    delays,
    [250, 500, 1_000].flatMap((delay) => Array(4).fill(delay)),
  );
});

Deno.test("lastFailure is that of a send under way, though another one succeeds", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer(
    [],
    bySequence([respond(503), behaviour]),
  );
  const sender = new FetchSender(server.url, { retry: FAST });
  const { signal } = new AbortController();
  const first = sender.send(BYTES, context(0, signal));
  await server.received(2);
  await sender.send(BYTES, context(1, signal));
  assertEquals(sender.lastFailure?.status, 503);
  release();
  await first;
  assertEquals(sender.lastFailure, undefined);
});

Deno.test("lastFailure is not that of a send that has ended, once another one succeeds", async () => {
  await using server = new FaultyServer([], bySequence([respond(400)]));
  const sender = new FetchSender(server.url);
  const { signal } = new AbortController();
  await assertRejects(() => sender.send(BYTES, context(0, signal)), SendError);
  assertEquals(sender.lastFailure?.status, 400);
  await sender.send(BYTES, context(1, signal));
  assertEquals(sender.lastFailure, undefined);
});

Deno.test("a success whose attempt began before a failure does not shorten the backoff", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const { delays, onRetry } = skipDelays(time);
  const { release, behaviour } = held();
  await using server = new FaultyServer(
    [],
    bySequence([behaviour], [respond(503), async (exchange) => {
      release();
      await first;
      await respond(503)(exchange);
    }]),
  );
  const sender = new FetchSender(server.url, { onRetry });
  const { signal } = new AbortController();
  const first: Promise<void> = sender.send(BYTES, context(0, signal));
  await server.received(1);
  await sender.send(BYTES, context(1, signal));
  assertEquals(delays, [250, 500]);
});

Deno.test("of two that overlap, the longer Retry-After counts, whichever comes first", async () => {
  for (const [first, second] of [["10", "60"], ["60", "10"]] as const) {
    using time = fakeTime();
    const { release, behaviour } = held(
      respond(429, { "retry-after": second }),
    );
    await using server = new FaultyServer(
      [],
      bySequence([respond(429, { "retry-after": first })], [behaviour]),
    );
    const told = [0, 1].map(() => Promise.withResolvers<void>());
    const toldNext = [...told];
    const sender = new FetchSender(server.url, {
      onRetry: () => toldNext.shift()?.resolve(),
    });
    const { signal } = new AbortController();
    const late = sender.send(BYTES, context(1, signal));
    await server.received(1);
    const early = sender.send(BYTES, context(0, signal));
    await told[0]!.promise;
    release();
    await told[1]!.promise;
    await time.tickAsync(59_999);
    assertEquals(server.requests.length, 2);
    await time.tickAsync(1);
    await Promise.all([early, late]);
    assertEquals(server.requests.length, 4);
  }
});

Deno.test("a Retry-After binds the sends that overlap with the one that got it", async () => {
  using time = fakeTime();
  const { release, behaviour } = held(respond(503));
  await using server = new FaultyServer(
    [],
    bySequence([respond(429, { "retry-after": "60" })], [behaviour]),
  );
  const paused = Promise.withResolvers<number>();
  const sender = new FetchSender(server.url, {
    retry: FAST,
    onRetry: (failure, delay) => {
      if (failure.status === 429) paused.resolve(delay);
      else both.resolve(delay);
    },
  });
  const both = Promise.withResolvers<number>();
  const { signal } = new AbortController();
  const second = sender.send(BYTES, context(1, signal));
  await server.received(1);
  const first = sender.send(BYTES, context(0, signal));
  assertEquals(await paused.promise, 60_000);
  release();
  assertEquals(await both.promise, 60_000);
  await time.tickAsync(59_999);
  assertEquals(server.requests.length, 2);
  await time.tickAsync(1);
  await Promise.all([first, second]);
  assertEquals(server.requests.length, 4);
});

Deno.test("a stream is recognised after a failure between batches that were delivered", async () => {
  await using server = new FaultyServer([], bySequence([], [respond(400)]));
  const sender = new FetchSender(server.url);
  const { signal } = new AbortController();
  const sends = await Promise.allSettled(
    [0, 1, 2].map((sequence) => sender.send(BYTES, context(sequence, signal))),
  );
  assertEquals(sends.map(({ status }) => status), [
    "fulfilled",
    "rejected",
    "fulfilled",
  ]);
  for (const sequence of [0, 2]) {
    await assertRejects(
      () => sender.send(BYTES, context(sequence)),
      TypeError,
      "serves another StreamBuffer",
    );
  }
  await sender.send(BYTES, context(1));
  await assertRejects(() => sender.send(BYTES, context(1)), TypeError);
  assertEquals(server.requests.length, 4);
});

Deno.test("a stream that resumes what another one has failed to deliver gets none of its other keys", async () => {
  await using server = new FaultyServer([], bySequence([respond(400)]));
  const sender = new FetchSender(server.url);
  const { signal } = new AbortController();
  const sends = await Promise.allSettled(
    [0, 1, 2].map((sequence) => sender.send(BYTES, context(sequence, signal))),
  );
  assertEquals(sends.map(({ status }) => status), [
    "rejected",
    "fulfilled",
    "fulfilled",
  ]);
  const other = new AbortController().signal;
  await sender.send(BYTES, context(0, other));
  for (const sequence of [1, 2]) {
    await assertRejects(
      () => sender.send(BYTES, context(sequence, other)),
      TypeError,
      "serves another StreamBuffer",
    );
  }
  await sender.send(BYTES, context(0, other)); // as a sender in front of it may
  await sender.send(BYTES, context(3, other));
  assertEquals(server.requests.length, 6);
});
