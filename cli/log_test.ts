import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import process from "node:process";
import {
  breakOutput,
  BROKEN_OUTPUTS,
  CAN_BREAK_OUTPUT,
} from "../testing/broken_output.ts";
import { PERMISSIONS } from "../testing/child.ts";
import {
  after,
  linesOf,
  run,
  start,
  startRefusingTusServer,
  writeEach,
} from "../testing/command.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { FaultyServer, never, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { count, MessageStream } from "./log.ts";

const decoder = new TextDecoder();

/** A file that collects what is written to it, a few bytes at a time. */
function slowFile() {
  const file = {
    text: "",
    write(p: Uint8Array): Promise<number> {
      const size = Math.min(p.length, 3);
      file.text += decoder.decode(p.subarray(0, size));
      return Promise.resolve(size);
    },
  };
  return file;
}

Deno.test("MessageStream.end() waits until everything has been written, in order", async () => {
  const file = slowFile();
  const stream = new MessageStream(file);
  stream.write("a message\n");
  stream.write("another one\n");
  assertEquals([stream.isIdle, file.text], [false, ""]);
  await stream.end();
  assertEquals([stream.isIdle, file.text], [true, "a message\nanother one\n"]);
});

Deno.test("MessageStream goes on after a message that could not be written", async () => {
  const file = slowFile();
  const { write } = file;
  const stream = new MessageStream(file);
  file.write = () => Promise.reject(new Error("the disk is full"));
  stream.write("lost");
  await stream.end();
  file.write = () => {
    throw new Error("the disk is full");
  };
  stream.write("lost");
  await stream.end();
  file.write = write;
  stream.write("found");
  await stream.end();
  assertEquals([stream.isIdle, file.text], [true, "found"]);
});

Deno.test("MessageStream drops messages when too many are waiting", async () => {
  const { promise: blocked, resolve: unblock } = Promise.withResolvers<void>();
  let size = 0;
  const stream = new MessageStream({
    async write(p) {
      await blocked;
      size += p.length;
      return p.length;
    },
  });
  for (let i = 0; i < 1_000; i++) stream.write("x".repeat(1_000));
  unblock();
  await stream.end();
  assertEquals([size, stream.isIdle], [65_000, true]);
  stream.write("and more");
  await stream.end();
  assertEquals(size, 65_008);
});

Deno.test("MessageStream.end() waits no longer than a second", async () => {
  using time = fakeTime();
  const stream = new MessageStream({ write: () => new Promise(() => {}) });
  stream.write("stuck");
  let ended = false;
  const ending = stream.end().then(() => ended = true);
  await time.tickAsync(999);
  assertEquals(ended, false);
  await time.tickAsync(1);
  await ending;
  assertEquals(time.countTimers(), 0);
});

for (const what of BROKEN_OUTPUTS) {
  /** Runs the command to its end, and returns the exit code. */
  const codeOf = async (
    args: string[],
    input = "",
    permissions = PERMISSIONS,
    output: 1 | 2 = 2,
  ): Promise<number> => {
    await using broken = await breakOutput(what, output);
    await using running = start(args, permissions, broken.shell);
    await running.write(input).then(() => running.end()).catch(() => {});
    const { code, signal, stderr } = await running.outcome;
    assertEquals([signal, stderr], [null, ""]);
    return code;
  };
  const test = (title: string, fn: () => Promise<void>) =>
    Deno.test(`cli ${title} ${what}`, { ignore: !CAN_BREAK_OUTPUT }, fn);

  test("delivers when standard error is", async () => {
    await using server = new FaultyServer([respond(503)]);
    assertEquals(await codeOf([server.url], "data"), 0);
    assertEquals(server.bodies, ["data", "data"]);
    await using tus = await startRefusingTusServer();
    assertEquals(await codeOf(["--tus", tus.url], "data"), 0);
    assertEquals(tus.server.uploads(), 1);
  });

  test("saves what it could not deliver when standard error is", async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    const text = linesOf(3_000_000);
    await using server = new FaultyServer([respond(200)], respond(400));
    const args = ["--lines", "--unsent", unsent, server.url];
    assertEquals(await codeOf(args, text), 1);
    const whole = server.bodies[0]! + Deno.readTextFileSync(unsent);
    assert(whole === text, "bytes are missing");
  });

  test("saves what it has read after a signal when standard error is", async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    await using server = new FaultyServer([respond(200)], never);
    await using broken = await breakOutput(what);
    await using running = start(
      ["--interval", "10ms", "--unsent", unsent, server.url],
      PERMISSIONS,
      broken.shell,
    );
    await writeEach(running, server, "one", "two");
    running.kill("SIGTERM");
    // Another one, as two of a kind may be merged into one.
    running.kill("SIGINT");
    assertEquals((await running.outcome).code, 1);
    assertEquals(Deno.readTextFileSync(unsent), "two");
  });

  test("exits as usual when standard error is", async () => {
    assertEquals(await codeOf(["nonsense"]), 2);
    const mistaken = after(makeMistake);
    assertEquals(await codeOf(["http://127.0.0.1/"], "", mistaken), 1);
  });

  test("--help and --version exit as usual when standard output is", async () => {
    for (const option of ["--help", "--version"]) {
      assertEquals(await codeOf([option], "", [], 1), 0);
    }
  });
}

Deno.test("count() gives the unit the right form", () => {
  const texts = [0, 1, 2].map((number) => count(number, "byte"));
  assertEquals(texts, ["0 bytes", "1 byte", "2 bytes"]);
});

/** Makes the command fail in a way that it does not expect. */
function makeMistake(): void {
  process.on = () => {
    throw new RangeError("a mistake");
  };
}

Deno.test("cli reports a mistake of its own with its stack", async () => {
  const { code, stderr } = await run(
    ["http://127.0.0.1/"],
    "",
    after(makeMistake),
  );
  assertEquals(code, 1);
  assertMatch(stderr, /^stream-buffer: RangeError: a mistake\n +at .*\n/);
});

Deno.test("cli speaks of 1 byte and 1 request", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const first = await run(["--unsent", unsent, server.url], "x");
  assertStringIncludes(first.stderr, "0 bytes acknowledged in 0 requests\n");
  assertStringIncludes(first.stderr, "\nstream-buffer: 1 byte saved to ");
  const second = await run([server.url], "x");
  assertStringIncludes(second.stderr, ": 1 byte was read but not ack");
  assert(!/1 (bytes|requests)/.test(first.stderr + second.stderr));
});
