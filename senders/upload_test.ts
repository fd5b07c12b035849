import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FlushError, StreamBuffer } from "../buffer.ts";
import { start } from "../testing/child.ts";
import { isPending, roundTrips, stable } from "../testing/event_loop.ts";
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
import {
  type BatchContext,
  SendError,
  type UploadSenderOptions,
} from "./upload.ts";
import { currentTransport, test, UploadSender } from "../testing/transports.ts";
import { fetchTransport } from "../http/fetch_transport.ts";

/** More than the buffers of a connection hold. */
const LARGE = 24 * 2 ** 20;
const MIB = 2 ** 20;
const ONE = new Uint8Array(1);

/** Text in which no two parts of the same length are equal. */
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

function context(offset = 0): BatchContext {
  return { sequence: 0, offset, signal: new AbortController().signal };
}

/** Writes until a write fails, and returns its error. */
async function writeUntilItFails(out: StreamBuffer): Promise<FlushError> {
  const chunk = new Uint8Array(64 * 1024);
  const error = await assertRejects(async () => {
    for (let sum = 0; sum < 4 * LARGE; sum += chunk.length) {
      await out.write(chunk);
    }
  }, FlushError);
  return error;
}

/** Responds after `size` bytes of the body, and then does something. */
function respondEarly(
  status: number,
  size: number,
  then: "read on" | "stall" | "close",
): Behaviour {
  return async ({ read, receive, write, closed, close }) => {
    await read(size);
    const body = "no thanks";
    const headers = { "content-length": `${body.length}` };
    await write(head(status, headers) + body);
    if (then === "close") close();
    else if (then === "stall") await closed();
    else await receive();
  };
}

/** Makes the platform pass for another one, until disposed. */
function userAgent(value: string): Disposable {
  Object.defineProperty(navigator, "userAgent", { value, configurable: true });
  return {
    [Symbol.dispose]: () =>
      void delete (navigator as { userAgent?: string }).userAgent,
  };
}

/** A transport that reports when a response has reached the sender. */
function reportingTransport() {
  const responded = Promise.withResolvers<void>();
  const transport = currentTransport() ?? fetchTransport(fetch, undefined);
  const options: UploadSenderOptions = {
    transport: async (request) => {
      const response = await transport(request);
      responded.resolve();
      return response;
    },
  };
  return { options, responded: responded.promise.then(() => roundTrips()) };
}

