import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { setTimeout as sleep } from "node:timers/promises";
import { FlushError, type SendContext, StreamBuffer } from "../buffer.ts";
import { fakeTime } from "../testing/fake_time.ts";
import {
  type Behaviour,
  FaultyServer,
  head,
  held,
  never,
  respond,
  script,
} from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { SendError, UploadSender, type UploadSenderOptions } from "./upload.ts";

/** More than sockets and pipes hold. */
const LARGE = 24 * 2 ** 20;
const MIB = 2 ** 20;
const ONE = new Uint8Array(1);

/** Numbers, so that any two parts differ. */
function numbers(size: number): string {
  let text = "";
  for (let i = 0; text.length < size; i++) text += `${i} `;
  return text.slice(0, size);
}

function upload(
  { url }: { url: string },
  options: UploadSenderOptions & { capacity?: number } = {},
): StreamBuffer {
  const { capacity = 64 * 1024, ...rest } = options;
  return new StreamBuffer(new UploadSender(url, rest), {
    capacity,
    flushInterval: 0,
  });
}

function context(offset = 0): SendContext {
  return { sequence: 0, offset, signal: new AbortController().signal };
}

/** Writes until that fails, and returns why. */
async function writeUntilItFails(out: StreamBuffer): Promise<FlushError> {
  const chunk = new Uint8Array(64 * 1024);
  const error = await assertRejects(async () => {
    for (let sum = 0; sum < 4 * LARGE; sum += chunk.length) {
      await out.write(chunk);
    }
  }, FlushError);
  return error;
}

/** Answers when it has read so much of the body, and then does something. */
function respondEarly(
  status: number,
  size: number,
  then: "read on" | "stall" | "close",
): Behaviour {
  return async ({ read, receive, write, closed, close }) => {
    await read(size);
    const reply = "no thanks";
    const headers = { "content-length": `${reply.length}` };
    await write(head(status, headers) + reply);
    if (then === "close") close();
    else if (then === "stall") await closed();
    else await receive();
  };
}

/** Says when a request has come. */
function begins() {
  const begun = Promise.withResolvers<void>();
  const behaviour: Behaviour = async (exchange) => {
    await exchange.read(1);
    begun.resolve();
    await respond(200)(exchange);
  };
  return { begun, behaviour };
}

/** Waits until a request has broken off, the only one. */
async function broken(server: FaultyServer): Promise<void> {
  while (server.incomplete.length === 0) await sleep(1);
  assertEquals([server.incomplete.length, server.requests.length], [1, 0]);
}

// -- Options --

