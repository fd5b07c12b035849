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
import { equals } from "@std/bytes";
import { createHash } from "node:crypto";
import { FlushError, StreamBuffer } from "../buffer.ts";
import { checkCuts } from "../tools/cuts.ts";
import { isPending, stable } from "../testing/event_loop.ts";
import { CuttingProxy, NO_CUT } from "../testing/cutting_proxy.ts";
import { fakeTime, fixedRandom } from "../testing/fake_time.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  held,
  never,
  type RawRequest,
  respond,
} from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { skipDelays } from "../testing/sending.ts";
import { startTusServer } from "../testing/tus_server.ts";
import { type BatchContext, SendError, type TusSenderOptions } from "./tus.ts";
import { test, TusSender } from "../testing/transports.ts";

const FAST = { retry: { initialDelay: 1, maxDelay: 1, maxElapsed: 5_000 } };
const ONCE = { retry: { maxElapsed: 0 } };
const TEXT = "0123456789";
const BYTES = new TextEncoder().encode(TEXT);
const TUS = { "tus-resumable": "1.0.0" };
const ALL = "creation,creation-defer-length,checksum,termination";

/** Responds as a tus server. */
function tus(status: number, headers: Record<string, string> = {}): Behaviour {
  return respond(status, { ...TUS, ...headers });
}

/** Responds to OPTIONS with the version and the extensions. */
function offers(headers: Record<string, string> = {}): Behaviour {
  return tus(204, {
    "tus-version": "1.0.0",
    "tus-extension": "creation,creation-defer-length",
    ...headers,
  });
}

const CREATED = tus(201, { location: "/files/1" });

/** Responds with an offset, and perhaps with the length. */
function at(offset: number | string, length?: number | string): Behaviour {
  return tus(204, {
    "upload-offset": `${offset}`,
    ...length !== undefined && { "upload-length": `${length}` },
  });
}

/** Reads this many bytes of a body, and closes the connection. */
function cutAt(size: number): Behaviour {
  return async ({ read, close }) => {
    await read(size);
    close();
  };
}

/** Describes a request in one line. */
function line({ method, path, headers, body }: RawRequest): string {
  const offset = headers.get("upload-offset");
  const length = headers.get("upload-length");
  const text = new TextDecoder().decode(body);
  return `${method} ${path}` +
    (offset === null ? "" : ` @${offset}`) +
    (text && ` ${text}`) +
    (length === null ? "" : ` of ${length}`);
}

/** A server that offers tus, creates an upload and follows a script, and a sender. */
function setUp(script: Behaviour[], options: TusSenderOptions = FAST) {
  const server = new FaultyServer([offers(), CREATED, ...script], close);
  const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
    ...FAST,
    ...options,
  });
  return {
    server,
    sender,
    /** The requests after the first two. */
    lines: () => server.requests.slice(2).map(line),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
    },
  };
}

function context(
  offset = 0,
  signal = new AbortController().signal,
): BatchContext {
  return { sequence: offset, offset, signal };
}

// -- Options --

for (
  const [options, errorClass, message] of [
    [{ length: -1 }, RangeError, "length must be an integer from 0"],
    [{ length: 2 ** 53 }, RangeError, "received 9007199254740992"],
    [{ length: "8" }, TypeError, 'received "8"'],
    [{ checksum: "sha1" }, TypeError, "checksum must be true or false"],
    [{ terminate: 1 }, TypeError, "terminate must be true or false"],
    [{ timeout: 0 }, RangeError, "timeout must be an integer from 1"],
    [{ retry: 5 }, TypeError, "retry must be an object"],
    [{ headers: 5 }, TypeError, "must be an object"],
    [{ metadata: 5 }, TypeError, "metadata must be an object, received 5"],
    [
      { metadata: { "": "a" } },
      RangeError,
      'name in metadata must be printable ASCII without spaces and commas, received ""',
    ],
    [{ metadata: { "a b": "" } }, RangeError, 'received "a b"'],
    [{ metadata: { "a,b": "" } }, RangeError, 'received "a,b"'],
    [{ metadata: { "é": "" } }, RangeError, 'received "é"'],
    [{ metadata: { "a\n": "" } }, RangeError, "received"],
    [
      { metadata: { a: 5 } },
      TypeError,
      'metadata "a" must be a string or a Uint8Array, received 5',
    ],
    [5, TypeError, "options must be an object, received 5"],
  ] as const
) {
  Deno.test(`TusSender() rejects ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new TusSender("http://localhost/", options as never),
      errorClass as typeof Error,
      message,
    );
    assertMatch(error.message, /^Cannot (create TusSender|use headers): /);
  });
}

for (const url of ["nonsense", "ftp://a/?secret", "http://me:secret@a/"]) {
  Deno.test(`TusSender() and resume() reject the URL ${url} without showing its secrets`, async () => {
    for (
      const error of [
        assertThrows(() => new TusSender(url), TypeError),
        await assertRejects(() => TusSender.resume(url), TypeError),
      ]
    ) {
      assertMatch(error.message, /^Cannot create TusSender: url must /);
      assert(!error.message.includes("secret"));
    }
  });
}

/** Makes `crypto` what it is on a page served by `http:`, until disposed. */
function insecurePage(): Disposable {
  for (const name of ["randomUUID", "subtle"]) {
    Object.defineProperty(crypto, name, {
      value: undefined,
      configurable: true,
    });
  }
  return {
    [Symbol.dispose]() {
      for (const name of ["randomUUID", "subtle"]) {
        Reflect.deleteProperty(crypto, name);
      }
    },
  };
}

test("TusSender() without crypto.subtle sends no checksum", async () => {
  using _ = insecurePage();
  const offer = { "tus-extension": ALL, "tus-checksum-algorithm": "sha256" };
  await using server = new FaultyServer([offers(offer), CREATED, at(10)]);
  await new TusSender(server.url).send(BYTES, context());
  assertEquals(server.requests[2]!.headers.get("upload-checksum"), null);
  new TusSender(server.url, { checksum: false });
  assertThrows(
    () => new TusSender(server.url, { checksum: true }),
    TypeError,
    "Cannot create TusSender: checksum must be false here, as crypto.subtle is missing",
  );
});

// -- An upload --

test("an upload is created, each batch is one PATCH, and close() sets the length", async () => {
  await using given = setUp([at(4), at(8), at(10), at(10, 10)]);
  const { sender, server } = given;
  const out = new StreamBuffer(sender, { capacity: 4 });
  assertEquals([sender.url, sender.length, sender.offset], [
    undefined,
    undefined,
    0,
  ]);
  await out.write(TEXT);
  await out.close();
  assertEquals(server.requests.map(line), [
    "OPTIONS /files",
    "POST /files",
    "PATCH /files/1 @0 0123",
    "PATCH /files/1 @4 4567",
    "PATCH /files/1 @8 89",
    "PATCH /files/1 @10 of 10",
  ]);
  const [options, post, patch] = server.requests.map(({ headers }) => headers);
  assertEquals(options!.get("tus-resumable"), null);
  assertEquals(post!.get("tus-resumable"), "1.0.0");
  assertEquals(post!.get("upload-defer-length"), "1");
  assertEquals(post!.get("upload-metadata"), null);
  assertEquals(post!.get("content-length"), "0");
  assertEquals(patch!.get("tus-resumable"), "1.0.0");
  assertEquals(patch!.get("content-type"), "application/offset+octet-stream");
  assertEquals(patch!.get("content-length"), "4");
  assertEquals(patch!.get("upload-checksum"), null);
  assertEquals(sender.url, `http://127.0.0.1:${server.port}/files/1`);
  assertEquals([sender.length, sender.offset], [10, 10]);
  assertEquals(server.connections, 1);
});

