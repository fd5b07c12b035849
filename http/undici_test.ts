/**
 * What is special to the transport over undici. What it has in common with `fetch`
 * is tested wherever a test is registered by `testing/transports.ts`.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { Client } from "undici";
import { FetchSender, SendError, streamTo } from "../sender.ts";
import { UploadSender } from "../senders/upload.ts";
import { makeCertificate } from "../testing/certificate.ts";
import { isPending, roundTrips } from "../testing/event_loop.ts";
import { counted } from "../testing/counted_signal.ts";
import {
  type Behaviour,
  BEHAVIOURS,
  close,
  deduplicate,
  FaultyServer,
  head,
  held,
  respond,
  respondAndClose,
} from "../testing/faulty_server.ts";
import { freePort, listen } from "../testing/free_port.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
  printed,
} from "../testing/sending.ts";
import { OPENSSL, Receiver, testWith } from "../testing/real_servers.ts";
import { temporary } from "../testing/temporary.ts";
import type { Transport, TransportRequest } from "./options.ts";
import { undiciTransport } from "./undici.ts";

/** More than the sockets of both sides hold. */
const LARGE = 16 * 1024 * 1024;
const ONCE = { retry: { maxElapsed: 0 } };

function requestTo(
  server: FaultyServer,
  init: Partial<TransportRequest> = {},
): TransportRequest {
  return {
    method: "POST",
    url: new URL(server.url),
    headers: {},
    body: BYTES,
    signal: new AbortController().signal,
    ...init,
  };
}

/** Makes one request, and reads its response to the end. */
async function exchange(
  transport: Transport,
  request: TransportRequest,
): Promise<number> {
  const { status, body } = await transport(request);
  await new Response(body).bytes();
  return status;
}

/** Sends these bytes by a sender of their own. */
function deliverTo(
  url: string,
  transport: Transport,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<void> {
  return new FetchSender(url, { transport, ...ONCE }).send(bytes, context());
}

/** Waits until the only request is over, complete or not. */
async function ended(server: FaultyServer): Promise<void> {
  const { requests, incomplete } = server;
  const isOver = () => requests.length + incomplete.length > 0;
  await server.waitFor("the end of the request", isOver);
}

// -- The caller's bytes --

/** Responds before it reads the body, of which it stores all. */
function storeAfter(text: string): Behaviour {
  return async ({ read, write, store }) => {
    await read(1);
    await write(text);
    await roundTrips();
    await store();
  };
}

const EARLY: Record<string, string> = {
  "without a body": head(200, { "content-length": "0" }),
  "with a body": head(200, { "content-length": "2" }) + "ok",
  "in chunks": head(200, { "transfer-encoding": "chunked" }) +
    "2\r\nok\r\n0\r\n\r\n",
  "of 204": head(204, {}),
  "after a 103": head(103, {}) + head(204, {}),
  "that closes the connection": head(200, {
    "content-length": "2",
    connection: "close",
  }) + "ok",
};

for (const [title, text] of Object.entries(EARLY)) {
  Deno.test(`a 2xx ${title} before the body is read: the server gets the bytes, although the caller changes them after the send`, async () => {
    await using transport = undiciTransport();
    await using server = new FaultyServer([storeAfter(text)]);
    const bytes = new Uint8Array(LARGE).fill(1);
    const sender = new FetchSender(server.url, { transport, ...ONCE });
    await sender.send(bytes, context());
    bytes.fill(2);
    await ended(server);
    const { body } = server.stored[0]!;
    assertEquals(body.length, LARGE);
    assert(body.every((byte) => byte === 1), "the bytes were changed");
    // The connection is as good as any other.
    bytes.fill(3);
    await sender.send(bytes.subarray(0, 1), { ...context(1), offset: LARGE });
    assertEquals(server.stored[1]!.body, new Uint8Array([3]));
  });
}

Deno.test("a 2xx before the body is read: the server gets all of a stream that has been handed over", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([storeAfter(head(204, {}))]);
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start: (controller) => controller.enqueue(new Uint8Array(LARGE)),
  });
  const headers = { "content-length": `${LARGE}` };
  await exchange(transport, requestTo(server, { headers, body }));
  await ended(server);
  assertEquals(server.stored.map(({ body }) => body.length), [LARGE]);
});