/** Asserts that the only request was cut off before its end. */
async function assertAborted(server: FaultyServer): Promise<void> {
  assert(!await isPending(server.aborted(1)), "the request was not cut off");
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
  Deno.test(`UploadSender() rejects ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new UploadSender("http://localhost/", options as never),
      errorClass as typeof Error,
      message,
    );
    assertMatch(error.message, /^Cannot (create UploadSender|use headers): /);
  });
}

for (const url of ["nonsense", "ftp://a/?secret", "http://me:secret@a/"]) {
  Deno.test(`UploadSender() rejects the URL ${url} without showing its secrets`, () => {
    const error = assertThrows(() => new UploadSender(url), TypeError);
    assertMatch(error.message, /^Cannot create UploadSender: url must /);
    assert(!error.message.includes("secret"));
  });
}

Deno.test("UploadSender() accepts a length above 2 GiB", () => {
  new UploadSender("http://localhost/", { length: 5e12 });
});

Deno.test("UploadSender() rejects a platform that cannot send a stream, and asks it once", async () => {
  await using child = start("", ({ UploadSender }) => {
    const { Request } = globalThis;
    let made = 0;
    globalThis.Request = class extends Request {
      constructor(input: RequestInfo | URL, init: RequestInit = {}) {
        const { body } = init;
        const isStream = body instanceof ReadableStream;
        if (isStream) made++;
        super(input, isStream ? { ...init, body: `${body}` } : init);
      }
    };
    for (let i = 0; i < 2; i++) {
      try {
        new UploadSender("http://localhost/");
      } catch (error) {
        console.log(`${error}`);
      }
    }
    console.log(made);
  });
  const { stdout, stderr } = await child.outcome;
  const message =
    "TypeError: Cannot create UploadSender: this platform cannot send a stream as the body of a request; use a FetchSender or a TusSender\n";
  assertEquals([stdout, stderr], [`${message}${message}1\n`, ""]);
});

// -- An upload --

for (const length of [undefined, LARGE]) {
  const size = length === undefined ? "unknown" : "known";
  for (const capacity of [100_000, MIB]) {
    test(`an upload of ${size} size is one request, at capacity ${capacity}`, async () => {
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
      assert(new TextDecoder().decode(body) === text, "other bytes received");
      assertEquals(out.stats.bytesDelivered, text.length);
    });
  }
}

for (const capacity of [1, 2, 7, 64]) {
  for (const size of [1, 3, 7, 8, 100]) {
    test(`an upload of ${size}-byte writes at capacity ${capacity} is what was written`, async () => {
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
  test(`an upload of nothing is an empty object, with ${Deno.inspect(options)}`, async () => {
    await using server = new FaultyServer();
    await upload(server, options).close();
    assertEquals(server.bodies, [""]);
    assertEquals(server.requests[0]!.method, "PUT");
  });
}

Deno.test("an upload uses the given method, headers, query, client and fetch", async () => {
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

test("an upload calls a header function once", async () => {
  await using server = new FaultyServer();
  const calls: unknown[] = [];
  const out = upload(server, {
    capacity: 2,
    headers: ({ signal: _, ...attempt }) => {
      calls.push(attempt);
      return { "X-Token": "fresh" };
    },
  });
  for (const text of ["ab", "cd", "ef"]) await out.write(text);
  await out.close();
  const first = { sequence: 0, offset: 0, attempt: 1, failure: undefined };
  assertEquals(calls, [first]);
  assertEquals(server.requests[0]!.headers.get("x-token"), "fresh");
});

test("send() copies its bytes: the store can be reused while the server reads them", async () => {
  const reads = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    await reads.promise;
    await respond(200)(exchange);
  }]);
  const sender = new UploadSender(server.url);
  const store = new Uint8Array(256 * 1024);
  const count = LARGE / store.length;
  let sent = 0;
  const sending = (async () => {
    for (; sent < count; sent++) {
      store.fill(sent);
      await sender.send(store, context(sent * store.length));
      store.fill(255);
    }
    await sender.close();
  })();
  // From here on all bytes wait in the platform before the server reads them.
  const before = await stable(() => sent);
  reads.resolve();
  await sending;
  assert(before < count);
  const { body } = server.requests[0]!;
  assertEquals(body.length, LARGE);
  const wrong = body.findIndex((byte, i) =>
    byte !== Math.floor(i / store.length)
  );
  assertEquals(wrong, -1, "overwritten before it was read");
});

test("flush() resolves when the connection has the bytes, close() after the response", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  const out = upload(server);
  await out.write("half ");
  await out.flush();
  assertEquals(out.stats.bytesDelivered, 5);
  assertEquals(server.requests.length, 0);
  await out.write("an object");
  const closing = out.close();
  await server.received(1);
  assert(await isPending(closing));
  release();
  await closing;
  assertEquals(server.bodies, ["half an object"]);
});

test("write() waits while the server does not read, and resumes when it does", async () => {
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
  const before = await stable(() => written);
  reads.resolve();
  await writing;
  assert(before < LARGE, "write() did not wait");
  assertEquals(server.requests[0]!.body.length, LARGE);
});

// -- Responses before the end --

for (const status of [401, 413, 500, 302, 200, 201]) {
  for (const then of ["read on", "stall", "close"] as const) {
    for (const length of [undefined, 4 * LARGE]) {
      const size = length === undefined ? "unknown" : "known";
      test(`an upload of ${size} size stops at a ${status} before its end, from a server that will ${then}`, async () => {
        await using server = new FaultyServer([
          respondEarly(status, 100_000, then),
        ]);
        const out = upload(server, length ? { length } : {});
        const error = await writeUntilItFails(out);
        assertInstanceOf(error.cause, SendError);
        // Closing with unread bytes resets the connection, and the response may be lost.
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
          /at most \d+ bytes were sent, and it is unknown how many of/,
        );
        const { bytesAccepted, bytesDelivered } = out.stats;
        assert(bytesDelivered >= 100_000 - 65_536);
        assert(bytesDelivered < 4 * LARGE);
        // The failure is permanent, and the unsent bytes are kept.
        assertEquals((await out.flush().catch((e) => e)).cause, error.cause);
        assertEquals((await out.close().catch((e) => e)).cause, error.cause);
        assertEquals(
          out.takeUnsent().length,
          bytesAccepted - bytesDelivered,
        );
        assertEquals(server.connections, 1);
        assertEquals(server.requests.length, 0, "the request was completed");
      });
    }
  }
}

for (
  const [status, advice] of [
    [411, "; it may need to know the size, so give `length`"],
    [413, "; the object is larger than it allows"],
    [501, "; it may need to know the size, so give `length`"],
    [403, "; check the credentials in `headers`"],
    [301, "; redirects are not followed, so give the final URL"],
  ] as const
) {
  test(`close() rejects with advice and an excerpt after a ${status}`, async () => {
    await using server = new FaultyServer([respond(status, {}, "sorry\n")]);
    const out = upload(server);
    await out.write("object");
    const error = await assertRejects(() => out.close(), FlushError);
    assertStringIncludes(
      error.message,
      `PUT ${server.url} failed (attempt 1): the server responded with ${status}${advice}: "sorry"; at most 6 bytes were sent`,
    );
    assertInstanceOf(error.cause, SendError);
    const { excerpt, retryable, refused } = error.cause;
    assertEquals([excerpt, retryable, refused], ["sorry", false, false]);
    assertEquals(out.takeUnsent().length, 0);
    assertEquals(server.requests.length, 1, "there is no retry");
  });
}

test("an upload sends nothing after a 403, and fails in 5 s if the response does not end", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([async ({ read, write, receive }) => {
    await read(1);
    await write(head(403, {}) + "go away");
    await receive();
  }]);
  const { options, responded } = reportingTransport();
  const sender = new UploadSender(server.url, options);
  await sender.send(ONE, context());
  await responded;
  // The server reads on, but gets no more while its response is awaited.
  const sending = sender.send(ONE, context(1));
  assert(await isPending(sending));
  await time.tickAsync(4_999);
  assert(await isPending(sending));
  assertEquals(server.bodyBytes, 1);
  await time.tickAsync(1);
  const { status, excerpt } = await assertRejects(() => sending, SendError);
  assertEquals([status, excerpt], [403, "go away"]);
});

for (const length of [undefined, 8]) {
  test(`a 200 before the end is a failure even if the rest is written before its body ends, with length ${length}`, async () => {
    const { promise: continued, resolve } = Promise.withResolvers<void>();
    await using server = new FaultyServer([async ({ read, write, closed }) => {
      await read(4);
      await write(head(200, { "content-length": "2" }));
      await continued;
      await write("ok");
      await closed();
    }]);
    const { options, responded } = reportingTransport();
    const out = upload(server, { ...options, ...length && { length } });
    await out.write("half");
    await out.flush();
    await responded;
    await out.write("rest");
    const closing = out.close();
    assert(await isPending(closing));
    resolve();
    const { message } = await assertRejects(() => closing, FlushError);
    assertMatch(
      message,
      /responded with 200 before it had the whole upload: "ok"/,
    );
    assertEquals(server.requests.length, 0);
  });

  test(`a 200 before most of the last batch is a failure, with length ${length}`, async () => {
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

test("closed rejects as soon as the upload has failed, without a write", async () => {
  await using server = new FaultyServer([respondEarly(401, 4, "stall")]);
  const sender = new UploadSender(server.url);
  await sender.send(new TextEncoder().encode("half"), context());
  const error = await assertRejects(() => sender.closed, SendError);
  assertEquals(error.status, 401);
});

test("closed resolves with close()", async () => {
  await using server = new FaultyServer();
  const sender = new UploadSender(server.url);
  await sender.close();
  await sender.closed;
});

Deno.test("closed rejects with the reason of abort()", async () => {
  const sender = new UploadSender("http://localhost/");
  const reason = new Error("enough");
  sender.abort(reason);
  assertEquals(await sender.closed.catch((error) => error), reason);
});

Deno.test("close() resolves on a platform that does not read beyond `length`", async () => {
  let text = "";
  const read = Promise.withResolvers<void>();
  const closing = Promise.withResolvers<void>();
  const fetch = async (input: unknown) => {
    const reader = (input as Request).body!.getReader();
    while (text.length < 6) {
      text += new TextDecoder().decode((await reader.read()).value);
    }
    read.resolve();
    await closing.promise;
    return new Response();
  };
  const url = "http://localhost/";
  const out = upload({ url }, { length: 6, fetch, capacity: 3 });
  await out.write("object");
  const closed = out.close();
  await read.promise;
  assert(await isPending(closed));
  closing.resolve();
  await closed;
  assertEquals(text, "object");
});

test("close() resolves after a 2xx that came before it, when all of `length` was sent", async () => {
  await using server = new FaultyServer();
  const { options, responded } = reportingTransport();
  const out = upload(server, { ...options, length: 6 });
  await out.write("object");
  await out.flush();
  await responded;
  await out.close();
  assertEquals(server.bodies, ["object"]);
});

// -- Failures --

test("an upload fails permanently when the connection is lost, and reports how much was sent", async () => {
  await using server = new FaultyServer([async ({ read, close }) => {
    await read(200_000);
    close();
  }]);
  const out = upload(server);
  const error = await writeUntilItFails(out);
  assertInstanceOf(error.cause, SendError);
  assertEquals(error.cause.status, undefined);
  assertMatch(error.message, /at most \d{6,} bytes were sent/);
  await assertRejects(() => out.write("more").then(() => out.flush()));
  await assertRejects(() => out.close(), FlushError);
  assertEquals(server.connections, 1);
});

test("close() rejects when no server is there", async () => {
  const out = upload({ url: `http://127.0.0.1:${freePort()}/` });
  await out.write("object");
  const error = await assertRejects(() => out.close(), FlushError);
  assertMatch(
    error.message,
    // undici asks for nothing before it is connected.
    /PUT http.* failed .*(; at most 6 bytes were|: connection refused)/,
  );
  assertInstanceOf(error.cause, SendError);
  assertInstanceOf(error.cause.cause, Error);
});

