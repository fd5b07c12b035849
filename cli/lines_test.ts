import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { runCommand as run, startCommand as start } from "../testing/child.ts";
import { linesOf, received } from "../testing/command.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";

for (const capacity of [1, 7, 8, 9, 20, 1000]) {
  Deno.test(`cli --lines never cuts a line, at capacity ${capacity}`, async () => {
    await using server = new FaultyServer();
    const text = linesOf(300) + "x".repeat(30) + "\n\n\nlast one";
    const { code } = await run(
      [server.url, "--lines", "--capacity", `${capacity}`],
      text,
    );
    assertEquals(code, 0);
    assertEquals(received(server), text);
    for (const body of server.bodies) {
      assert(body.endsWith("\n") || body.endsWith("last one"), body);
      const lines = body.split("\n").length - 1;
      assert(body.length <= capacity || lines <= 1, "more than it must");
    }
  });
}

Deno.test("cli --lines never cuts a line that spans reads", async () => {
  await using server = new FaultyServer();
  await using running = start([server.url, "--lines", "--interval", "20ms"]);
  await running.write("one\ntw");
  await running.until(server.received(1));
  await running.write("o and");
  await running.write(" a half\nthree");
  await running.end();
  assertEquals((await running.outcome).code, 0);
  assertEquals(server.bodies[0], "one\n");
  assertEquals(received(server), "one\ntwo and a half\nthree");
});

Deno.test("cli --lines sends no line after one that failed", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using running = start([server.url, "--lines", "--capacity", "4"]);
  await running.write("one\nand more than a request");
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.bodies], [1, ["one\n"]]);
  assertStringIncludes(stderr, "27 bytes were read and not acknowledged");
});