test("an upload of known length needs no last request", async () => {
  await using given = setUp([at(8), at(10)], { length: 10 });
  const out = new StreamBuffer(given.sender, { capacity: 8 });
  await out.write(TEXT);
  await out.close();
  assertEquals(given.lines(), [
    "PATCH /files/1 @0 01234567",
    "PATCH /files/1 @8 89",
  ]);
  const { headers } = given.server.requests[1]!;
  assertEquals(headers.get("upload-length"), "10");
  assertEquals(headers.get("upload-defer-length"), null);
});

for (const options of [{}, { length: 0 }]) {
  test(`an upload of nothing is complete when it is created, with ${Deno.inspect(options)}`, async () => {
    await using given = setUp([], options);
    await new StreamBuffer(given.sender).close();
    assertEquals(given.server.requests.map(line), [
      "OPTIONS /files",
      "POST /files of 0",
    ]);
  });
}

test("create() creates the upload once, and close() sets its length to 0", async () => {
  await using given = setUp([at(0, 0)]);
  const { sender } = given;
  const [url, again] = await Promise.all([sender.create(), sender.create()]);
  assertEquals([url, again], [sender.url!, sender.url!]);
  await sender.close();
  assertEquals(given.server.requests.map(line), [
    "OPTIONS /files",
    "POST /files",
    "PATCH /files/1 @0 of 0",
  ]);
});

test("close() during create() completes the new upload", async () => {
  const { release, behaviour } = held(CREATED);
  await using server = new FaultyServer([offers(), behaviour, at(0, 0)]);
  const sender = new TusSender(server.url);
  const creating = sender.create();
  await server.received(2);
  const closing = sender.close();
  release();
  await Promise.all([creating, closing]);
  assertEquals(server.requests.map(line).slice(1), [
    "POST /ingest",
    "PATCH /files/1 @0 of 0",
  ]);
});

test("metadata is sent in base64, both text and bytes", async () => {
  await using given = setUp([], {
    metadata: {
      filename: "é€😀.txt",
      "is-empty": "",
      "!-+~": new Uint8Array([0, 255]),
    },
  });
  await given.sender.create();
  assertEquals(
    given.server.requests[1]!.headers.get("upload-metadata"),
    `filename ${
      btoa("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80.txt")
    },is-empty,!-+~ AP8=`,
  );
});

test("metadata is as given, and after resume() as the server has it", async () => {
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const textOf = ({ metadata }: TusSender) =>
    Object.entries(metadata).map(([name, value]) => `${name}=${text(value)}`);
  await using server = await startTusServer();
  const sender = new TusSender(server.url, {
    metadata: { filename: "é€😀.txt", "is-empty": "", "!-+~": BYTES },
  });
  const expected = ["filename=é€😀.txt", "is-empty=", `!-+~=${text(BYTES)}`];
  assertEquals(textOf(sender), expected);
  const url = await sender.create();
  assertEquals(textOf(sender), expected);
  assertEquals(textOf(await TusSender.resume(url)), expected);
});

test("metadata of resume() leaves out what cannot be decoded", async () => {
  for (
    const [value, names] of [
      ["", []],
      [" , ,", []],
      ["a !!!,b Yg==,__proto__ YQ==", ["b", "__proto__"]],
      ["constructor YQ== YQ==,a", ["constructor", "a"]],
    ] as const
  ) {
    const headers = { "upload-offset": "0", "upload-metadata": value };
    await using server = new FaultyServer([offers(), respond(200, headers)]);
    const { metadata } = await TusSender.resume(server.url);
    assertEquals(Object.keys(metadata), [...names]);
  }
  await using server = new FaultyServer([offers(), at(0)]);
  assertEquals((await TusSender.resume(server.url)).metadata, {});
});

test("the header function is called for each request", async () => {
  const calls: string[] = [];
  await using given = setUp([at(10), at(10, 10)], {
    headers: ({ sequence, offset, attempt }) => {
      calls.push(`${sequence} ${offset} ${attempt}`);
      return { "X-Token": `${calls.length}`, "Upload-Offset": "999" };
    },
  });
  await given.sender.send(BYTES, { ...context(), sequence: 7 });
  await given.sender.close();
  assertEquals(
    given.server.requests.map(({ headers }) => headers.get("x-token")),
    ["1", "2", "3", "4"],
  );
  assertEquals(calls, ["0 0 1", "0 0 1", "7 0 1", "0 0 1"]);
  assertEquals(given.lines()[0], "PATCH /files/1 @0 0123456789");
});

for (
  const [location, path] of [
    ["/other/2?a=b", "/other/2?a=b"],
    ["files/2", "/files/2"],
    ["?id=2", "/files?id=2"],
  ] as const
) {
  test(`an upload may have the Location ${location}`, async () => {
    await using server = new FaultyServer([
      offers(),
      tus(201, { location }),
      at(10),
    ]);
    const sender = new TusSender(`http://127.0.0.1:${server.port}/files`);
    await sender.send(BYTES, context());
    assertEquals(server.requests[2]!.path, path);
  });
}

test("an upload on another origin gets the bytes, but no headers of the user", async () => {
  await using other = new FaultyServer([at(10), tus(204)]);
  const location = `http://127.0.0.1:${other.port}/elsewhere`;
  await using server = new FaultyServer([
    offers(),
    tus(201, { location }),
  ]);
  let calls = 0;
  const sender = new TusSender(server.url, {
    headers: () => ({ Authorization: `Bearer ${++calls}` }),
    terminate: true,
  });
  await sender.send(BYTES, context());
  await sender.abort();
  assertEquals(other.requests.map(line), [
    "PATCH /elsewhere @0 0123456789",
    "DELETE /elsewhere",
  ]);
  for (const { headers } of other.requests) {
    assertEquals(headers.get("authorization"), null);
    assertEquals(headers.get("tus-resumable"), "1.0.0");
  }
  assertEquals(calls, 2);
});

for (
  const [location, message] of [
    [
      "http://example.com/files/1",
      "an upload at http://example.com, but it must be at https",
    ],
    ["ftp://example.com/files/1", "an upload at ftp://example.com, but"],
    [
      "https://me:hunter22@example.com/1",
      "an upload at https://example.com, but",
    ],
    ["https://hunter22@example.com/1", "an upload at https://example.com, but"],
    [
      "https://:hunter22@example.com/1",
      "an upload at https://example.com, but",
    ],
    ["https://[", "without a Location for the upload"],
  ] as const
) {
  Deno.test(`an upload created at https://example.com is not sent to ${location}`, async () => {
    let posts = 0;
    const sender = new TusSender("https://example.com/files", {
      ...FAST,
      fetch: (input) => {
        const { method } = input as Request;
        if (method === "POST") posts++;
        const headers = { ...TUS, location };
        return Promise.resolve(
          new Response(null, {
            status: method === "POST" ? 201 : 405,
            headers,
          }),
        );
      },
    });
    const error = await assertRejects(() => sender.create(), SendError);
    assertStringIncludes(error.message, message);
    assert(!error.message.includes("hunter22"));
    assertEquals([posts, sender.url], [1, undefined]);
  });
}