for (
  const [options, errorClass, message] of [
    [{ length: -1 }, RangeError, "length must be an integer from 0"],
    [{ length: 1.5 }, RangeError, "received 1.5"],
    [{ length: NaN }, RangeError, "received NaN"],
    [{ length: 2 ** 53 }, RangeError, "to 9007199254740991, received 9007"],
    [{ length: "8" }, TypeError, 'received "8"'],
    [{ timeout: 0 }, RangeError, "timeout must be an integer from 1"],
    [{ method: "GET" }, RangeError, 'received "GET"'],
    [{ method: 5 }, TypeError, "received 5"],
    [{ headers: 5 }, TypeError, "must be an object"],
    [{ fetch: 5 }, TypeError, "fetch must be a function"],
    [5, TypeError, "options must be an object, received 5"],
  ] as const
) {
  Deno.test(`UploadSender() refuses ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new UploadSender("http://localhost/", options as never),
      errorClass as typeof Error,
      message,
    );
    assertMatch(error.message, /^Cannot (create UploadSender|use headers): /);
  });
}

Deno.test("UploadSender() refuses a URL that is none, without its secrets", () => {
  for (const url of ["nonsense", "ftp://a/?secret", "http://me:secret@a/"]) {
    const error = assertThrows(() => new UploadSender(url), TypeError);
    assertMatch(error.message, /^Cannot create UploadSender: url must /);
    assert(!error.message.includes("secret"));
  }
});

Deno.test("UploadSender() takes a length beyond 2 GiB", () => {
  new UploadSender("http://localhost/", { length: 5e12 });
});

// -- An upload --

for (const length of [undefined, LARGE]) {
  const size = length === undefined ? "unknown" : "known";
  for (const capacity of [100_000, MIB]) {
    Deno.test(`an upload of ${size} size is one request, at capacity ${capacity}`, async () => {
      await using server = new FaultyServer();
      const out = upload(server, { capacity, ...(length && { length }) });
      const text = numbers(LARGE);
      for (let at = 0; at < text.length; at += 77_777) {
        await out.write(text.slice(at, at + 77_777));
      }
      await out.close();
      assertEquals(server.requests.length, 1);
      const [{ method, path, headers, body }] = server.requests as [
        (typeof server.requests)[0],
      ];
      assertEquals([method, path], ["PUT", "/ingest"]);
      assertEquals(headers.get("content-type"), "application/octet-stream");
      assertEquals(headers.get("idempotency-key"), null);
      assertEquals(headers.get("content-length"), length ? `${length}` : null);
      assertEquals(
        headers.get("transfer-encoding"),
        length ? null : "chunked",
      );
      assert(new TextDecoder().decode(body) === text, "other bytes arrived");
      assertEquals(out.stats.bytesDelivered, text.length);
    });
  }
}

for (const capacity of [1, 2, 7, 64]) {
  for (const size of [1, 3, 7, 8, 100]) {
    Deno.test(`an upload of writes of ${size} bytes at capacity ${capacity} is what was written`, async () => {
      await using server = new FaultyServer();
      const out = upload(server, { capacity });
      const text = numbers(500);
      for (let at = 0; at < text.length; at += size) {
        await out.write(text.slice(at, at + size));
      }
      await out.close();
      assertEquals(server.bodies, [text]);
    });
  }
}

for (const options of [{}, { length: 0 }]) {
  Deno.test(`an upload of nothing is an empty object, with ${Deno.inspect(options)}`, async () => {
    await using server = new FaultyServer();
    await upload(server, options).close();
    assertEquals(server.bodies, [""]);
    assertEquals(server.requests[0]!.method, "PUT");
  });
}

Deno.test("an upload may use any method, headers, query, client and fetch", async () => {
  await using server = new FaultyServer();
  using client = Deno.createHttpClient({});
  let calls = 0;
  const out = upload({ url: `${server.url}?a=b` }, {
    method: "POST",
    headers: { "X-A": "b", "Content-Type": "text/plain" },
    client,
    fetch: (input, init) => {
      calls++;
      return fetch(input, init);
    },
  });
  await out.write("text");
  await out.close();
  const [request] = server.requests;
  assertEquals([request!.method, request!.path], ["POST", "/ingest?a=b"]);
  assertEquals(request!.headers.get("x-a"), "b");
  assertEquals(request!.headers.get("content-type"), "text/plain");
  assertEquals(calls, 1);
});

Deno.test("an upload asks a header function once", async () => {
  await using server = new FaultyServer();
  const asked: unknown[] = [];
  const out = upload(server, {
    capacity: 2,
    headers: ({ signal: _, ...attempt }) => {
      asked.push(attempt);
      return { "X-Token": "fresh" };
    },
  });
  for (const text of ["ab", "cd", "ef"]) await out.write(text);
  await out.close();
  const first = { sequence: 0, offset: 0, attempt: 1, failure: undefined };
  assertEquals(asked, [first]);
  assertEquals(server.requests[0]!.headers.get("x-token"), "fresh");
});

Deno.test("an upload keeps what it was given, to a slow server, when the store is used again", async () => {
  const slowly: Behaviour = async (exchange) => {
    for (let i = 0; i < 100; i++) {
      await exchange.read(10_000);
      await sleep(0);
    }
    await respond(200)(exchange);
  };
  await using server = new FaultyServer([slowly]);
  const sender = new UploadSender(server.url);
  const store = new Uint8Array(256 * 1024);
  for (let i = 0; i < 40; i++) {
    store.fill(i);
    await sender.send(store, context(i * store.length));
    store.fill(255);
  }
  await sender.close();
  const { body } = server.requests[0]!;
  assertEquals(body.length, 40 * store.length);
  const wrong = body.findIndex((byte, i) =>
    byte !== Math.floor(i / store.length)
  );
  assertEquals(wrong, -1, "it was overwritten before it was read");
});

Deno.test("flush() hands over what there is; only close() waits for the answer", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  const out = upload(server);
  await out.write("half ");
  await out.flush();
  assertEquals(out.stats.bytesDelivered, 5);
  assertEquals(server.requests.length, 0);
  await out.write("an object");
  let closed = false;
  const closing = out.close().then(() => closed = true);
  await server.received(1);
  await sleep(10);
  assert(!closed);
  release();
  await closing;
  assertEquals(server.bodies, ["half an object"]);
});

Deno.test("write() waits for a server that does not read, and goes on with it", async () => {
  const reads = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    await reads.promise;
    await respond(201)(exchange);
  }]);
  const out = upload(server, { capacity: MIB });
  const chunk = new Uint8Array(MIB);
  let written = 0;
  const writing = (async () => {
    for (; written < LARGE; written += chunk.length) await out.write(chunk);
    await out.close();
  })();
  let before = -1;
  while (before !== written) {
    before = written;
    await sleep(100);
  }
  assert(written < LARGE, "everything was taken by nobody");
  reads.resolve();
  await writing;
  assertEquals(server.requests[0]!.body.length, LARGE);
});

// -- Answers before the end --

for (const status of [401, 413, 500, 302, 200, 201]) {
  for (const then of ["read on", "stall", "close"] as const) {
    for (const length of [undefined, 4 * LARGE]) {
      const size = length === undefined ? "unknown" : "known";
      Deno.test(`a ${status} before the end of an upload of ${size} size stops it; servers that then ${then}`, async () => {
        await using server = new FaultyServer([
          respondEarly(status, 100_000, then),
        ]);
        const out = upload(server, length ? { length } : {});
        const error = await writeUntilItFails(out);
        assertInstanceOf(error.cause, SendError);
        // A connection that is closed with bytes unread may take the answer along.
        if (then !== "close" || error.cause.status !== undefined) {
          assertEquals(error.cause.status, status);
          const early = status < 300 ? " before it had the whole upload" : "";
          assertStringIncludes(
            error.message,
            `responded with ${status}${early}`,
          );
        }
        assertMatch(
          error.message,
          /had accepted up to \d+ bytes, and how many .* unk/,
        );
        const { bytesAccepted, bytesDelivered } = out.stats;
        assert(bytesDelivered >= 100_000 - 65_536);
        assert(bytesDelivered < 4 * LARGE);
        // It stays so, with the bytes that nobody took.
        assertEquals((await out.flush().catch((e) => e)).cause, error.cause);
        assertEquals((await out.close().catch((e) => e)).cause, error.cause);
        assertEquals(
          out.takeUnsent().length,
          bytesAccepted - bytesDelivered,
        );
        assertEquals(server.connections, 1);
        assertEquals(server.requests.length, 0, "it came to an end");
      });
    }
  }
}

Deno.test("a refusal is told with the beginning of the reply, and what to do", async () => {
  for (
    const [status, advice] of [
      [411, "; it may need to know the size, so give `length`"],
      [413, "; the object is larger than it allows"],
      [501, "; it may need to know the size, so give `length`"],
      [403, "; check the credentials in `headers`"],
      [301, "; redirects are not followed, so give the final URL"],
    ] as const
  ) {
    await using server = new FaultyServer([respond(status, {}, "sorry\n")]);
    const out = upload(server);
    await out.write("object");
    const error = await assertRejects(() => out.close(), FlushError);
    assertStringIncludes(
      error.message,
      `PUT ${server.url} (attempt 1): the server responded with ${status}${advice}: "sorry"; the connection had accepted up to 6 bytes`,
    );
    assertEquals((error.cause as SendError).excerpt, "sorry");
    assertEquals(out.takeUnsent().length, 0);
    assertEquals(server.requests.length, 1, "there is no retry");
  }
});

Deno.test("a refusal whose reply does not end stops the upload at once, and is told in time", async () => {
  using time = fakeTime();
  const answered = Promise.withResolvers<void>();
  await using server = new FaultyServer([async ({ read, write, receive }) => {
    await read(1);
    await write(head(403, {}) + "go away");
    answered.resolve();
    await receive();
  }]);
  const sender = new UploadSender(server.url);
  let given = 0;
  let failure: unknown;
  const send = () =>
    sender.send(ONE, context(given))
      .then(() => given++, (error) => failure = error);
  await send();
  await answered.promise;
  // The server reads on, but is given no more, and its reply is waited for.
  let waiting: Promise<unknown> | undefined;
  while (waiting === undefined) {
    assert(given < 100_000, "it goes on");
    const sending = send();
    const late = sleep(200, "late");
    if (await Promise.race([sending, late]) === "late") waiting = sending;
  }
  assertEquals(failure, undefined);
  await time.tickAsync(5_000);
  await waiting;
  assertInstanceOf(failure, SendError);
  assertEquals([failure.status, failure.excerpt], [403, "go away"]);
});

for (const length of [undefined, 8]) {
  Deno.test(`a 200 before the end is none, when its reply comes late and the rest was written meanwhile, with length ${length}`, async () => {
    const { promise: replied, resolve: reply } = Promise.withResolvers<void>();
    const answered = Promise.withResolvers<void>();
    await using server = new FaultyServer([async ({ read, write, closed }) => {
      await read(4);
      await write(head(200, { "content-length": "2" }));
      answered.resolve();
      await replied;
      await write("ok");
      await closed();
    }]);
    const out = upload(server, length ? { length } : {});
    await out.write("half");
    await out.flush();
    await answered.promise;
    await sleep(50); // the platform has to see it, and does not tell
    await out.write("rest");
    const closing = assertRejects(() => out.close(), FlushError);
    await sleep(20);
    reply();
    const { message } = await closing;
    assertMatch(
      message,
      /responded with 200 before it had the whole upload: "ok"/,
    );
    assertEquals(server.requests.length, 0);
  });

  Deno.test(`a 200 before most of the last flush is sent is none, with length ${length}`, async () => {
    await using server = new FaultyServer([respondEarly(200, 1_000, "stall")]);
    const out = upload(server, {
      capacity: 2 * LARGE,
      ...length && { length: LARGE },
    });
    await out.write(new Uint8Array(LARGE));
    const { message } = await assertRejects(() => out.close(), FlushError);
    assertMatch(message, /responded with 200 before it had the whole upload/);
  });
}

Deno.test("closed rejects as soon as the upload has failed, without a write", async () => {
  await using server = new FaultyServer([respondEarly(401, 4, "stall")]);
  const sender = new UploadSender(server.url);
  await sender.send(new TextEncoder().encode("half"), context());
  const error = await assertRejects(() => sender.closed, SendError);
  assertEquals(error.status, 401);
});

Deno.test("closed settles with close() and abort()", async () => {
  await using server = new FaultyServer();
  const sender = new UploadSender(server.url);
  await sender.close();
  await sender.closed;
  const other = new UploadSender(server.url);
  const reason = new Error("enough");
  other.abort(reason);
  assertEquals(await other.closed.catch((error) => error), reason);
});

Deno.test("a platform need not ask for more than `length`", async () => {
  let text = "";
  const fetch = async (input: unknown) => {
    const reader = (input as Request).body!.getReader();
    while (text.length < 6) {
      text += new TextDecoder().decode((await reader.read()).value);
    }
    await sleep(20); // close() waits by now
    return new Response();
  };
  const url = "http://localhost/";
  const out = upload({ url }, { length: 6, fetch, capacity: 3 });
  await out.write("object");
  await out.close();
  assertEquals(text, "object");
});

Deno.test("a 2xx that comes when all of `length` is there is one, before close()", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { length: 6 });
  await out.write("object");
  await out.flush();
  await server.received(1);
  await sleep(10);
  await out.close();
  assertEquals(server.bodies, ["object"]);
});

// -- Failures --

Deno.test("a connection that breaks fails the upload for good, and it is told how far it was", async () => {
  await using server = new FaultyServer([async ({ read, close }) => {
    await read(200_000);
    close();
  }]);
  const out = upload(server);
  const error = await writeUntilItFails(out);
  assertInstanceOf(error.cause, SendError);
  assertEquals(error.cause.status, undefined);
  assertMatch(error.message, /accepted up to \d{6,} bytes/);
  await assertRejects(() => out.write("more").then(() => out.flush()));
  await assertRejects(() => out.close(), FlushError);
  assertEquals(server.connections, 1);
});

Deno.test("a server that is not there fails the upload", async () => {
  const out = upload({ url: `http://127.0.0.1:${freePort()}/` });
  await out.write("object");
  const error = await assertRejects(() => out.close(), FlushError);
  assertMatch(error.message, /Cannot PUT http.*: fetch failed.*; the conn/);
  assertInstanceOf(error.cause, SendError);
  assertInstanceOf(error.cause.cause, Error);
});

