import { assertEquals, assertRejects } from "@std/assert";
import { turns } from "./event_loop.ts";
import { FaultyServer, held } from "./faulty_server.ts";

for (const wait of ["received", "aborted", "receivedBytes"] as const) {
  Deno.test(`${wait}() rejects if the server is stopped first`, async () => {
    const server = new FaultyServer();
    const waiting = assertRejects(
      () => server[wait](1),
      Error,
      "but the server was stopped after 0 requests on 0 connections",
    );
    await server[Symbol.asyncDispose]();
    await waiting;
  });
}

Deno.test("aborted() resolves when a connection closes within a request", async () => {
  await using server = new FaultyServer();
  {
    using connection = await Deno.connect({
      hostname: "127.0.0.1",
      port: server.port,
    });
    await connection.write(
      new TextEncoder().encode(
        "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nha",
      ),
    );
    await server.receivedBytes(2);
    assertEquals(server.incomplete, []);
  }
  await server.aborted(1);
  assertEquals(
    server.incomplete.map(({ body }) => new TextDecoder().decode(body)),
    ["ha"],
  );
  assertEquals(server.requests, []);
});

Deno.test("a server stops although a held response is never released", async () => {
  const { behaviour } = held();
  const server = new FaultyServer([behaviour]);
  const response = fetch(server.url, { method: "POST", body: "text" })
    .catch((error) => error);
  await server.received(1);
  await server[Symbol.asyncDispose]();
  await response;
  await turns();
});
