/**
 * The examples do what they say: the receiver as a handler, the others as
 * processes with no more than their documented permissions. The larger ones have
 * tests of their own, beside them.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { fileURLToPath } from "node:url";
import { streamTo } from "../mod.ts";
import {
  breakOutput,
  BROKEN_OUTPUTS,
  CAN_BREAK_OUTPUT,
} from "../testing/broken_output.ts";
import {
  type Child,
  type Outcome,
  preload,
  run,
  type Scope,
  start as startScript,
} from "../testing/child.ts";
import { LIMIT } from "../testing/command.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  head,
  held,
  never,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { receiver } from "./receiver.ts";

const decoder = new TextDecoder();
/** Windows lacks these signals. */
const WINDOWS = Deno.build.os === "windows";

function pathOf(file: string): string {
  return fileURLToPath(import.meta.resolve(file));
}

/** A receiver, and a function that calls its handler. */
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

Deno.test("receiver() stores a batch once, however often it arrives", async () => {
  const { post, stored } = setUp();
  assertEquals((await post("a", '"x-0"')).status, 201);
  assertEquals((await post("b", '"x-1"')).status, 201);
  // A late one, a repeated one, and one of another stream.
  assertEquals((await post("a", '"x-0"')).status, 200);
  assertEquals((await post("b", '"x-1"')).status, 200);
  assertEquals((await post("A", '"y-0"')).status, 201);
  await post("no key");
  await post("no key");
  assertEquals(stored(), "abAno keyno key");
});

Deno.test("receiver() stores each batch once when sends overlap, and some arrive early", async () => {
  const { post, stored } = setUp();
  assertEquals((await post("c", '"x-2"')).status, 201);
  assertEquals((await post("a", '"x-0"')).status, 201);
  assertEquals((await post("c", '"x-2"')).status, 200);
  assertEquals((await post("b", '"x-1"')).status, 201);
  for (const sequence of [0, 1, 2]) {
    assertEquals((await post("again", `"x-${sequence}"`)).status, 200);
  }
  assertEquals(stored(), "cab");
});

