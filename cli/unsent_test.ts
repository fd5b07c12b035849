import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import process from "node:process";
import { PERMISSIONS } from "../testing/child.ts";
import {
  after,
  fillTheDisk,
  linesOf,
  muteStderr,
  run,
  start,
  startRefusingTusServer,
  SUCCESS,
} from "../testing/command.ts";
import {
  close,
  FaultyServer,
  held,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { UnsentFile } from "./unsent.ts";

for (const source of ["a file", "standard input"]) {
  test(`cli saves what the server had not acknowledged when it died, from ${source}`, async () => {
    await using folder = await temporary();
    const text = linesOf(5_000_000);
    const input = folder.file("input", text);
    const unsent = folder.file("unsent");
    await using server = new FaultyServer(Array(7).fill(respond(200)), close);
    const { code, stderr } = await run(
      [
        ...["--capacity", "16K", "--retry-for", "0", "--unsent", unsent],
        ...[server.url, source === "a file" ? input : "-"],
      ],
      source === "a file" ? "" : text,
    );
    assertEquals(code, 1);
    const acknowledged = server.bodies.slice(0, 7).join("");
    const saved = Deno.readTextFileSync(unsent);
    assert(acknowledged + saved === text, "bytes are missing");
    assertStringIncludes(
      stderr,
      `${acknowledged.length} bytes acknowledged in 7 requests`,
    );
    assertStringIncludes(
      stderr,
      `undelivered bytes to ${unsent}, up to the end of the input\n`,
    );
    assertStringIncludes(stderr, `${saved.length} bytes saved to ${unsent}`);
  });
}

test("cli --lines saves whole lines and a partial one, in order", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent", "from before\n");
  const text = linesOf(200_000) + "the last";
  await using server = new FaultyServer([respond(200)], respond(400));
  const { code } = await run(
    [
      ...["--lines", "--capacity", "1000", "--unsent", unsent],
      server.url,
    ],
    text,
  );
  assertEquals(code, 1);
  const saved = Deno.readTextFileSync(unsent);
  assert(saved === "from before\n" + text.slice(server.bodies[0]!.length));
});

Deno.test("cli rejects an --unsent that is one of its inputs", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const file = folder.file("input", "data");
  const { code, stderr } = await run(["--unsent", file, server.url, file]);
  assertEquals([code, Deno.readTextFileSync(file)], [2, "data"]);
  assertStringIncludes(
    stderr,
    `cannot write ${file}: it is also the input ${file}`,
  );
});

Deno.test("cli rejects an --unsent that is its standard input", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const file = folder.file("input", "data");
  await using running = start(
    ["--unsent", file, server.url],
    PERMISSIONS,
    `exec < ${file}`,
  );
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(file)], [2, "data"]);
  assertStringIncludes(
    stderr,
    `cannot write ${file}: it is also standard input`,
  );
  assertEquals(server.connections, 0);
});

test("cli --tus rejects an --unsent that is not empty", async () => {
  await using tus = await startRefusingTusServer();
  await using folder = await temporary();
  const unsent = folder.file("rest", "something else");
  const { code, stderr } = await run(["--tus", "--unsent", unsent, tus.url]);
  assertEquals(code, 2);
  assertStringIncludes(
    stderr,
    "it is not empty; with --tus it must hold only the rest",
  );
});

test("cli saves everything when each write to the disk is partial", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const { code, stderr } = await run(
    ["--unsent", unsent, server.url],
    "one, two, three",
    after(async () => {
      const { open } = process.getBuiltinModule("node:fs/promises");
      await using file = await open(Deno.execPath());
      const prototype = Object.getPrototypeOf(file);
      const { write } = prototype;
      prototype.write = function (bytes: Uint8Array) {
        return write.call(this, bytes.subarray(0, 4));
      };
    }),
  );
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one, two, three"]);
  assertStringIncludes(stderr, "15 bytes saved");
});

test("cli reports how much it saved when the disk is full", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const { code, stderr } = await run(
    ["--unsent", unsent, server.url],
    "one, two, three",
    after(fillTheDisk),
  );
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one, "]);
  assertStringIncludes(stderr, `cannot write ${unsent}: the disk is full`);
  assertStringIncludes(stderr, "10 bytes read, but not acknowledged or saved");
  assertStringIncludes(stderr, `5 bytes saved to ${unsent}`);
});

test("cli saves what it can when an input file disappears, and reports it", async () => {
  await using folder = await temporary();
  const gone = folder.file("gone", "data");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  await using running = start([
    ...["--interval", "10ms", "--unsent", unsent],
    ...[server.url, "-", gone],
  ]);
  await running.write("one");
  await running.waitForOutput("saving undelivered bytes");
  await Deno.remove(gone);
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one"]);
  assertStringIncludes(stderr, "3 bytes saved");
  assertStringIncludes(stderr, "read failed: ");
});

test("cli leaves an existing --unsent unchanged on success", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  for (const content of ["from before", ""]) {
    const unsent = folder.file("unsent", content);
    const { code } = await run(["--unsent", unsent, server.url], "data");
    assertEquals([code, Deno.readTextFileSync(unsent)], [0, content]);
  }
});

test("cli leaves no empty --unsent behind", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer();
  const { code } = await run(["--unsent", unsent, server.url], "data");
  assertEquals(code, 0);
  assertEquals([...Deno.readDirSync(unsent.replace("/unsent", ""))], []);
});

test("cli saves to a new file when the --unsent was removed", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  const { release, behaviour } = held(respond(400));
  await using server = new FaultyServer([behaviour]);
  await using running = start(["--unsent", unsent, server.url]);
  await running.write("data");
  await running.end();
  await running.waitFor(server.received(1));
  // As another command does that uses the same file and has nothing to save.
  await Deno.remove(unsent);
  release();
  assertEquals((await running.outcome).code, 1);
  assertEquals(Deno.readTextFileSync(unsent), "data");
});

test("cli saves even when it cannot open another file", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const { code, stderr } = await run(
    ["--unsent", unsent, server.url],
    "data",
    after(() => {
      const { open } = Deno;
      Deno.open = (...args) => {
        Deno.open = () => Promise.reject(new Error("too many open files"));
        return open(...args);
      };
    }),
  );
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "data"]);
  assertStringIncludes(stderr, "4 bytes saved");
});

test("cli succeeds when an --unsent that it does not need was removed", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using running = start(["--unsent", unsent, server.url]);
  await running.write("data");
  await running.end();
  await running.waitFor(server.received(1));
  await Deno.remove(unsent);
  release();
  assertEquals(await running.outcome, SUCCESS);
});

Deno.test(
  "UnsentFile.save() counts what comes after a write that failed, and does not try to write it",
  {
    ignore: Deno.build.os !== "linux",
  },
  async () => {
    using _ = muteStderr();
    const file = await UnsentFile.open("/dev/full", [], "records");
    let failures = 0;
    async function* chunks() {
      for (let i = 0; i < 3; i++) yield new Uint8Array(10);
    }
    assertEquals(await file.save(chunks(), () => failures++), false);
    assertEquals(failures, 1);
    await file.close(false);
  },
);
