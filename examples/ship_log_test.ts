/** `ship_log.ts` as a process with no more than its documented permissions. */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { type Child, preload, run } from "../testing/child.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** Windows lacks these signals, and cannot rename a file that is open. */
const UNIX = { ignore: Deno.build.os === "windows" };
const EXAMPLE = fileURLToPath(import.meta.resolve("./ship_log.ts"));

/** Starts the example, in which `script` runs first. */
function start(args: string[], script: () => void = () => {}): Child {
  return run(["-N=127.0.0.1", "-R", preload(script), EXAMPLE, ...args]);
}

function append(path: string, text: string): Promise<void> {
  return Deno.writeTextFile(path, text, { append: true });
}

Deno.test("ship_log.ts prints its usage without a URL or a file", async () => {
  for (const args of [[], ["http://127.0.0.1:9/"]]) {
    await using child = start(args);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [2, "usage: ship_log.ts URL FILE\n"]);
  }
});

/** Prints a line when the program finds a file missing. */
function reportMissing(): void {
  const { stat } = Deno;
  Deno.stat = (path) =>
    stat(path).catch((error) => {
      console.log("the file is missing");
      throw error;
    });
}

Deno.test(
  "ship_log.ts ships what is appended, in whole lines and across a rotation",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "old\n");
    const bodies = ["one\n", "two\nthree\n", "new\n", "another one\n", "end"];
    await using child = start([server.url, path], reportMissing);
    const received = (count: number) => child.waitFor(server.received(count));
    await child.waitForOutput(`Shipping what is appended to ${path}`);
    await append(path, "one\ntw");
    await received(1);
    await append(path, "o\nthree\n");
    await received(2);
    await Deno.writeTextFile(path, "new\n");
    await received(3);
    // Renamed, and after a while replaced by a longer file.
    await Deno.rename(path, `${path}.1`);
    await child.waitForOutput("the file is missing");
    await Deno.writeTextFile(path, "another one\nend");
    await received(4);
    child.kill("SIGINT");
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.bodies, bodies);
  },
);

Deno.test("ship_log.ts retries, and ships everything once", UNIX, async () => {
  const refuse = respond(400, {}, "no");
  await using server = new FaultyServer([
    ...[refuse, respond(200)],
    ...[refuse, refuse, refuse],
  ]);
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  await using child = start([server.url, path]);
  await child.waitForOutput("Shipping");
  await append(path, "one\n");
  await child.waitForOutput('400: "no"; retrying');
  await child.waitFor(server.received(2));
  // More than two buffers hold, so that writes are rejected while sends fail.
  const numbers = Array.from({ length: 120_000 }, (_, i) => `${i}\n`).join("");
  const text = `${numbers}the end\n`;
  await append(path, text);
  for (let i = 5; !server.bodies.at(-1)!.endsWith("the end\n"); i++) {
    await child.waitFor(server.received(i));
  }
  child.kill("SIGTERM");
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies.slice(0, 2), ["one\n", "one\n"]);
  assert(
    server.bodies.slice(5).join("") === text,
    "other bytes than were appended",
  );
});

Deno.test("ship_log.ts ships a line that is larger than the buffer once", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  const line = "x".repeat(300_000) + "\n";
  await using child = start([server.url, path]);
  await child.waitForOutput("Shipping");
  await append(path, line);
  await child.waitFor(server.received(2));
  await append(path, "end\n");
  await child.waitFor(server.received(3));
  assert(server.bodies.join("") === `${line}${line}end\n`);
});