Deno.test("an upload is not sent to a port that fetch blocks", async () => {
  await using server = new FaultyServer([
    offers(),
    tus(201, { location: "http://127.0.0.1:6000/files/1" }),
  ]);
  const error = await assertRejects(
    () => new TusSender(server.url, FAST).create(),
    SendError,
  );
  assertMatch(
    error.message,
    /responded with 201 and an upload at http:..127.0.0.1:6000, but fetch blocks port 6000$/,
  );
  assertEquals(server.requests.length, 2);
});

// -- Servers that cannot accept the upload --

for (
  const [title, script, options, message] of [
    [
      "accepts less than `length`",
      [offers({ "tus-max-size": "9" })],
      {
        length: 10,
      },
      "Cannot upload 10 bytes or more: the server accepts at most 9 (Tus-Max-Size)",
    ],
    [
      "accepts less than was written",
      [offers({ "tus-max-size": "9" })],
      {},
      "Cannot upload 10 bytes or more: the server accepts at most 9 (Tus-Max-Size)",
    ],
    [
      "does not offer the creation extension",
      [offers({ "tus-extension": "termination" })],
      {},
      "it does not create uploads",
    ],
    [
      "requires the length",
      [offers({ "tus-extension": "creation" })],
      {},
      "it needs to know the size first, so give `length`",
    ],
    [
      "requires the length, and sends no version",
      [tus(204, { "tus-extension": "creation" })],
      {},
      "it needs to know the size first, so give `length`",
    ],
    [
      "speaks another version of tus",
      [offers({ "tus-version": "0.2.2, 2.0.0" })],
      {},
      "; it speaks tus 0.2.2, 2.0.0, but not 1.0.0",
    ],
    [
      "rejects the version at the creation",
      [respond(404), tus(412, { "tus-version": "0.2.2" })],
      {},
      "responded with 412; it speaks tus 0.2.2, but not 1.0.0",
    ],
    [
      "rejects the size at the creation",
      [respond(404), tus(413)],
      {},
      "responded with 413; the object is larger than it allows",
    ],
    [
      "does not speak tus: 404",
      [respond(404), respond(404, {}, "no such page")],
      {},
      '/files failed (attempt 1): the server responded with 404; it does not seem to speak tus: "no such page"',
    ],
    [
      "does not speak tus: 405",
      [respond(405), respond(405)],
      {},
      "responded with 405; it does not seem to speak tus",
    ],
    [
      "does not speak tus: 501",
      [respond(501), respond(501)],
      {},
      "responded with 501; it does not seem to speak tus",
    ],
    [
      "does not speak tus: 200",
      [respond(200), respond(200, {}, "hello")],
      {},
      'responded with 200 but without a Location for the upload; it does not seem to speak tus: "hello"',
    ],
    [
      "does not speak tus: 409",
      [respond(200), respond(409)],
      {},
      "responded with 409",
    ],
    [
      "sends no Location",
      [offers(), tus(201)],
      {},
      /without a Location for the upload$/,
    ],
    [
      "requires credentials",
      [offers(), respond(401)],
      {},
      "responded with 401; check the credentials in `headers`",
    ],
    ["redirects", [respond(301), respond(301)], {}, "so give the final URL"],
  ] as [string, Behaviour[], TusSenderOptions, string | RegExp][]
) {
  test(`an upload fails before anything is sent when the server ${title}`, async () => {
    await using server = new FaultyServer(script, close);
    const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
      ...FAST,
      ...options,
    });
    const out = new StreamBuffer(sender);
    await out.write(TEXT);
    const error = await assertRejects(() => out.flush(), FlushError);
    if (typeof message === "string") {
      assertStringIncludes(error.message, message);
    } else assertMatch(error.message, message);
    const methods = server.requests.map(({ method }) => method);
    assertEquals(methods, ["OPTIONS", "POST"].slice(0, script.length));
    // The next send fails for the same reason.
    if (methods.length === 1) {
      server.next(script[0]!);
      await assertRejects(() => out.flush(), FlushError, error.message);
      assert(server.requests.every(({ method }) => method === "OPTIONS"));
    }
    await out.abort();
    assertEquals(new TextDecoder().decode(out.takeUnsent()), TEXT);
  });
}

for (
  const [title, options] of [
    ["a 200 without headers", respond(200)],
    ["a 401", respond(401)],
    ["a 405", respond(405)],
    ["a 500", respond(500)],
    ["a 501", respond(501)],
    ["no response", close],
    [
      "headers on a 404",
      tus(404, { "tus-version": "0.1", "tus-extension": "none" }),
    ],
  ] as const
) {
  // Deno 2.8 itself repeats a request without a body whose connection was closed.
  const ignore = options === close && Deno.version.deno.startsWith("2.8.");
  test(`an upload succeeds although OPTIONS gets ${title}`, {
    ignore,
  }, async () => {
    await using server = new FaultyServer([options, CREATED, at(10), at(10)]);
    const sender = new TusSender(server.url, ONCE);
    await sender.send(BYTES, context());
    await sender.close();
    assertEquals(server.requests.length, 4);
  });

  test(`an upload resumes although OPTIONS gets ${title}`, {
    ignore,
  }, async () => {
    await using server = new FaultyServer([options, at(5)]);
    const sender = await TusSender.resume(server.url, ONCE);
    assertEquals(sender.offset, 5);
  });
}

for (
  const [title, options, ms] of [
    ["after 5 s", {}, 5_000],
    ["after 5 s, with a single attempt", ONCE, 5_000],
    [
      "after half of a short maxElapsed",
      { retry: { maxElapsed: 3_000 } },
      1_500,
    ],
  ] as [string, TusSenderOptions, number][]
) {
  Deno.test(`an upload gives up an OPTIONS without a response ${title}`, async () => {
    using time = fakeTime();
    await using server = new FaultyServer([never, CREATED, at(10)]);
    const sent = new TusSender(server.url, options).send(BYTES, context());
    await server.received(1);
    time.tick(ms - 1);
    assert(await isPending(sent));
    time.tick(1);
    await stable(() => server.requests.length);
    assert(!await isPending(sent), "it still waits");
    await sent;
    assertEquals(
      server.requests.map(({ method }) => method),
      ["OPTIONS", "POST", "PATCH"],
    );
    assertEquals(time.countTimers(), 0);
  });
}

Deno.test("an attempt at an upload that begins when the time is over sets no negative timer", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([], respond(503));
  const delays: (number | undefined)[] = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = Object.assign(
    (callback: () => void, ms?: number) => {
      delays.push(ms);
      return setTimeout(callback, ms);
    },
    setTimeout,
  );
  const sender = new TusSender(server.url, {
    retry: { initialDelay: 0, maxElapsed: 1_000 },
    onRetry: () => setImmediate(() => time.tick(1_001)),
  });
  const sent = sender.send(BYTES, context());
  await assertRejects(() => sent, SendError);
  globalThis.setTimeout = setTimeout;
  assertEquals(delays.filter((ms) => ms! < 0), []);
});