Deno.test("a server that always responds early gets every batch of a buffer as it was written", async () => {
  await using transport = undiciTransport();
  const early = BEHAVIOURS["200 before the body is read"];
  await using server = new FaultyServer([], early);
  const capacity = 1024 * 1024;
  const count = 24;
  {
    await using out = streamTo(server.url, {
      transport,
      capacity,
      retry: FAST,
    });
    const write = new Uint8Array(capacity);
    for (let i = 0; i < count; i++) await out.write(write.fill(i));
  }
  const batches = deduplicate(server.stored);
  assertEquals(batches.length, count);
  batches.forEach((batch, i) => {
    assert(batch.every((byte) => byte === i), `batch ${i} was changed`);
  });
});

Deno.test("a server that responds with a 200, ends its side and then reads, gets the bytes", async () => {
  await using transport = undiciTransport();
  using listener = listen();
  const url = `http://127.0.0.1:${listener.addr.port}/`;
  const bytes = new Uint8Array(LARGE).fill(1);
  const sent = deliverTo(url, transport, bytes);
  const connection = await listener.accept() as Deno.TcpConn;
  const text = head(200, { "content-length": "0", connection: "close" });
  await connection.write(new TextEncoder().encode(text));
  await connection.closeWrite();
  await roundTrips();
  const [request] = await Promise.all([
    new Response(connection.readable).bytes(),
    sent.then(() => bytes.fill(2)),
  ]);
  const body = request.subarray(-LARGE);
  assert(body.length === LARGE && body.every((byte) => byte === 1));
});

Deno.test("the end of a connection whose response is not read yet is no failure", async () => {
  await using transport = undiciTransport();
  const text = "x".repeat(100_000);
  await using server = new FaultyServer([async (exchange) => {
    await respond(200, { connection: "close" }, text)(exchange);
    exchange.close();
  }]);
  const { body } = await transport(requestTo(server));
  await roundTrips();
  assertEquals(await new Response(body).text(), text);
});

for (const status of [413, 503]) {
  Deno.test(`a ${status} before the body is read ends the request, whose bytes the caller may change`, async () => {
    await using transport = undiciTransport();
    await using server = new FaultyServer([async ({ read, write, receive }) => {
      await read(1);
      await write(head(status, { "content-length": "2" }) + "no");
      await receive();
    }]);
    const bytes = new Uint8Array(LARGE).fill(1);
    const sender = new FetchSender(server.url, { transport, ...ONCE });
    const error = await assertRejects(
      () => sender.send(bytes, context()),
      SendError,
    );
    bytes.fill(2);
    assertEquals([error.status, error.excerpt], [status, "no"]);
    await ended(server);
    assert(server.incomplete[0]!.body.every((byte) => byte === 1));
    await sender.send(BYTES, context());
    assertEquals(server.connections, 2);
  });
}

Deno.test("abort() while the body is being sent: the server never sees it complete", async () => {
  await using transport = undiciTransport();
  const received = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  await using server = new FaultyServer([async ({ read, receive }) => {
    await read(1);
    received.resolve();
    await go.promise;
    await receive();
  }]);
  const controller = new AbortController();
  const bytes = new Uint8Array(LARGE).fill(1);
  const sender = new FetchSender(server.url, { transport, ...ONCE });
  const sent = sender.send(bytes, context(0, controller.signal));
  await received.promise;
  controller.abort(new Error("enough"));
  await assertRejects(() => sent, Error, "enough");
  bytes.fill(2);
  go.resolve();
  await ended(server);
  assertEquals(server.requests, []);
  assert(server.incomplete[0]!.body.every((byte) => byte === 1));
});

Deno.test("a 2xx before the body is read, from a server that then dies, is a delivery", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([async ({ read, write, close }) => {
    await read(1);
    await write(head(200, { "content-length": "2" }) + "ok");
    await roundTrips(); // reset, the response would be lost
    close();
  }]);
  const sender = new FetchSender(server.url, { transport, ...ONCE });
  await sender.send(new Uint8Array(LARGE), context());
  assertEquals(server.connections, 1);
});

Deno.test("a 2xx before the body is read, from a server that never reads it, fails at the timeout", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([async ({ read, write, hang }) => {
    await read(1);
    await write(head(204, {}));
    await hang();
  }]);
  const sender = new FetchSender(server.url, {
    transport,
    timeout: 200,
    ...ONCE,
  });
  await assertRejects(
    () => sender.send(new Uint8Array(LARGE), context()),
    SendError,
    "it took longer than 200 ms",
  );
});

