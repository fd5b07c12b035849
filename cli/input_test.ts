import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import { PERMISSIONS } from "../testing/child.ts";
import { linesOf, received, run, start, SUCCESS } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { Input } from "./input.ts";

/** Reads to the end, as text. */
async function readAll(input: Input): Promise<string> {
  const p = new Uint8Array(7);
  let text = "";
  for (let size; (size = await input.read(p)) !== null;) {
    text += new TextDecoder().decode(p.subarray(0, size));
  }
  return text;
}

for (const skip of [0, 1, 10, 11, 20]) {
  Deno.test(`Input.read() gives files one after another, without the first ${skip} bytes`, async () => {
    await using folder = await temporary();
    const files = [
      folder.file("one", "0123456789"),
      folder.file("two", "abcdefghij"),
    ];
    using input = new Input(files, skip);
    assertEquals(await readAll(input), "0123456789abcdefghij".slice(skip));
    assertEquals(input.error, undefined);
  });
}

Deno.test("Input.error reports an input that is shorter than what is skipped", async () => {
  await using folder = await temporary();
  using input = new Input([folder.file("short", "12345")], 8);
  assertEquals(await readAll(input), "");
  assertEquals(
    input.error?.message,
    "the input is 3 bytes shorter than what the server has",
  );
});

Deno.test("Input.error reports a file that cannot be read, after what was read", async () => {
  await using folder = await temporary();
  using input = new Input(
    [
      folder.file("one", "data"),
      folder.file("missing"),
      folder.file("two", "x"),
    ],
    0,
  );
  assertEquals(await readAll(input), "data");
  assertStringIncludes(input.error!.message, "missing");
});

Deno.test("Input.remaining() gives what was not read, even after fail()", async () => {
  await using folder = await temporary();
  using input = new Input([folder.file("one", "0123456789")], 0);
  await input.read(new Uint8Array(4));
  input.fail(new Error("refused"));
  await assertRejects(() => input.read(new Uint8Array(4)), Error, "refused");
  assertThrows(() => input.throwIfFailed(), Error, "refused");
  let rest = "";
  for await (const chunk of input.remaining()) {
    rest += new TextDecoder().decode(chunk);
  }
  assertEquals(rest, "456789");
});

/** A pipe that a test writes to, and that ends when it is disposed. */
async function openPipe(folder: { file(name: string): string }) {
  const path = folder.file("pipe");
  await new Deno.Command("mkfifo", { args: [path] }).output();
  // For reading, too: opening it only for writing would wait for a reader.
  const file = await Deno.open(path, { read: true, write: true });
  const write = (text: string) => file.write(new TextEncoder().encode(text));
  return { path, write, [Symbol.dispose]: () => file.close() };
}

const ignore = Deno.build.os === "windows";

Deno.test("Input.fail() rejects a read that waits", { ignore }, async () => {
  await using folder = await temporary();
  using pipe = await openPipe(folder);
  using input = new Input([pipe.path], 0);
  const reading = input.read(new Uint8Array(4));
  input.fail(new Error("refused"));
  await assertRejects(() => reading, Error, "refused");
});

Deno.test(
  "Input.stop() ends the input after what has been read",
  { ignore },
  async () => {
    await using folder = await temporary();
    using pipe = await openPipe(folder);
    using input = new Input([pipe.path], 0);
    await pipe.write("one");
    const p = new Uint8Array(2);
    assertEquals(await input.read(p), 2);
    input.stop();
    await pipe.write("two");
    assertEquals([await input.read(p), await input.read(p)], [1, null]);
  },
);

test("cli sends several files and standard input, in order", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const one = folder.file("one", "1".repeat(300_000));
  const two = folder.file("two", "2");
  const outcome = await run([server.url, one, "-", two], "stdin");
  assertEquals(outcome, SUCCESS);
  assertEquals(received(server), "1".repeat(300_000) + "stdin2");
  assert(server.requests.length < 4, "it has sent small pieces");
});

test("cli sends more than it reads ahead, to a slower server", async () => {
  await using server = new FaultyServer();
  const text = linesOf(7_000_000);
  const { code } = await run(["--capacity", "100K", server.url], text);
  assertEquals(code, 0);
  assert(received(server) === text, "bytes are missing");
});

test("cli sends binary input unchanged", async () => {
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
  assertEquals(await run(["--upload", server.url, path], "", ["-A"]), SUCCESS);
  assertEquals(server.bodies, [Deno.readTextFileSync(path)]);
});

test("cli closes each file before it opens the next", {
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

test("cli uses little memory, however much it sends", {
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

test("cli counts bytes that it has read ahead as not acknowledged", async () => {
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
  // What is still in the pipe was not read: at most 64 KiB.
  assert(Number(count) >= size - 65_536 && Number(count) <= size, count);
});

test("cli sends what it has read when a file no longer exists", async () => {
  await using folder = await temporary();
  const gone = folder.file("gone", "data");
  await using server = new FaultyServer();
  await using running = start([
    ...["--interval", "10ms", "--unsent", folder.file("unsent")],
    ...[server.url, "-", gone],
  ]);
  await running.write("one");
  await running.waitFor(server.received(1));
  await Deno.remove(gone);
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, received(server)], [1, "one"]);
  assertStringIncludes(stderr, "read failed: ");
  assertStringIncludes(stderr, "3 bytes acknowledged in 1 request");
});