test("an upload gives a header function more time than OPTIONS has", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([CREATED, at(10)]);
  let calls = 0;
  const sender = new TusSender(server.url, {
    headers: () => {
      if (++calls > 1) return { "X-Token": "slow" };
      setImmediate(() => time.tick(5_000));
      return new Promise<never>(() => {});
    },
  });
  await sender.send(BYTES, context());
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-token")),
    ["slow", "slow"],
  );
});

Deno.test({
  name: "a missing --allow-net fails the upload at its first request",
  permissions: { net: false },
  fn: async () => {
    let calls = 0;
    const sender = new TusSender("http://127.0.0.1:8099/", {
      fetch: (...args) => (calls++, fetch(...args)),
    });
    const error = await assertRejects(() => sender.create(), SendError);
    assertInstanceOf(error.cause, Deno.errors.NotCapable);
    assertEquals(calls, 1);
  },
});

test("abort() during OPTIONS makes no further request", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  let calls = 0;
  const headers = () => (calls++, {});
  const sender = new TusSender(server.url, { headers });
  const creating = sender.create();
  await server.received(1);
  const reason = new Error("enough");
  await sender.abort(reason);
  assertStrictEquals(await creating.catch((error) => error), reason);
  assertEquals([server.requests.length, calls], [1, 1]);
  release();
});

test("the Retry-After of OPTIONS holds for the whole upload", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([
    respond(503, { "retry-after": "7" }),
    offers(),
    CREATED,
  ]);
  await new TusSender(server.url, { onRetry }).create();
  assertEquals(delays, [7_000]);
  assertEquals(
    server.requests.map(({ method }) => method),
    ["OPTIONS", "OPTIONS", "POST"],
  );
});

for (
  const [title, headers] of [
    ["requires the length", { "tus-extension": "creation" }],
    ["accepts exactly `length` bytes", { "tus-max-size": "10" }],
  ] as [string, Record<string, string>][]
) {
  test(`an upload of known length succeeds when the server ${title}`, async () => {
    await using server = new FaultyServer([offers(headers), CREATED, at(10)]);
    const sender = new TusSender(server.url, { length: 10 });
    await sender.send(BYTES, context());
    await sender.close();
    assertEquals(server.requests.length, 3);
  });
}

// -- After a failure --