// -- One request per attempt --

/** Bodies of the requests whose connections die. */
const BODIES: Record<string, () => TransportRequest["body"]> = {
  "bytes": () => BYTES,
  "many bytes": () => new Uint8Array(LARGE),
  "an empty body": () => new Uint8Array(),
  "no body": () => undefined,
  "a stream": () => new Blob([BYTES]).stream(),
};
/** How they die: before, while, or after the server reads the request. */
const DEATHS: Record<string, Behaviour> = {
  "the request was read": close,
  "its body was read": (exchange) => exchange.close(),
  "a part of the response": async ({ receive, write, close }) => {
    await receive();
    await write("HTTP/1.1 200 OK\r\ncontent-le");
    close();
  },
};

for (const method of ["POST", "PUT", "PATCH", "OPTIONS", "HEAD", "DELETE"]) {
  const bodies = method.startsWith("P") ? Object.keys(BODIES) : ["no body"];
  for (const kind of bodies) {
    for (const [title, death] of Object.entries(DEATHS)) {
      const when = title.startsWith("its") ? "before" : "after";
      Deno.test(`10 attempts at a ${method} with ${kind} on connections that die ${when} ${title} are 10 requests`, async () => {
        await using transport = undiciTransport();
        await using server = new FaultyServer();
        for (let i = 0; i < 10; i++) {
          // Idle connections are what others repeat a request for.
          await exchange(transport, requestTo(server));
          server.next(death);
          const body = BODIES[kind]!();
          const attempt = exchange(
            transport,
            requestTo(server, { method, body }),
          );
          await assertRejects(() => attempt);
        }
        const { requests, incomplete, connections } = server;
        assertEquals(requests.length + incomplete.length, 20);
        assertEquals(connections, 10);
      });
    }
  }
}

Deno.test("a request on an idle connection that the server has closed is made on a new one", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([], respondAndClose(200));
  for (let i = 1; i <= 10; i++) {
    await exchange(transport, requestTo(server));
    await roundTrips();
    assertEquals([server.requests.length, server.connections], [i, i]);
  }
});

// -- Connections --

Deno.test("requests in turn share a connection, and requests at the same time do not", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  for (let i = 0; i < 3; i++) await exchange(transport, requestTo(server));
  assertEquals(server.connections, 1);
  const holds = Array.from({ length: 5 }, () => held());
  server.next(...holds.map(({ behaviour }) => behaviour));
  const all = holds.map(() => exchange(transport, requestTo(server)));
  await server.received(3 + holds.length);
  for (const { release } of holds) release();
  assertEquals(await Promise.all(all), Array(5).fill(200));
  assertEquals(server.connections, 5);
  await Promise.all(holds.map(() => exchange(transport, requestTo(server))));
  assertEquals(server.connections, 5);
});

Deno.test("senders of several origins share a transport, and none of its connections", async () => {
  await using transport = undiciTransport();
  await using one = new FaultyServer();
  await using two = new FaultyServer();
  for (const server of [one, two, one, two]) {
    await deliver(server.url, { transport });
  }
  assertEquals([one.connections, two.connections], [1, 1]);
});

Deno.test("the cancellation of a response closes its connection", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([BEHAVIOURS["an endless response"]!]);
  const { body } = await transport(requestTo(server));
  await body!.cancel();
  await exchange(transport, requestTo(server));
  assertEquals(server.connections, 2);
});

Deno.test("an endless response that no one reads is cut off", async () => {
  await using transport = undiciTransport();
  const gone = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    try {
      await BEHAVIOURS["an endless response"]!(exchange);
    } finally {
      gone.resolve();
    }
  }]);
  const { body } = await transport(requestTo(server));
  await gone.promise;
  await assertRejects(() => new Response(body).bytes());
});

Deno.test("close() closes idle connections at once, and others when their requests have ended", async () => {
  const transport = undiciTransport();
  const [idle, busy] = [held(), held()];
  const gone: number[] = [];
  const thenWait = (behaviour: Behaviour): Behaviour => async (exchange) => {
    await behaviour(exchange);
    await exchange.closed();
    gone.push(exchange.request.connection);
  };
  await using server = new FaultyServer([
    thenWait(idle.behaviour),
    thenWait(busy.behaviour),
  ]);
  const first = exchange(transport, requestTo(server));
  await server.received(1);
  const second = exchange(transport, requestTo(server));
  await server.received(2);
  idle.release();
  assertEquals(await first, 200);
  const closed = [transport.close(), transport.close()];
  await roundTrips();
  assertEquals(gone, [0]);
  for (const promise of closed) assert(await isPending(promise));
  busy.release();
  assertEquals(await second, 200);
  await Promise.all(closed);
  await roundTrips();
  assertEquals(gone, [0, 1]);
  await transport[Symbol.asyncDispose]();
});

