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
import { toText } from "@std/streams";
import { gzipSync } from "node:zlib";
import { FlushError, type SendContext, StreamBuffer } from "./buffer.ts";
import {
  FetchSender,
  type FetchSenderOptions,
  type SendAttempt,
  SendError,
  streamTo,
} from "./sender.ts";
import { fakeTime } from "./testing/fake_time.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  head,
  never,
  respond,
  respondAndClose,
} from "./testing/faulty_server.ts";
import { freePort } from "./testing/free_port.ts";

const URL_OF_NOBODY = "http://127.0.0.1:9/ingest";
const BYTES = new TextEncoder().encode("0123456789");
const FAST = { initialDelay: 1, maxDelay: 1 };

function context(sequence = 0, signal = new AbortController().signal) {
  return { sequence, offset: 10 * sequence, signal } satisfies SendContext;
}

function deliver(url: string, options: FetchSenderOptions): Promise<void> {
  return new FetchSender(url, options).send(BYTES, context());
}

/** Lets the delays between attempts pass at once, and lists them. */
function skipDelays(time: ReturnType<typeof fakeTime>) {
  const delays: number[] = [];
  const onRetry = (_: SendError, delay: number) => {
    delays.push(delay);
    setImmediate(() => time.tick(delay));
  };
  return { delays, onRetry };
}

/** Everything that an error shows to someone who prints it. */
function printed(error: unknown): string {
  const parts = [Deno.inspect(error, { depth: 10, showHidden: true })];
  for (let link = error; link instanceof Error; link = link.cause) {
    parts.push(String(link), String(link.stack), JSON.stringify(link));
  }
  return parts.join("\n");
}

// -- Options --

for (
  const [url, message] of [
    ["nonsense", 'url must be an absolute URL, received "nonsense"'],
    ["", 'url must be an absolute URL, received ""'],
    ["/ingest", "url must be an absolute URL"],
    ["ftp://example.com/x?secret", 'received "ftp://example.com/x"'],
    ["file:///etc/passwd", "url must begin with http:// or https://"],
    ["http://me:secret@example.com/", 'received "***@example.com/"'],
    ["http://secret@example.com/", "url must not carry credentials"],
    ["http://:secret@example.com/", "url must not carry credentials"],
    ["httpx://example.com/", "url must begin with http:// or https://"],
    ["me:secret@example.com", 'received "***@example.com"'],
    ["http://me:sec/ret@example.com", 'received "***@example.com"'],
    ["http://me:secret#1@example.com", 'received "***"'],
    ["http://me:secret?1@example.com/", 'received "***"'],
    ["http://me:secret\n1@example.com/", 'received "***@example.com/"'],
    ["ftp://example.com/x?1\nsecret", 'received "ftp://example.com/x"'],
    ["ftp://example.com/x#secret", 'received "ftp://example.com/x"'],
    ["example.com/?mail=me@example.com&token=secret", 'received "***"'],
    ["http://me@example.com/?to=you@secret", 'received "***"'],
  ] as const
) {
  Deno.test(`FetchSender() refuses the URL "${url}"`, () => {
    for (const make of [FetchSender, streamTo] as const) {
      const error = assertThrows(
        () => make === FetchSender ? new FetchSender(url) : streamTo(url),
        TypeError,
        message,
      );
      assertMatch(error.message, /^Cannot create FetchSender: url must /);
      assert(!printed(error).includes("secret"), error.message);
    }
  });
}