for (
  const [title, script, expected] of [
    ["was cut", [cutAt(3), at(3), at(10)], [
      "HEAD /files/1",
      "PATCH /files/1 @3 3456789",
    ]],
    ["was cut twice", [cutAt(3), at(2), cutAt(3), at(2), at(10)], [
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @2 23456789",
    ]],
    ["was not stored", [close, at(0), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
    ["was stored", [close, at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
    ]],
    ["was stored in part", [at(4), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "PATCH /files/1 @4 456789",
    ]],
    ["got a 409", [tus(409), at(7), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "PATCH /files/1 @7 789",
    ]],
    ["found a lock, twice", [tus(423), tus(423), at(0), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
    ["arrived damaged", [tus(460), at(0), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
    ["got a 500, and the HEAD a 502", [
      tus(500),
      tus(502),
      at(9),
      at(10),
    ], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @9 9",
    ]],
    ["was cut, from two proxies that both add it", [
      cutAt(3),
      tus(204, { "upload-offset": "3", "Upload-Offset": "3" }),
      at("10,10"),
    ], [
      "HEAD /files/1",
      "PATCH /files/1 @3 3456789",
    ]],
    ["was cut before its body", [cutAt(0), close, at(0), at(10)], [
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
  ] as [string, Behaviour[], string[]][]
) {
  test(`the server's offset decides after a PATCH that ${title}`, async () => {
    await using given = setUp(script);
    await given.sender.send(BYTES, context());
    assertEquals(given.lines(), expected);
    assertEquals(given.sender.offset, 10);
  });
}

for (
  const [title, script, message] of [
    [
      "is beyond what was sent",
      [close, at(11)],
      "and Upload-Offset 11, but only 10 bytes were sent",
    ],
    [
      "of a PATCH is beyond what was sent",
      [at(11)],
      "and Upload-Offset 11, but only 10",
    ],
    [
      "is before what was acknowledged",
      [at(4), close, at(3)],
      "and Upload-Offset 3, but has already acknowledged 4 bytes",
    ],
    [
      "of a PATCH is before what was acknowledged",
      [at(4), at(3)],
      "and Upload-Offset 3, but has already acknowledged 4",
    ],
    ["does not move", [at(0)], "responded with 204 but accepted no bytes"],
    ["is missing", [tus(204)], /without an Upload-Offset$/],
    [
      "is missing in the response to HEAD",
      [close, respond(200)],
      "without an Upload-Offset; it does not seem to speak tus",
    ],
    ...[
      ["is negative", -1],
      ["is a fraction", "1.5"],
      ["is no number", "ten"],
      ["is hexadecimal", "0xa"],
      ["is too large for a number", "9".repeat(20)],
      ["came twice, with two values", "5, 6"],
      ["came twice, once empty", "5,"],
    ].map(([title, offset]) => [
      title,
      [at(offset!)],
      "and an Upload-Offset that is not one number of bytes",
    ]),
  ] as [string, Behaviour[], string | RegExp][]
) {
  test(`flush() rejects an offset that ${title}, keeps the bytes, and asks for the offset again`, async () => {
    await using given = setUp([...script, at(5), at(10), at(10)]);
    const out = new StreamBuffer(given.sender, { flushInterval: 0 });
    await out.write(TEXT);
    const error = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(error.cause, SendError);
    if (typeof message === "string") {
      assertStringIncludes(error.message, message);
    } else assertMatch(error.message, message);
    assertEquals(error.unsentBytes, 10);
    assertEquals(out.stats.failures, 1);
    const before = given.lines().length;
    await out.close();
    const after = given.lines().slice(before);
    if (title !== "does not move") {
      assertEquals(after.slice(0, 2), [
        "HEAD /files/1",
        "PATCH /files/1 @5 56789",
      ]);
    }
    assertEquals(given.sender.offset, 10);
  });
}

for (const status of [404, 410]) {
  for (const script of [[tus(status)], [close, tus(status)]]) {
    test(`a ${status} at request ${script.length} is reported as an upload that no longer exists`, async () => {
      await using given = setUp(script);
      const error = await assertRejects(
        () => given.sender.send(BYTES, context()),
        SendError,
        "; the upload no longer exists (expired, terminated, or removed once complete)",
      );
      assertEquals(error.status, status);
      assertEquals(given.lines().length, script.length);
    });
  }
}

test("send() rejects bytes beyond the length that the server reports", async () => {
  await using given = setUp([tus(409), at(2, 5)]);
  await assertRejects(
    () => given.sender.send(BYTES, context()),
    RangeError,
    "Cannot upload 10 bytes or more: the length of the object is 5",
  );
  assertEquals(given.lines().length, 2);
});

for (
  const [whose, what, refusal, advice] of [
    ["the server", "object", tus(413), "the object is larger than it allows"],
    ["a proxy", "request", respond(413), "make `capacity` smaller"],
  ] as const
) {
  test(`a 413 from ${whose} says that the ${what} is too large`, async () => {
    await using given = setUp([refusal]);
    const { message, refused } = await assertRejects(
      () => given.sender.send(BYTES, context()),
      SendError,
    );
    assertStringIncludes(message, ` 413; ${advice}`);
    assertEquals(refused, false, "an object with a hole is of no use");
  });
}

test("flush() resumes a failed flush from the server's offset", async () => {
  await using given = setUp([cutAt(3), at(3), tus(400), at(6), at(10)]);
  const out = new StreamBuffer(given.sender, { flushInterval: 0 });
  await out.write(TEXT);
  await assertRejects(() => out.flush(), FlushError, "responded with 400");
  assertEquals(given.sender.offset, 3);
  await out.flush();
  assertEquals(given.lines(), [
    "HEAD /files/1",
    "PATCH /files/1 @3 3456789",
    "HEAD /files/1",
    "PATCH /files/1 @6 6789",
  ]);
  await out.abort();
});

for (
  const [title, script, methods] of [
    ["asks for the length when its response was lost", [close, at(10, 10)], [
      "HEAD",
    ]],
    ["sends the length again when it was lost", [close, at(10), at(10)], [
      "HEAD",
      "PATCH",
    ]],
  ] as [string, Behaviour[], string[]][]
) {
  test(`close() ${title}`, async () => {
    await using given = setUp([at(10), ...script]);
    const out = new StreamBuffer(given.sender);
    await out.write(TEXT);
    await out.close();
    assertEquals(given.lines()[1], "PATCH /files/1 @10 of 10");
    assertEquals(
      given.server.requests.slice(4).map(({ method }) => method),
      methods,
    );
  });
}

test("close() rejects when the server refuses the length", async () => {
  await using given = setUp([at(10), tus(400)]);
  const out = new StreamBuffer(given.sender);
  await out.write(TEXT);
  await assertRejects(() => out.close(), FlushError, "Cannot close the sender");
  assertEquals(given.lines().slice(1), ["PATCH /files/1 @10 of 10"]);
});

test("close() rejects when the server reports another length", async () => {
  await using given = setUp([at(10), close, at(10, 11), at(10, 11)]);
  await given.sender.send(BYTES, context());
  for (let i = 0; i < 2; i++) { // it asks again
    await assertRejects(
      () => given.sender.close(),
      SendError,
      "; the upload is 11 bytes long, but `length` is 10",
    );
  }
  assertEquals(given.lines().slice(2), ["HEAD /files/1", "HEAD /files/1"]);
});

test("a length that was sent at the creation is not sent again", async () => {
  await using given = setUp([cutAt(3), at(3), at(10)], { length: 10 });
  await given.sender.send(BYTES, context());
  await given.sender.close();
  assertEquals(given.lines(), ["HEAD /files/1", "PATCH /files/1 @3 3456789"]);
});

test(
  "send() asks for what the server supports until it responds or the upload is created",
  {
    ignore: Deno.version.deno.startsWith("2.8."), // as above
  },
  async () => {
    await using server = new FaultyServer([
      close,
      respond(503),
      respond(503),
      respond(503),
      offers({ "tus-extension": ALL, "tus-checksum-algorithm": "sha1" }),
      respond(503),
      close,
      CREATED,
      at(10),
    ]);
    const sender = new TusSender(server.url, FAST);
    await sender.send(BYTES, context());
    assertEquals(
      server.requests.map(({ method }) => method),
      [
        ...["OPTIONS", "POST", "OPTIONS", "POST", "OPTIONS", "POST"],
        ...["POST", "POST", "PATCH"],
      ],
    );
    assert(server.requests.at(-1)!.headers.has("upload-checksum"));
  },
);

test("close() retries a creation that failed", async () => {
  await using server = new FaultyServer([
    offers(),
    respond(400),
    CREATED,
    at(10),
    at(10, 10),
  ]);
  const out = new StreamBuffer(new TusSender(server.url), { flushInterval: 0 });
  await out.write(TEXT);
  await assertRejects(() => out.flush(), FlushError);
  await out.close();
  assertEquals(server.requests.length, 5);
});

test("a 401 to any request is retried with fresh headers", async () => {
  await using server = new FaultyServer([
    respond(401),
    tus(401),
    CREATED,
    tus(401),
    at(0),
    at(10),
  ]);
  let calls = 0;
  const sender = new TusSender(server.url, {
    headers: ({ failure }) => {
      calls++;
      return { "X-Failure": `${failure?.status}` };
    },
  });
  await sender.send(BYTES, context());
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-failure")),
    ["undefined", "undefined", "401", "undefined", "401", "401"],
  );
  assertEquals(calls, 6);
});

test("close() rejects when no server is there, and keeps the bytes", async () => {
  const out = new StreamBuffer(
    new TusSender(`http://127.0.0.1:${freePort()}/`, ONCE),
  );
  await out.write(TEXT);
  await assertRejects(() => out.close(), FlushError, ": POST http");
  assertEquals(out.takeUnsent().length, 10);
});

test("each request has its own timeout, within maxElapsed for all attempts", async () => {
  using time = fakeTime();
  await using given = setUp([never, at(0), never, never], {
    timeout: 1_000,
    retry: { initialDelay: 0, maxElapsed: 2_500 },
    onRetry: () => void setImmediate(() => time.tick(1)),
  });
  const failing = assertRejects(
    () => given.sender.send(BYTES, context()),
    SendError,
  );
  for (const [count, ms] of [[3, 1_000], [5, 1_000], [6, 500]] as const) {
    await given.server.received(count);
    await time.tickAsync(ms);
  }
  const { message } = await failing;
  assertMatch(
    message,
    /longer than 1000 ms; attempt 3 was cut short by maxElapsed of 2500 ms$/,
  );
  assertEquals(given.lines().length, 4);
});

for (const [grows, count] of [[true, 10], [false, 3]] as const) {
  test(`maxElapsed ${grows ? "begins anew" : "ends"} while the server's offset ${grows ? "grows" : "stays"}`, async () => {
    using time = fakeTime();
    const { onRetry } = skipDelays(time);
    let offset = 0;
    // Every PATCH stores a byte, or none, in 1 s, and is cut.
    await using given = setUp([], {
      retry: { initialDelay: 1, maxDelay: 1, maxElapsed: 2_500 },
      onRetry,
    });
    for (let i = 0; i < 10; i++) {
      given.server.next(async ({ request, receive, close }) => {
        assertEquals(request.method, "PATCH");
        await receive();
        time.tick(1_000);
        if (grows) offset++;
        close();
      });
      given.server.next((exchange) => at(offset)(exchange));
    }
    given.server.next(tus(400)); // ends an upload that goes on for too long
    const sent = given.sender.send(BYTES, context());
    if (grows) await sent;
    else await assertRejects(() => sent, SendError);
    const methods = given.server.requests.map(({ method }) => method);
    assertEquals(methods.filter((method) => method === "PATCH").length, count);
  });
}

// -- The end --

test("close() rejects when fewer bytes than `length` were written", async () => {
  await using given = setUp([at(10)], { length: 11 });
  const out = new StreamBuffer(given.sender);
  await out.write(TEXT);
  const error = await assertRejects(() => out.close(), FlushError);
  assertStringIncludes(
    error.message,
    "Cannot complete the upload: it has 10 bytes, but its length is 11",
  );
  assertEquals(given.lines().length, 1);
});

test("close() of nothing rejects when `length` is not 0, and creates nothing", async () => {
  await using given = setUp([], { length: 1 });
  await assertRejects(() => given.sender.close(), RangeError);
  assertEquals(given.server.connections, 0);
});

test("close() after a send that failed half-way does not complete the upload", async () => {
  await using given = setUp([at(4), tus(400)]);
  await assertRejects(() => given.sender.send(BYTES, context()), SendError);
  assertEquals(given.sender.offset, 4);
  await assertRejects(() => given.sender.close(), TypeError, "last batch");
  assertEquals(given.lines().length, 2);
});

test("close() during a send, and after it failed, does not complete the upload", async () => {
  const { release, behaviour } = held(tus(400));
  await using given = setUp([at(10), behaviour]);
  await given.sender.send(BYTES, context());
  const sending = assertRejects(() => given.sender.send(BYTES, context(10)));
  await given.server.received(4);
  await assertRejects(() => given.sender.close(), TypeError, "last batch");
  release();
  await sending;
  await assertRejects(() => given.sender.close(), TypeError, "last batch");
  assertEquals(given.lines().length, 2);
});

test("send() rejects more bytes than `length`, and makes no request", async () => {
  await using given = setUp([], { length: 9 });
  await assertRejects(
    () => given.sender.send(BYTES, context()),
    RangeError,
    "Cannot upload 10 bytes or more: the length of the object is 9",
  );
  assertEquals(given.server.connections, 0);
});

for (const terminate of [false, true]) {
  test(`abort() ${terminate ? "removes" : "leaves"} the upload with terminate: ${terminate}`, async () => {
    await using given = setUp([at(10), tus(423), close, tus(204)], {
      terminate,
    });
    const out = new StreamBuffer(given.sender);
    await out.write(TEXT);
    await out.flush();
    await out.abort();
    await given.sender.abort();
    const remove = "DELETE /files/1";
    assertEquals(
      given.lines().slice(1),
      terminate ? [remove, remove, remove] : [],
    );
  });
}

for (const status of [404, 410]) {
  test(`abort() resolves when a ${status} shows that the upload is removed`, async () => {
    await using given = setUp([tus(status)], { terminate: true });
    await given.sender.create();
    await given.sender.abort();
    assertEquals(given.lines(), ["DELETE /files/1"]);
  });
}

test("abort() rejects when the upload cannot be removed", async () => {
  await using given = setUp([tus(400)], { terminate: true });
  await given.sender.create();
  await assertRejects(
    () => given.sender.abort(),
    SendError,
    "DELETE http",
  );
});

test("abort() makes no request when nothing was created", async () => {
  await using server = new FaultyServer();
  await new TusSender(server.url, { terminate: true }).abort();
  assertEquals(server.connections, 0);
});

test("abort() does not remove an upload that is complete", async () => {
  await using given = setUp([], { length: 0, terminate: true });
  await given.sender.close();
  await given.sender.abort();
  assertEquals(given.lines(), []);
});

test("abort() rejects a pending flush() with the reason", async () => {
  await using given = setUp([never]);
  const out = new StreamBuffer(given.sender);
  await out.write(TEXT);
  const reason = new Error("enough");
  const flushing = out.flush().catch((error) => error);
  await given.server.received(3);
  await out.abort(reason);
  assertStrictEquals(await flushing, reason);
});

for (const method of ["create", "close"] as const) {
  test(`abort() rejects ${method}() in flight with the reason`, async () => {
    await using server = new FaultyServer([offers(), never]);
    const sender = new TusSender(server.url);
    const pending = sender[method]();
    const failed = Promise.resolve(pending).catch((error) => error);
    await server.received(2);
    const reason = new Error("enough");
    await sender.abort(reason);
    assertStrictEquals(await failed, reason);
  });
}

test("send() rejects with the reason of its signal while the upload is created", async () => {
  await using server = new FaultyServer([offers(), never]);
  const sender = new TusSender(server.url);
  const controller = new AbortController();
  const sending = sender.send(BYTES, context(0, controller.signal))
    .catch((error) => error);
  await server.received(2);
  controller.abort("enough");
  assertEquals(await sending, "enough");
  await sender.abort();
  await assertRejects(() => sender.send(BYTES, context()), TypeError, "closed");
});

test("pipeTo() from a source that fails does not complete the upload", async () => {
  await using given = setUp([at(4)]);
  const out = new StreamBuffer(given.sender, { capacity: 4 });
  const reason = new Error("unplugged");
  const source = ReadableStream.from((async function* () {
    yield "half";
    await given.server.received(3);
    throw reason;
  })());
  assertStrictEquals(
    await source.pipeTo(out.writable).catch((error) => error),
    reason,
  );
  assertEquals(given.lines(), ["PATCH /files/1 @0 half"]);
});

test("close() that ends at closeTimeout reports the last failure", async () => {
  await using given = setUp([tus(503), never], {
    retry: { initialDelay: 1, maxElapsed: 600_000 },
  });
  const out = new StreamBuffer(given.sender, { closeTimeout: 500 });
  await out.write(TEXT);
  const { message } = await assertRejects(() => out.close(), FlushError);
  assertMatch(message, /closeTimeout of 500 ms has passed: PATCH of 10 b/);
  assertEquals(out.takeUnsent().length, 10);
});

test("the delay is a short one again when the server's offset has grown", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const { delays, onRetry } = skipDelays(time);
  const cut = cutAt(1);
  await using given = setUp(
    [cut, at(1), cut, at(2), cut, at(2), cut, at(3), at(10)],
    { retry: { initialDelay: 200 }, onRetry },
  );
  await given.sender.send(BYTES, context());
  assertEquals(delays, [100, 100, 100, 200]);
});

for (
  const [what, script, requests] of [
    ["the creation", [tus(503), CREATED, at(10), at(10, 10)], 5],
    ["the completion", [CREATED, at(10), tus(503), at(10), at(10, 10)], 6],
  ] as const
) {
  test(`close() ends a delay of ${what}`, async () => {
    using time = fakeTime();
    using _ = fixedRandom(0.999);
    const waits = Promise.withResolvers<void>();
    await using server = new FaultyServer([offers(), ...script], close);
    const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
      retry: { initialDelay: 20_000 },
      onRetry: () => waits.resolve(),
    });
    const out = new StreamBuffer(sender);
    await out.write(TEXT);
    if (what === "the creation") {
      void out.flush();
      await waits.promise;
    }
    const closed = out.close();
    if (what === "the completion") {
      // It begins while the buffer is closing: the delay is short from the start.
      await waits.promise;
      await time.tickAsync(1_000);
    }
    await closed; // no more time passes
    assertEquals(server.requests.length, requests);
  });
}

test("close() ends a delay of a creation that began before the first batch", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  const waits = Promise.withResolvers<void>();
  await using server = new FaultyServer(
    [offers(), tus(503), CREATED, at(10), at(10, 10)],
    close,
  );
  const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
    retry: { initialDelay: 20_000 },
    onRetry: () => waits.resolve(),
  });
  const out = new StreamBuffer(sender);
  void sender.create();
  await waits.promise;
  await out.write(TEXT);
  await out.close(); // no time passes
  assertEquals(server.requests.length, 5);
  assertEquals(time.countTimers(), 0);
});

