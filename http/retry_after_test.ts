import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError } from "../sender.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import {
  type Behaviour,
  FaultyServer,
  respond,
} from "../testing/faulty_server.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
  skipDelays,
} from "../testing/sending.ts";
import { FetchSender, streamTo, test } from "../testing/transports.ts";

for (
  const [value, retryAfter] of [
    ["2", 2000],
    ["0", 0],
    ["Fri, 13 Feb 2009 23:31:33 GMT", 3000],
    ["Friday, 13-Feb-09 23:31:33 GMT", 3000],
    ["Fri Feb 13 23:31:33 2009", 3000],
    ["Fri, 13 Feb 2009 23:31:29 GMT", 0],
    ["1, 2", 2000],
    ["10,  9", 10_000],
    ["1,20", 20_000],
    ["Someday", undefined],
    ["Someday, 13 Foo 2009 23:31:33 GMT", undefined],
    ["Sunday", undefined],
    ["soon", undefined],
    ["2099", 2_099_000],
    ["2099-12-31", undefined],
    ["31 Dec 2099", undefined],
    ["-5", undefined],
    ["1.5", undefined],
    ["1,", undefined],
    ["", undefined],
  ] as const
) {
  const effect = retryAfter === undefined
    ? "is ignored"
    : `delays the retry by at least ${retryAfter} ms`;
  test(`Retry-After: "${value}" ${effect}`, async () => {
    using time = fakeTime();
    time.setSystemTime(1_234_567_890_000); // 13 Feb 2009 23:31:30
    const { delays, onRetry } = skipDelays(time);
    await using server = new FaultyServer([
      respond(503, { "retry-after": value }),
    ]);
    await deliver(server.url, {
      retry: { ...FAST, maxElapsed: 10_000_000 },
      onRetry: (failure, delay) => {
        assertEquals(failure.retryAfter, retryAfter);
        onRetry(failure, delay);
      },
    });
    assertEquals(delays.length, 1);
    const least = retryAfter ?? 0;
    assert(delays[0]! >= least && delays[0]! <= least + 1, `${delays}`);
    assertEquals(server.requests.length, 2);
  });
}

test("Retry-After without a time zone is in GMT, whatever the local time zone", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  const zone = Deno.env.get("TZ");
  Deno.env.set("TZ", "Asia/Tokyo");
  try {
    const value = "Thu Jan  1 00:00:03 1970";
    assert(Date.parse(value) < 0, "the zone has not changed");
    await using server = new FaultyServer([
      respond(503, { "retry-after": value }),
    ]);
    await deliver(server.url, { onRetry, retry: FAST });
    assertEquals(delays, [3_000]);
  } finally {
    if (zone === undefined) Deno.env.delete("TZ");
    else Deno.env.set("TZ", zone);
  }
});

Deno.test("Retry-After is not undercut by a millisecond", async () => {
  using time = fakeTime();
  const headers = { "retry-after": "2" };
  const responses = [new Response(null, { status: 503, headers })];
  let attempts = 0;
  const sent = deliver(NO_SERVER_URL, {
    fetch: () => {
      attempts++;
      return Promise.resolve(responses.shift() ?? new Response());
    },
    retry: FAST,
  });
  await time.tickAsync(0);
  await time.tickAsync(1_999);
  assertEquals(attempts, 1);
  await time.tickAsync(1);
  await sent;
  assertEquals(attempts, 2);
});

test("Retry-After is a lower bound for the delay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  using _ = fixedRandom(0.5);
  await using server = new FaultyServer([
    respond(503, { "retry-after": "0" }),
    respond(503, { "retry-after": "1" }),
  ]);
  await deliver(server.url, { onRetry, retry: { initialDelay: 4_000 } });
  assertEquals(delays, [2_000, 4_000]);
});

for (
  const value of [
    "31536000",
    "99999999999999999999",
    "Thu, 31 Dec 2099 23:59:59 GMT",
  ]
) {
  test(`Retry-After: "${value}" exceeds maxElapsed and fails at once`, async () => {
    await using server = new FaultyServer([
      respond(429, { "retry-after": value }),
    ]);
    const out = streamTo(server.url);
    await out.write("kept");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    assert(cause.retryAfter! > 120_000);
    assertMatch(cause.message, /responded with 429; it asks to wait \d{8,} s$/);
    assertEquals(server.requests.length, 1);
    await assertRejects(() => out.close(), FlushError);
    assertEquals(server.requests.length, 1);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), "kept");
  });
}