for (
  const [options, errorClass, message] of [
    [{ timeout: 0 }, RangeError, "timeout must be an integer from 1"],
    [{ timeout: "8" }, TypeError, 'received "8"'],
    [{ retry: { initialDelay: -1 } }, RangeError, "initialDelay"],
    [{ retry: { maxDelay: 1.5 } }, RangeError, "maxDelay"],
    [{ retry: { maxElapsed: NaN } }, RangeError, "received NaN"],
    [{ retry: { maxElapsed: 2 ** 53 } }, RangeError, "9007199254740992"],
    [{ retry: { shouldRetry: true } }, TypeError, "shouldRetry"],
    [{ onRetry: "log" }, TypeError, "onRetry must be a function"],
    [{ fetch: null }, TypeError, "fetch must be a function, received null"],
    [{ method: "GET" }, RangeError, 'received "GET"'],
    [{ method: "a b" }, RangeError, 'received "a b"'],
    [{ method: "TRACE" }, RangeError, 'received "TRACE"'],
    [{ method: 5 }, TypeError, "received 5"],
    [{ compression: "zip" }, RangeError, 'received "zip"'],
    [{ compression: "deflate-raw" }, RangeError, '"deflate-raw"'],
    [{ compression: true }, TypeError, "received true"],
    [{ idempotencyKey: "" }, RangeError, 'received ""'],
    [{ idempotencyKey: 'a"b' }, RangeError, "idempotencyKey"],
    [{ idempotencyKey: "é" }, RangeError, "printable ASCII"],
    [{ idempotencyKey: "a\\b" }, RangeError, "idempotencyKey"],
    [{ idempotencyKey: "a\x1fb" }, RangeError, "idempotencyKey"],
    [{ idempotencyKey: "a\x7fb" }, RangeError, "idempotencyKey"],
    [{ idempotencyKey: true }, TypeError, "received true"],
    [{ compression: "toString" }, RangeError, 'received "toString"'],
    [{ compression: ["gzip"] }, TypeError, "an object (Array)"],
    [{ retry: 5 }, TypeError, "retry must be an object, received 5"],
    [{ retry: null }, TypeError, "retry must be an object, received null"],
    [{ client: 5 }, TypeError, "client must be an object, received 5"],
    [5, TypeError, "options must be an object, received 5"],
    [{ headers: 5 }, TypeError, "must be an object, received a number"],
    [{ headers: null }, TypeError, "must be an object, received null"],
    [{ headers: "secret" }, TypeError, "must be an object, received a string"],
    [{ headers: { "a b": "c" } }, TypeError, "Cannot use headers"],
    [{ headers: { a: "sec\nret" } }, TypeError, "Cannot use headers"],
  ] as const
) {
  Deno.test(`FetchSender() refuses ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new FetchSender(URL_OF_NOBODY, options as FetchSenderOptions),
      errorClass as typeof Error,
      message,
    );
    assert(!printed(error).includes("sec\nret"), error.message);
  });
}

Deno.test("streamTo() checks the options of both", () => {
  assertThrows(() => streamTo(URL_OF_NOBODY, { capacity: 0 }), RangeError);
  assertThrows(() => streamTo(URL_OF_NOBODY, { timeout: 0 }), RangeError);
});

Deno.test("FetchSender() has its own copy of the URL, http or https", async () => {
  new FetchSender("https://example.com/");
  await using server = new FaultyServer();
  const url = new URL(server.url);
  const sender = new FetchSender(url);
  url.pathname = "/changed";
  await sender.send(BYTES, context());
  assertEquals(server.requests[0]!.path, "/ingest");
});

// -- A delivery --

Deno.test("streamTo() delivers everything, in order, a flush a request", async () => {
  await using server = new FaultyServer();
  await using out = streamTo(server.url, { capacity: 8 });
  for (const text of ["0123", "4567", "89", "ab"]) await out.write(text);
  await out.close();
  assertEquals(server.bodies, ["01234567", "89ab"]);
  assertEquals(server.connections, 1);
  const [{ method, path, headers }] = server.requests as [
    (typeof server.requests)[0],
  ];
  assertEquals([method, path], ["POST", "/ingest"]);
  assertEquals(headers.get("content-length"), "8");
  assertEquals(headers.get("content-type"), "application/octet-stream");
  assertEquals(headers.get("content-encoding"), null);
});

Deno.test("send() uses the method, the headers, the query and the client given", async () => {
  await using server = new FaultyServer();
  using client = Deno.createHttpClient({});
  await deliver(`${server.url}?a=b`, {
    method: "PUT",
    headers: { "X-A": "b", "Content-Type": "text/plain" },
    client,
  });
  const [request] = server.requests;
  assertEquals(request!.method, "PUT");
  assertEquals(request!.path, "/ingest?a=b");
  assertEquals(request!.headers.get("x-a"), "b");
  assertEquals(request!.headers.get("content-type"), "text/plain");
});

Deno.test("send() calls the fetch given", async () => {
  using client = Deno.createHttpClient({});
  const seen: [Request, unknown][] = [];
  // A native one refuses to be the method of anything but the global object.
  function fetch(this: unknown, request: unknown, init: unknown) {
    assertStrictEquals(this, undefined);
    seen.push([request as Request, init]);
    return Promise.resolve(new Response(null, { status: 204 }));
  }
  const options = { fetch: fetch as typeof globalThis.fetch };
  await deliver(URL_OF_NOBODY, { ...options, client });
  await deliver(URL_OF_NOBODY, options);
  assertEquals(seen.map(([, init]) => init), [{ client }, undefined]);
  const [request] = seen[0]!;
  assertEquals(request.url, URL_OF_NOBODY);
  assertEquals(request.method, "POST");
  assertEquals(request.redirect, "manual");
  assertEquals(await request.text(), "0123456789");
});

Deno.test("send() gives fetch a request that it may use up", async () => {
  await using server = new FaultyServer([respond(503)]);
  const bodies: string[] = [];
  await deliver(server.url, {
    retry: FAST,
    fetch: async (input, init) => {
      const request = input as Request;
      bodies.push(await request.clone().text());
      request.headers.set("Idempotency-Key", "another");
      return await fetch(request, init);
    },
  });
  assertEquals(bodies, ["0123456789", "0123456789"]);
});

Deno.test("send() keeps to the status when fetch has read the reply", async () => {
  await using server = new FaultyServer([respond(200, {}, "read")]);
  await deliver(server.url, {
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      assertEquals(await response.text(), "read");
      return response;
    },
  });
  assertEquals(server.requests.length, 1);
});

Deno.test("send() tries again whatever fetch throws", async () => {
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

Deno.test("send() has its own copy of the headers, of every kind", async () => {
  await using server = new FaultyServer([respond(503)]);
  const once = new Map([["X-A", "kept"]]).entries();
  await deliver(server.url, { headers: once as never, retry: FAST });
  const changing = new Headers({ "X-A": "kept" });
  const sender = new FetchSender(server.url, { headers: changing });
  changing.delete("X-A");
  await sender.send(BYTES, context());
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-a")),
    ["kept", "kept", "kept"],
  );
});

for (
  const [title, code, script] of [
    ["that simply ends", 0, "void streamTo(url).write('sent');"],
    [
      "that throws in an await using block",
      1,
      "await using out = streamTo(url); void out.write('sent'); throw 1;",
    ],
  ] as const
) {
  Deno.test(`a script ${title} still sends what it wrote`, async () => {
    await using server = new FaultyServer();
    const module = new URL("./mod.ts", import.meta.url).href;
    const process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "-N", "-"],
      stdin: "piped",
      stderr: "null",
    }).spawn();
    const source = ReadableStream.from([
      `import { streamTo } from ${JSON.stringify(module)};`,
      `const url = ${JSON.stringify(server.url)}; ${script}`,
    ]);
    await source.pipeThrough(new TextEncoderStream()).pipeTo(process.stdin);
    assertEquals((await process.status).code, code);
    assertEquals(server.bodies, ["sent"]);
  });
}

// -- The key --

Deno.test("Idempotency-Key is the stream's and the flush's, the same at each attempt", async () => {
  await using server = new FaultyServer([respond(503), respond(200), close]);
  await using out = streamTo(server.url, { capacity: 4, retry: FAST });
  for (const text of ["abcd", "efgh"]) await out.write(text);
  await out.flush();
  const [first, again, second, last] = server.keys;
  assertMatch(first!, /^"[0-9a-f-]{36}-0"$/);
  assertEquals(again, first);
  assertEquals(second, first!.replace(/0"$/, '1"'));
  assertEquals(last, second);
  assertEquals(server.bodies, ["abcd", "abcd", "efgh", "efgh"]);
});

Deno.test("Idempotency-Key differs between streams", async () => {
  await using server = new FaultyServer();
  for (let i = 0; i < 2; i++) await deliver(server.url, {});
  assertEquals(new Set(server.keys).size, 2);
});

Deno.test("Idempotency-Key is the same when a flush fails and is sent again", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using out = streamTo(server.url, { idempotencyKey: "mine" });
  await out.write("abcd");
  await assertRejects(() => out.flush(), FlushError);
  await out.flush();
  assertEquals(server.keys, ['"mine-0"', '"mine-0"']);
});

Deno.test("idempotencyKey may be all of printable ASCII but two signs", async () => {
  await using server = new FaultyServer();
  const codes = Array.from({ length: 0x7f - 0x20 }, (_, i) => 0x20 + i);
  const idempotencyKey = String.fromCharCode(...codes).replace(/["\\]/g, "");
  await deliver(server.url, { idempotencyKey });
  assertEquals(server.keys, [`"${idempotencyKey}-0"`]);
});

Deno.test("idempotencyKey: false sends none, or the caller's own", async () => {
  await using server = new FaultyServer();
  await deliver(server.url, { idempotencyKey: false });
  await deliver(server.url, {
    idempotencyKey: false,
    headers: ({ sequence }) => ({ "Idempotency-Key": `own ${sequence}` }),
  });
  assertEquals(server.keys, [null, "own 0"]);
});

Deno.test("send() refuses a second stream, which would repeat the first one's keys", async () => {
  await using server = new FaultyServer();
  const sender = new FetchSender(server.url);
  await sender.send(BYTES, context(0));
  await sender.send(BYTES, context(1));
  for (const sequence of [0, 1]) {
    await assertRejects(
      () => sender.send(BYTES, context(sequence)),
      TypeError,
      "serves another StreamBuffer",
    );
  }
  assertEquals(server.requests.length, 2);
});

Deno.test("send() takes a flush that failed again, whatever its signal", async () => {
  await using server = new FaultyServer([respond(400)]);
  const sender = new FetchSender(server.url);
  await assertRejects(() => sender.send(BYTES, context(0)), SendError);
  await sender.send(BYTES, context(0));
  await sender.send(BYTES, context(1));
  assertEquals(server.keys[0], server.keys[1]);
  // A stream may well repeat itself, and is known by its signal.
  const same = context(2);
  for (let i = 0; i < 2; i++) await sender.send(BYTES, same);
  assertEquals(server.keys[3], server.keys[4]);
  // What was delivered before one that failed is not free again.
  await using other = new FaultyServer([respond(200), respond(400)]);
  const failing = new FetchSender(other.url);
  await failing.send(BYTES, context(0));
  await assertRejects(() => failing.send(BYTES, context(1)), SendError);
  await assertRejects(() => failing.send(BYTES, context(0)), TypeError);
  assertEquals(other.requests.length, 2);
});

Deno.test("send() refuses another stream after one that failed, whose keys it would repeat", async () => {
  await using server = new FaultyServer([], close);
  const sender = new FetchSender(server.url, { retry: { maxElapsed: 0 } });
  const first = new StreamBuffer(sender, { flushInterval: 0 });
  await first.write("first");
  await assertRejects(() => first.close(), FlushError);
  const second = new StreamBuffer(sender, { flushInterval: 0 });
  await second.write("first and second");
  await assertRejects(() => second.close(), FlushError, "is closed");
  assertEquals(second.takeUnsent().length, 16);
  assertEquals(new Set(server.bodies), new Set(["first"]));
});

Deno.test("send() refuses once the sender is closed", async () => {
  const sender = new FetchSender(URL_OF_NOBODY);
  {
    await using _ = sender;
  }
  await assertRejects(() => sender.send(BYTES, context()), TypeError, "closed");
});

// -- Retry --

for (const status of [408, 425, 429, 500, 502, 503, 504, 507, 599]) {
  Deno.test(`send() tries again after ${status}`, async () => {
    await using server = new FaultyServer([respond(status), respond(status)]);
    const told: [number | undefined, number][] = [];
    await deliver(server.url, {
      retry: FAST,
      onRetry: ({ status, attempts }) => told.push([status, attempts]),
    });
    assertEquals(server.bodies, ["0123456789", "0123456789", "0123456789"]);
    assertEquals(new Set(server.keys).size, 1);
    assertEquals(told, [[status, 1], [status, 2]]);
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
    [499, ""],
    [501, ""],
    [505, ""],
    [600, ""],
  ] as const
) {
  Deno.test(`send() fails at once after ${status}, and the bytes are kept`, async () => {
    await using server = new FaultyServer([respond(status, {}, "no, thanks")]);
    await using out = streamTo(server.url, { retry: FAST });
    await out.write("0123456789");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    const excerpt = status === 304 ? "" : "no, thanks"; // a 304 has no body
    assertEquals(
      cause.message,
      `Cannot POST 10 bytes to ${server.url} (attempt 1): the server responded with ${status}${advice}${
        excerpt && `: "${excerpt}"`
      }`,
    );
    assertEquals(cause.status, status);
    assertEquals(cause.attempts, 1);
    assertEquals(cause.excerpt, excerpt);
    assertEquals(cause.retryAfter, undefined);
    assertEquals(cause.name, "SendError");
    assertEquals(server.requests.length, 1);
    await out.flush();
    assertEquals(server.bodies[1], "0123456789");
  });
}

Deno.test("send() finds a server that appears later", async () => {
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

Deno.test("lastFailure is that of the newest request", async () => {
  await using server = new FaultyServer([
    respond(503),
    respond(200),
    respond(400),
  ]);
  const sender = new FetchSender(server.url, { retry: FAST });
  assertEquals(sender.lastFailure, undefined);
  const told: unknown[] = [];
  await using retrying = new FetchSender(server.url, {
    retry: FAST,
    onRetry: () => told.push(retrying.lastFailure?.status),
  });
  await retrying.send(BYTES, context());
  assertEquals(told, [503]);
  assertEquals(retrying.lastFailure, undefined);
  const error = await assertRejects(() => sender.send(BYTES, context()));
  assertStrictEquals(sender.lastFailure, error);
});

Deno.test("send() waits longer and longer, at random, and no longer than maxDelay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  const { random } = Math;
  Math.random = () => 0.5;
  try {
    await using server = new FaultyServer(Array(9).fill(respond(503)));
    await deliver(server.url, { onRetry });
    assertEquals(server.requests.length, 10);
    // Half of 500 ms, doubled each time, at most 30 s.
    assertEquals(
      delays,
      [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000],
    );
    assertEquals(Date.now(), 60_750);
  } finally {
    Math.random = random;
  }
});

Deno.test("send() gives up when maxElapsed would pass, and says how often it tried", async () => {
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

Deno.test("maxElapsed ends the attempts even without a delay between them", async () => {
  using time = fakeTime();
  let attempts = 0;
  const failing = () => {
    attempts++;
    time.setSystemTime(attempts);
    return Promise.resolve(new Response(null, { status: 503 }));
  };
  const sent = assertRejects(() =>
    deliver(URL_OF_NOBODY, {
      fetch: failing,
      retry: { initialDelay: 0, maxElapsed: 1_500 },
      onRetry: () => setImmediate(() => time.tick(0)),
    }), SendError);
  await sent;
  assertEquals(attempts, 1_500);
});

Deno.test("maxElapsed: 0 is one attempt", async () => {
  await using server = new FaultyServer([], respond(503));
  const error = await assertRejects(
    () => deliver(server.url, { retry: { maxElapsed: 0 } }),
    SendError,
  );
  assertEquals(error.attempts, 1);
  assertEquals(server.requests.length, 1);
});

Deno.test("shouldRetry overrides, both ways", async () => {
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

// -- Retry-After --

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
  Deno.test(`Retry-After: "${value}" asks for ${retryAfter} ms, and gets no less`, async () => {
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

Deno.test("Retry-After without a time zone is in GMT, wherever the client is", async () => {
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

Deno.test("Retry-After does not pass a ms too early", async () => {
  using time = fakeTime();
  const headers = { "retry-after": "2" };
  const replies = [new Response(null, { status: 503, headers })];
  let attempts = 0;
  const sent = deliver(URL_OF_NOBODY, {
    fetch: () => {
      attempts++;
      return Promise.resolve(replies.shift() ?? new Response());
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

Deno.test("Retry-After is only a minimum", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  const { random } = Math;
  Math.random = () => 0.5;
  try {
    await using server = new FaultyServer([
      respond(503, { "retry-after": "0" }),
      respond(503, { "retry-after": "1" }),
    ]);
    await deliver(server.url, { onRetry, retry: { initialDelay: 4_000 } });
    assertEquals(delays, [2_000, 4_000]);
  } finally {
    Math.random = random;
  }
});

Deno.test("maxElapsed is 120 seconds by default", async () => {
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

for (const [delay, attempts] of [[119_999, 2], [120_000, 1]] as const) {
  Deno.test(`a retry after ${delay} ms: ${attempts} attempts in 120 seconds`, async () => {
    using time = fakeTime();
    const { onRetry } = skipDelays(time);
    const { random } = Math;
    Math.random = () => 0.5;
    try {
      await using server = new FaultyServer([], respond(503));
      const retry = { initialDelay: 2 * delay, maxDelay: 2 * delay };
      const error = await assertRejects(
        () => deliver(server.url, { onRetry, retry }),
        SendError,
      );
      assertEquals(error.attempts, attempts);
    } finally {
      Math.random = random;
    }
  });
}

Deno.test("an attempt that begins when maxElapsed has passed has a ms", async () => {
  using time = fakeTime();
  const answers = [Promise.resolve(new Response(null, { status: 503 }))];
  await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        retry: { initialDelay: 0, maxElapsed: 1_000 },
        onRetry: () => {
          // The delay took longer than it should, as on a machine that slept.
          time.setSystemTime(2_000);
          setImmediate(() => time.tick(0));
        },
        fetch: () => {
          setImmediate(() => time.tick(1));
          return answers.shift() ?? new Promise(() => {});
        },
      }),
    SendError,
    "(attempt 2): it took longer than 1 ms",
  );
});

for (
  const value of [
    "31536000",
    "99999999999999999999",
    "Thu, 31 Dec 2099 23:59:59 GMT",
  ]
) {
  Deno.test(`Retry-After: "${value}" is past the budget and fails at once`, async () => {
    await using server = new FaultyServer([
      respond(429, { "retry-after": value }),
    ]);
    await using out = streamTo(server.url);
    await out.write("kept");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    assert(cause.retryAfter! > 120_000);
    assertEquals(server.requests.length, 1);
    await out.close();
    assertEquals(server.bodies, ["kept", "kept"]);
  });
}

// -- Once each --

Deno.test("a warm connection that dies after the request was read: one request an attempt", async () => {
  await using server = new FaultyServer([respond(200), close, close]);
  await using out = streamTo(server.url, { capacity: 4, retry: FAST });
  await out.write("warm");
  await out.flush();
  let retries = 0;
  await using other = streamTo(server.url, {
    capacity: 4,
    retry: FAST,
    onRetry: () => retries++,
  });
  await other.write("once");
  await other.flush();
  assertEquals(retries, 2);
  // Deno itself would repeat a body that is an array or a string.
  assertEquals(server.bodies, ["warm", "once", "once", "once"]);
});

Deno.test("idle connections that the server closes cost nothing", async () => {
  await using server = new FaultyServer([], respondAndClose(200));
  await using out = streamTo(server.url, { capacity: 4, retry: FAST });
  for (let i = 0; i < 5; i++) {
    await out.write(`no ${i}`);
    await out.flush();
  }
  assertEquals(new Set(server.bodies).size, 5);
  assertEquals(out.stats.failures, 0);
});

// -- Redirects --

for (const status of [301, 302, 303, 307, 308]) {
  Deno.test(`send() does not follow a ${status}`, async () => {
    await using target = new FaultyServer();
    await using server = new FaultyServer([
      respond(status, { location: target.url }),
    ]);
    await using out = streamTo(server.url, {
      headers: { Authorization: "Bearer abc" },
    });
    await out.write("kept");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    assertEquals(cause.status, status);
    assertStringIncludes(cause.message, "redirects are not followed");
    assertEquals(target.connections, 0);
    await out.close();
    assertEquals(server.bodies, ["kept", "kept"]);
  });
}

// -- Replies --

const REPLIES: Record<string, Behaviour> = {
  "that stalls": async ({ receive, write, closed }) => {
    await receive();
    await write(head(200, { "content-length": "100" }) + "some");
    await closed();
  },
  "that never ends": async ({ receive, write }) => {
    await receive();
    await write(head(200, { "transfer-encoding": "chunked" }));
    const chunk = `1000\r\n${"x".repeat(0x1000)}\r\n`;
    for (;;) await write(chunk);
  },
  "of 10 MB": respond(200, {}, "x".repeat(10_000_000)),
  "that is cut short": async ({ receive, write, close }) => {
    await receive();
    await write(head(200, { "content-length": "100" }) + "some");
    close();
  },
  "that is empty": respond(204),
  "after a 103": async (exchange) => {
    await exchange.write(head(103, { link: "</a>" }));
    await respond(200)(exchange);
  },
};

for (const [title, behaviour] of Object.entries(REPLIES)) {
  Deno.test(`a 2xx with a reply ${title} is one delivery`, async () => {
    await using server = new FaultyServer([behaviour]);
    const timeout = title === "that stalls" ? 1_000 : 30_000;
    await using out = streamTo(server.url, { timeout, retry: FAST });
    await out.write("once");
    await out.flush();
    assertEquals(server.bodies, ["once"]);
    await out.write("more");
    await out.close();
    assertEquals(server.bodies, ["once", "more"]);
  });
}

Deno.test("a 2xx with a reply that stalls is given up after 5 seconds", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([REPLIES["that stalls"]!]);
  const settled = Promise.withResolvers<void>();
  const sent = deliver(server.url, {
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      setImmediate(settled.resolve);
      return response;
    },
  });
  await settled.promise;
  let given = false;
  void sent.then(() => given = true);
  await time.tickAsync(4_999);
  assertEquals(given, false);
  await time.tickAsync(1);
  await sent;
  assertEquals(time.countTimers(), 0);
});

Deno.test("short replies are read, so that one connection serves all flushes", async () => {
  await using server = new FaultyServer([], respond(200, {}, "x".repeat(9999)));
  await using out = streamTo(server.url, { capacity: 4 });
  for (let i = 0; i < 20; i++) await out.write("abcd");
  await out.close();
  assertEquals(server.requests.length, 20);
  assertEquals(server.connections, 1);
});

for (
  const [title, behaviour] of Object.entries<Behaviour>({
    "no answer": never,
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
    "headers without end": async ({ receive, write, close }) => {
      await receive();
      await write("HTTP/1.1 200 OK\r\n");
      for (let i = 0; i < 5_000; i++) {
        await write(`x-${i}: ${"y".repeat(99)}\r\n`);
      }
      close();
    },
  })
) {
  Deno.test(`${title} is a failed attempt, and is followed by another`, async () => {
    await using server = new FaultyServer([behaviour]);
    const failures: SendError[] = [];
    await deliver(server.url, {
      timeout: title === "no answer" ? 1_000 : 30_000,
      retry: FAST,
      onRetry: (failure) => failures.push(failure),
    });
    assertEquals(failures.length, 1);
    assertEquals(failures[0]!.status, undefined);
    assertInstanceOf(failures[0]!.cause, Error);
    assertEquals(server.bodies, ["0123456789", "0123456789"]);
  });
}

Deno.test("timeout is told as a TimeoutError", async () => {
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

Deno.test("timeout does not pass a ms too early", async () => {
  using time = fakeTime();
  let failed = false;
  const sent = assertRejects(() =>
    deliver(URL_OF_NOBODY, {
      fetch: () => new Promise(() => {}),
      retry: { maxElapsed: 0 },
    }).finally(() => failed = true)
  );
  await time.tickAsync(29_999);
  assertEquals(failed, false);
  await time.tickAsync(1);
  await sent;
});

Deno.test("an attempt may not take longer than what is left of maxElapsed", async () => {
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

Deno.test("a later attempt has only what is left of maxElapsed", async () => {
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
    "it took longer than 4000 ms",
  );
  assertEquals(delays, [6_000]);
});

Deno.test("a reply without end is cut by its size, not only by time", async () => {
  using _time = fakeTime();
  const cut = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    try {
      await REPLIES["that never ends"]!(exchange);
    } finally {
      cut.resolve();
    }
  }]);
  await deliver(server.url, {});
  // Its connection is closed, or the server would go on.
  await cut.promise;
  assertEquals(server.requests.length, 1);
});

Deno.test("a reply is read up to 64 KiB, and what is longer is cancelled", async () => {
  const sizes = [64 * 1024 - 1, 1, 1];
  let cancels = 0;
  const body = new ReadableStream({
    pull: (controller) => controller.enqueue(new Uint8Array(sizes.shift()!)),
    cancel: () => void cancels++,
  }, { highWaterMark: 0 });
  const fetch = () => Promise.resolve(new Response(body));
  await deliver(URL_OF_NOBODY, { fetch });
  assertEquals(sizes, [1]);
  assertEquals(cancels, 1);
});

for (
  const [title, cancel] of [
    ["cannot be cancelled", () => Promise.reject(new Error("no"))],
    ["hangs when it is cancelled", () => new Promise<void>(() => {})],
  ] as const
) {
  Deno.test(`a reply that ${title} is no failure`, async () => {
    const body = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(100_000)),
      cancel,
    });
    const fetch = () => Promise.resolve(new Response(body));
    await deliver(URL_OF_NOBODY, { fetch });
  });
}

for (
  const reply of [
    "no application/octet-stream here",
    "no deflate here",
    'no "stream-1-0" here',
    "no value of 5 characters: short",
  ]
) {
  Deno.test(`an error repeats what is no secret: ${reply}`, async () => {
    await using server = new FaultyServer([respond(415, {}, reply)]);
    const options = {
      compression: "deflate",
      idempotencyKey: "stream-1",
      headers: { "X-A": "short", "X-B": "secret|e" },
    } as const;
    const error = await assertRejects(
      () => deliver(server.url, options),
      SendError,
    );
    assertEquals(error.excerpt, reply);
  });
}

Deno.test("an error shows a reply that comes in pieces, cut within a character", async () => {
  const bytes = new TextEncoder().encode("no €, thanks");
  const body = ReadableStream.from(Array.from(bytes, (byte) => [byte]))
    .pipeThrough(
      new TransformStream<number[], Uint8Array<ArrayBuffer>>({
        transform: (chunk, stream) => stream.enqueue(new Uint8Array(chunk)),
      }),
    );
  const fetch = () => Promise.resolve(new Response(body, { status: 400 }));
  const error = await assertRejects(
    () => deliver(URL_OF_NOBODY, { fetch }),
    SendError,
  );
  assertEquals(error.excerpt, "no €, thanks");
});

Deno.test("an error shows the beginning of the reply, on one line", async () => {
  const reply = `\x1b[31mtoo\r\n\tbad\x9b ${"x".repeat(1000)}`;
  await using server = new FaultyServer([async ({ receive, write }) => {
    await receive();
    const body = new TextEncoder().encode(reply);
    await write(head(400, { "content-length": `${body.length}` }));
    await write(body);
  }]);
  const error = await assertRejects(() => deliver(server.url, {}), SendError);
  assertEquals(error.excerpt.length, 200);
  assertMatch(error.excerpt, /^\[31mtoo bad x+$/);
  assertStringIncludes(error.message, `responded with 400: "[31mtoo bad xxx`);
});

Deno.test("a small reply that becomes a large one when decompressed is cut", async () => {
  const bomb = gzipSync(new Uint8Array(50_000_000));
  await using server = new FaultyServer([async ({ receive, write, closed }) => {
    await receive();
    const length = `${bomb.length}`;
    const headers = { "content-encoding": "gzip", "content-length": length };
    await write(head(400, headers));
    await write(bomb);
    await closed();
  }]);
  let size = 0;
  const counter = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      size += chunk.length;
      controller.enqueue(chunk);
    },
  });
  await assertRejects(
    () =>
      deliver(server.url, {
        fetch: async (input, init) => {
          const reply = await fetch(input, init);
          return new Response(reply.body!.pipeThrough(counter), reply);
        },
      }),
    SendError,
    "responded with 400",
  );
  assert(size >= 64 * 1024 && size < 1_000_000, `${size} bytes were read`);
});