Deno.test("a server that reads nothing fails the upload after `timeout`", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([({ hang }) => hang()]);
  const out = upload(server, { timeout: 1_000 });
  const failing = writeUntilItFails(out);
  let settled = false;
  void failing.finally(() => settled = true);
  while (!settled) {
    await time.tickAsync(100);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const error = await failing;
  assertMatch(error.message, /it took longer than 1000 ms; .*accepted up to/);
  await assertRejects(() => out.close());
});

Deno.test("a server that never answers fails close() after `timeout`", async () => {
  using time = fakeTime();
  const gone = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    await never(exchange);
    gone.resolve();
  }]);
  const out = upload(server, { timeout: 1_000 });
  await out.write("object");
  const closing = assertRejects(() => out.close(), FlushError);
  await server.received(1);
  await time.tickAsync(1_000);
  const { message } = await closing;
  await gone.promise;
  assertMatch(message, /longer than 1000 ms; .* up to 6 bytes, and how many/);
  assertEquals(server.connections, 1);
});

for (const length of [undefined, 10]) {
  Deno.test(`abort() breaks the request off, so that nobody takes it for whole, with length ${length}`, async () => {
    const { begun, behaviour } = begins();
    await using server = new FaultyServer([behaviour]);
    const out = upload(server, length ? { length } : {});
    await out.write("half");
    await out.flush();
    await begun.promise;
    await out.abort(new Error("enough"));
    await broken(server);
  });
}

