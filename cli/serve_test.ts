import { assert, assertEquals, assertRejects } from "@std/assert";
import { RawClient } from "../testing/raw_client.ts";
import { AccessError } from "./errors.ts";
import { type Handler, hostOf, serve } from "./serve.ts";

const LOCAL = { hostname: "127.0.0.1", port: 0 };

/** Responds with what it was sent. */
const echo: Handler = async (request) => new Response(await request.text());

const REQUEST = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";

/** A server, and a request of which it has read half the body. */
async function serveHalfARequest() {
  const { promise: begun, resolve } = Promise.withResolvers<void>();
  const server = await serve(async (request) => {
    let text = "";
    for await (
      const part of request.body!.pipeThrough(new TextDecoderStream())
    ) {
      text += part;
      resolve();
    }
    return new Response(text);
  }, LOCAL);
  const client = await RawClient.connect(server.port);
  await client.write(`${REQUEST}on`);
  await begun;
  return { server, client };
}

Deno.test("serve() passes requests to the handler", async () => {
  const server = await serve(echo, LOCAL);
  const url = `http://127.0.0.1:${server.port}/`;
  const response = await fetch(url, { method: "POST", body: "data" });
  assertEquals(await response.text(), "data");
  await server.stop();
});

Deno.test("stop() waits for the rest of a request that has begun", async () => {
  const { server, client } = await serveHalfARequest();
  let hasStopped = false;
  const stopped = server.stop().then(() => hasStopped = true);
  // A request that comes later has its response before.
  const late = await fetch(`http://127.0.0.1:${server.port}/`);
  assertEquals(await late.text(), "the receiver is being stopped\n");
  assertEquals([late.status, late.headers.get("Retry-After")], [503, "1"]);
  assert(!hasStopped);
  await client.write("e\n");
  const response = await client.response();
  assertEquals([response?.status, response?.body], [200, "one\n"]);
  client[Symbol.dispose]();
  await stopped;
});

Deno.test("stop() accepts no further connections", async () => {
  const server = await serve(echo, LOCAL);
  await server.stop();
  await assertRejects(
    () => RawClient.connect(server.port),
    Deno.errors.ConnectionRefused,
  );
});

Deno.test("serve() rejects with an AccessError where it cannot listen", async () => {
  const server = await serve(echo, LOCAL);
  await assertRejects(
    () => serve(echo, { ...LOCAL, port: server.port }),
    AccessError,
    `cannot listen on 127.0.0.1:${server.port}: another program does; choose another --port`,
  );
  await server.stop();
});

Deno.test("hostOf() is a host as in a URL", () => {
  assertEquals(hostOf({ hostname: "localhost", port: 1 }), "localhost:1");
  assertEquals(hostOf({ hostname: "::1", port: 80 }), "[::1]:80");
});