// -- Headers --

Deno.test("a header function is called for each attempt and told why", async () => {
  await using server = new FaultyServer([respond(503), close]);
  const attempts: Omit<SendAttempt, "signal">[] = [];
  await deliver(server.url, {
    retry: FAST,
    headers: ({ signal, ...attempt }) => {
      assert(!signal.aborted);
      attempts.push(attempt);
      return { "X-Attempt": `${attempt.attempt}` };
    },
  });
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-attempt")),
    ["1", "2", "3"],
  );
  assertEquals(
    attempts.map(({ failure, ...rest }) => [rest, failure?.status]),
    [1, 2, 3].map((attempt) => [
      { sequence: 0, offset: 0, attempt },
      attempt === 2 ? 503 : undefined,
    ]),
  );
  assertEquals(attempts.map(({ failure }) => failure?.attempts), [
    undefined,
    1,
    2,
  ]);
});

for (const status of [401, 403]) {
  Deno.test(`a ${status} is tried once more, at once, with fresh headers`, async () => {
    using time = fakeTime();
    const { delays, onRetry } = skipDelays(time);
    await using server = new FaultyServer([], async (exchange) => {
      const token = exchange.request.headers.get("authorization");
      await respond(token === "Bearer fresh" ? 200 : status)(exchange);
    });
    let refreshes = 0;
    await using out = streamTo(server.url, {
      onRetry,
      flushInterval: 0,
      headers: async ({ failure }) => {
        await Promise.resolve();
        if (failure?.status === status) refreshes++;
        return { Authorization: refreshes > 0 ? "Bearer fresh" : "Bearer old" };
      },
    });
    await out.write("abcd");
    await out.flush();
    assertEquals(server.bodies, ["abcd", "abcd"]);
    assertEquals(delays, [0]);
    assertEquals(refreshes, 1);

    refreshes = -10;
    await out.write("efgh");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertEquals((cause as SendError).attempts, 2);
    assertEquals(server.requests.length, 4);
    await out.abort();
  });
}