Deno.test("abort() ends a send that waits, with the reason", async () => {
  await using server = new FaultyServer([({ hang }) => hang()]);
  const out = upload(server, { capacity: MIB });
  const reason = new Error("enough");
  const writing = (async () => {
    for (;;) await out.write(new Uint8Array(MIB));
  })();
  const failed = writing.catch((error) => error);
  let before = -1;
  while (before !== out.stats.bytesDelivered) {
    before = out.stats.bytesDelivered;
    await sleep(50);
  }
  await out.abort(reason);
  assertEquals(await failed, reason);
});

Deno.test("abort() alone is enough of a reason, and nothing is asked for after it", async () => {
  await using server = new FaultyServer();
  let asked = 0;
  const headers = () => {
    asked++;
    return {};
  };
  const sender = new UploadSender(server.url, { headers });
  sender.abort();
  for (const use of [() => sender.send(ONE, context()), () => sender.close()]) {
    const error = await assertRejects(
      use,
      DOMException,
      "The upload was aborted",
    );
    assertEquals(error.name, "AbortError");
  }
  assertEquals([asked, server.connections], [0, 0]);
});

Deno.test("send() ends with the reason of its signal, and so does the upload", async () => {
  await using server = new FaultyServer([({ hang }) => hang()]);
  const sender = new UploadSender(server.url);
  const controller = new AbortController();
  const { signal } = controller;
  const reason = new Error("enough");
  const bytes = new Uint8Array(MIB);
  const error = await assertRejects(async () => {
    setTimeout(() => controller.abort(reason), 20);
    for (let offset = 0;; offset += MIB) {
      await sender.send(bytes, { sequence: 0, offset, signal });
    }
  });
  assertEquals(error, reason);
  assertEquals(await sender.close().catch((error) => error), reason);
});