test("write() rejects after `timeout` when the server reads nothing", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([({ hang }) => hang()]);
  const out = upload(server, { timeout: 1_000 });
  const failing = writeUntilItFails(out);
  await stable(() => out.stats.bytesDelivered);
  await time.tickAsync(999);
  assert(await isPending(failing));
  await time.tickAsync(1);
  assert(!await isPending(failing));
  const error = await failing;
  assertMatch(
    error.message,
    /it took longer than 1000 ms; at most \d+ bytes were sent/,
  );
  await assertRejects(() => out.close());
});

test("close() rejects after `timeout` when the server does not respond", async () => {
  using time = fakeTime();
  const disconnected = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    await never(exchange);
    disconnected.resolve();
  }]);
  const out = upload(server, { timeout: 1_000 });
  await out.write("object");
  const closing = assertRejects(() => out.close(), FlushError);
  await server.received(1);
  await time.tickAsync(1_000);
  const { message } = await closing;
  await disconnected.promise;
  assertMatch(
    message,
    /longer than 1000 ms; at most 6 bytes were sent, and it is unknown how many/,
  );
  assertEquals(server.connections, 1);
});

for (const length of [undefined, 10]) {
  test(`abort() cuts the request off, so that it cannot pass for complete, with length ${length}`, async () => {
    await using server = new FaultyServer();
    const out = upload(server, length ? { length } : {});
    await out.write("half");
    await out.flush();
    await server.receivedBytes(4);
    await out.abort(new Error("enough"));
    await assertAborted(server);
  });
}

