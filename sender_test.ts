import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { toText } from "@std/streams";
import { FlushError, StreamBuffer } from "./buffer.ts";
import { type FetchSenderOptions, SendError } from "./sender.ts";
import { close, FaultyServer, respond } from "./testing/faulty_server.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
} from "./testing/sending.ts";
import { FetchSender, streamTo, test } from "./testing/transports.ts";

// -- Options --

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
    [{ keepalive: 1 }, TypeError, "keepalive must be true or false"],
    [
      { keepalive: true, compression: "gzip" },
      TypeError,
      "keepalive excludes compression",
    ],
    [{ retry: 5 }, TypeError, "retry must be an object, received 5"],
    [{ retry: null }, TypeError, "retry must be an object, received null"],
    [{ client: 5 }, TypeError, "client must be an object, received 5"],
    [5, TypeError, "options must be an object, received 5"],
  ] as const
) {
  Deno.test(`FetchSender() rejects ${Deno.inspect(options)}`, () => {
    assertThrows(
      () => new FetchSender(NO_SERVER_URL, options as FetchSenderOptions),
      errorClass as typeof Error,
      message,
    );
  });
}

Deno.test("streamTo() checks the options of both", () => {
  assertThrows(() => streamTo(NO_SERVER_URL, { capacity: 0 }), RangeError);
  assertThrows(() => streamTo(NO_SERVER_URL, { timeout: 0 }), RangeError);
});

Deno.test("streamTo() needs no crypto.randomUUID, which http: pages lack", async () => {
  await using server = new FaultyServer();
  Object.defineProperty(crypto, "randomUUID", {
    value: undefined,
    configurable: true,
  });
  try {
    await using out = streamTo(server.url);
    await out.write("data");
  } finally {
    Reflect.deleteProperty(crypto, "randomUUID");
  }
  assertEquals(server.bodies, ["data"]);
});

for (
  const [title, platform] of [
    [
      "lacks the format",
      class extends CompressionStream {
        constructor(format: CompressionFormat) {
          if (format as string === "brotli") throw new TypeError("unsupported");
          super(format);
        }
      },
    ],
    ["has no CompressionStream", undefined],
  ] as const
) {
  Deno.test(`FetchSender() rejects a compression on a platform that ${title}`, () => {
    const { CompressionStream } = globalThis;
    globalThis.CompressionStream = platform as typeof CompressionStream;
    try {
      assertThrows(
        () => new FetchSender(NO_SERVER_URL, { compression: "brotli" }),
        TypeError,
        'Cannot create FetchSender: compression must be a format that this platform supports, received "brotli"',
      );
      new FetchSender(NO_SERVER_URL);
      if (platform) new FetchSender(NO_SERVER_URL, { compression: "gzip" });
    } finally {
      globalThis.CompressionStream = CompressionStream;
    }
  });
}

// -- A delivery --