Deno.test("pipeTo() from a source that fails breaks the request off", async () => {
  const { begun, behaviour } = begins();
  await using server = new FaultyServer([behaviour]);
  const out = upload(server, { capacity: 4 });
  const reason = new Error("unplugged");
  const source = new ReadableStream({
    start: (controller) => controller.enqueue("half"),
    pull: async (controller) => {
      await begun.promise;
      controller.error(reason);
    },
  });
  const error = await assertRejects(() => source.pipeTo(out.writable));
  assertEquals(error, reason);
  await broken(server);
});

Deno.test("close() of fewer bytes than `length` breaks the request off", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { length: 10 });
  await out.write("half");
  const error = await assertRejects(() => out.close(), FlushError);
  assertMatch(error.message, /has only 4 bytes, but length is 10/);
  assertEquals(server.requests.length, 0);
});

Deno.test("write() of more bytes than `length` fails the upload", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { length: 10 });
  await out.write("0123456789ab");
  const error = await assertRejects(() => out.flush(), FlushError);
  assertMatch(error.message, /has at least 12 bytes, but length is 10/);
  await assertRejects(() => out.close(), FlushError);
  assertEquals(server.requests.length, 0);
  assertEquals(out.takeUnsent().length, 12);
});

Deno.test("an UploadSender serves one stream only, and that goes on", async () => {
  await using server = new FaultyServer();
  const sender = new UploadSender(server.url);
  const one = new StreamBuffer(sender);
  const other = new StreamBuffer(sender, { flushInterval: 0 });
  await one.write("one");
  await one.flush();
  await other.write("other");
  const { message } = await assertRejects(() => other.flush(), FlushError);
  assertStringIncludes(message, "serves another StreamBuffer");
  await one.close();
  assertEquals(server.bodies, ["one"]);
  await assertRejects(
    () => sender.send(ONE, context(3)),
    TypeError,
    "is closed",
  );
});