test("abort() rejects the send() and the write() that wait, with the reason", async () => {
  await using server = new FaultyServer([({ hang }) => hang()]);
  const sender = new UploadSender(server.url);
  const sends: Promise<void>[] = [];
  const out = new StreamBuffer({
    send(bytes, context) {
      const sending = sender.send(bytes, context);
      sends.push(sending);
      return sending;
    },
    abort: (reason) => sender.abort(reason),
  }, { capacity: MIB });
  const reason = new Error("enough");
  const writing = (async () => {
    for (;;) await out.write(new Uint8Array(MIB));
  })();
  const failed = writing.catch((error) => error);
  await stable(() => out.stats.bytesDelivered);
  await out.abort(reason);
  assertEquals(await failed, reason);
  const last = sends.at(-1)!;
  assert(!await isPending(last));
  assertEquals(await last.catch((error) => error), reason);
});

Deno.test("a failed upload whose buffer is never closed does not keep the process alive", async () => {
  await using server = new FaultyServer([], respondEarly(403, 4, "stall"));
  await using child = start(
    server.url,
    async ({ StreamBuffer, UploadSender, url }) => {
      const out = new StreamBuffer(new UploadSender(url), { capacity: 4 });
      try {
        for (;;) await out.write("more");
      } catch (error) {
        console.log(`${error}`);
      }
      // Ends a process that something else keeps alive.
      Deno.unrefTimer(setTimeout(() => Deno.exit(9), 10_000));
    },
  );
  const { code, stdout } = await child.outcome;
  assertStringIncludes(stdout, "responded with 403");
  assertEquals(code, 0);
});