test("streamTo() delivers everything, in order, in one request per batch", async () => {
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

Deno.test("send() uses the given method, headers, query and client", async () => {
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

for (
  const [title, code, script] of [
    ["that ends without close()", 0, "void streamTo(url).write('sent');"],
    [
      "that throws in an await using block",
      1,
      "await using out = streamTo(url); void out.write('sent'); throw 1;",
    ],
  ] as const
) {
  Deno.test(`a script ${title} sends what it wrote`, async () => {
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

test("Idempotency-Key names stream and batch, and is the same for each attempt", async () => {
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

test("Idempotency-Key differs between streams", async () => {
  await using server = new FaultyServer();
  for (let i = 0; i < 2; i++) await deliver(server.url, {});
  assertEquals(new Set(server.keys).size, 2);
});

test("Idempotency-Key is the same when a failed batch is resent", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using out = streamTo(server.url, { idempotencyKey: "mine" });
  await out.write("abcd");
  await assertRejects(() => out.flush(), FlushError);
  await out.flush();
  assertEquals(server.keys, ['"mine-0"', '"mine-0"']);
});

test("idempotencyKey may contain all of printable ASCII except two characters", async () => {
  await using server = new FaultyServer();
  const codes = Array.from({ length: 0x7f - 0x20 }, (_, i) => 0x20 + i);
  const idempotencyKey = String.fromCharCode(...codes).replace(/["\\]/g, "");
  await deliver(server.url, { idempotencyKey });
  assertEquals(server.keys, [`"${idempotencyKey}-0"`]);
});

test("idempotencyKey: false sends no key, or the one given in headers", async () => {
  await using server = new FaultyServer();
  await deliver(server.url, { idempotencyKey: false });
  await deliver(server.url, {
    idempotencyKey: false,
    headers: ({ sequence }) => ({ "Idempotency-Key": `own ${sequence}` }),
  });
  assertEquals(server.keys, [null, "own 0"]);
});

test("send() rejects a second stream, which would repeat the keys of the first", async () => {
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

test("send() accepts bytes with a key of their own from anyone, and they change nothing", async () => {
  await using server = new FaultyServer(
    [respond(200), respond(200)],
    respond(400),
  );
  const sender = new FetchSender(server.url, { idempotencyKey: "a" });
  await sender.send(BYTES, context(0));
  await sender.send(BYTES, { ...context(0), key: "a-0/0-5" });
  const { key } = await assertRejects(
    () => sender.send(BYTES, { ...context(0), key: "a-0/5-10" }),
    SendError,
  );
  assertEquals(key, "a-0/5-10");
  assertEquals(server.keys, ['"a-0"', '"a-0/0-5"', '"a-0/5-10"']);
  await assertRejects(
    () => sender.send(BYTES, context(0)),
    TypeError,
    "serves another StreamBuffer",
  );
});

for (const key of ['a"b', "a\\b", "a\nb", "é", ""]) {
  Deno.test(`send() rejects the key ${JSON.stringify(key)}`, async () => {
    const sender = new FetchSender("http://localhost/");
    await assertRejects(
      () => sender.send(BYTES, { ...context(0), key }),
      RangeError,
      'Cannot send: key must be printable ASCII without " and \\, received',
    );
  });
}

Deno.test("ended tells whether the sender is closed", async () => {
  const closed = new FetchSender("http://localhost/");
  assertEquals(closed.ended, false);
  closed.close();
  assertEquals(closed.ended, true);
  await assertRejects(
    () => closed.send(BYTES, { ...context(0), key: "a" }),
    TypeError,
    "is closed",
  );
  const aborted = new FetchSender("http://localhost/");
  aborted.abort();
  assertEquals(aborted.ended, true);
});

test("send() accepts a failed batch again, with any signal", async () => {
  await using server = new FaultyServer([respond(400)]);
  const sender = new FetchSender(server.url);
  await assertRejects(() => sender.send(BYTES, context(0)), SendError);
  await sender.send(BYTES, context(0));
  await sender.send(BYTES, context(1));
  assertEquals(server.keys[0], server.keys[1]);
  // A stream may repeat a batch, and is recognised by its signal.
  const same = context(2);
  for (let i = 0; i < 2; i++) await sender.send(BYTES, same);
  assertEquals(server.keys[3], server.keys[4]);
  // A failed batch does not make those before it acceptable again.
  await using other = new FaultyServer([respond(200), respond(400)]);
  const failing = new FetchSender(other.url);
  await failing.send(BYTES, context(0));
  await assertRejects(() => failing.send(BYTES, context(1)), SendError);
  await assertRejects(() => failing.send(BYTES, context(0)), TypeError);
  assertEquals(other.requests.length, 2);
});

test("send() rejects another stream after one that failed, whose keys it would repeat", async () => {
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

test("send() rejects once the sender is closed", async () => {
  const sender = new FetchSender(NO_SERVER_URL);
  {
    await using _ = sender;
  }
  await assertRejects(() => sender.send(BYTES, context()), TypeError, "closed");
});

// -- Compression --

for (
  const [compression, coding] of [
    ["gzip", "gzip"],
    ["deflate", "deflate"],
    ["brotli", "br"],
  ] as const
) {
  test(`compression: "${compression}" restores the same bytes, and runs once per batch`, async () => {
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
      made = 0; // one showed that the platform has the format
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
