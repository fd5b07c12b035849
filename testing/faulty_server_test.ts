import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { run } from "./child.ts";
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

const PROGRAM = fileURLToPath(import.meta.resolve("./faulty_server.ts"));

Deno.test("the program rejects an unknown behaviour before it listens", async () => {
  await using child = run(["-N", PROGRAM, "--port", "0", "200", "nonsense"]);
  const { code, stdout, stderr } = await child.outcome;
  assertEquals(
    [code, stdout, stderr],
    [1, "", 'There is no behaviour "nonsense"; see --help\n'],
  );
});

Deno.test("the program logs and counts requests without a key", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using child = run(["-N", PROGRAM, "--port", "0", "200", "400"]);
  await child.waitForOutput("Listening at");
  const [url] = child.output.stdout.match(/http:[^,]+/)!;
  for (let i = 0; i < 3; i++) {
    const response = await fetch(url, { method: "PUT", body: "data" });
    await response.body?.cancel();
  }
  child.kill("SIGINT");
  const { code, stdout } = await child.outcome;
  assertEquals(code, 0);
  assertEquals(stdout.match(/PUT \/ingest without a key: \d+\n/g)?.length, 3);
  assertStringIncludes(stdout, "2 requests stored, 2 distinct: 8 bytes, ");
});
