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
import { FlushError, type SendContext, StreamBuffer } from "../buffer.ts";
import { checkCuts } from "../tools/cuts.ts";
import { CuttingProxy, NO_CUT } from "../testing/cutting_proxy.ts";
import { fakeTime } from "../testing/fake_time.ts";
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
import { startTusServer } from "../testing/tus_server.ts";
import { SendError, TusSender, type TusSenderOptions } from "./tus.ts";

const FAST = { retry: { initialDelay: 1, maxDelay: 1, maxElapsed: 5_000 } };
const ONCE = { retry: { maxElapsed: 0 } };
const TEXT = "0123456789";
const BYTES = new TextEncoder().encode(TEXT);
const TUS = { "tus-resumable": "1.0.0" };
const ALL = "creation,creation-defer-length,checksum,termination";

/** What a tus server answers. */
function says(status: number, headers: Record<string, string> = {}): Behaviour {
  return respond(status, { ...TUS, ...headers });
}

function offers(headers: Record<string, string> = {}): Behaviour {
  return says(204, {
    "tus-version": "1.0.0",
    "tus-extension": "creation,creation-defer-length",
    ...headers,
  });
}

const CREATED = says(201, { location: "/files/1" });

/** An offset, and perhaps the length. */
function at(offset: number | string, length?: number): Behaviour {
  return says(204, {
    "upload-offset": `${offset}`,
    ...length !== undefined && { "upload-length": `${length}` },
  });
}

/** Takes so much of a body, and closes the connection. */
function cutAt(size: number): Behaviour {
  return async ({ read, close }) => {
    await read(size);
    close();
  };
}

/** A request in one line. */
function line({ method, path, headers, body }: RawRequest): string {
  const offset = headers.get("upload-offset");
  const length = headers.get("upload-length");
  const text = new TextDecoder().decode(body);
  return `${method} ${path}` +
    (offset === null ? "" : ` @${offset}`) +
    (text && ` ${text}`) +
    (length === null ? "" : ` of ${length}`);
}

/** A server with a script, and a sender to it. */
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
): SendContext {
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
  Deno.test(`TusSender() refuses ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new TusSender("http://localhost/", options as never),
      errorClass as typeof Error,
      message,
    );
    assertMatch(error.message, /^Cannot (create TusSender|use headers): /);
  });
}

Deno.test("TusSender() and resume() refuse a URL that is none, without its secrets", async () => {
  for (const url of ["nonsense", "ftp://a/?secret", "http://me:secret@a/"]) {
    for (
      const error of [
        assertThrows(() => new TusSender(url), TypeError),
        await assertRejects(() => TusSender.resume(url), TypeError),
      ]
    ) {
      assertMatch(error.message, /^Cannot create TusSender: url must /);
      assert(!error.message.includes("secret"));
    }
  }
});

// -- An upload --

Deno.test("an upload is created, each flush is a PATCH, and close() sets the length", async () => {
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

Deno.test("an upload of known length needs no last request", async () => {
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
  Deno.test(`an upload of nothing is complete when it is created, with ${Deno.inspect(options)}`, async () => {
    await using given = setUp([], options);
    await new StreamBuffer(given.sender).close();
    assertEquals(given.server.requests.map(line), [
      "OPTIONS /files",
      "POST /files of 0",
    ]);
  });
}

Deno.test("create() creates it once, and an upload of nothing gets its length at the end", async () => {
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

Deno.test("close() during create() completes what is created", async () => {
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

Deno.test("metadata is sent in base64, of any text and bytes", async () => {
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

Deno.test("headers are those of the options, asked for at each request", async () => {
  const asked: string[] = [];
  await using given = setUp([at(10), at(10, 10)], {
    headers: ({ sequence, offset, attempt }) => {
      asked.push(`${sequence} ${offset} ${attempt}`);
      return { "X-Token": `${asked.length}`, "Upload-Offset": "999" };
    },
  });
  await given.sender.send(BYTES, { ...context(), sequence: 7 });
  await given.sender.close();
  assertEquals(
    given.server.requests.map(({ headers }) => headers.get("x-token")),
    ["1", "2", "3", "4"],
  );
  assertEquals(asked, ["0 0 1", "0 0 1", "7 0 1", "0 0 1"]);
  assertEquals(given.lines()[0], "PATCH /files/1 @0 0123456789");
});

for (
  const [location, path] of [
    ["/other/2?a=b", "/other/2?a=b"],
    ["files/2", "/files/2"],
    ["?id=2", "/files?id=2"],
  ] as const
) {
  Deno.test(`an upload may be at ${location}`, async () => {
    await using server = new FaultyServer([
      offers(),
      says(201, { location }),
      at(10),
    ]);
    const sender = new TusSender(`http://127.0.0.1:${server.port}/files`);
    await sender.send(BYTES, context());
    assertEquals(server.requests[2]!.path, path);
  });
}