Deno.test("a header function is no reason to try another failure again", async () => {
  await using server = new FaultyServer([], respond(400));
  const error = await assertRejects(
    () => deliver(server.url, { headers: () => ({}) }),
    SendError,
  );
  assertEquals(error.attempts, 1);
});

Deno.test("a 401 is tried once more a flush, whatever comes between", async () => {
  await using server = new FaultyServer(
    [respond(401), respond(503)],
    respond(401),
  );
  const error = await assertRejects(
    () => deliver(server.url, { retry: FAST, headers: () => ({}) }),
    SendError,
  );
  assertEquals([error.status, error.attempts], [401, 3]);
});

Deno.test("a 403 that asks to wait is not repeated before", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([respond(403, { "retry-after": "1" })]);
  await deliver(server.url, { onRetry, headers: () => ({}) });
  assertEquals(delays, [1_000]);
});

Deno.test("a header function that fails, hangs or returns nonsense is a failed send", async () => {
  await using server = new FaultyServer();
  const bug = new RangeError("no token");
  const error = await assertRejects(
    () => deliver(server.url, { headers: () => Promise.reject(bug) }),
    SendError,
    "(attempt 1): could not get the headers: no token",
  );
  // Where it comes from is of use, and shows no secret.
  assertInstanceOf(error.cause, Error);
  assertEquals(error.cause.name, "RangeError");
  assertEquals(error.cause.stack, bug.stack);
  const hung = await assertRejects(
    () =>
      deliver(server.url, { headers: () => new Promise(() => {}), timeout: 1 }),
    SendError,
  );
  assertEquals((hung.cause as Error).name, "TimeoutError");
  const nonsense = await assertRejects(
    () => deliver(server.url, { headers: () => ({ a: "sec\nret" }) }),
    SendError,
    "names and values that HTTP allows",
  );
  assert(!printed(nonsense).includes("sec\nret"));
  assertEquals(server.requests.length, 0);
});