Deno.test("an attempt fails at once after close(), and the error suggests that", async () => {
  await using server = new FaultyServer();
  const transport = undiciTransport();
  await transport.close();
  const error = await assertRejects(
    () => deliver(server.url, { transport }),
    SendError,
  );
  assertEquals(
    error.message,
    `POST of 10 bytes to ${server.url} failed (attempt 1): no request can be made; is the \`transport\` closed?`,
  );
  assertEquals([error.retryable, server.connections], [false, 0]);
});

// -- Errors --

for (
  const [title, url, message] of [
    [
      "a port without a server",
      `http://127.0.0.1:${freePort()}/`,
      /: connection refused: .*ECONNREFUSED/,
    ],
    [
      "a host that does not exist",
      "http://a.invalid/",
      /: host not found: .*a\.invalid/,
    ],
  ] as const
) {
  Deno.test(`an error says what is wrong with ${title}, and may be retried`, async () => {
    await using transport = undiciTransport();
    const error = await assertRejects(
      () => deliver(url, { transport, ...ONCE }),
      SendError,
    );
    assertMatch(error.message, message);
    assertEquals([error.retryable, error.status], [true, undefined]);
  });
}

for (
  const [title, behaviour, message] of [
    ["closes the connection", close, /: connection closed: other side closed$/],
    ["responds with garbage", BEHAVIOURS["garbage"]!, /HTTP\/1\.1 protocol/],
  ] as const
) {
  Deno.test(`an error says that the server ${title}`, async () => {
    await using transport = undiciTransport();
    await using server = new FaultyServer([behaviour]);
    const error = await assertRejects(
      () => deliver(server.url, { transport, ...ONCE }),
      SendError,
    );
    assertMatch(error.message, message);
  });
}

for (const host of ["127.0.0.1", "localhost"]) {
  Deno.test({
    name:
      `without the permission to connect to ${host} a send fails at once, with NotCapable`,
    permissions: { net: ["127.0.0.1:1"], env: true },
    fn: async () => {
      await using transport = undiciTransport();
      const error = await assertRejects(
        () => deliver(`http://${host}:2/`, { transport, ...ONCE }),
        SendError,
        `Requires net access to "${host}:2"`,
      );
      assertEquals([error.attempts, error.retryable], [1, false]);
      assertInstanceOf(error.cause, Deno.errors.NotCapable);
    },
  });
}

Deno.test("a request that has ended leaves no listener on its signal", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([respond(200), close]);
  const { signal, listeners } = counted();
  await exchange(transport, requestTo(server, { signal }));
  assertEquals(listeners.size, 0);
  await assertRejects(() => transport(requestTo(server, { signal })));
  assertEquals(listeners.size, 0);
});

Deno.test("a request whose signal is already aborted is not made", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  await exchange(transport, requestTo(server));
  const signal = AbortSignal.abort(new Error("enough"));
  const request = requestTo(server, { signal });
  await assertRejects(() => transport(request), Error, "enough");
  await exchange(transport, requestTo(server));
  assertEquals([server.requests.length, server.connections], [2, 1]);
});

Deno.test("an abort while connecting ends the connection, and the next request opens another", async () => {
  await using transport = undiciTransport();
  using listener = listen(); // it has no TLS
  const sender = new FetchSender(`https://127.0.0.1:${listener.addr.port}/`, {
    transport,
    ...ONCE,
  });
  for (let i = 0; i < 2; i++) {
    const controller = new AbortController();
    const sent = sender.send(BYTES, context(i, controller.signal));
    const connecting = Promise.race([listener.accept(), sent]);
    const connection = await connecting as Deno.Conn;
    controller.abort(new Error("enough"));
    await assertRejects(() => sent, Error, "enough");
    const closed = connection.readable.pipeTo(new WritableStream());
    assert(!await isPending(closed), "the connection is still there");
  }
});