Deno.test("an upload on another origin gets the bytes, and none of the headers", async () => {
  await using other = new FaultyServer([at(10), says(204)]);
  const location = `http://127.0.0.1:${other.port}/elsewhere`;
  await using server = new FaultyServer([
    offers(),
    says(201, { location }),
  ]);
  let asked = 0;
  const sender = new TusSender(server.url, {
    headers: () => ({ Authorization: `Bearer ${++asked}` }),
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
  assertEquals(asked, 2);
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
  Deno.test(`an upload of https://example.com is not sent to ${location}`, async () => {
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

// -- What the server cannot do --

for (
  const [title, script, options, message] of [
    [
      "takes less than `length`",
      [offers({ "tus-max-size": "9" })],
      {
        length: 10,
      },
      "Cannot upload 10 bytes or more: the server accepts at most 9 (Tus-Max-Size)",
    ],
    [
      "takes less than was written",
      [offers({ "tus-max-size": "9" })],
      {},
      "Cannot upload 10 bytes or more: the server accepts at most 9 (Tus-Max-Size)",
    ],
    [
      "does not create uploads",
      [offers({ "tus-extension": "termination" })],
      {},
      "it does not create uploads",
    ],
    [
      "has to know the length",
      [offers({ "tus-extension": "creation" })],
      {},
      "it needs to know the size first, so give `length`",
    ],
    [
      "has to know the length, and has no version",
      [says(204, { "tus-extension": "creation" })],
      {},
      "it needs to know the size first, so give `length`",
    ],
    [
      "speaks another version",
      [offers({ "tus-version": "0.2.2, 2.0.0" })],
      {},
      "; it speaks tus 0.2.2, 2.0.0, but not 1.0.0",
    ],
    [
      "says so at the creation",
      [respond(404), says(412, { "tus-version": "0.2.2" })],
      {},
      "responded with 412; it speaks tus 0.2.2, but not 1.0.0",
    ],
    [
      "takes no object that large",
      [respond(404), says(413)],
      {},
      "responded with 413; the object is larger than it allows",
    ],
    [
      "does not speak tus: 404",
      [respond(404), respond(404, {}, "no such page")],
      {},
      '/files (attempt 1): the server responded with 404; it does not seem to speak tus: "no such page"',
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
      "forgets the Location",
      [offers(), says(201)],
      {},
      /without a Location for the upload$/,
    ],
    [
      "wants credentials",
      [offers(), respond(401)],
      {},
      "responded with 401; check the credentials in `headers`",
    ],
    ["redirects", [respond(301), respond(301)], {}, "so give the final URL"],
  ] as [string, Behaviour[], TusSenderOptions, string | RegExp][]
) {
  Deno.test(`an upload fails before anything is sent when the server ${title}`, async () => {
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
    // The next flush does not forget it.
    if (methods.length === 1) {
      server.next(script[0]!);
      await assertRejects(() => out.flush(), FlushError, error.message);
      assert(server.requests.every(({ method }) => method === "OPTIONS"));
    }
    await out.abort();
    assertEquals(new TextDecoder().decode(out.takeUnsent()), TEXT);
  });
}

Deno.test("a server that answers OPTIONS to nobody may take the upload all the same", async () => {
  const misplaced = says(404, {
    "tus-version": "0.1",
    "tus-extension": "none",
  });
  for (const options of [respond(200), respond(401), misplaced, respond(501)]) {
    await using server = new FaultyServer([options, CREATED, at(10), at(10)]);
    const sender = new TusSender(server.url);
    await sender.send(BYTES, context());
    await sender.close();
    assertEquals(server.requests.length, 4);
  }
});

Deno.test("a server that knows the length need not wait for it", async () => {
  await using server = new FaultyServer([
    offers({ "tus-extension": "creation" }),
    CREATED,
    at(10),
  ]);
  const sender = new TusSender(server.url, { length: 10 });
  await sender.send(BYTES, context());
  await sender.close();
  assertEquals(server.requests.length, 3);
});

Deno.test("what a server takes at most is no reason to send less", async () => {
  await using server = new FaultyServer([
    offers({ "tus-max-size": "10" }),
    CREATED,
    at(10),
  ]);
  const sender = new TusSender(server.url, { length: 10 });
  await sender.send(BYTES, context());
  await sender.close();
  assertEquals(server.requests.length, 3);
});

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
    ["was taken in part", [at(4), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "PATCH /files/1 @4 456789",
    ]],
    ["met a 409", [says(409), at(7), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "PATCH /files/1 @7 789",
    ]],
    ["met a lock, twice", [says(423), says(423), at(0), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
    ["arrived damaged", [says(460), at(0), at(10)], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
    ["met a 500, and so did the question", [
      says(500),
      says(502),
      at(9),
      at(10),
    ], [
      "PATCH /files/1 @0 0123456789",
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @9 9",
    ]],
    ["met a head without end", [cutAt(0), close, at(0), at(10)], [
      "HEAD /files/1",
      "HEAD /files/1",
      "PATCH /files/1 @0 0123456789",
    ]],
  ] as [string, Behaviour[], string[]][]
) {
  Deno.test(`the server's offset decides after a PATCH that ${title}`, async () => {
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
    ["is missing", [says(204)], /without an Upload-Offset$/],
    [
      "is missing in the answer",
      [close, respond(200)],
      "without an Upload-Offset; it does not seem to speak tus",
    ],
    ["is negative", [at(-1)], "without an Upload-Offset"],
    ["is a fraction", [at("1.5")], "without an Upload-Offset"],
    ["is no number", [at("ten")], "without an Upload-Offset"],
    ["is hexadecimal", [at("0xa")], "without an Upload-Offset"],
    [
      "is more than a number can be",
      [at("9".repeat(20))],
      "without an Upload-Offset",
    ],
  ] as [string, Behaviour[], string | RegExp][]
) {
  Deno.test(`an offset that ${title} is an error, the bytes are kept, and the server is asked again`, async () => {
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
  for (const script of [[says(status)], [close, says(status)]]) {
    Deno.test(`a ${status} at request ${script.length} means that the upload is gone`, async () => {
      await using given = setUp(script);
      const error = await assertRejects(
        () => given.sender.send(BYTES, context()),
        SendError,
        "; the upload no longer exists, if this is its URL: it has expired",
      );
      assertEquals(error.status, status);
      assertEquals(given.lines().length, script.length);
    });
  }
}

Deno.test("a length that the server says is the most that it is sent", async () => {
  await using given = setUp([says(409), at(2, 5)]);
  await assertRejects(
    () => given.sender.send(BYTES, context()),
    RangeError,
    "Cannot upload 10 bytes or more: its length is 5",
  );
  assertEquals(given.lines().length, 2);
});

Deno.test("a 413 is about the object, or about the request if a proxy says so", async () => {
  for (
    const [refusal, advice] of [
      [says(413), "responded with 413; the object is larger than it allows"],
      [respond(413), "responded with 413; make `capacity` smaller"],
    ] as const
  ) {
    await using given = setUp([refusal]);
    await assertRejects(
      () => given.sender.send(BYTES, context()),
      SendError,
      advice,
    );
  }
});

Deno.test("a flush that failed goes on where the server is", async () => {
  await using given = setUp([cutAt(3), at(3), says(400), at(6), at(10)]);
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
  const [title, script, expected] of [
    ["whose answer was lost is asked for", [close, at(10, 10)], ["HEAD"]],
    ["that was lost is sent again", [close, at(10), at(10)], [
      "HEAD",
      "PATCH",
    ]],
    ["that is refused is an error", [says(400)], []],
  ] as [string, Behaviour[], string[]][]
) {
  Deno.test(`a length ${title}`, async () => {
    await using given = setUp([at(10), ...script]);
    const out = new StreamBuffer(given.sender);
    await out.write(TEXT);
    const closing = out.close();
    if (title.endsWith("error")) {
      await assertRejects(() => closing, FlushError, "Cannot close the sender");
    } else await closing;
    assertEquals(given.lines()[1], "PATCH /files/1 @10 of 10");
    const methods = given.server.requests.slice(4).map((r) => r.method);
    assertEquals(methods, expected);
  });
}

Deno.test("a length that the server says differs is an error", async () => {
  await using given = setUp([at(10), close, at(10, 11), at(10, 11)]);
  await given.sender.send(BYTES, context());
  for (let i = 0; i < 2; i++) { // it is asked again
    await assertRejects(
      () => given.sender.close(),
      SendError,
      "and Upload-Length 11, but the length is 10",
    );
  }
  assertEquals(given.lines().slice(2), ["HEAD /files/1", "HEAD /files/1"]);
});

Deno.test("a length that was given at the creation is not given again", async () => {
  await using given = setUp([cutAt(3), at(3), at(10)], { length: 10 });
  await given.sender.send(BYTES, context());
  await given.sender.close();
  assertEquals(given.lines(), ["HEAD /files/1", "PATCH /files/1 @3 3456789"]);
});

Deno.test("a creation is tried again, and what the server offers is asked for until it answers", async () => {
  await using server = new FaultyServer([
    close,
    respond(503),
    offers(),
    close,
    respond(503),
    CREATED,
  ]);
  const sender = new TusSender(server.url, FAST);
  await sender.create();
  assertEquals(
    server.requests.map(({ method }) => method),
    ["OPTIONS", "OPTIONS", "OPTIONS", "POST", "POST", "POST"],
  );
});

Deno.test("a creation that failed is tried again by the next flush", async () => {
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

Deno.test("a 401 is answered with fresh headers, wherever it comes", async () => {
  await using server = new FaultyServer([
    respond(401),
    says(401),
    CREATED,
    says(401),
    at(0),
    at(10),
  ]);
  let asked = 0;
  const sender = new TusSender(server.url, {
    headers: ({ failure }) => {
      asked++;
      return { "X-Failure": `${failure?.status}` };
    },
  });
  await sender.send(BYTES, context());
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-failure")),
    ["undefined", "undefined", "401", "undefined", "401", "401"],
  );
  assertEquals(asked, 6);
});

Deno.test("a server that is not there fails the flush, with the bytes kept", async () => {
  const out = new StreamBuffer(
    new TusSender(`http://127.0.0.1:${freePort()}/`, ONCE),
  );
  await out.write(TEXT);
  await assertRejects(() => out.close(), FlushError, "Cannot OPTIONS http");
  assertEquals(out.takeUnsent().length, 10);
});

Deno.test("each request has its own timeout, within that for all attempts", async () => {
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
  assertMatch(message, /it took longer than 49\d ms/);
  assertEquals(given.lines().length, 4);
});

// -- The end --

Deno.test("close() of fewer bytes than `length` does not complete the upload", async () => {
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

Deno.test("close() of nothing where `length` says more creates nothing", async () => {
  await using given = setUp([], { length: 1 });
  await assertRejects(() => given.sender.close(), RangeError);
  assertEquals(given.server.connections, 0);
});

Deno.test("close() after a flush that failed half-way does not complete the upload", async () => {
  await using given = setUp([at(4), says(400)]);
  await assertRejects(() => given.sender.send(BYTES, context()), SendError);
  assertEquals(given.sender.offset, 4);
  await assertRejects(() => given.sender.close(), TypeError, "last flush");
  assertEquals(given.lines().length, 2);
});

Deno.test("close() during a flush, or after one that failed, does not complete the upload", async () => {
  const { release, behaviour } = held(says(400));
  await using given = setUp([at(10), behaviour]);
  await given.sender.send(BYTES, context());
  const sending = assertRejects(() => given.sender.send(BYTES, context(10)));
  await given.server.received(4);
  await assertRejects(() => given.sender.close(), TypeError, "last flush");
  release();
  await sending;
  await assertRejects(() => given.sender.close(), TypeError, "last flush");
  assertEquals(given.lines().length, 2);
});

Deno.test("write() of more bytes than `length` is not sent", async () => {
  await using given = setUp([], { length: 9 });
  await assertRejects(
    () => given.sender.send(BYTES, context()),
    RangeError,
    "Cannot upload 10 bytes or more: its length is 9",
  );
  assertEquals(given.server.connections, 0);
});

Deno.test("abort() leaves the upload, or removes it if asked to", async () => {
  for (const terminate of [false, true]) {
    await using given = setUp([at(10), says(423), close, says(204)], {
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
  }
});

Deno.test("abort() finds the upload removed, or says that it could not be", async () => {
  for (const status of [404, 410]) {
    await using given = setUp([says(status)], { terminate: true });
    await given.sender.create();
    await given.sender.abort();
  }
  await using given = setUp([says(400)], { terminate: true });
  await given.sender.create();
  await assertRejects(
    () => given.sender.abort(),
    SendError,
    "Cannot DELETE http",
  );
});

Deno.test("abort() removes nothing that was not created, or is complete", async () => {
  await using given = setUp([], { length: 0, terminate: true });
  await new TusSender(given.server.url, { terminate: true }).abort();
  assertEquals(given.server.connections, 0);
  await given.sender.close();
  await given.sender.abort();
  assertEquals(given.lines(), []);
});

Deno.test("abort() ends what is under way, with the reason", async () => {
  await using given = setUp([never]);
  const out = new StreamBuffer(given.sender);
  await out.write(TEXT);
  const reason = new Error("enough");
  const flushing = out.flush().catch((error) => error);
  await given.server.received(3);
  await out.abort(reason);
  assertStrictEquals(await flushing, reason);
});

for (const what of ["create", "close"] as const) {
  Deno.test(`abort() ends ${what}(), with the reason`, async () => {
    await using server = new FaultyServer([offers(), never]);
    const sender = new TusSender(server.url);
    const pending = sender[what]();
    const failed = Promise.resolve(pending).catch((error) => error);
    await server.received(2);
    const reason = new Error("enough");
    await sender.abort(reason);
    assertStrictEquals(await failed, reason);
  });
}

Deno.test("send() ends with the reason of its signal, also while it is created", async () => {
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

Deno.test("pipeTo() from a source that fails does not complete the upload", async () => {
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

Deno.test("close() that ends by closeTimeout says what the matter was", async () => {
  await using given = setUp([], {
    retry: { initialDelay: 60_000, maxElapsed: 600_000 },
  });
  const out = new StreamBuffer(given.sender, { closeTimeout: 50 });
  await out.write(TEXT);
  const { message } = await assertRejects(() => out.close(), FlushError);
  assertMatch(message, /closeTimeout of 50 ms has passed: Cannot PATCH 10 b/);
  assertEquals(out.takeUnsent().length, 10);
});

Deno.test("send() leaves no listener on the stream's signal", async () => {
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

Deno.test("a TusSender serves one stream only, and that goes on", async () => {
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
});

Deno.test("no error of an upload shows a header's value or a query", async () => {
  const echo: Behaviour = async (exchange) => {
    const { headers, path } = exchange.request;
    await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
  };
  await using server = new FaultyServer([
    offers(),
    says(201, { location: "/files/1?token=hunter22" }),
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

Deno.test("numbers that the protocol needs are no secrets", async () => {
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
  Deno.test(`of the checksums "${offered}" ${expected} is sent, with ${Deno.inspect(options)}`, async () => {
    await using server = new FaultyServer([
      offers({
        "tus-extension": ALL,
        ...offered && { "tus-checksum-algorithm": offered },
      }),
      CREATED,
      at(4),
      says(460),
      at(4),
      at(10),
    ]);
    const sender = new TusSender(server.url, { ...FAST, ...options });
    await sender.send(BYTES, context());
    const patches = server.requests.filter(({ method }) => method === "PATCH");
    assertEquals(patches.length, 3);
    for (const { headers, body } of patches) {
      assertEquals(
        headers.get("upload-checksum"),
        expected
          ? `${expected} ${createHash(expected).update(body).digest("base64")}`
          : null,
      );
    }
  });
}

Deno.test("no checksum is sent to a server without the extension, or a version", async () => {
  const sha1 = { "tus-checksum-algorithm": "sha1" };
  for (
    const options of [
      offers(sha1),
      says(204, { "tus-extension": ALL, ...sha1 }),
    ]
  ) {
    await using server = new FaultyServer([options, CREATED, at(10)]);
    await new TusSender(server.url).send(BYTES, context());
    assertEquals(server.requests[2]!.headers.get("upload-checksum"), null);
  }
});

// -- Another process goes on --

Deno.test("resume() asks for the offset, and sends what follows it", async () => {
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

Deno.test("resume() of a complete upload leaves nothing to do", async () => {
  await using server = new FaultyServer([offers(), at(10, 10)]);
  const sender = await TusSender.resume(server.url);
  assertEquals([sender.offset, sender.length], [10, 10]);
  await sender.close();
  assertEquals(server.requests.length, 2);
});

Deno.test("resume() takes the length from the server, or gives it with the next bytes", async () => {
  await using server = new FaultyServer([offers(), at(0, 11), at(10)]);
  const sender = await TusSender.resume(server.url);
  assertEquals(sender.length, 11);
  await sender.send(BYTES, context());
  await assertRejects(() => sender.close(), RangeError, "length is 11");

  await using other = new FaultyServer([offers(), at(0), at(10)]);
  const another = await TusSender.resume(other.url, { length: 10 });
  await another.send(BYTES, context());
  await another.close();
  assertEquals(
    other.requests.map(line).at(-1),
    "PATCH /ingest @0 0123456789 of 10",
  );
});

for (
  const [title, behaviour, message] of [
    ["is gone", says(404), "the upload no longer exists"],
    [
      "is no upload",
      respond(200, {}, ""),
      "responded with 200 but without an Upload-Offset; it does not seem to speak tus",
    ],
    [
      "has another length",
      at(0, 11),
      "and Upload-Length 11, but the length is 10",
    ],
  ] as const
) {
  Deno.test(`resume() of what ${title} fails`, async () => {
    await using server = new FaultyServer([respond(404), behaviour]);
    await assertRejects(
      () => TusSender.resume(server.url, { length: 10 }),
      SendError,
      message,
    );
    assertEquals(server.requests.length, 2);
  });
}

Deno.test("resume() of more than the length fails", async () => {
  await using server = new FaultyServer([respond(404), at(11, 10)]);
  await assertRejects(
    () => TusSender.resume(server.url),
    SendError,
    "and Upload-Length 10, but the length is at least 11",
  );
});

Deno.test("resume() waits for who has the upload", async () => {
  await using server = new FaultyServer([
    close,
    offers(),
    says(423),
    says(503),
    close,
    at(3),
  ]);
  const sender = await TusSender.resume(server.url, FAST);
  assertEquals(sender.offset, 3);
});

// -- A real server --

Deno.test("an upload to a real server: created, sent, resumed, removed", async () => {
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

Deno.test("a real server that takes less says so before anything is sent", async () => {
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

Deno.test("a cut anywhere in an exchange with a real server costs one flush at most", async () => {
  const object = BYTES;
  for (const direction of ["up", "down"] as const) {
    // A step of 7 comes to heads, bodies and answers.
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
      await out.write(object);
      await out.close();
      const url = sender.url!;
      assert(equals(server.read(url), object), `${direction} ${size}`);
      assert(server.isComplete(url), `${direction} ${size}`);
      assert(server.received <= object.length + 5, `${direction} ${size}`);
      const conflicts = server.requests.filter(({ status }) => status === 409);
      assertEquals(conflicts, []);
    }
  }
});

Deno.test("thousands of random cuts leave every object whole", async () => {
  const { cuts } = await checkCuts(2_000);
  assert(cuts >= 2_000);
});
