import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError } from "../sender.ts";
import { isPending, roundTrips } from "../testing/event_loop.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  never,
  respond,
} from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
  skipDelays,
} from "../testing/sending.ts";
import { FetchSender, streamTo, test } from "../testing/transports.ts";

// -- Which failures are retried --

for (const status of [408, 425, 429, 500, 502, 503, 504, 507, 599]) {
  test(`send() retries after ${status}`, async () => {
    await using server = new FaultyServer([respond(status), respond(status)]);
    const seen: [number | undefined, number, boolean][] = [];
    await deliver(server.url, {
      retry: FAST,
      onRetry: ({ status, attempts, retryable }) =>
        seen.push([status, attempts, retryable]),
    });
    assertEquals(server.bodies, ["0123456789", "0123456789", "0123456789"]);
    assertEquals(new Set(server.keys).size, 1);
    assertEquals(seen, [[status, 1, true], [status, 2, true]]);
  });
}

for (
  const [status, advice] of [
    [304, ""],
    [400, ""],
    [401, "; check the credentials in `headers`"],
    [403, "; check the credentials in `headers`"],
    [404, ""],
    [409, ""],
    [413, "; make `capacity` smaller"],
    [422, ""],
    [499, ""],
    [501, ""],
    [505, ""],
    [600, ""],
  ] as const
) {
  test(`send() fails at once after ${status}, and the buffer keeps the bytes`, async () => {
    await using server = new FaultyServer([respond(status, {}, "no, thanks")]);
    await using out = streamTo(server.url, { retry: FAST });
    await out.write("0123456789");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    const excerpt = status === 304 ? "" : "no, thanks"; // a 304 has no body
    assertEquals(
      cause.message,
      `POST of 10 bytes to ${server.url} failed (attempt 1): the server responded with ${status}${advice}${
        excerpt && `: "${excerpt}"`
      }`,
    );
    assertEquals(cause.status, status);
    assertEquals(cause.attempts, 1);
    assertEquals(cause.excerpt, excerpt);
    assertEquals(cause.retryAfter, undefined);
    assertEquals(cause.name, "SendError");
    assertEquals(cause.retryable, false);
    assertEquals(cause.refused, [400, 413, 422].includes(status));
    assertEquals(`"${cause.key}"`, server.keys[0]);
    assertEquals(server.requests.length, 1);
    await out.flush();
    assertEquals(server.bodies[1], "0123456789");
  });
}

for (
  const [title, behaviour] of Object.entries<Behaviour>({
    "no response": never,
    "a closed connection": close,
    "garbage": async ({ receive, write, close }) => {
      await receive();
      await write("I am not HTTP\r\n\r\n");
      close();
    },
    "half a status line": async ({ receive, write, close }) => {
      await receive();
      await write("HTTP/1.1 20");
      close();
    },
    "an endless head": async ({ receive, write, close }) => {
      await receive();
      await write("HTTP/1.1 200 OK\r\n");
      for (let i = 0; i < 5_000; i++) {
        await write(`x-${i}: ${"y".repeat(99)}\r\n`);
      }
      close();
    },
  })
) {
  test(`${title} is a failed attempt, and is retried`, async () => {
    await using server = new FaultyServer([behaviour]);
    const failures: SendError[] = [];
    await deliver(server.url, {
      timeout: title === "no response" ? 1_000 : 30_000,
      retry: FAST,
      onRetry: (failure) => failures.push(failure),
    });
    assertEquals(failures.length, 1);
    assertEquals(failures[0]!.status, undefined);
    assertInstanceOf(failures[0]!.cause, Error);
    assertEquals(server.bodies, ["0123456789", "0123456789"]);
  });
}

Deno.test("send() retries after any value that fetch throws", async () => {
  await using server = new FaultyServer();
  const odd = [
    () => Promise.reject(undefined),
    () => Promise.reject("no"),
    () => Promise.resolve(undefined),
    () => undefined,
    () => {
      throw new Error("at once");
    },
  ] as unknown as (typeof fetch)[];
  let failures = 0;
  await deliver(server.url, {
    retry: FAST,
    fetch: (...args) => (odd.shift() ?? fetch)(...args),
    onRetry: ({ cause }) => {
      failures++;
      assertInstanceOf(cause, Error);
    },
  });
  assertEquals(failures, 5);
});