Deno.test("close() does not wait for a Retry-After of a creation that ends after closeTimeout", async () => {
  using time = fakeTime();
  const waits = Promise.withResolvers<void>();
  await using server = new FaultyServer(
    [offers(), tus(503, { "retry-after": "60" })],
    close,
  );
  const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
    onRetry: () => waits.resolve(),
  });
  const out = new StreamBuffer(sender);
  await out.write(TEXT);
  void out.flush();
  await waits.promise;
  const closed = assertRejects(
    () => out.close(),
    FlushError,
    "asks to wait 60 s",
  );
  const isWaiting = await isPending(closed);
  await time.tickAsync(isWaiting ? 30_000 : 0);
  await closed;
  assert(!isWaiting, "close() should fail at once");
  assertEquals(server.requests.length, 2);
  assertEquals(time.countTimers(), 0);
});

test("close() of an empty object makes attempts a second apart", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer(
    [offers(), tus(503), tus(503), tus(201, { location: "/files/1" })],
    close,
  );
  const sender = new TusSender(`http://127.0.0.1:${server.port}/files`, {
    retry: { initialDelay: 20_000 },
    onRetry,
  });
  await new StreamBuffer(sender).close();
  assertEquals(delays, [1_000, 1_000]);
});

test("abort() gives up removing an upload after 30 seconds", async () => {
  using time = fakeTime();
  const { onRetry } = skipDelays(time);
  await using given = setUp([at(10), ...Array(200).fill(tus(503))], {
    terminate: true,
    retry: { maxElapsed: Infinity },
    onRetry,
  });
  await given.sender.send(BYTES, context());
  const begin = performance.now();
  await assertRejects(() => given.sender.abort(), SendError, "503");
  const passed = performance.now() - begin;
  assert(passed > 29_000 && passed <= 30_000, `${passed}`);
});