Deno.test("an abort before connecting, as while the user is asked for a permission, makes no request", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  const controller = new AbortController();
  const { signal } = controller;
  const made = transport(requestTo(server, { signal }));
  controller.abort(new Error("enough"));
  await assertRejects(() => made, Error, "enough");
  await roundTrips();
  assertEquals(server.connections, 0);
});

// -- Requests --

Deno.test("an abort of an upload never completes it", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  const sender = new UploadSender(server.url, { transport });
  await sender.send(BYTES, context());
  await server.receivedBytes(10);
  sender.abort();
  await server.aborted(1);
  assertEquals(server.requests, []);
});

Deno.test("the headers of a request are the caller's, and those that frame it undici's", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  await deliver(server.url, {
    transport,
    ...ONCE,
    idempotencyKey: false,
    headers: {
      "X-Latin": "\xe9",
      "Host": "example.com",
      "User-Agent": "test",
      "Content-Length": "3",
      "Transfer-Encoding": "chunked",
      "Expect": "100-continue",
      "Upgrade": "h2c",
      "Keep-Alive": "timeout=5",
    },
  });
  const [{ headers, body }] = server.requests as [typeof server.requests[0]];
  assertEquals(body, BYTES);
  assertEquals([...headers], [
    ["connection", "keep-alive"],
    ["content-length", "10"],
    ["content-type", "application/octet-stream"],
    ["host", "example.com"],
    ["user-agent", "test"],
    ["x-latin", "\xe9"],
  ]);
});

Deno.test("User-Agent is that of the platform, as with fetch", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer();
  await deliver(server.url, { transport });
  await deliver(server.url, {});
  const [ours, fetchs] = server.requests.map(({ headers }) =>
    headers.get("User-Agent")
  );
  assertEquals(ours, fetchs);
});

Deno.test("the headers of a response are all there, in Latin-1", async () => {
  await using transport = undiciTransport();
  await using server = new FaultyServer([async ({ receive, write }) => {
    await receive();
    await write(
      new Uint8Array(Array.from(
        "HTTP/1.1 204 x\r\nx-latin: \xe9\r\nx-two: 1\r\nx-two: 2\r\n\r\n",
        (character) => character.charCodeAt(0),
      )),
    );
  }]);
  const { headers } = await transport(requestTo(server));
  assertEquals(headers.get("X-Latin"), "\xe9");
  assertEquals(headers.get("X-Two"), "1, 2");
});

for (
  const before of [[head(100, {})], [head(100, {}), head(100, { a: "b" })]]
) {
  for (const separately of [false, true]) {
    const how = separately ? "before" : "together with";
    Deno.test(`${before.length} responses of status 100 ${how} a 200 are skipped`, async () => {
      await using transport = undiciTransport();
      const ok = head(200, { "content-length": "2" }) + "ok";
      await using server = new FaultyServer([async ({ receive, write }) => {
        await receive();
        for (const text of separately ? before : []) {
          await write(text);
          await roundTrips();
        }
        await write(separately ? ok : before.join("") + ok);
      }]);
      const { status, body } = await transport(requestTo(server));
      assertEquals([status, await new Response(body).text()], [200, "ok"]);
      await exchange(transport, requestTo(server));
      assertEquals(server.connections, 1);
    });
  }
}

Deno.test("the body of a response may look like a response of status 100", async () => {
  await using transport = undiciTransport();
  const text = head(100, {});
  await using server = new FaultyServer([async ({ receive, write, close }) => {
    await receive();
    await write(head(200, { "content-length": `${text.length}` }));
    await roundTrips();
    await write(text);
    close();
  }]);
  const { body } = await transport(requestTo(server));
  assertEquals(await new Response(body).text(), text);
});

// -- Certificates --

/** A server with a certificate for 127.0.0.1, and that certificate. */
async function secureReceiver(folder: string) {
  const files = await makeCertificate(folder);
  const cert = await Deno.readTextFile(files.cert);
  const key = await Deno.readTextFile(files.key);
  return { receiver: new Receiver({ key, cert }), ca: cert };
}