Deno.test("receiver() stores nothing of an incomplete body", async () => {
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

Deno.test("receiver() stores a batch when it is resent after storing it failed", async () => {
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
  Deno.test(`receiver() decompresses ${compression}`, async () => {
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

Deno.test("receiver() stores a batch once when the connection closes before the response", async () => {
  const { handle, stored } = setUp();
  const commit: Behaviour = async ({ receive, write }) => {
    const { method, headers, body } = await receive();
    const { status } = await handle(
      new Request("http://localhost/", { method, headers, body }),
    );
    await write(head(status, { "content-length": "0" }));
  };
  const commitAndClose: Behaviour = async (exchange) => {
    await commit({ ...exchange, write: () => Promise.resolve() });
    exchange.close();
  };
  const script = [
    commit,
    commitAndClose,
    commitAndClose,
    commit,
    commitAndClose,
  ];
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

// -- Examples as processes --

/** Starts an example, in which `script` runs first. */
function start(
  example: string,
  args: string[],
  script: () => void = () => {},
): Child {
  const permissions = ["-N=127.0.0.1", "-R", "-W"];
  return run([...permissions, preload(script), pathOf(example), ...args]);
}

Deno.test("receiver.ts appends what it receives to a file, and listens on loopback only", async () => {
  await using folder = await temporary();
  const path = folder.file("received.bin", "before ");
  await using child = start("./receiver.ts", [path], () => {
    const { serve } = Deno;
    // A free port instead of 8000. The permission is for 127.0.0.1 only.
    Object.defineProperty(Deno, "serve", {
      value: (options: object, handler: Deno.ServeHandler) => {
        const server = serve({ ...options, port: 0 }, handler);
        console.log(`on port ${(server.addr as Deno.NetAddr).port}.`);
      },
    });
  });
  await child.waitForOutput(".\n");
  const [, port] = child.output.stdout.match(/on port (\d+)/)!;
  const url = `http://127.0.0.1:${port}/`;
  {
    await using out = streamTo(url, { capacity: 4 });
    for (const text of ["one ", "two ", "six "]) await out.write(text);
  }
  assertEquals(Deno.readTextFileSync(path), "before one two six ");
  await child.waitForOutput(`4 bytes appended to ${path}`);
});

Deno.test("demo.ts delivers every byte by every method", async () => {
  await using child = run([
    ...["-N=127.0.0.1", "-R", "--ignore-env"],
    ...[pathOf("./demo.ts"), pathOf("../README.md")],
  ]);
  const { code, stdout } = await child.outcome;
  const rows = stdout.split("\n");
  assertEquals(code, 0);
  assertEquals(rows.filter((row) => row.endsWith("yes")).length, 6);
  assertMatch(stdout, /deno task page\n$/);
});

Deno.test("ndjson.ts sends whole records in few requests", async () => {
  await using server = new FaultyServer();
  await using child = start("./ndjson.ts", [server.url, "5000"]);
  const { code, stdout } = await child.outcome;
  assertEquals(code, 0);
  assertMatch(stdout, /^5000 records, \d+ bytes, 2 requests/);
  const ids = server.bodies.flatMap((body) =>
    body.trimEnd().split("\n").map((line) => JSON.parse(line).id)
  );
  assertEquals(ids, Array.from({ length: 5000 }, (_, i) => i));
  const [type] = server.requests.map((r) => r.headers.get("content-type"));
  assertEquals(type, "application/x-ndjson");
});

// -- close_on_exit.ts --

/** Writes, and ends in the way that `args` name. */
async function writeAndEnd({ streamTo, url, args, readByte }: Scope) {
  const [example, unsent, how] = args as [string, string, string];
  const { closeOnExit } = await import(example);
  const out = streamTo(url, {
    capacity: 4,
    flushInterval: 0,
    retry: { maxElapsed: 0 },
  });
  closeOnExit(out, unsent);
  for (const text of ["one.", "two."]) await out.write(text);
  await out.flush();
  for (const text of ["six.", "end"]) await out.write(text);
  console.log("ready");
  await readByte();
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
    await readByte();
  }
  if (how === "a rejection") {
    void Promise.reject(mistake);
    await readByte();
  }
  if (how === "Deno.exit()") Deno.exit(4);
  if (how.startsWith("SIG")) await readByte();
  Deno.exitCode = 3;
}

const ENDS = {
  "an exception": 1,
  "an exception in a block": 1,
  "an exception in a callback": 1,
  "a rejection": 1,
  "Deno.exit()": 4,
  "the end of the script": 3,
  "SIGHUP": 129,
  "SIGINT": 130,
  "SIGTERM": 143,
};

for (const [how, expected] of Object.entries(ENDS)) {
  for (const state of ["works", "is down", "stalls"]) {
    // With a server that stalls, only a second signal ends the process soon.
    if (state === "stalls" && !how.startsWith("SIG")) continue;
    Deno.test(
      `close_on_exit.ts loses nothing after ${how} while the server ${state}`,
      { ignore: WINDOWS },
      async () => {
        const last = { "works": respond(200), "is down": close }[state] ??
          never;
        const { release, behaviour } = held(last);
        // A batch that is to be sent again keeps a script alive that only ends: it
        // goes on when the server is back.
        const isBack = how === "the end of the script";
        await using server = new FaultyServer(
          [respond(200), respond(200), behaviour],
          isBack ? respond(200) : last,
        );
        await using folder = await temporary();
        const unsent = folder.file("unsent", "before ");
        const example = import.meta.resolve("./close_on_exit.ts");
        await using child = startScript(server.url, writeAndEnd, {
          args: [example, unsent, how],
        });
        await child.waitForOutput("ready");
        await child.waitFor(server.received(3));
        if (how.startsWith("SIG")) child.kill(how as Deno.Signal);
        else await child.write("x");
        // Another signal: two of the same may arrive as one.
        if (state === "stalls") {
          child.kill(how === "SIGHUP" ? "SIGTERM" : "SIGHUP");
        }
        if (how === "Deno.exit()") await child.outcome; // without the response
        release();
        const { code, stderr }: Outcome = await child.outcome;
        assert(state === "stalls" ? code > 128 : code === expected, `${code}`);
        assertEquals(stderr.includes("Error: a mistake"), code === 1);
        if (how === "an exception in a block" && state === "is down") {
          assertMatch(stderr, /Uncaught FlushError/);
        }
        const [, saved] = Deno.readTextFileSync(unsent).split("before ");
        assert(saved !== undefined, "the file was overwritten");
        assertEquals(stderr.includes("saved in"), saved !== "");
        const acknowledged =
          isBack || (state === "works" && how !== "Deno.exit()")
            ? ["one.", "two.", "six.", "end"]
            : ["one.", "two."];
        assertEquals(acknowledged.join("") + saved, "one.two.six.end");
        const { bodies } = server;
        assertEquals(
          bodies.filter((body, i) => body !== bodies[i - 1])
            .slice(0, acknowledged.length),
          acknowledged,
        );
      },
    );
  }
}

for (const what of BROKEN_OUTPUTS) {
  Deno.test(
    `close_on_exit.ts saves what is left, and exits as usual, when standard error is ${what}`,
    {
      ignore: !CAN_BREAK_OUTPUT,
    },
    async () => {
      for (const [how, expected] of Object.entries(ENDS)) {
        // With a server that stays away, that does not come.
        if (how === "the end of the script") continue;
        await using server = new FaultyServer(
          [respond(200), respond(200)],
          close,
        );
        await using folder = await temporary();
        const unsent = folder.file("unsent", "");
        const example = import.meta.resolve("./close_on_exit.ts");
        await using broken = await breakOutput(what);
        await using child = startScript(server.url, writeAndEnd, {
          ...{ args: [example, unsent, how], shell: broken.shell },
        });
        await child.waitForOutput("ready");
        if (how.startsWith("SIG")) child.kill(how as Deno.Signal);
        else await child.write("x");
        const limit = setTimeout(() => child.kill("SIGKILL"), LIMIT);
        const { code, stderr } = await child.outcome;
        clearTimeout(limit);
        assertEquals([how, code, stderr], [how, expected, ""]);
        assertEquals(Deno.readTextFileSync(unsent), "six.end");
      }
    },
  );
}