for (
  const [title, date] of [
    ["an hour ahead", "Sat, 14 Feb 2009 00:31:30 GMT"],
    ["an hour behind", "Fri, 13 Feb 2009 22:31:30 GMT"],
  ] as const
) {
  test(`a dated Retry-After of a server whose clock is ${title} is relative to its Date`, async () => {
    using time = fakeTime();
    time.setSystemTime(1_234_567_890_000); // 13 Feb 2009 23:31:30
    const { delays, onRetry } = skipDelays(time);
    const later = new Date(Date.parse(date) + 3_000).toUTCString();
    await using server = new FaultyServer([
      respond(503, { date, "retry-after": later }),
      respond(503, { date: "garbage", "retry-after": date }),
    ]);
    await deliver(server.url, {
      onRetry,
      retry: { ...FAST, maxElapsed: 10_000_000 },
    });
    assertEquals(delays[0], 3_000);
    // Without a valid Date it is relative to the clock of this machine.
    assertEquals(delays[1]! > 3_500_000, title === "an hour ahead");
  });
}

test("until a Retry-After of an hour has passed no request is made, whatever is written and flushed", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([
    respond(429, { "retry-after": "3600" }),
  ]);
  const errors: FlushError[] = [];
  const out = streamTo(server.url, {
    capacity: 10,
    onError: (error) => errors.push(error),
  });
  void out.write("first");
  const first = await assertRejects(() => out.flush(), FlushError);
  assertInstanceOf(first.cause, SendError);
  assertEquals(first.cause.retryAfter, 3_600_000);
  for (let minute = 0; minute < 50; minute++) {
    void out.write("0123456789");
    await time.tickAsync(60_000);
  }
  time.setSystemTime(0); // somebody sets the clock
  const { cause } = await assertRejects(() => out.flush(), FlushError);
  assertInstanceOf(cause, SendError);
  assertEquals(cause.status, 429);
  assertEquals(cause.retryAfter, 600_000);
  assertStringIncludes(
    cause.message,
    "it asks to wait 3600 s; no request is made until 1970-01-01T00:10:00.000Z (600 s left)",
  );
  assertEquals(server.requests.length, 1);
  await time.tickAsync(599_999);
  assertEquals(server.requests.length, 1);
  await time.tickAsync(1);
  await server.received(2);
  await out.close();
  // flush() has failed, and with it the writes that waited for room.
  assertEquals(server.bodies, ["first", "first", "0123456789"]);
  assertEquals(errors, [], "flush() has rejected with them");
});

test("send() waits for a Retry-After of an earlier send, if it has the time", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([
    respond(503, { "retry-after": "5" }),
    async (exchange) => {
      await exchange.receive();
      time.tick(9_000); // the time for all attempts begins after the wait
      await respond(200)(exchange);
    },
  ]);
  const sender = new FetchSender(server.url, { retry: { maxElapsed: 10_000 } });
  const one = { ...context(), deadline: performance.now() + 4_000 };
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => sender.send(BYTES, one), SendError);
  }
  assertEquals(server.requests.length, 1, "5 s are more than 4 s");
  const sent = sender.send(BYTES, context());
  await time.tickAsync(4_999);
  assertEquals(server.requests.length, 1);
  await time.tickAsync(1);
  await sent;
  assertEquals(server.requests.length, 2);
});

for (
  const [closeTimeout, isDelivered] of [[5_001, true], [5_000, false]] as const
) {
  test(
    `close() within ${closeTimeout} ms ${
      isDelivered ? "waits for" : "does not wait for"
    } a Retry-After of 5 s`,
    async () => {
      using time = fakeTime();
      await using server = new FaultyServer([
        respond(503, { "retry-after": "5" }),
      ]);
      const out = streamTo(server.url, {
        closeTimeout,
        retry: { maxElapsed: 1_000 },
      });
      await out.write("kept");
      await assertRejects(() => out.flush(), FlushError, "it asks to wait 5 s");
      const closed = out.close();
      if (!isDelivered) {
        await assertRejects(
          () => closed,
          FlushError,
          "(5 s left)",
        );
        assertEquals(new TextDecoder().decode(out.takeUnsent()), "kept");
        assertEquals(server.requests.length, 1);
        return;
      }
      await time.tickAsync(4_999);
      assertEquals(server.requests.length, 1);
      await time.tickAsync(1);
      await closed;
      assertEquals(server.bodies, ["kept", "kept"]);
    },
  );
}