test("send() delivers to a server that starts later", async () => {
  const port = freePort();
  await using stack = new AsyncDisposableStack();
  let server: FaultyServer | undefined;
  await using out = streamTo(`http://127.0.0.1:${port}/ingest`, {
    retry: FAST,
    onRetry: ({ attempts, status, excerpt, cause }) => {
      assertEquals(status, undefined);
      assertEquals(excerpt, "");
      assertInstanceOf(cause, Error);
      if (attempts === 3) {
        server = stack.use(new FaultyServer([], respond(200), port));
      }
    },
  });
  await out.write("hello");
  await out.close();
  assertEquals(server!.bodies, ["hello"]);
});

test("shouldRetry overrides the default in both directions", async () => {
  await using server = new FaultyServer([respond(404), respond(503)]);
  const asked: (number | undefined)[] = [];
  const shouldRetry = ({ status }: SendError) => {
    asked.push(status);
    return status === 404;
  };
  const error = await assertRejects(
    () => deliver(server.url, { retry: { ...FAST, shouldRetry } }),
    SendError,
  );
  assertEquals(error.status, 503);
  assertEquals(asked, [404, 503]);
});

test("lastFailure is the failure of the latest attempt", async () => {
  await using server = new FaultyServer([
    respond(503),
    respond(200),
    respond(400),
  ]);
  const sender = new FetchSender(server.url, { retry: FAST });
  assertEquals(sender.lastFailure, undefined);
  const seen: unknown[] = [];
  await using retrying = new FetchSender(server.url, {
    retry: FAST,
    onRetry: () => seen.push(retrying.lastFailure?.status),
  });
  await retrying.send(BYTES, context());
  assertEquals(seen, [503]);
  assertEquals(retrying.lastFailure, undefined);
  const error = await assertRejects(() => sender.send(BYTES, context()));
  assertStrictEquals(sender.lastFailure, error);
});

test("an attempt that is aborted is not a failure of its own", async () => {
  const controller = new AbortController();
  await using server = new FaultyServer([respond(503), async (exchange) => {
    await exchange.receive();
    controller.abort();
    await never(exchange);
  }]);
  const sender = new FetchSender(server.url, { retry: FAST });
  await assertRejects(
    () => sender.send(BYTES, context(0, controller.signal)),
    DOMException,
  );
  assertEquals(sender.lastFailure?.status, 503);
});

// -- Delays and the time for all attempts --

test("the delay is random below a bound that doubles up to maxDelay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  using _ = fixedRandom(0.5);
  await using server = new FaultyServer(Array(9).fill(respond(503)));
  await deliver(server.url, { onRetry });
  assertEquals(server.requests.length, 10);
  // Half of 500 ms, doubled each time, at most 30 s.
  assertEquals(
    delays,
    [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000],
  );
  assertEquals(Date.now(), 60_750);
});

test("send() fails before maxElapsed has passed, and reports the number of attempts", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([], respond(503));
  const error = await assertRejects(
    () => deliver(server.url, { onRetry, retry: { maxElapsed: 20_000 } }),
    SendError,
  );
  assertEquals(error.attempts, server.requests.length);
  assertEquals(error.attempts, delays.length + 1);
  assert(Date.now() < 20_000, `${Date.now()} ms have passed`);
  assertEquals(time.countTimers(), 0);
});

Deno.test("maxElapsed also limits retries that have no delay", async () => {
  using time = fakeTime();
  let attempts = 0;
  const failing = () => {
    attempts++;
    time.tick(1);
    return Promise.resolve(new Response(null, { status: 503 }));
  };
  const sent = assertRejects(() =>
    deliver(NO_SERVER_URL, {
      fetch: failing,
      retry: { initialDelay: 0, maxElapsed: 1_500 },
      onRetry: () => setImmediate(() => time.tick(0)),
    }), SendError);
  await sent;
  assertEquals(attempts, 1_500);
});

test("maxElapsed: 0 makes one attempt", async () => {
  await using server = new FaultyServer([], respond(503));
  const error = await assertRejects(
    () => deliver(server.url, { retry: { maxElapsed: 0 } }),
    SendError,
  );
  assertEquals(error.attempts, 1);
  assertEquals(server.requests.length, 1);
});

test("maxElapsed is 120 seconds by default", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([
    respond(503, { "retry-after": "119" }),
    respond(200),
    respond(503, { "retry-after": "120" }),
  ]);
  await deliver(server.url, { onRetry });
  await assertRejects(() => deliver(server.url, { onRetry }), SendError);
  assertEquals(delays, [119_000]);
});

