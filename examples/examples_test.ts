import {
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { toText } from "@std/streams";
import { streamTo } from "../mod.ts";
import {
  type Behaviour,
  FaultyServer,
  head,
} from "../testing/faulty_server.ts";
import { receiver } from "./receiver.ts";

const decoder = new TextDecoder();

/** A receiver whose handler is called by hand. */
function setUp() {
  let stored = "";
  const handle = receiver((bytes) => {
    stored += decoder.decode(bytes);
  });
  const post = (body: BodyInit, key?: string, coding?: string) => {
    const headers = new Headers();
    if (key !== undefined) headers.set("Idempotency-Key", key);
    if (coding !== undefined) headers.set("Content-Encoding", coding);
    const init = { method: "POST", body, headers };
    return handle(new Request("http://localhost/", init));
  };
  return { handle, post, stored: () => stored };
}

Deno.test("receiver() stores a flush once, however often it comes", async () => {
  const { post, stored } = setUp();
  assertEquals((await post("a", '"x-0"')).status, 201);
  assertEquals((await post("b", '"x-1"')).status, 201);
  // One that was late, one that is repeated, one of another stream.
  assertEquals((await post("a", '"x-0"')).status, 200);
  assertEquals((await post("b", '"x-1"')).status, 200);
  assertEquals((await post("A", '"y-0"')).status, 201);
  await post("no key");
  await post("no key");
  assertEquals(stored(), "abAno keyno key");
});

Deno.test("receiver() stores nothing of a body that breaks off", async () => {
  const { post, stored } = setUp();
  const broken = new ReadableStream({
    pull(controller) {
      controller.enqueue(new Uint8Array(3));
      controller.error(new Error("reset"));
    },
  });
  await assertRejects(() => post(broken, '"x-0"'), Error, "reset");
  await post("whole", '"x-0"');
  assertEquals(stored(), "whole");
});

Deno.test("receiver() stores a flush again whose storing failed", async () => {
  let fail = true;
  const stored: string[] = [];
  const handle = receiver((bytes) => {
    if (fail) throw new Error("disk full");
    stored.push(decoder.decode(bytes));
  });
  const request = () =>
    new Request("http://localhost/", {
      method: "POST",
      body: "a",
      headers: { "Idempotency-Key": '"x-0"' },
    });
  await assertRejects(() => handle(request()), Error, "disk full");
  fail = false;
  await handle(request());
  assertEquals(stored, ["a"]);
});

for (const compression of ["gzip", "deflate", "brotli"] as const) {
  Deno.test(`receiver() undoes ${compression}`, async () => {
    const { handle, stored } = setUp();
    await using server = Deno.serve({
      hostname: "127.0.0.1",
      port: 0,
      onListen: () => {},
    }, handle);
    await using out = streamTo(
      `http://127.0.0.1:${server.addr.port}/`,
      { compression },
    );
    await out.write("compressed");
    await out.close();
    assertEquals(stored(), "compressed");
  });
}

Deno.test("receiver() stores once what was committed before the connection died", async () => {
  const { handle, stored } = setUp();
  const commit: Behaviour = async ({ receive, write }) => {
    const { method, headers, body } = await receive();
    const { status } = await handle(
      new Request("http://localhost/", { method, headers, body }),
    );
    await write(head(status, { "content-length": "0" }));
  };
  const commitAndDie: Behaviour = async (exchange) => {
    await commit({ ...exchange, write: () => Promise.resolve() });
    exchange.close();
  };
  const script = [commit, commitAndDie, commitAndDie, commit, commitAndDie];
  await using server = new FaultyServer(script, commit);
  await using out = streamTo(server.url, {
    capacity: 4,
    retry: { initialDelay: 1 },
  });
  for (const text of ["abcd", "efgh", "ijkl"]) await out.write(text);
  await out.close();
  assertEquals(
    server.bodies,
    ["abcd", "efgh", "efgh", "efgh", "ijkl", "ijkl"],
  );
  assertEquals(stored(), "abcdefghijkl");
});

// -- As processes --

function start(example: string, ...args: string[]): Deno.ChildProcess {
  const path = new URL(example, import.meta.url).pathname;
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-prompt", "-N", "-R", path, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
}

Deno.test("demo.ts delivers every byte in every way", async () => {
  const path = new URL("../README.md", import.meta.url).pathname;
  const { code, stdout } = await start("./demo.ts", path).output();
  const rows = decoder.decode(stdout).split("\n");
  assertEquals(code, 0);
  assertEquals(rows.filter((row) => row.endsWith("yes")).length, 4);
});

Deno.test("ndjson.ts sends whole records in few requests", async () => {
  await using server = new FaultyServer();
  const { code, stdout } = await start("./ndjson.ts", server.url, "5000")
    .output();
  assertEquals(code, 0);
  assertMatch(decoder.decode(stdout), /^5000 records, \d+ bytes, 2 requests/);
  const ids = server.bodies.flatMap((body) =>
    body.trimEnd().split("\n").map((line) => JSON.parse(line).id)
  );
  assertEquals(ids, Array.from({ length: 5000 }, (_, i) => i));
});

Deno.test(
  "ship_log.ts ships what is appended, over a rotation, in whole lines",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using server = new FaultyServer();
    const path = await Deno.makeTempFile();
    const append = (text: string) =>
      Deno.writeTextFile(path, text, { append: true });
    try {
      await append("old\n");
      const process = start("./ship_log.ts", server.url, path);
      const [watched, whole] = process.stdout.tee();
      const reader = watched.getReader();
      await reader.read();
      await append("one\ntw");
      await server.received(1);
      await append("o\n");
      await server.received(2);
      await Deno.writeTextFile(path, "new\n");
      await server.received(3);
      // Renamed, and a longer one in its place.
      await Deno.rename(path, `${path}.1`);
      await Deno.writeTextFile(path, "another one\n");
      await server.received(4);
      await Deno.remove(`${path}.1`);
      process.kill("SIGINT");
      const [{ code }, stdout, stderr] = await Promise.all([
        process.status,
        toText(whole),
        toText(process.stderr),
        reader.cancel(),
      ]);
      assertEquals([code, stderr], [0, ""]);
      assertStringIncludes(stdout, "Shipping what is appended");
      assertEquals(
        server.bodies,
        ["one\n", "two\n", "new\n", "another one\n"],
      );
    } finally {
      await Deno.remove(path);
    }
  },
);