for (
  const [platform, connection, atOnce, later] of [
    ["Chromium", "waits for a chunk, and notices", ["body"], ["body"]],
    [
      ...["Chromium", "waits for a chunk, and does not notice"],
      ...[["body"], ["body", "abort, too"]],
    ],
    ["Chromium", "does not wait for a chunk", ["abort"], ["abort"]],
    [
      ...["others", "waits for a chunk"],
      ...[["body", "abort, too"], ["body", "abort, too"]],
    ],
    ["others", "does not wait for a chunk", ["abort"], ["abort"]],
  ] as [string, string, string[], string[]][]
) {
  Deno.test(`an upload that fails ends its request on ${platform}, if the connection ${connection}`, async () => {
    using _ = userAgent(platform === "Chromium" ? "Chrome/156.0" : "Deno/2");
    using time = fakeTime();
    const events: string[] = [];
    const started = Promise.withResolvers<void>();
    const fetch = async (input: unknown) => {
      const { body, signal } = input as Request;
      const reader = body!.getReader();
      signal.addEventListener("abort", () => {
        reader.cancel().then( // rejects if the body has failed
          () => events.push("abort"),
          () => events.push("abort, too"),
        );
      });
      await reader.read();
      started.resolve();
      if (connection.startsWith("waits")) {
        await reader.read().catch(() => events.push("body"));
      }
      if (connection.endsWith("and notices")) throw new TypeError("the body");
      return await new Promise<never>(() => {});
    };
    const sender = new UploadSender("http://localhost/", { fetch });
    await sender.send(ONE, context());
    await started.promise;
    await roundTrips(1);
    sender.abort(new Error("enough"));
    await roundTrips(1);
    assertEquals(events, atOnce);
    await time.tickAsync(1_000);
    assertEquals(events, later);
  });
}