testWith(OPENSSL)(
  "a certificate has to be for the host of the URL, or `servername`, whatever the Host header is",
  async () => {
    await using folder = await temporary();
    const { receiver, ca } = await secureReceiver(folder.file(""));
    await using _ = receiver;
    const headers = { Host: "b.invalid" };
    {
      await using transport = undiciTransport({ ca, proxy: false });
      await deliver(receiver.url, { transport, headers, ...ONCE });
    }
    await using transport = undiciTransport({
      ...{ ca, proxy: false, servername: "other.example" },
    });
    const error = await assertRejects(
      () => deliver(receiver.url, { transport, headers, ...ONCE }),
      SendError,
    );
    assertMatch(error.message, /Host: other\.example\. is not cert/);
    assertEquals(receiver.requests.length, 1);
  },
);

testWith(OPENSSL)(
  "the certificate of a proxy has to be for its host, whatever `servername` is",
  async () => {
    await using folder = await temporary();
    const { receiver, ca } = await secureReceiver(folder.file(""));
    await using _ = receiver;
    await using transport = undiciTransport({
      ...{ ca, proxy: receiver.url, servername: "other.example" },
    });
    await deliver("http://b.invalid/", { transport, ...ONCE });
    assertEquals(receiver.requests.length, 1);
    const error = await assertRejects(
      () => deliver("https://b.invalid/", { transport, ...ONCE }),
      SendError,
    );
    assertMatch(error.message, /the proxy responded with/);
  },
);

// -- Proxies (tests/proxy_test.ts has a real one) --

Deno.test("a proxy gets the whole URL and its credentials, and the server's name", async () => {
  await using server = new FaultyServer();
  const { port } = server;
  await using transport = undiciTransport({
    proxy: `http://m%C3%A9:secret@127.0.0.1:${port}`,
  });
  await deliver("http://a.invalid:81/path?q=1", { transport });
  const [{ path, headers }] = server.requests as [typeof server.requests[0]];
  assertEquals(path, "http://a.invalid:81/path?q=1");
  assertEquals(headers.get("Host"), "a.invalid:81");
  assertEquals(
    headers.get("Proxy-Authorization"),
    `Basic ${new TextEncoder().encode("mé:secret").toBase64()}`,
  );
});

Deno.test("an error does not show what a proxy says about its credentials", async () => {
  await using server = new FaultyServer([
    respond(407, {}, "not bWU6c2VjcmV0, which is me:secret"),
  ]);
  await using transport = undiciTransport({
    proxy: server.url.replace("//", "//me:secret@"),
  });
  const error = await assertRejects(
    () => deliver("http://a.invalid/", { transport }),
    SendError,
  );
  assertEquals([error.status, error.excerpt], [407, ""]);
});

// -- Options --

for (
  const [options, message] of [
    [5, "options must be an object, received 5"],
    [{ cert: 5 }, "cert must be a string, received 5"],
    [{ key: new Uint8Array(1) }, "key must be a string"],
    [{ servername: true }, "servername must be a string, received true"],
    [{ rejectUnauthorized: 0 }, "rejectUnauthorized must be true or false"],
    [{ ca: 5 }, "ca must be a string or an array of strings, received 5"],
    [{ ca: ["a", 5] }, "ca must be a string or an array of strings"],
    [{ proxy: 5 }, "proxy must be a URL or false, received 5"],
    [{ proxy: true }, "proxy must be a URL or false, received true"],
    [{ proxy: "socks5://me:secret@a" }, "proxy must be a URL that begins with"],
    [{ proxy: "http://me:secret@:0:0" }, "proxy must be a URL that begins"],
    [
      { proxy: "http://me:secret%zz@a" },
      "the credentials in proxy must be percent-encoded UTF-8",
    ],
  ] as const
) {
  Deno.test(`undiciTransport() rejects ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => undiciTransport(options as never),
      TypeError,
      `Cannot create undiciTransport: ${message}`,
    );
    assert(!printed(error).includes("secret"));
  });
}

Deno.test("undiciTransport() rejects a platform that has replaced undici", () => {
  Object.assign(Client.prototype, { dispatch: undefined });
  try {
    assertThrows(
      () => undiciTransport(),
      TypeError,
      "Cannot create undiciTransport: this platform has replaced undici",
    );
  } finally {
    Reflect.deleteProperty(Client.prototype, "dispatch"); // it was inherited
  }
});

Deno.test("a transport may be used for URLs with ports that fetch blocks", async () => {
  await using transport = undiciTransport();
  const url = NO_SERVER_URL.replace(":2/", ":1/");
  const error = await assertRejects(
    () => deliver(url, { transport, ...ONCE }),
    SendError,
  );
  assertMatch(error.message, /connection refused/);
});