// -- Compression --

for (
  const [compression, coding] of [
    ["gzip", "gzip"],
    ["deflate", "deflate"],
    ["brotli", "br"],
  ] as const
) {
  Deno.test(`compression: "${compression}" is undone to the same bytes, and done once`, async () => {
    await using server = new FaultyServer([respond(503), close]);
    const { CompressionStream } = globalThis;
    let made = 0;
    globalThis.CompressionStream = class extends CompressionStream {
      constructor(format: CompressionFormat) {
        super(format);
        made++;
      }
    };
    const text = "the same line again\n".repeat(1000);
    try {
      await using out = streamTo(server.url, { compression, retry: FAST });
      await out.write(text);
    } finally {
      globalThis.CompressionStream = CompressionStream;
    }
    assertEquals(made, 1);
    assertEquals(server.requests.length, 3);
    for (const { headers, body } of server.requests) {
      assertEquals(headers.get("content-encoding"), coding);
      assert(body.length < 1000);
      const stream = new Blob([body]).stream()
        .pipeThrough(new DecompressionStream(compression));
      assertEquals(await toText(stream), text);
    }
  });
}

// -- Permission --

Deno.test({
  name:
    "a missing --allow-net fails at once, with the permission error as cause",
  permissions: { net: false },
  fn: async () => {
    const out = streamTo(URL_OF_NOBODY.replace(":9", ":8099"));
    await out.write("kept");
    const { cause, message } = await assertRejects(
      () => out.close(),
      FlushError,
    );
    assertInstanceOf(cause, SendError);
    assertEquals(cause.attempts, 1);
    assertInstanceOf(cause.cause, Deno.errors.NotCapable);
    assertStringIncludes(message, "--allow-net");
    assertEquals(out.takeUnsent().length, 4);
  },
});