test("a close() that begins during a wait for Retry-After does not cut it short", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([
    respond(503, { "retry-after": "5" }),
    respond(503, { "retry-after": "60" }),
  ]);
  const waits = Promise.withResolvers<void>();
  const out = streamTo(server.url, {
    closeTimeout: 10_000,
    onRetry: () => waits.resolve(),
  });
  await out.write("kept");
  void out.flush();
  await waits.promise;
  const closed = assertRejects(() => out.close(), FlushError);
  await time.tickAsync(4_999);
  assertEquals(server.requests.length, 1);
  await time.tickAsync(1);
  const { cause } = await closed;
  assertInstanceOf(cause, SendError);
  assertEquals(
    cause.retryAfter! <= 60_000,
    true,
    "60 s are more than are left",
  );
  assertEquals(server.requests.length, 2);
});

test("a refusal with a Retry-After does not make later batches refused ones", async () => {
  for (const status of [400, 413, 422]) {
    await using server = new FaultyServer([
      respond(status, { "retry-after": "3600" }),
    ]);
    const taken: string[] = [];
    const out = streamTo(server.url, {
      deadLetter: (bytes) => {
        taken.push(new TextDecoder().decode(bytes));
        return true;
      },
    });
    await out.write("bad");
    await out.flush();
    await out.write("good");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    assertEquals([cause.status, cause.refused], [status, false]);
    assertEquals(cause.key, undefined, "it would be that of another batch");
    await assertRejects(() => out.close(), FlushError);
    assertEquals(taken, ["bad"]);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), "good");
    assertEquals(server.requests.length, 1);
  }
});

for (const [first, second] of [["60", "5"], ["5", "60"]] as const) {
  test(`sends that overlap obey both a Retry-After of ${first} and one of ${second}`, async () => {
    using time = fakeTime();
    const { step, arrived, release } = gateOf(2);
    await using server = new FaultyServer([
      step(respond(503, { "retry-after": first })),
      step(respond(503, { "retry-after": second })),
    ]);
    const waits: Promise<void>[] = [];
    const waiting = [
      Promise.withResolvers<void>(),
      Promise.withResolvers<void>(),
    ];
    const sender = new FetchSender(server.url, {
      onRetry: () => waiting[waits.push(Promise.resolve()) - 1]?.resolve(),
    });
    const sends = ["a", "b"].map((key) =>
      sender.send(BYTES, { ...context(), key })
    );
    await arrived;
    release();
    await Promise.all(waiting.map(({ promise }) => promise));
    await time.tickAsync(59_999);
    assertEquals(server.requests.length, 2);
    await time.tickAsync(1);
    await Promise.all(sends);
    assertEquals(server.requests.length, 4);
  });
}

for (const maxElapsed of [0, 1_000]) {
  test(`close() obeys a Retry-After that it meets, with maxElapsed ${maxElapsed}`, async () => {
    using time = fakeTime();
    await using server = new FaultyServer([
      respond(503, { "retry-after": "20" }),
      async (exchange) => {
        await exchange.receive();
        time.tick(maxElapsed / 2); // it has time
        await respond(200)(exchange);
      },
    ]);
    const waits = Promise.withResolvers<void>();
    const out = streamTo(server.url, {
      retry: { maxElapsed },
      onRetry: () => waits.resolve(),
    });
    await out.write("kept");
    const closed = out.close();
    await waits.promise;
    await time.tickAsync(19_999);
    assertEquals(server.requests.length, 1);
    await time.tickAsync(1);
    await closed;
    assertEquals(server.bodies[0], "kept");
    assertEquals(server.requests.length, 2);
  });
}

/** Behaviours that wait until `count` requests have arrived and are released. */
function gateOf(count: number) {
  const arrived = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  let requests = 0;
  return {
    arrived: arrived.promise,
    release: () => released.resolve(),
    step: (then: Behaviour): Behaviour => async (exchange) => {
      if (++requests === count) arrived.resolve();
      await released.promise;
      await then(exchange);
    },
  };
}