test("send() leaves no listener on its signal", async () => {
  await using given = setUp([at(10), at(20)]);
  const { signal } = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = function (...args: unknown[]) {
    listeners++;
    return addEventListener.apply(this, args as never);
  };
  signal.removeEventListener = function (...args: unknown[]) {
    listeners--;
    return removeEventListener.apply(this, args as never);
  };
  await given.sender.send(BYTES, context(0, signal));
  await given.sender.send(BYTES, context(10, signal));
  assertEquals(listeners, 0);
});

test("send() rejects a second StreamBuffer, and the first one continues", async () => {
  await using given = setUp([at(3), at(6), at(6, 6)]);
  const one = new StreamBuffer(given.sender);
  const other = new StreamBuffer(given.sender, { flushInterval: 0 });
  await one.write("one");
  await one.flush();
  await other.write("another");
  await assertRejects(() => other.flush(), FlushError, "another StreamBuffer");
  await one.write("two");
  await one.close();
  assertEquals(given.lines()[1], "PATCH /files/1 @3 two");
  await assertRejects(() => other.close(), FlushError, "another StreamBuffer");
});

test("errors of an upload do not show header values or the query", async () => {
  const echo: Behaviour = async (exchange) => {
    const { headers, path } = exchange.request;
    await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
  };
  await using server = new FaultyServer([
    offers(),
    tus(201, { location: "/files/1?token=hunter22" }),
    echo,
  ]);
  const sender = new TusSender(`${server.url}?key=tr0ub4dor`, {
    headers: { Authorization: "Bearer correct-horse" },
  });
  const error = await assertRejects(
    () => sender.send(BYTES, context()),
    SendError,
  );
  const shown = Deno.inspect([error, sender], { depth: 10, showHidden: true });
  assert(!/hunter22|tr0ub|correct-horse/.test(shown), shown);
  assertStringIncludes(sender.url!, "hunter22");
});

test("numbers of the protocol are not hidden in errors", async () => {
  await using server = new FaultyServer([
    offers(),
    at(1_234_567),
    respond(400, {}, "not at 1234567"),
  ]);
  const sender = await TusSender.resume(server.url, {
    headers: { Authorization: "Bearer 1234" },
  });
  await assertRejects(
    () => sender.send(BYTES, context()),
    SendError,
    '"not at 1234567"',
  );
});

// -- Checksums --

for (
  const [offered, options, expected] of [
    ["md5,sha1,sha256", {}, "sha256"],
    ["md5, sha1", {}, "sha1"],
    ["md5,crc32", {}, undefined],
    ["sha1", { checksum: false }, undefined],
    [undefined, {}, undefined],
  ] as const
) {
  test(
    `of the checksums ${offered ?? "(none)"}, ${
      expected ?? "none"
    } is sent with ${Deno.inspect(options)}`,
    async () => {
      await using server = new FaultyServer([
        offers({
          "tus-extension": ALL,
          ...offered && { "tus-checksum-algorithm": offered },
        }),
        CREATED,
        at(4),
        tus(460),
        at(4),
        at(10),
      ]);
      const sender = new TusSender(server.url, { ...FAST, ...options });
      await sender.send(BYTES, context());
      const patches = server.requests.filter(({ method }) =>
        method === "PATCH"
      );
      assertEquals(patches.length, 3);
      for (const { headers, body } of patches) {
        assertEquals(
          headers.get("upload-checksum"),
          expected
            ? `${expected} ${
              createHash(expected).update(body).digest("base64")
            }`
            : null,
        );
      }
    },
  );
}

const SHA1 = { "tus-checksum-algorithm": "sha1" };
for (
  const [missing, options] of [
    ["the extension", offers(SHA1)],
    ["a version", tus(204, { "tus-extension": ALL, ...SHA1 })],
  ] as const
) {
  test(`no checksum is sent to a server that does not send ${missing}`, async () => {
    await using server = new FaultyServer([options, CREATED, at(10)]);
    await new TusSender(server.url).send(BYTES, context());
    assertEquals(server.requests[2]!.headers.get("upload-checksum"), null);
  });
}

// -- Another process resumes --

test("resume() asks for the offset, and the stream continues there", async () => {
  await using server = new FaultyServer([
    offers({ "tus-extension": "" }),
    at(100),
    at(110),
    close,
    at(112),
    at(120),
    at(120, 120),
  ]);
  const url = `${server.url}?id=1`;
  const sender = await TusSender.resume(url, FAST);
  assertEquals(
    [sender.url, sender.offset, sender.length],
    [url, 100, undefined],
  );
  const out = new StreamBuffer(sender, { capacity: 10 });
  await out.write(TEXT);
  await out.write(TEXT);
  await out.close();
  assertEquals(server.requests.map(line), [
    "OPTIONS /ingest?id=1",
    "HEAD /ingest?id=1",
    "PATCH /ingest?id=1 @100 0123456789",
    "PATCH /ingest?id=1 @110 0123456789",
    "HEAD /ingest?id=1",
    "PATCH /ingest?id=1 @112 23456789",
    "PATCH /ingest?id=1 @120 of 120",
  ]);
  assertEquals(sender.offset, 120);
});

test("resume() of a complete upload leaves nothing to do", async () => {
  await using server = new FaultyServer([offers(), at(10, 10)]);
  const sender = await TusSender.resume(server.url);
  assertEquals([sender.offset, sender.length], [10, 10]);
  await sender.close();
  assertEquals(server.requests.length, 2);
});