for (
  const [delay, fits, attempts] of [
    [119_999, "fits", 2],
    [120_000, "does not fit", 1],
  ] as const
) {
  test(`a delay of ${delay} ms ${fits} into the default maxElapsed`, async () => {
    using time = fakeTime();
    const { onRetry } = skipDelays(time);
    using _ = fixedRandom(0.5);
    await using server = new FaultyServer([], respond(503));
    const retry = { initialDelay: 2 * delay, maxDelay: 2 * delay };
    const error = await assertRejects(
      () => deliver(server.url, { onRetry, retry }),
      SendError,
    );
    assertEquals(error.attempts, attempts);
  });
}

Deno.test("an attempt that begins after maxElapsed has passed gets a millisecond", async () => {
  using time = fakeTime();
  const responses = [Promise.resolve(new Response(null, { status: 503 }))];
  await assertRejects(
    () =>
      deliver(NO_SERVER_URL, {
        retry: { initialDelay: 0, maxElapsed: 1_000 },
        onRetry: () => {
          // The delay takes longer than it should, as on a busy machine.
          setImmediate(() => time.tick(2_000));
        },
        fetch: () => {
          const response = responses.shift();
          if (response === undefined) setImmediate(() => time.tick(1));
          return response ?? new Promise(() => {});
        },
      }),
    SendError,
    "(attempt 1): the server responded with 503; attempt 2 was cut short by maxElapsed of 1000 ms",
  );
});

test("an attempt that its own timeout ends is the failure to report", async () => {
  await using server = new FaultyServer([respond(503)], never);
  const error = await assertRejects(() =>
    deliver(server.url, {
      timeout: 100,
      retry: {
        ...FAST,
        maxElapsed: 60_000,
        shouldRetry: ({ status }) => status === 503,
      },
    }), SendError);
  assertEquals(error.status, undefined);
  assertMatch(error.message, /\(attempt 2\): it took longer than 100 ms$/);
});

test("the error keeps what the last response said when maxElapsed cuts an attempt short", async () => {
  using time = fakeTime();
  const { onRetry } = skipDelays(time);
  await using server = new FaultyServer(
    Array(5).fill(respond(503, { "retry-after": "1" }, "overloaded")),
    async (exchange) => {
      await exchange.receive();
      setImmediate(() => time.tick(120_000));
      await never(exchange);
    },
  );
  const sender = new FetchSender(server.url, {
    onRetry,
    timeout: 600_000,
    retry: FAST,
  });
  const error = await assertRejects(
    () => sender.send(BYTES, context()),
    SendError,
    'responded with 503; it asks to wait 1 s: "overloaded"; attempt 6 was cut short by maxElapsed of 120000 ms',
  );
  assertEquals(error.status, 503);
  assertEquals(error.excerpt, "overloaded");
  assertEquals(error.retryAfter, undefined, "it has passed");
  assertEquals(error.attempts, 6);
  assertEquals(error.retryable, true);
});

for (
  const [title, change] of [["back", -3_600_000], [
    "forward",
    3_600_000,
  ]] as const
) {
  test(`maxElapsed does not change when somebody sets the clock ${title}`, async () => {
    using time = fakeTime();
    time.setSystemTime(10_000_000);
    const { delays, onRetry } = skipDelays(time);
    using _ = fixedRandom(0.5);
    await using server = new FaultyServer([], respond(503));
    await assertRejects(() =>
      deliver(server.url, {
        retry: { maxElapsed: 20_000 },
        onRetry: (failure, delay) => {
          time.setSystemTime(Date.now() + change);
          onRetry(failure, delay);
        },
      }), SendError);
    assertEquals(delays, [250, 500, 1_000, 2_000, 4_000, 8_000]);
  });
}

test("the bound of the delay grows from send to send, until one is delivered", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([
    ...Array(6).fill(respond(503)),
    respond(200),
    respond(503),
  ]);
  const sender = new FetchSender(server.url, {
    retry: { initialDelay: 100, maxElapsed: 500 },
    onRetry,
  });
  await assertRejects(() => sender.send(BYTES, context()), SendError);
  assertEquals(delays.splice(0), [50, 100, 200]);
  // Now the delay would be longer than there is time: one attempt a send.
  await assertRejects(() => sender.send(BYTES, context()), SendError);
  await assertRejects(() => sender.send(BYTES, context()), SendError);
  assertEquals(server.requests.length, 6);
  await sender.send(BYTES, context());
  await sender.send(BYTES, context(1));
  assertEquals(delays, [50]);
});

