import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { fetchTransport } from "./fetch_transport.ts";
import { FetchSender, SendError } from "../sender.ts";
import {
  close,
  FaultyServer,
  head,
  respond,
  respondAndClose,
} from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { context, deliver, FAST, NO_SERVER_URL } from "../testing/sending.ts";
import { streamTo, test } from "../testing/transports.ts";

Deno.test("send() calls the given fetch as a plain function, with the client", async () => {
  using client = Deno.createHttpClient({});
  const seen: [Request, unknown][] = [];
  // A native one fails as a method of anything except the global object.
  function fetch(this: unknown, request: unknown, init: unknown) {
    assertStrictEquals(this, undefined);
    seen.push([request as Request, init]);
    return Promise.resolve(new Response(null, { status: 204 }));
  }
  const options = { fetch: fetch as typeof globalThis.fetch };
  await deliver(NO_SERVER_URL, { ...options, client });
  await deliver(NO_SERVER_URL, options);
  assertEquals(seen.map(([, init]) => init), [{ client }, undefined]);
  const [request] = seen[0]!;
  assertEquals(request.url, NO_SERVER_URL);
  assertEquals(request.method, "POST");
  assertEquals(request.redirect, "manual");
  assertEquals(await request.text(), "0123456789");
});

Deno.test("send() gives fetch a request that it may consume and change", async () => {
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

Deno.test("a closed client fails at once, and the error suggests it", async () => {
  const client = Deno.createHttpClient({});
  client.close();
  await assertRejects(
    () =>
      deliver(`http://127.0.0.1:${freePort()}/`, {
        client,
        retry: { maxElapsed: 1_000 },
        // Deno never releases a body that it cannot send.
        fetch: (request, init) => fetch((request as Request).url, init),
      }),
    SendError,
    "(attempt 1): Bad resource ID; is the `client` closed?",
  );
});

// -- One request per attempt --

test("a pooled connection that closes after the request was read gets one request per attempt", async () => {
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
  // Deno would resend a body of bytes on its own.
  assertEquals(server.bodies, ["warm", "once", "once", "once"]);
});

test("idle connections closed by the server cost no attempt", async () => {
  await using server = new FaultyServer([], respondAndClose(200));
  await using out = streamTo(server.url, { capacity: 4, retry: FAST });
  for (let i = 0; i < 5; i++) {
    await out.write(`no ${i}`);
    await out.flush();
  }
  assertEquals(new Set(server.bodies).size, 5);
  assertEquals(out.stats.failures, 0);
});

for (const method of ["POST", "OPTIONS", "HEAD", "DELETE"]) {
  Deno.test(`fetch repeats a ${method} without a body on its own, as docs/runtimes.md says`, async () => {
    await using server = new FaultyServer([respond(200), close, close]);
    const transport = fetchTransport(fetch, undefined);
    const request = {
      ...{ method, url: new URL(server.url), headers: {} },
      ...{ body: undefined, signal: new AbortController().signal },
    };
    const { body } = await transport({ ...request, method: "POST" });
    await body?.cancel();
    await assertRejects(() => transport(request));
    const requests = server.requests.slice(1);
    assertEquals(requests.map(({ method }) => method), [method, method]);
  });
}

// -- Redirects --

for (const status of [302, 303, 307]) {
  test(`send() does not follow a ${status}, but makes the same request again`, async () => {
    await using target = new FaultyServer();
    await using server = new FaultyServer([
      respond(status, { location: target.url }),
    ]);
    const failures: SendError[] = [];
    await using out = streamTo(server.url, {
      headers: { Authorization: "Bearer abc" },
      retry: FAST,
      onRetry: (failure) => failures.push(failure),
    });
    await out.write("once");
    await out.flush();
    assertEquals(failures.map(({ status }) => status), [status]);
    assertStringIncludes(failures[0]!.message, "redirects are not followed");
    assertEquals(target.connections, 0);
    assertEquals(server.bodies, ["once", "once"]);
    const [first, second] = server.requests;
    assertEquals(second!.path, first!.path);
    assertEquals(new Set(server.keys).size, 1);
  });
}

for (const status of [301, 308]) {
  test(`send() does not follow a ${status}, and fails at once`, async () => {
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

Deno.test("a redirect that a browser hides behind status 0 is reported as one", async () => {
  await assertRejects(
    () =>
      deliver(NO_SERVER_URL, {
        fetch: () => Promise.resolve(Response.error()),
      }),
    SendError,
    "redirects are not followed",
  );
});

Deno.test("a 2xx before the body is read: over fetch the server gets the bytes, although the caller changes them after the send", async () => {
  const changed = Promise.withResolvers<void>();
  await using server = new FaultyServer([async ({ read, write, store }) => {
    await read(1);
    await write(head(200, { "content-length": "0" }));
    await changed.promise;
    await store();
  }]);
  // More than the buffers of a connection hold.
  const bytes = new Uint8Array(8 * 1024 * 1024).fill(1);
  const sender = new FetchSender(server.url, { retry: { maxElapsed: 0 } });
  await sender.send(bytes, context());
  bytes.fill(2);
  changed.resolve();
  await server.waitFor("the request", () => server.stored.length === 1);
  const { body } = server.stored[0]!;
  assertEquals(body.length, bytes.length);
  assert(body.every((byte) => byte === 1), "the bytes were changed");
});
