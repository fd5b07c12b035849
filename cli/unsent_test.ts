import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  PERMISSIONS,
  runCommand as run,
  startCommand as start,
} from "../testing/child.ts";
import {
  after,
  fillTheDisk,
  linesOf,
  tusServer,
  WELL,
} from "../testing/command.ts";
import {
  close,
  FaultyServer,
  held,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

for (const source of ["a file", "standard input"]) {
  Deno.test(`cli saves what a server that dies half-way has not acknowledged, from ${source}`, async () => {
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
      `left in ${unsent}, to the end of the input\n`,
    );
    assertStringIncludes(stderr, `${saved.length} bytes saved in ${unsent}`);
  });
}

Deno.test("cli saves whole lines, and the beginning of one, in order", async () => {
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

Deno.test("cli refuses to save into its own input", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const file = folder.file("input", "data");
  const { code, stderr } = await run(["--unsent", file, server.url, file]);
  assertEquals([code, Deno.readTextFileSync(file)], [2, "data"]);
  assertStringIncludes(stderr, `cannot write ${file}: it is the input ${file}`);
});

Deno.test("cli refuses to save into its standard input", {
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
  assertStringIncludes(stderr, `cannot write ${file}: it is the input -`);
  assertEquals(server.connections, 0);
});

Deno.test("cli --tus wants an --unsent that is empty", async () => {
  await using tus = await tusServer();
  await using folder = await temporary();
  const unsent = folder.file("rest", "something else");
  const { code, stderr } = await run(["--tus", "--unsent", unsent, tus.url]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "it is not empty, and is to hold the rest");
});

Deno.test("cli saves everything on a disk that takes little at a time", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const { code, stderr } = await run(
    ["--unsent", unsent, server.url],
    "one, two, three",
    after(() => {
      const { write } = Deno.FsFile.prototype;
      Deno.FsFile.prototype.write = function (bytes) {
        return write.call(this, bytes.subarray(0, 4));
      };
    }),
  );
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one, two, three"]);
  assertStringIncludes(stderr, "15 bytes saved");
});

Deno.test("cli says what it could not save on a disk that is full", async () => {
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
  assertStringIncludes(stderr, `5 bytes saved in ${unsent}`);
});

Deno.test("cli says that a file is missing from what it saved", async () => {
  await using folder = await temporary();
  const gone = folder.file("gone", "data");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  await using running = start([
    ...["--interval", "10ms", "--unsent", unsent],
    ...[server.url, "-", gone],
  ]);
  await running.write("one");
  await running.said("saving what is left");
  await Deno.remove(gone);
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one"]);
  assertStringIncludes(stderr, "3 bytes saved");
  assertStringIncludes(stderr, "cannot read on: ");
});

Deno.test("cli leaves an --unsent from before as it was", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  for (const content of ["from before", ""]) {
    const unsent = folder.file("unsent", content);
    const { code } = await run(["--unsent", unsent, server.url], "data");
    assertEquals([code, Deno.readTextFileSync(unsent)], [0, content]);
  }
});

Deno.test("cli leaves no empty --unsent behind", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer();
  const { code } = await run(["--unsent", unsent, server.url], "data");
  assertEquals(code, 0);
  assertEquals([...Deno.readDirSync(unsent.replace("/unsent", ""))], []);
});

Deno.test("cli saves into a new file when the --unsent has gone", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  const { release, behaviour } = held(respond(400));
  await using server = new FaultyServer([behaviour]);
  await using running = start(["--unsent", unsent, server.url]);
  await running.write("data");
  await running.end();
  await running.until(server.received(1));
  // As another command does that shares it, and has nothing to save.
  await Deno.remove(unsent);
  release();
  assertEquals((await running.outcome).code, 1);
  assertEquals(Deno.readTextFileSync(unsent), "data");
});

Deno.test("cli saves even when it can open nothing any more", async () => {
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

Deno.test("cli does not mind that an --unsent it does not need has gone", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using running = start(["--unsent", unsent, server.url]);
  await running.write("data");
  await running.end();
  await running.until(server.received(1));
  await Deno.remove(unsent);
  release();
  assertEquals(await running.outcome, WELL);
});