Deno.test({
  name: "a host that no permission can name fails as any other",
  permissions: { net: ["127.0.0.1"] },
  fn: async () => {
    const out = streamTo("http://a;b/", { retry: { maxElapsed: 0 } });
    await out.write("kept");
    const { cause } = await assertRejects(() => out.close(), FlushError);
    assertInstanceOf(cause, SendError);
    assertStringIncludes(cause.message, "Cannot POST 4 bytes to http://a;b/");
  },
});

Deno.test("a client that is closed fails at once, and the error says so", async () => {
  const client = Deno.createHttpClient({});
  client.close();
  await assertRejects(
    () =>
      deliver(`http://127.0.0.1:${freePort()}/`, {
        client,
        retry: { maxElapsed: 1_000 },
        // Deno never lets go of a body that it cannot send.
        fetch: (request, init) => fetch((request as Request).url, init),
      }),
    SendError,
    "(attempt 1): Bad resource ID; is the `client` closed?",
  );
});

// -- Abort --

for (
  const [title, behaviour] of [
    ["the answer", never],
    ["the reply", REPLIES["that stalls"]!],
  ] as const
) {
  Deno.test(`abort() while waiting for ${title} ends the request`, async () => {
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

Deno.test("send() makes no request for a stream that has ended", async () => {
  await using server = new FaultyServer();
  const reason = new Error("enough");
  const sender = new FetchSender(server.url);
  const sent = sender.send(BYTES, context(0, AbortSignal.abort(reason)));
  assertStrictEquals(await assertRejects(() => sent), reason);
  assertEquals(server.connections, 0);
});

Deno.test("abort() during the delay before a retry leaves no timer and sends no more", async () => {
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
  Deno.test(`abort() from within ${how} ends the flush with the reason`, async () => {
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

Deno.test("close() during a long backoff ends by closeTimeout and accounts for every byte", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([respond(200)], respond(503));
  const retried = Promise.withResolvers<void>();
  const out = streamTo(server.url, {
    capacity: 4,
    closeTimeout: 2_000,
    retry: { initialDelay: 100_000, maxDelay: 100_000, maxElapsed: 1_000_000 },
    onRetry: () => retried.resolve(),
  });
  const { random } = Math;
  Math.random = () => 0.5;
  try {
    await out.write("abcd");
    await out.flush();
    await out.write("efgh");
    await out.write("ij");
    await retried.promise;
    const close = assertRejects(
      () => out.close(),
      FlushError,
      "closeTimeout of 2000 ms has passed: Cannot POST 4 bytes to",
    );
    await time.tickAsync(2_000);
    const error = await close;
    assertStringIncludes(error.message, "the server responded with 503");
    assertEquals(error.unsentBytes, 6);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), "efghij");
    assertEquals(server.requests.length, 2);
    assertEquals(time.countTimers(), 0);
  } finally {
    Math.random = random;
  }
});

Deno.test("send() leaves no listener on the stream's signal", async () => {
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

Deno.test("the signal of an attempt has the stream's reason", async () => {
  const controller = new AbortController();
  const reason = new Error("enough");
  const signals: AbortSignal[] = [];
  const sender = new FetchSender(URL_OF_NOBODY, {
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

// -- Secrets --

Deno.test("no header value and no query shows in any error", async () => {
  const port = freePort();
  await using server = new FaultyServer([], async (exchange) => {
    // A server that repeats what it was sent.
    const { path, headers } = exchange.request;
    const echo = `${path}\n${headers.get("authorization")} ${
      headers.get("x-api-key")
    }`;
    if (path.includes("close")) return await close(exchange);
    await respond(400, { "x-echo": "hunter2" }, echo)(exchange);
  });
  for (
    const url of [
      `${server.url}?token=hunter2&x=1`,
      `${server.url}/close?token=hunter2`,
      `http://127.0.0.1:${port}/?token=hunter2`,
      "http://nobody.invalid/?a=hunter2",
    ]
  ) {
    for (const asFunction of [false, true]) {
      const headers = {
        Authorization: "Bearer hunter2",
        "X-Api-Key": "hunter2-key",
      };
      const failures: unknown[] = [];
      const out = streamTo(url, {
        headers: asFunction ? () => headers : headers,
        retry: { ...FAST, maxElapsed: 20 },
        onRetry: (failure) => failures.push(failure),
      });
      await out.write("kept");
      failures.push(await assertRejects(() => out.close(), FlushError));
      for (const failure of failures) {
        const text = printed(failure);
        assert(!text.includes("hunter2"), text);
        assertStringIncludes(text, new URL(url).host);
      }
      assert(!printed(out).includes("hunter2"), printed(out));
    }
  }
});

for (
  const [title, query, headers, echo] of [
    [
      "a part of another",
      "v=in2024",
      { "x-a": "in2024SECRET" },
      "in2024SECRET",
    ],
    ["signs that patterns use", "", { "x-a": "(SECRET+$1*" }, "(SECRET+$1*"],
    [
      "all the signs that patterns use",
      "",
      { "x-a": "^$.*+?()[a]b{2}|\\SECRET" },
      "^$.*+?()[a]b{2}|\\SECRET",
    ],
    ["a secret, twice", "", { "x-a": "mySECRET" }, "mySECRET, mySECRET"],
    ["a value of short words", "", { "x-a": "S E C R E T" }, "S E C R E T"],
    ["a query value as it was sent", "t=ab%2FSECRET&b=1", {}, "ab%2FSECRET"],
    ["a query value decoded", "t=ab%2FSECRET&b=1", {}, "ab/SECRET"],
    ["a query without a name", "SECRET&b=1", {}, "SECRET"],
    [
      "a token without its scheme",
      "",
      { authorization: "Bearer SECRET" },
      "token SECRET",
    ],
    ["a password without its user", "", { "x-a": "me:SECRET" }, "SECRET"],
    ["one of several cookies", "", { cookie: "a=1; id=SECRET; b=2" }, "SECRET"],
    ["a piece in other case", "", { "x-keys": "k1,mySecret" }, "MYSECRET"],
    ["the beginning of one", "", { "x-a": "MySECRETSECRET" }, "MySECRET..."],
    [
      "a piece between other signs",
      "",
      { "x-a": 'v1."MySECRET"' },
      "MySECRET/",
    ],
    ["one on two lines", "", { "x-a": "my own SECRET" }, "my\n own\tSECRET"],
  ] as const
) {
  Deno.test(`no error repeats a server's echo of ${title}`, async () => {
    await using server = new FaultyServer([respond(400, {}, `bad: ${echo}!`)]);
    const error = await assertRejects(
      () => deliver(`${server.url}?${query}`, { headers: { ...headers } }),
      SendError,
    );
    const text = printed(error).toUpperCase().replaceAll(" ", "");
    assert(!text.includes("SECRET"), error.message);
    assertMatch(error.excerpt, /^bad: .*!$/);
  });
}

Deno.test("no error repeats the beginning of a secret that its excerpt would cut", async () => {
  const before = "x".repeat(194);
  await using server = new FaultyServer([respond(400, {}, `${before}hunter2`)]);
  const error = await assertRejects(
    () => deliver(server.url, { headers: { authorization: "Bearer hunter2" } }),
    SendError,
  );
  assertEquals(error.excerpt, `${before}***`);
});

Deno.test("no error repeats the token of an attempt before", async () => {
  await using server = new FaultyServer(
    [respond(401)],
    respond(400, {}, "old-token"),
  );
  const error = await assertRejects(
    () =>
      deliver(server.url, {
        headers: ({ failure }) => ({
          Authorization: failure ? "new-token" : "old-token",
        }),
      }),
    SendError,
  );
  assertEquals(error.excerpt, "***");
});

Deno.test("a header function that fails cannot show a token in its stack", async () => {
  const bug = new Error("no token");
  bug.stack = "Error: no token\n    at f (https://a/b.ts?key=hunter2:1:1)";
  const error = await assertRejects(
    () => deliver(URL_OF_NOBODY, { headers: () => Promise.reject(bug) }),
    SendError,
  );
  assertStringIncludes(printed(error), "at f (https://a/b.ts)");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("a header function that fails cannot show where it asks for a token", async () => {
  const url = "https://auth.invalid/token?client_secret=hunter2";
  const error = await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        headers: async () => (await fetch(url)).headers,
      }),
    SendError,
    "could not get the headers",
  );
  assertStringIncludes(error.message, "https://auth.invalid/token");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("what fetch throws is shown with its cause, but no secret", async () => {
  const why = new Error(
    "of Bearer hunter2, see http://a/b?q=1#c (d) or http://e/f#g, http://h ok? yes",
  );
  const error = await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        headers: { Authorization: "Bearer hunter2" },
        retry: { maxElapsed: 0 },
        fetch: () => Promise.reject(new RangeError("failed", { cause: why })),
      }),
    SendError,
    "(attempt 1): failed: of ***, see http://a/b (d) or http://e/f http://h ok? yes",
  );
  assertInstanceOf(error.cause, Error);
  assertEquals(error.cause.name, "RangeError");
  assertEquals(
    error.cause.message,
    "failed: of ***, see http://a/b (d) or http://e/f http://h ok? yes",
  );
  assert(!printed(error).includes("hunter2"));
});

for (
  const [title, cause, message] of [
    ["nothing", null, "failed: null"],
    ["a text", "no", 'failed: "no"'],
    [
      "one after another",
      new Error("b", { cause: new Error("c", { cause: undefined }) }),
      "failed: b: c",
    ],
    ["itself", undefined, "failed: failed: failed: failed: failed"],
  ] as const
) {
  Deno.test(`what fetch throws may be caused by ${title}`, async () => {
    const thrown: Error = new Error("failed", { cause });
    if (cause === undefined) thrown.cause = thrown;
    const error = await assertRejects(
      () =>
        deliver(URL_OF_NOBODY, {
          retry: { maxElapsed: 0 },
          fetch: () => Promise.reject(thrown),
        }),
      SendError,
    );
    assertEquals((error.cause as Error).message, message);
  });
}

Deno.test("a query with a parenthesis does not show in what fetch throws", async () => {
  const port = freePort();
  const error = await assertRejects(
    () =>
      deliver(`http://127.0.0.1:${port}/?t=(some)hunter2`, {
        retry: { maxElapsed: 0 },
      }),
    SendError,
  );
  assertStringIncludes(error.message, `http://127.0.0.1:${port}/`);
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("a redirect that a browser hides behind status 0 is told as one", async () => {
  await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        fetch: () => Promise.resolve(Response.error()),
      }),
    SendError,
    "redirects are not followed",
  );
});