Deno.test("close() of an upload ends by closeTimeout", async () => {
  await using server = new FaultyServer([never]);
  const out = new StreamBuffer(new UploadSender(server.url), {
    closeTimeout: 50,
  });
  await out.write("object");
  const { message } = await assertRejects(() => out.close(), FlushError);
  assertStringIncludes(message, "closeTimeout of 50 ms has passed");
});

for (
  const name of ["garbage", "half a head", "close", "304", "408 and close"]
) {
  Deno.test(`an upload to a server that does this fails: ${name}`, async () => {
    await using server = new FaultyServer(script([name]));
    const out = upload(server);
    await out.write("object");
    await assertRejects(() => out.close(), FlushError, "Cannot PUT http");
  });
}

Deno.test("a header function that fails fails the upload", async () => {
  await using server = new FaultyServer();
  const out = upload(server, {
    headers: () => Promise.reject(new Error("no token")),
  });
  await out.write("object");
  const { message } = await assertRejects(() => out.close(), FlushError);
  assertMatch(message, /could not get the headers: no token$/);
  assertEquals(server.connections, 0);
});

Deno.test("no error of an upload shows a header's value or the query", async () => {
  const echo: Behaviour = async (exchange) => {
    const { headers, path } = exchange.request;
    await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
  };
  await using server = new FaultyServer([echo]);
  const out = upload({ url: `${server.url}?token=hunter22` }, {
    headers: { Authorization: "Bearer correct-horse" },
  });
  await out.write("object");
  const error = await assertRejects(() => out.close(), FlushError);
  const shown = Deno.inspect(error, { depth: 10, showHidden: true }) +
    Deno.inspect(out, { depth: 10, showHidden: true });
  assert(!/hunter|correct-horse/.test(shown), shown);
});
