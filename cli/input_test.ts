import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { concat } from "@std/bytes";
import {
  PERMISSIONS,
  runCommand as run,
  startCommand as start,
} from "../testing/child.ts";
import { linesOf, received, WELL } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

Deno.test("cli sends several files and standard input, in order", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const one = folder.file("one", "1".repeat(300_000));
  const two = folder.file("two", "2");
  const outcome = await run([server.url, one, "-", two], "stdin");
  assertEquals(outcome, WELL);
  assertEquals(received(server), "1".repeat(300_000) + "stdin2");
  assert(server.requests.length < 4, "it has sent small pieces");
});

Deno.test("cli sends more than it reads ahead, to a slower server", async () => {
  await using server = new FaultyServer();
  const text = linesOf(7_000_000);
  const { code } = await run(["--capacity", "100K", server.url], text);
  assertEquals(code, 0);
  assert(received(server) === text, "bytes are missing");
});

Deno.test("cli sends binary input unchanged", async () => {
  await using server = new FaultyServer();
  const bytes = crypto.getRandomValues(new Uint8Array(60_000));
  const { code } = await run([server.url, "--capacity", "7000"], bytes);
  assertEquals(code, 0);
  const bodies = server.requests.map(({ body }) => body);
  assertEquals(concat(bodies), bytes);
});

Deno.test("cli --upload sends a file whose reported size is 0", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using server = new FaultyServer();
  const path = "/proc/version";
  assertEquals(await run(["--upload", server.url, path], "", ["-A"]), WELL);
  assertEquals(server.bodies, [Deno.readTextFileSync(path)]);
});

Deno.test("cli closes each file before it opens the next", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const files = Array.from(
    { length: 200 },
    (_, i) => folder.file(`${i}`, `${i}\n`),
  );
  await using running = start(
    [server.url, ...files],
    PERMISSIONS,
    "ulimit -n 100",
  );
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [0, ""]);
  const numbers = Array.from(files, (_, i) => `${i}\n`);
  assertEquals(received(server), numbers.join(""));
});

Deno.test("cli uses little memory, however much it sends", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      await request.body?.pipeTo(new WritableStream());
      return new Response();
    },
  );
  await using running = start([`http://127.0.0.1:${server.addr.port}/`]);
  const chunk = new Uint8Array(2 ** 20);
  for (let i = 0; i < 400; i++) await running.write(chunk);
  const status = Deno.readTextFileSync(`/proc/${running.pid}/status`);
  await running.end();
  assertEquals((await running.outcome).code, 0);
  await server.shutdown();
  const [, peak] = status.match(/VmHWM:\s+(\d+) kB/) as unknown as string[];
  assert(Number(peak) < 300_000, `a peak of ${peak} kB for 400 MiB`);
});

Deno.test("cli counts bytes that it has read ahead as not acknowledged", async () => {
  const written = Promise.withResolvers<void>();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      await request.bytes();
      await written.promise;
      return new Response(null, { status: 400 });
    },
  );
  await using running = start([`http://127.0.0.1:${server.addr.port}/`]);
  const size = 2_000_000;
  await running.write(new Uint8Array(size));
  written.resolve();
  const { stderr } = await running.outcome;
  await server.shutdown();
  const [, count] = stderr.match(/(\d+) bytes were read but not/)!;
  // What is in the pipe still was not read: 64 KiB at most.
  assert(Number(count) >= size - 65_536 && Number(count) <= size, count);
});

Deno.test("cli sends what it has read when a file no longer exists", async () => {
  await using folder = await temporary();
  const gone = folder.file("gone", "data");
  await using server = new FaultyServer();
  await using running = start([
    ...["--interval", "10ms", "--unsent", folder.file("unsent")],
    ...[server.url, "-", gone],
  ]);
  await running.write("one");
  await running.until(server.received(1));
  await Deno.remove(gone);
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, received(server)], [1, "one"]);
  assertStringIncludes(stderr, "read failed: ");
  assertStringIncludes(stderr, "3 bytes acknowledged in 1 requests");
});
