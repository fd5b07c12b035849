import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { toText } from "@std/streams";
import { streamTo } from "../mod.ts";
import {
  type Outcome,
  type Scope,
  start as startScript,
} from "../testing/child.ts";
import {
  answer,
  type Behaviour,
  close,
  FaultyServer,
  head,
  held,
  never,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
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

// -- whatever_happens.ts --

/** Writes, and comes to its end as `args` say. */
async function comeToAnEnd({ streamTo, url, args, told }: Scope) {
  const [example, unsent, how] = args as [string, string, string];
  const { closeWhateverHappens } = await import(example);
  const out = streamTo(url, {
    capacity: 4,
    flushInterval: 0,
    retry: { maxElapsed: 0 },
  });
  closeWhateverHappens(out, unsent);
  for (const text of ["one.", "two."]) await out.write(text);
  await out.flush();
  for (const text of ["six.", "end"]) await out.write(text);
  console.log("ready");
  await told();
  const mistake = new Error("a mistake");
  if (how === "an exception") throw mistake;
  if (how === "an exception in a block") {
    await using _out = out;
    throw mistake;
  }
  if (how === "an exception in a callback") {
    setTimeout(() => {
      throw mistake;
    });
    await told();
  }
  if (how === "a rejection") {
    void Promise.reject(mistake);
    await told();
  }
  if (how === "Deno.exit()") Deno.exit(4);
  if (how.startsWith("SIG")) await told();
}

const ENDS = {
  "an exception": 1,
  "an exception in a block": 1,
  "an exception in a callback": 1,
  "a rejection": 1,
  "Deno.exit()": 4,
  "the end of the script": 0,
  "SIGINT": 130,
  "SIGTERM": 143,
};

for (const [how, expected] of Object.entries(ENDS)) {
  for (const state of ["works", "is down", "stalls"]) {
    // A server that stalls needs someone who loses patience.
    if (state === "stalls" && !how.startsWith("SIG")) continue;
    Deno.test(
      `whatever_happens.ts loses nothing after ${how} while the server ${state}`,
      {
        ignore: Deno.build.os === "windows",
      },
      async () => {
        const last = { "works": answer(200), "is down": close }[state] ?? never;
        const { release, behaviour } = held(last);
        await using server = new FaultyServer(
          [answer(200), answer(200), behaviour],
          last,
        );
        await using folder = await temporary();
        const unsent = folder.file("unsent");
        const example = import.meta.resolve("./whatever_happens.ts");
        await using child = startScript(server.url, comeToAnEnd, {
          args: [example, unsent, how],
        });
        await child.said("ready");
        await child.until(server.received(3));
        if (how.startsWith("SIG")) child.kill(how as Deno.Signal);
        else await child.write("x");
        // Another one: two of a kind may arrive as one.
        if (state === "stalls") child.kill("SIGHUP");
        if (how === "Deno.exit()") await child.outcome; // it waits for no answer
        release();
        const { code, stderr }: Outcome = await child.outcome;
        assert(state === "stalls" ? code > 128 : code === expected, `${code}`);
        assertEquals(stderr.includes("Error: a mistake"), code === 1);
        const saved = await Deno.readTextFile(unsent).catch(() => "");
        assertEquals(stderr.includes("saved in"), saved !== "");
        const acknowledged = state === "works" && how !== "Deno.exit()"
          ? ["one.", "two.", "six.", "end"]
          : ["one.", "two."];
        assertEquals(acknowledged.join("") + saved, "one.two.six.end");
        assertEquals(server.bodies.slice(0, acknowledged.length), acknowledged);
      },
    );
  }
}
