import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { SendError } from "../sender.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { FaultyServer, never, respond } from "../testing/faulty_server.ts";
import { deliver, NO_SERVER_URL, skipDelays } from "../testing/sending.ts";
import { test } from "../testing/transports.ts";

test("timeout is reported as a TimeoutError", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([], async (exchange) => {
    await exchange.receive();
    setImmediate(() => time.tick(30_000));
    await never(exchange);
  });
  const error = await assertRejects(
    () => deliver(server.url, { retry: { maxElapsed: 0 } }),
    SendError,
    "it took longer than 30000 ms",
  );
  assertInstanceOf(error.cause, DOMException);
  assertEquals(error.cause.name, "TimeoutError");
  assertEquals(time.countTimers(), 0);
});

Deno.test("timeout does not end an attempt a millisecond early", async () => {
  using time = fakeTime();
  let failed = false;
  const sent = assertRejects(() =>
    deliver(NO_SERVER_URL, {
      fetch: () => new Promise(() => {}),
      retry: { maxElapsed: 0 },
    }).finally(() => failed = true)
  );
  await time.tickAsync(29_999);
  assertEquals(failed, false);
  await time.tickAsync(1);
  await sent;
});

test("maxElapsed limits the first attempt", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([], async (exchange) => {
    await exchange.receive();
    setImmediate(() => time.tick(10_000));
    await never(exchange);
  });
  await assertRejects(
    () => deliver(server.url, { retry: { maxElapsed: 10_000 } }),
    SendError,
    "it took longer than 10000 ms",
  );
  assertEquals(server.requests.length, 1);
});

test("the rest of maxElapsed limits a later attempt", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([
    respond(503, { "retry-after": "6" }),
    async (exchange) => {
      await exchange.receive();
      setImmediate(() => time.tick(4_000));
      await never(exchange);
    },
  ]);
  await assertRejects(
    () => deliver(server.url, { onRetry, retry: { maxElapsed: 10_000 } }),
    SendError,
    "attempt 2 was cut short by maxElapsed of 10000 ms",
  );
  assertEquals(delays, [6_000]);
  assertEquals(time.now, 10_000);
});
