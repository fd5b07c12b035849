/**
 * The examples do what they say: the receiver as a handler, the others as
 * processes with no more than their documented permissions.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { streamTo } from "../mod.ts";
import {
  type Child,
  type Outcome,
  preload,
  run,
  type Scope,
  start as startScript,
} from "../testing/child.ts";
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
import { startTusServer } from "../testing/tus_server.ts";
import { receiver } from "./receiver.ts";

const decoder = new TextDecoder();
/** Windows lacks these signals, and cannot rename a file that is open. */
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
  await using child = start("./demo.ts", [pathOf("../README.md")]);
  const { code, stdout } = await child.outcome;
  const rows = stdout.split("\n");
  assertEquals(code, 0);
  assertEquals(rows.filter((row) => row.endsWith("yes")).length, 4);
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

Deno.test("ship_log.ts prints its usage without a URL or a file", async () => {
  for (const args of [[], ["http://127.0.0.1:9/"]]) {
    await using child = start("./ship_log.ts", args);
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
  { ignore: WINDOWS },
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "old\n");
    const append = (text: string) =>
      Deno.writeTextFile(path, text, { append: true });
    const bodies = ["one\n", "two\nthree\n", "new\n", "another one\n", "end"];
    await using child = start("./ship_log.ts", [
      server.url,
      path,
    ], reportMissing);
    const received = (count: number) => child.waitFor(server.received(count));
    await child.waitForOutput(`Shipping what is appended to ${path}`);
    await append("one\ntw");
    await received(1);
    await append("o\nthree\n");
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

Deno.test("ship_log.ts retries, and ships everything once", {
  ignore: WINDOWS,
}, async () => {
  const refuse = respond(400, {}, "no");
  await using server = new FaultyServer([
    ...[refuse, respond(200)],
    ...[refuse, refuse, refuse],
  ]);
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  const append = (text: string) =>
    Deno.writeTextFile(path, text, { append: true });
  await using child = start("./ship_log.ts", [server.url, path]);
  await child.waitForOutput("Shipping");
  await append("one\n");
  await child.waitForOutput('400: "no"; retrying');
  await child.waitFor(server.received(2));
  // More than two buffers hold, so that writes are rejected while sends fail.
  const numbers = Array.from({ length: 120_000 }, (_, i) => `${i}\n`).join("");
  const text = `${numbers}the end\n`;
  await append(text);
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
  await using child = start("./ship_log.ts", [server.url, path]);
  await child.waitForOutput("Shipping");
  await Deno.writeTextFile(path, line, { append: true });
  await child.waitFor(server.received(2));
  await Deno.writeTextFile(path, "end\n", { append: true });
  await child.waitFor(server.received(3));
  assert(server.bodies.join("") === `${line}${line}end\n`);
});

// -- resumable.ts --

Deno.test("resumable.ts prints its usage without an endpoint or a file", async () => {
  for (const args of [[], ["http://127.0.0.1:9/"]]) {
    await using child = start("./resumable.ts", args);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [2, "usage: resumable.ts ENDPOINT FILE\n"]);
  }
});

Deno.test("resumable.ts resumes 100 MB after it was killed half-way", {
  ignore: WINDOWS,
}, async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar");
  const size = 100_000_000;
  {
    using file = await Deno.open(path, { create: true, write: true });
    const hash = createHash("shake256", { outputLength: 50_000 });
    const chunk = new Uint8Array(hash.update("a backup").digest());
    for (let at = 0; at < size; at += chunk.length) {
      new DataView(chunk.buffer).setUint32(0, at);
      await file.write(chunk);
    }
  }
  const sha256 = (bytes: Uint8Array) =>
    createHash("sha256").update(bytes).digest("hex");
  const args = [server.url, path];

  await using first = start("./resumable.ts", args);
  await first.waitFor(server.receivedBytes(size / 2));
  first.kill("SIGKILL");
  assertEquals((await first.outcome).signal, "SIGKILL");
  const url = Deno.readTextFileSync(`${path}.upload`);
  assert(!server.isComplete(url));

  await using second = start("./resumable.ts", args);
  const { code, stdout } = await second.outcome;
  assertEquals(code, 0);
  const [, skipped] = stdout.match(/^Resuming at byte (\d+)\n/)!;
  assert(Number(skipped) >= size / 2 - 2 ** 20, `from byte ${skipped}`);
  assertMatch(stdout, /\n100000000 bytes are at http.*\n$/);
  assert(server.isComplete(url));
  assertEquals(sha256(server.read(url)), sha256(Deno.readFileSync(path)));
  assert(server.received <= size + 2 ** 20, "more than 1 MiB was resent");
  assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
});

Deno.test("resumable.ts starts a new upload when the earlier one no longer exists", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar", "a backup");
  folder.file("backup.tar.upload", `${server.url}/gone`);
  await using child = start("./resumable.ts", [server.url, path]);
  const { code, stdout } = await child.outcome;
  assertEquals(code, 0);
  const [, url] = stdout.match(
    /^The earlier upload no longer exists.*\n8 bytes are at (.*)\n$/,
  )!;
  assertEquals(decoder.decode(server.read(url!)), "a backup");
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
    // The buffer goes on trying, so that the script does not end.
    if (state === "is down" && how === "the end of the script") continue;
    Deno.test(
      `close_on_exit.ts loses nothing after ${how} while the server ${state}`,
      { ignore: WINDOWS },
      async () => {
        const last = { "works": respond(200), "is down": close }[state] ??
          never;
        const { release, behaviour } = held(last);
        await using server = new FaultyServer(
          [respond(200), respond(200), behaviour],
          last,
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
        const acknowledged = state === "works" && how !== "Deno.exit()"
          ? ["one.", "two.", "six.", "end"]
          : ["one.", "two."];
        assertEquals(acknowledged.join("") + saved, "one.two.six.end");
        assertEquals(server.bodies.slice(0, acknowledged.length), acknowledged);
      },
    );
  }
}