test("resume() takes the length from the server", async () => {
  await using server = new FaultyServer([offers(), at(0, 11), at(10)]);
  const sender = await TusSender.resume(server.url);
  assertEquals(sender.length, 11);
  await sender.send(BYTES, context());
  await assertRejects(() => sender.close(), RangeError, "length is 11");
});

test("resume() with `length` sends it with the next bytes", async () => {
  await using server = new FaultyServer([offers(), at(0), at(10)]);
  const sender = await TusSender.resume(server.url, { length: 10 });
  await sender.send(BYTES, context());
  await sender.close();
  assertEquals(
    server.requests.map(line).at(-1),
    "PATCH /ingest @0 0123456789 of 10",
  );
});

for (
  const [title, behaviour, message] of [
    ["no longer exists", tus(404), "the upload no longer exists"],
    [
      "is not an upload",
      respond(200, {}, ""),
      "responded with 200 but without an Upload-Offset; it does not seem to speak tus",
    ],
    [
      "has another length",
      at(0, 11),
      "; the upload is 11 bytes long, but `length` is 10",
    ],
  ] as const
) {
  test(`resume() rejects a URL that ${title}`, async () => {
    await using server = new FaultyServer([respond(404), behaviour]);
    await assertRejects(
      () => TusSender.resume(server.url, { length: 10 }),
      SendError,
      message,
    );
    assertEquals(server.requests.length, 2);
  });
}

for (
  const [title, behaviour, options] of [
    ["that the server reports", at(11, 10), {}],
    ["that both report", at(11, 10), { length: 10 }],
    ["that only the options have", at(11), { length: 10 }],
    ["when both came twice", at("11, 11", "10, 10"), {}],
  ] as [string, Behaviour, TusSenderOptions][]
) {
  test(`resume() rejects an offset beyond the length ${title}`, async () => {
    await using server = new FaultyServer([respond(404), behaviour]);
    await assertRejects(
      () => TusSender.resume(server.url, options),
      SendError,
      "and Upload-Offset 11, but the upload is 10 bytes long",
    );
  });
}

test("resume() takes an offset and a length that came twice", async () => {
  await using server = new FaultyServer([
    respond(404),
    at("5, 5", "10, 10"),
    at(10),
  ]);
  const sender = await TusSender.resume(server.url);
  assertEquals([sender.offset, sender.length], [5, 10]);
  await sender.send(BYTES.subarray(5), context());
  await sender.close(); // the server knows the length
  assertEquals(server.requests.length, 3);
});

for (
  const [title, script, options, message] of [
    [
      "an offset beyond the length",
      [at(11)],
      { length: 10 },
      "and Upload-Offset 11, but the upload is 10 bytes long",
    ],
    [
      "a length before the offset",
      [at(5), close, at(5, 4)],
      {},
      "and Upload-Offset 5, but the upload is 4 bytes long",
    ],
  ] as [string, Behaviour[], TusSenderOptions, string][]
) {
  test(`flush() rejects ${title}, and asks again`, async () => {
    await using given = setUp([...script, at(5), at(10)], options);
    const out = new StreamBuffer(given.sender, { flushInterval: 0 });
    await out.write(TEXT);
    await assertRejects(() => out.flush(), FlushError, message);
    await out.flush();
    assertEquals(given.lines().slice(-2), [
      "HEAD /files/1",
      "PATCH /files/1 @5 56789",
    ]);
    await out.abort();
  });
}

test("resume() retries while another request locks the upload", async () => {
  await using server = new FaultyServer([
    offers(),
    tus(423),
    tus(503),
    close,
    at(3),
  ]);
  const sender = await TusSender.resume(server.url, FAST);
  assertEquals(sender.offset, 3);
});

// -- A real server --

test("a real server: an upload is created, sent, resumed and removed", async () => {
  await using server = await startTusServer({ relativeLocation: true });
  const sender = new TusSender(server.url, { metadata: { filename: "é.txt" } });
  const url = await sender.create();
  const out = new StreamBuffer(sender, { capacity: 4 });
  await out.write("first ");
  await out.flush();
  await out.abort();
  assert(!server.isComplete(url));

  const next = await TusSender.resume(url, { terminate: true });
  assertEquals(next.offset, 6);
  await ReadableStream.from(["and ", "second"])
    .pipeTo(new StreamBuffer(next).writable);
  assertEquals(new TextDecoder().decode(server.read(url)), "first and second");
  assert(server.isComplete(url));

  const last = await TusSender.resume(url, { terminate: true });
  await last.abort();
  assertEquals(server.uploads(), 0);
  await assertRejects(
    () => TusSender.resume(url),
    SendError,
    "no longer exists",
  );
});

test("a real server: an upload above its maximum fails before anything is sent", async () => {
  await using server = await startTusServer({ maxSize: 9 });
  await assertRejects(
    () => new TusSender(server.url, { length: 10 }).create(),
    RangeError,
    "the server accepts at most 9",
  );
  assertEquals(server.uploads(), 0);
  const out = new StreamBuffer(new TusSender(server.url));
  await out.write(TEXT);
  await assertRejects(
    () => out.close(),
    FlushError,
    "the server accepts at most 9",
  );
  assertEquals(server.received, 0);
});

for (const direction of ["up", "down"] as const) {
  test(`a real server: one cut ${direction}stream repeats at most one batch`, async () => {
    // Steps of 7 bytes cut heads, bodies and responses.
    for (let size = 0; size < 600; size += 7) {
      await using server = await startTusServer();
      const cuts = [{ ...NO_CUT, [direction]: size }];
      await using proxy = new CuttingProxy(
        server.port,
        () => cuts.shift() ?? NO_CUT,
      );
      const sender = new TusSender(
        `http://127.0.0.1:${proxy.port}/files`,
        FAST,
      );
      const out = new StreamBuffer(sender, { capacity: 5 });
      await out.write(BYTES);
      await out.close();
      const url = sender.url!;
      const label = `cut after ${size} bytes`;
      assert(equals(server.read(url), BYTES), label);
      assert(server.isComplete(url), label);
      assert(server.received <= BYTES.length + 5, label);
      const conflicts = server.requests.filter(({ status }) => status === 409);
      assertEquals(conflicts, [], label);
    }
  });
}

Deno.test("a real server: 2,000 random cuts leave every object intact", async () => {
  const { cuts } = await checkCuts(2_000);
  assert(cuts >= 2_000);
});

Deno.test("a StreamBuffer over a TusSender refuses sends that overlap", () => {
  const sender = new TusSender("http://localhost/files");
  assertThrows(
    () => new StreamBuffer(sender, { concurrency: 2 }),
    RangeError,
    "concurrency must be 1",
  );
});

test("sendNow() ends a backoff", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.999);
  const { promise: wait, resolve } = Promise.withResolvers<number>();
  await using setting = setUp([tus(503), at(0), at(10)], {
    retry: { initialDelay: 20_000, maxElapsed: 60_000 },
    onRetry: (_, delay) => resolve(delay),
  });
  const out = new StreamBuffer(setting.sender);
  await out.write(TEXT);
  const flushed = out.flush();
  assert(await wait > 19_000);
  out.sendNow(); // no time passes
  await flushed;
  assertEquals(setting.lines().length, 3);
  await out.abort();
  assertEquals(time.countTimers(), 0);
});