test("maxElapsed: Infinity never gives up", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([
    ...Array(100).fill(respond(503)),
    respond(503, { "retry-after": "31536000" }), // longer than a timer runs
  ]);
  await deliver(server.url, { onRetry, retry: { maxElapsed: Infinity } });
  assertEquals(server.requests.length, 102);
  assertEquals(delays.at(-1), 31_536_000_000);
});

for (const maxElapsed of [-1, 1.5, NaN, -Infinity, 2 ** 31, "8", null]) {
  Deno.test(`maxElapsed: ${JSON.stringify(maxElapsed) ?? maxElapsed} (${typeof maxElapsed}) is rejected`, () => {
    const error = assertThrows(() =>
      new FetchSender(NO_SERVER_URL, {
        retry: { maxElapsed: maxElapsed as number },
      })
    );
    assertInstanceOf(error, Error);
    assertStringIncludes(
      error.message,
      "Cannot create FetchSender: maxElapsed must be an integer from 0 to 2147483647, or Infinity",
    );
  });
}

test("onRetry changes nothing, whether it throws or rejects", async () => {
  await using server = new FaultyServer([respond(503), respond(503)]);
  let calls = 0;
  await deliver(server.url, {
    retry: FAST,
    onRetry: () => {
      if (calls++ === 0) throw new Error("the terminal has gone");
      return Promise.reject(new Error("the disk is full"));
    },
  });
  assertEquals(calls, 2);
  assertEquals(server.requests.length, 3);
});

// -- Closing --

test("close() ends a delay that is under way, and the bytes are delivered at once", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([respond(503)]);
  using _ = fixedRandom(0.999);
  const waits = Promise.withResolvers<number>();
  const out = streamTo(server.url, {
    retry: { initialDelay: 20_000 },
    onRetry: (_, delay) => waits.resolve(delay),
  });
  await out.write("kept");
  void out.flush();
  assert(await waits.promise > 19_000);
  await out.close(); // no time passes
  assertEquals(server.bodies, ["kept", "kept"]);
  assertEquals(time.countTimers(), 0);
});

test("close() in onRetry ends the delay that is reported", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  await using server = new FaultyServer([respond(503)]);
  let closed: Promise<void> | undefined;
  const out = streamTo(server.url, {
    retry: { initialDelay: 20_000 },
    onRetry: () => closed = out.close(),
  });
  await out.write("kept");
  await out.flush(); // no time passes
  await closed;
  assertEquals(server.bodies, ["kept", "kept"]);
  assertEquals(time.countTimers(), 0);
});

test("sendNow() ends a backoff, and the next failure has one again", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  await using server = new FaultyServer([respond(503), respond(503)]);
  const waits: PromiseWithResolvers<number>[] = [];
  for (let i = 0; i < 2; i++) waits.push(Promise.withResolvers());
  let failures = 0;
  const out = streamTo(server.url, {
    retry: { initialDelay: 20_000 },
    onRetry: (_, delay) => waits[failures++]!.resolve(delay),
  });
  await out.write("kept");
  const flushed = out.flush();
  assert(await waits[0]!.promise > 19_000);
  out.sendNow(); // no time passes
  assert(await waits[1]!.promise > 19_000);
  assertEquals(server.bodies, ["kept", "kept"]);
  out.sendNow();
  await flushed;
  assertEquals(server.bodies, ["kept", "kept", "kept"]);
  await out.close();
  assertEquals(time.countTimers(), 0);
});

test("sendNow() does not cut a Retry-After short", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([respond(429, { "retry-after": "9" })]);
  const waits = Promise.withResolvers<number>();
  const out = streamTo(server.url, {
    onRetry: (_, delay) => waits.resolve(delay),
  });
  await out.write("kept");
  const flushed = out.flush();
  assertEquals(await waits.promise, 9_000);
  out.sendNow();
  await time.tickAsync(8_999);
  await roundTrips(); // a request would have arrived
  assertEquals(server.requests.length, 1);
  await time.tickAsync(1);
  await flushed;
  assertEquals(server.bodies, ["kept", "kept"]);
  await out.close();
});

