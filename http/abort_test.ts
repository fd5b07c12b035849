import {
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import { FaultyServer, never, respond } from "../testing/faulty_server.ts";
import {
  BYTES,
  context,
  FAST,
  NO_SERVER_URL,
  stallInBody,
} from "../testing/sending.ts";
import { FetchSender, streamTo, test } from "../testing/transports.ts";

for (
  const [title, behaviour] of [
    ["the response", never],
    ["the body", stallInBody],
  ] as const
) {
  test(`abort() while waiting for ${title} ends the request`, async () => {
    const gone = Promise.withResolvers<void>();
    const read = Promise.withResolvers<void>();
    await using server = new FaultyServer([async (exchange) => {
      await exchange.receive();
      read.resolve();
      await behaviour(exchange);
      gone.resolve();
    }]);
    let retries = 0;
    const out = streamTo(server.url, { onRetry: () => retries++ });
    await out.write("abcd");
    const flush = out.flush();
    await read.promise;
    const reason = new Error("enough");
    await out.abort(reason);
    assertStrictEquals(await assertRejects(() => flush), reason);
    await gone.promise;
    assertEquals(server.requests.length, 1);
    assertEquals(retries, 0);
  });
}

test("send() makes no request when its signal is already aborted", async () => {
  await using server = new FaultyServer();
  const reason = new Error("enough");
  const sender = new FetchSender(server.url);
  const sent = sender.send(BYTES, context(0, AbortSignal.abort(reason)));
  assertStrictEquals(await assertRejects(() => sent), reason);
  assertEquals(server.connections, 0);
});

test("abort() during a backoff leaves no timer and sends no more", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([], respond(503));
  const retried = Promise.withResolvers<void>();
  const out = streamTo(server.url, { onRetry: () => retried.resolve() });
  await out.write("abcd");
  const flush = out.flush();
  await retried.promise;
  await out.abort("enough");
  assertStrictEquals(await flush.catch((error) => error), "enough");
  await time.tickAsync(60_000);
  assertEquals(time.countTimers(), 0);
  assertEquals(out.stats.failures, 1, "send() has not ended");
  assertEquals(server.requests.length, 1);
  assertEquals(new TextDecoder().decode(out.takeUnsent()), "abcd");
});

for (const how of ["onRetry", "shouldRetry", "headers", "fetch"] as const) {
  Deno.test(`abort() from within ${how} makes flush() reject with its reason`, async () => {
    using time = fakeTime();
    await using server = new FaultyServer([], respond(503));
    for (const reason of [new Error("enough"), null]) {
      const hang = () => {
        void out.abort(reason);
        return new Promise<never>(() => {});
      };
      const out = streamTo(server.url, {
        ...how === "onRetry" && { onRetry: () => void out.abort(reason) },
        ...how === "headers" && { headers: hang },
        ...how === "fetch" && { fetch: hang },
        ...how === "shouldRetry" && {
          retry: { shouldRetry: () => (void out.abort(reason), true) },
        },
      });
      await out.write("abcd");
      const flush = out.flush();
      assertStrictEquals(await flush.catch((error) => error), reason);
      await time.tickAsync(0);
      assertEquals(out.stats.failures, 1, "send() has not ended");
      assertStrictEquals(out.stats.lastError!.cause, reason);
      assertEquals(time.countTimers(), 0);
    }
  });
}

test("close() during a long backoff ends by closeTimeout and returns every byte", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([respond(200)], respond(503));
  const retried = Promise.withResolvers<void>();
  const out = streamTo(server.url, {
    capacity: 4,
    closeTimeout: 2_000,
    retry: { initialDelay: 100_000, maxDelay: 100_000, maxElapsed: 1_000_000 },
    onRetry: () => retried.resolve(),
  });
  using _ = fixedRandom(0.5);
  await out.write("abcd");
  await out.flush();
  await out.write("efgh");
  await out.write("ij");
  await retried.promise;
  const close = assertRejects(
    () => out.close(),
    FlushError,
    "closeTimeout of 2000 ms has passed: POST of 4 bytes to",
  );
  await time.tickAsync(2_000);
  const error = await close;
  assertStringIncludes(error.message, "the server responded with 503");
  assertEquals(error.unsentBytes, 6);
  assertEquals(new TextDecoder().decode(out.takeUnsent()), "efghij");
  assertEquals(server.requests.length, 2);
  assertEquals(time.countTimers(), 0);
});

test("send() leaves no listener on the signal of the stream", async () => {
  await using server = new FaultyServer([respond(503), respond(503)]);
  const { signal } = new AbortController();
  const listeners = new Set<unknown>();
  let added = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: unknown[]) => {
    added++;
    listeners.add(args[1]);
    Reflect.apply(addEventListener, signal, args);
  };
  signal.removeEventListener = (...args: unknown[]) => {
    if (args[0] === "abort") listeners.delete(args[1]);
    Reflect.apply(removeEventListener, signal, args);
  };
  const sender = new FetchSender(server.url, { retry: FAST });
  await sender.send(BYTES, context(0, signal));
  assertEquals(server.requests.length, 3);
  assertEquals(added, 5); // three attempts, two delays
  assertEquals(listeners.size, 0);
});

Deno.test("an attempt's signal is aborted with the stream's reason", async () => {
  const controller = new AbortController();
  const reason = new Error("enough");
  const signals: AbortSignal[] = [];
  const sender = new FetchSender(NO_SERVER_URL, {
    headers: ({ signal }) => {
      signals.push(signal);
      return {};
    },
    fetch: (request) => {
      signals.push((request as Request).signal);
      controller.abort(reason);
      return new Promise(() => {});
    },
  });
  const sent = sender.send(BYTES, context(0, controller.signal));
  assertStrictEquals(await assertRejects(() => sent), reason);
  assertEquals(signals.length, 2);
  for (const signal of signals) assertStrictEquals(signal.reason, reason);
});