test("send() and close() reject with an AbortError after abort(), and make no request", async () => {
  await using server = new FaultyServer();
  let calls = 0;
  const headers = () => {
    calls++;
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
  assertEquals([calls, server.connections], [0, 0]);
});

test("send() rejects with the reason of its signal, and so does close()", async () => {
  await using server = new FaultyServer([({ hang }) => hang()]);
  const sender = new UploadSender(server.url);
  const controller = new AbortController();
  const { signal } = controller;
  const reason = new Error("enough");
  const bytes = new Uint8Array(MIB);
  let offset = 0;
  const sending = assertRejects(async () => {
    for (;; offset += MIB) {
      await sender.send(bytes, { sequence: 0, offset, signal });
    }
  });
  await stable(() => offset);
  controller.abort(reason);
  assert(!await isPending(sending));
  assertEquals(await sending, reason);
  assertEquals(await sender.close().catch((error) => error), reason);
});

test("pipeTo() from a source that fails cuts the request off", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { capacity: 4 });
  const reason = new Error("unplugged");
  const source = new ReadableStream({
    start: (controller) => controller.enqueue("half"),
    pull: async (controller) => {
      await server.receivedBytes(1);
      controller.error(reason);
    },
  });
  const error = await assertRejects(() => source.pipeTo(out.writable));
  assertEquals(error, reason);
  await assertAborted(server);
});

test("close() rejects when fewer bytes than `length` were written, and completes no request", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { length: 10 });
  await out.write("half");
  const error = await assertRejects(() => out.close(), FlushError);
  assertMatch(error.message, /has only 4 bytes, but `length` is 10/);
  assertEquals(server.requests.length, 0);
});

test("flush() rejects when more bytes than `length` were written", async () => {
  await using server = new FaultyServer();
  const out = upload(server, { length: 10 });
  await out.write("0123456789ab");
  const error = await assertRejects(() => out.flush(), FlushError);
  assertMatch(error.message, /has at least 12 bytes, but `length` is 10/);
  await assertRejects(() => out.close(), FlushError);
  assertEquals(server.requests.length, 0);
  assertEquals(out.takeUnsent().length, 12);
});

test("send() rejects a second StreamBuffer, and the first one continues", async () => {
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
  await assertRejects(() => other.close(), FlushError);
});

test("close() rejects at closeTimeout", async () => {
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
  test(`close() rejects after this fault: ${name}`, async () => {
    await using server = new FaultyServer(script([name]));
    const out = upload(server);
    await out.write("object");
    await assertRejects(() => out.close(), FlushError, ": PUT http");
  });
}

test("close() rejects when the header function fails", async () => {
  await using server = new FaultyServer();
  const out = upload(server, {
    headers: () => Promise.reject(new Error("no token")),
  });
  await out.write("object");
  const { message } = await assertRejects(() => out.close(), FlushError);
  assertMatch(message, /could not get the headers: no token$/);
  assertEquals(server.connections, 0);
});

test("errors of an upload do not show header values or the query", async () => {
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

Deno.test("a StreamBuffer over a UploadSender refuses sends that overlap", () => {
  const sender = new UploadSender("http://localhost/files");
  assertThrows(
    () => new StreamBuffer(sender, { concurrency: 2 }),
    RangeError,
    "concurrency must be 1",
  );
});

Deno.test("timers fire while a caller writes all the time, and the connection takes it", async () => {
  const out = new StreamBuffer(
    new UploadSender("http://localhost/files", {
      // As Node's: it reads on without a turn of the event loop.
      async transport({ body, signal }) {
        const reader = (body as ReadableStream<Uint8Array>).getReader();
        while (!signal.aborted && !(await reader.read()).done);
        return new Response();
      },
    }),
    { capacity: 64 * 1024 },
  );
  let fired = false;
  setTimeout(() => fired = true);
  const bytes = new Uint8Array(64 * 1024);
  const end = performance.now() + 5_000; // to fail, and not to hang
  while (!fired && performance.now() < end) await out.write(bytes);
  assert(fired, "no timer has fired");
  await out.abort();
});