test("sendNow() ends the backoff of a buffer that is closing", async () => {
  using _time = fakeTime();
  using _ = fixedRandom(0.999);
  await using server = new FaultyServer([respond(503)]);
  const waits = Promise.withResolvers<number>();
  const out = streamTo(server.url, {
    retry: { initialDelay: 20_000 },
    onRetry: (_, delay) => waits.resolve(delay),
  });
  await out.write("kept");
  const closed = out.close();
  assertEquals(await waits.promise, 1_000);
  out.sendNow(); // no time passes
  assert(!await isPending(closed));
  assertEquals(server.bodies, ["kept", "kept"]);
});

test("a batch for which there is no time left at the end is not refused in place of another", async () => {
  using time = fakeTime();
  const { onRetry } = skipDelays(time);
  await using server = new FaultyServer([], respond(400));
  const taken: string[] = [];
  const out = streamTo(server.url, {
    capacity: 2,
    closeTimeout: 2_000,
    retry: { shouldRetry: () => true },
    onRetry,
    deadLetter: (bytes) => {
      taken.push(new TextDecoder().decode(bytes));
      return true;
    },
  });
  void out.write("aabb");
  await out.close();
  assertEquals(taken, ["aa", "bb"]);
  assertEquals(server.bodies.at(-1), "bb", "it was sent, too");
});

Deno.test("a Retry-After is obeyed after any number of failures without a delay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  let attempts = 0;
  await deliver(NO_SERVER_URL, {
    fetch: () => {
      attempts++;
      const headers: HeadersInit = attempts === 1_100
        ? { "Retry-After": "5" }
        : {};
      const status = attempts <= 1_100 ? 503 : 200;
      return Promise.resolve(new Response(null, { status, headers }));
    },
    retry: { initialDelay: 0 },
    onRetry,
  });
  assertEquals([attempts, delays.at(-1)], [1_101, 5_000]);
});

test("the error of close() names the last of all attempts", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([], respond(503));
  const begun = Promise.withResolvers<void>();
  const out = streamTo(server.url, {
    closeTimeout: 2_000,
    retry: { maxElapsed: Infinity },
    onRetry: (failure, delay) => {
      begun.resolve();
      onRetry(failure, delay);
    },
  });
  await out.write("kept");
  void out.flush();
  await begun.promise;
  const { cause } = await assertRejects(() => out.close(), FlushError);
  assertInstanceOf(cause, SendError);
  assertEquals(cause.attempts, delays.length + 1);
  assertEquals(server.requests.length, cause.attempts);
});

test("a server that comes back a second before closeTimeout gets the bytes", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999); // every delay is as long as it can be
  const port = freePort();
  const out = streamTo(`http://127.0.0.1:${port}/ingest`, {
    retry: { initialDelay: 20_000, maxDelay: 20_000 },
    onRetry: (_, delay) => void setImmediate(() => time.tick(delay)),
  });
  await out.write("kept");
  const begin = performance.now();
  const closed = out.close();
  let ended = false;
  closed.finally(() => ended = true).catch(() => {});
  while (!ended && performance.now() - begin < 29_000) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert(performance.now() - begin < 30_000);
  await using server = new FaultyServer([], respond(200), port);
  await closed;
  assertEquals(server.bodies, ["kept"]);
});

test("close() makes attempts at most a second apart, and closer together towards the end", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([], respond(503));
  const out = streamTo(server.url, {
    closeTimeout: 10_000,
    retry: { initialDelay: 60_000, maxDelay: 60_000 },
    onRetry,
  });
  await out.write("kept");
  const { cause } = await assertRejects(() => out.close(), FlushError);
  assertInstanceOf(cause, SendError, "not the TimeoutError of closeTimeout");
  assertEquals(cause.status, 503);
  assertEquals(
    delays.map(Math.round),
    [...Array(9).fill(1_000), 500, 250, 125, 63, 31],
  );
  assertEquals(time.countTimers(), 0);
});

test("close() does not go beyond maxElapsed", async () => {
  using time = fakeTime();
  const { onRetry } = skipDelays(time);
  await using server = new FaultyServer([], respond(503));
  const out = streamTo(server.url, { onRetry, retry: { maxElapsed: 0 } });
  await out.write("kept");
  await assertRejects(() => out.close(), FlushError);
  assertEquals(server.requests.length, 1);
  assertEquals(performance.now(), 0);
});
