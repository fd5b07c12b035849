import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { concat } from "@std/bytes";
import { toText } from "@std/streams";
import { setTimeout as sleep } from "node:timers/promises";
import { dirname } from "node:path";
import { StreamBuffer } from "../buffer.ts";
import { main } from "./main.ts";
import { TusSender } from "../senders/tus.ts";
import { startTusServer, type TusServer } from "../testing/tus_server.ts";
import config from "../deno.json" with { type: "json" };
import {
  type Child,
  CLI,
  PERMISSIONS,
  preload,
  runCommand as run,
  startCommand as start,
} from "../testing/child.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  held,
  never,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** How it ends when all is well: it says nothing. */
const WELL = { code: 0, signal: null, stdout: "", stderr: "" };

/** Refuses, and repeats what should be secret. */
const echo: Behaviour = async (exchange) => {
  const { headers, path } = exchange.request;
  await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
};

/** The permissions of a command in which `script` runs first. */
function after(script: () => void): string[] {
  return [...PERMISSIONS, preload(script)];
}

/** Says on standard output which timers are set and cleared. */
function tellTimers(): void {
  const { setTimeout, clearTimeout } = globalThis;
  const delays = new Map<unknown, number | undefined>();
  globalThis.setTimeout = ((fn: () => void, ms?: number) => {
    const id = setTimeout(fn, ms);
    delays.set(id, ms);
    console.log(`set ${ms}`);
    return id;
  }) as typeof setTimeout;
  globalThis.clearTimeout = (id) => {
    console.log(`cleared ${delays.get(id)}`);
    clearTimeout(id);
  };
}

/** Lets 5 seconds never pass. */
function stopTheClock(): void {
  const { setTimeout } = globalThis;
  globalThis.setTimeout =
    ((fn: () => void, ms?: number) =>
      ms === 5_000 ? 0 : setTimeout(fn, ms)) as typeof setTimeout;
}

/** Leaves room for 5 bytes. */
function fillTheDisk(): void {
  const { write } = Deno.FsFile.prototype;
  let room = 5;
  Deno.FsFile.prototype.write = function (bytes) {
    if (room === 0) throw new Error("the disk is full");
    const part = bytes.subarray(0, room);
    room -= part.length;
    return write.call(this, part);
  };
}

/** Numbered lines, so that any two parts of them differ. */
function linesOf(size: number): string {
  let text = "";
  for (let i = 0; text.length < size; i++) text += `line ${i}\n`;
  return text;
}

function received(server: FaultyServer): string {
  return server.bodies.join("");
}

/** Writes each text when the server has had a request with the one before. */
async function writeEach(
  running: Child,
  server: FaultyServer,
  ...texts: string[]
): Promise<void> {
  for (const [i, text] of texts.entries()) {
    await running.write(text);
    await running.until(server.received(i + 1));
  }
}

// -- Input --

Deno.test("cli sends standard input, and says nothing when all is well", async () => {
  await using server = new FaultyServer();
  const outcome = await run([server.url], "a\nb\nc");
  assertEquals(outcome, WELL);
  assertEquals(server.bodies, ["a\nb\nc"]);
});

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

Deno.test("cli sends more than it reads ahead, to a server that is slower", async () => {
  await using server = new FaultyServer();
  const text = linesOf(7_000_000);
  const { code } = await run(["--capacity", "100K", server.url], text);
  assertEquals(code, 0);
  assert(received(server) === text, "bytes are missing");
});

Deno.test("cli with nothing to send makes no request", async () => {
  await using server = new FaultyServer();
  const outcome = await run([server.url], "");
  assertEquals(outcome, WELL);
  assertEquals(server.connections, 0);
});

for (const capacity of [1, 7, 8, 9, 20, 1000]) {
  Deno.test(`cli --lines never cuts a line, at capacity ${capacity}`, async () => {
    await using server = new FaultyServer();
    const text = linesOf(300) + "x".repeat(30) + "\n\n\nlast one";
    const { code } = await run(
      [server.url, "--lines", "--capacity", `${capacity}`],
      text,
    );
    assertEquals(code, 0);
    assertEquals(received(server), text);
    for (const body of server.bodies) {
      assert(body.endsWith("\n") || body.endsWith("last one"), body);
      const lines = body.split("\n").length - 1;
      assert(body.length <= capacity || lines <= 1, "more than it must");
    }
  });
}

Deno.test("cli --lines never cuts a line that spans reads", async () => {
  await using server = new FaultyServer();
  await using running = start([server.url, "--lines", "--interval", "20ms"]);
  await running.write("one\ntw");
  await running.until(server.received(1));
  await running.write("o and");
  await running.write(" a half\nthree");
  await running.end();
  assertEquals((await running.outcome).code, 0);
  assertEquals(server.bodies[0], "one\n");
  assertEquals(received(server), "one\ntwo and a half\nthree");
});

// -- Options --

Deno.test("cli passes its options on", async () => {
  await using server = new FaultyServer([respond(503)]);
  await using folder = await temporary();
  const headers = folder.file(
    "headers",
    "X-One: 1\n\n X-Two : ${TEST_TOKEN}, ${TEST_TOKEN}\r\n",
  );
  const { code, stderr } = await run(
    [
      ...["-X", "PUT", "-H", "X-Zero: a: b", "--header", `@${headers}`],
      ...["--capacity", "1K", "--interval", "0", "--timeout", "5s", "-q"],
      ...["--retry-for", "1m", "--compress", server.url],
    ],
    "x".repeat(5000),
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals([code, stderr], [0, ""]);
  assertEquals(server.requests.length, 6);
  const [{ method, headers: sent, body }] = server.requests as [
    (typeof server.requests)[0],
  ];
  assertEquals(method, "PUT");
  assertEquals(sent.get("x-zero"), "a: b");
  assertEquals(sent.get("x-one"), "1");
  assertEquals(sent.get("x-two"), "hunter2, hunter2");
  assertEquals(sent.get("content-encoding"), "gzip");
  const plain = new Blob([body]).stream()
    .pipeThrough(new DecompressionStream("gzip"));
  assertEquals(await toText(plain), "x".repeat(1024));
});

for (const format of ["deflate", "brotli"]) {
  Deno.test(`cli --compress takes ${format}, and leaves a URL alone`, async () => {
    await using server = new FaultyServer();
    for (const args of [["--compress", format], [`--compress=${format}`]]) {
      const { code } = await run([...args, `${server.url}/gzip`], "x");
      assertEquals(code, 0);
    }
    const codings = server.requests.map(({ headers }) =>
      headers.get("content-encoding")
    );
    const coding = format === "brotli" ? "br" : format;
    assertEquals(codings, [coding, coding]);
  });
}

Deno.test("cli --compress takes gzip unless told otherwise, wherever it stands", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const input = folder.file("input", "data");
  for (
    const args of [
      [server.url, "--compress"],
      ["--compress", `${server.url}/brotli`],
      ["--compress", "--", server.url, input],
    ]
  ) {
    const { code } = await run(args, "data");
    assertEquals(code, 0);
  }
  const codings = server.requests.map(({ headers }) =>
    headers.get("content-encoding")
  );
  assertEquals(codings, ["gzip", "gzip", "gzip"]);
});

Deno.test("cli sends 256 KiB a request unless told otherwise, with --lines as well", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "x\n".repeat(300_000));
  for (const args of [[], ["--lines"]]) {
    await using server = new FaultyServer();
    const { code } = await run([...args, server.url, input]);
    assertEquals(code, 0);
    const sizes = server.bodies.map(({ length }) => length);
    assertEquals(sizes, [262_144, 262_144, 75_712]);
  }
});

Deno.test("cli --help and --version answer on standard output", async () => {
  const help = await run(["--help"], "", []);
  assertEquals([help.code, help.stderr], [0, ""]);
  assertMatch(help.stdout, /^Sends standard input.*\n\nUsage: /);
  assertMatch(help.stdout, /-R for each FILE, -R -W for --unsent.*\n.*-env=/);
  const version = await run(["--version"], "", []);
  assertEquals(version, { ...WELL, stdout: `${config.version}\n` });
});

for (
  const [args, message] of [
    [[], "there is no URL"],
    [["nonsense"], 'url must be an absolute URL, received "nonsense"'],
    [["http://me:hunter2@127.0.0.1/"], "must not carry credentials"],
    [["ftp://127.0.0.1/"], "url must begin with http"],
    [["http://a;b/"], "cannot connect to a;b:80: "],
    [["URL", "--bogus"], "--bogus"],
    [["URL", "/no/such/file"], "cannot read /no/such/file: no such file"],
    [["URL", "/"], "cannot read /: it is a directory"],
    [["URL", "--capacity", "0"], "capacity must be an integer from 1"],
    [["URL", "--capacity", "1X"], 'like 64K or 1M, received "1X"'],
    [["URL", "--capacity", "3G"], "received 3221225472"],
    [["URL", "--capacity", "3000M"], "received 3145728000"],
    [["URL", "--capacity", "3000000K"], "received 3072000000"],
    [["URL", "--timeout", "40000m"], "received 2400000000"],
    [["URL", "--timeout", "2500000s"], "received 2500000000"],
    [["URL", "--timeout", "2500000000ms"], "received 2500000000"],
    [["URL", "--interval", "40000m"], "flushInterval must be"],
    [["URL", "--interval=-1"], "--interval must be a time"],
    [["URL", "--interval", "1.5s"], "--interval must be a time"],
    [["URL", "--timeout", "1h"], 'like 500ms, 30s or 2m, received "1h"'],
    [["URL", "--timeout", "0"], "timeout must be an integer from 1"],
    [["URL", "--retry-for", "x"], "--retry-for must be a time like 500ms"],
    [["URL", "--compress=zip"], 'compression must be "gzip"'],
    [["URL", "-X", "GET"], 'may carry a body, received "GET"'],
    [["URL", "-H", "hunter2"], '--header must be "Name: value"\n'],
    [["URL", "-H", "a b: hunter2"], 'and that of "a b" is not'],
    [["URL", "-H", "@/no/such"], "cannot read the headers in /no/such: no"],
    [["URL", "--unsent", "/no/such/file"], "cannot write /no/such/file: no"],
    [["URL", "-H", "A: ${TEST_TOKEN}"], "add --allow-env=TEST_TOKEN"],
    [["URL", "--upload", "--tus"], "--upload and --tus do not go together"],
    [["URL", "--resume", "--tus"], "--tus and --resume do not go together"],
    [["URL", "--upload", "--unsent", "x"], "--unsent does not go with --upl"],
    [["URL", "--upload", "--retry-for", "1"], "--retry-for does not go with"],
    [["URL", "--upload", "--lines"], "--lines does not go with --upload"],
    [["URL", "--tus", "--compress"], "--compress does not go with --tus"],
    [["URL", "--tus", "-X", "PUT"], "--method does not go with --tus"],
    [["URL", "--resume", "--metadata", "a=b"], "--metadata does not go with"],
    [["URL", "--metadata", "a=b"], "--metadata belongs to --tus"],
    [["URL", "--offset", "1"], "--offset belongs to --resume"],
    [["URL", "--resume", "--offset", "x"], 'like 64K or 1M, received "x"'],
    [["URL", "--tus", "--metadata", "a"], 'must be NAME=VALUE, received "a"'],
    [["URL", "--tus", "--metadata", "a b=c"], "ASCII without spaces and com"],
    [["URL", "--upload", "-X", "GET"], 'may carry a body, received "GET"'],
    [["nonsense", "--tus"], 'url must be an absolute URL, received "nonsense"'],
    [["nonsense", "--resume"], "url must be an absolute URL"],
  ] as const
) {
  Deno.test(`cli refuses ${args.join(" ") || "no arguments"}`, async () => {
    await using server = new FaultyServer();
    const { code, stdout, stderr } = await run(
      args.map((arg) => arg === "URL" ? server.url : arg),
      "data",
    );
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, message);
    assertMatch(stderr, /^stream-buffer: .*\nTry --help.\n$/);
    assert(!stderr.includes("hunter2"), stderr);
    assert(!/\w+Sender/.test(stderr), stderr);
    assertEquals(server.connections, 0);
  });
}

for (const [url, port] of [["http:", 80], ["https:", 443]] as const) {
  Deno.test(`cli names port ${port} when it may not connect to ${url}`, async () => {
    const { code, stderr } = await run([`${url}//127.0.0.1`], "", []);
    assertEquals(code, 2);
    assertStringIncludes(stderr, `add --allow-net=127.0.0.1:${port}\n`);
  });
}

for (
  const [missing, message] of [
    ["-N", /cannot connect to (127.0.0.1:\d+): add --allow-net=\1/],
    ["-R", /cannot read .*: Requires read access.*--allow-read/],
    ["-W", /cannot write .*: Requires write access.*--allow-write/],
  ] as const
) {
  Deno.test(`cli names the missing permission ${missing}`, async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const { code, stderr } = await run(
      [
        ...["--unsent", folder.file("unsent")],
        ...[server.url, folder.file("input", "data")],
      ],
      "",
      PERMISSIONS.filter((flag) => !flag.startsWith(missing)),
    );
    assertEquals(code, 2);
    assertMatch(stderr, message);
    assertEquals(server.connections, 0);
  });
}

Deno.test("main() leaves nothing behind that keeps a process alive", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const script = folder.file(
    "script.ts",
    `import { main } from ${JSON.stringify(import.meta.resolve("./main.ts"))};
    if (await main(Deno.args) !== 0) throw new Error("It failed");`,
  );
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", script],
      ...[server.url, folder.file("input", "data")],
    ],
    stdin: "null",
  }).spawn();
  const guard = setTimeout(() => process.kill(), 30_000);
  const { success } = await process.status;
  clearTimeout(guard);
  assert(success, "It did not end by itself");
  assertEquals(server.bodies, ["data"]);
});

Deno.test("main() closes what it has opened, and leaves no listener", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "data");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer();
  assertEquals(await main(["--unsent", unsent, server.url, input]), 0);
  const { error } = console;
  console.error = () => {};
  try {
    assertEquals(await main(["--unsent", input, server.url, input]), 2);
  } finally {
    console.error = error;
  }
  assertEquals(server.bodies, ["data"]);
});

Deno.test("main() rejects with what is no wrong usage", async () => {
  const { log } = console;
  console.log = () => {
    throw new RangeError("a mistake");
  };
  try {
    await assertRejects(() => main(["--version"]), RangeError, "a mistake");
  } finally {
    console.log = log;
  }
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

Deno.test("cli needs no permission but -N for standard input", async () => {
  await using server = new FaultyServer();
  const host = `127.0.0.1:${server.port}`;
  const { code } = await run([server.url], "data", [`--allow-net=${host}`]);
  assertEquals([code, server.bodies], [0, ["data"]]);
});

// -- Failure --

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

Deno.test("cli ends at once when a send fails while it waits for input", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400, {}, "no"));
  await using running = start([server.url, "--interval", "10ms"]);
  await running.write("data");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  assertStringIncludes(stderr, 'the server responded with 400: "no"');
  assertStringIncludes(stderr, "4 bytes were read and not acknowledged");

  // Even if the server would take what comes next: nobody may miss the gap.
  await using recovered = new FaultyServer([respond(400)]);
  await using stopped = start([recovered.url, "--interval", "10ms"]);
  await stopped.write("data");
  const outcome = await stopped.outcome;
  assertEquals(outcome.code, 1);
  assertStringIncludes(outcome.stderr, "4 bytes were read and not");

  // What comes later is saved all the same, until the input ends.
  await using saving = start([
    ...["--interval", "10ms", "--unsent", unsent],
    server.url,
  ]);
  await saving.write("data");
  await saving.said("0 bytes acknowledged");
  await saving.write(" and more");
  await saving.end();
  assertEquals((await saving.outcome).code, 1);
  assertEquals(Deno.readTextFileSync(unsent), "data and more");
});

Deno.test("cli --lines sends no line after one that failed", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using running = start([server.url, "--lines", "--capacity", "4"]);
  await running.write("one\nand more than a request");
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.bodies], [1, ["one\n"]]);
  assertStringIncludes(stderr, "27 bytes were read and not acknowledged");
});

Deno.test("cli counts what it has read ahead as not acknowledged, too", async () => {
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
  const [, count] = stderr.match(/(\d+) bytes were read and not/)!;
  // What is in the pipe still was not read: 64 KiB at most.
  assert(Number(count) >= size - 65_536 && Number(count) <= size, count);
});

Deno.test("cli sends what it could read when a file has gone", async () => {
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
  assertStringIncludes(stderr, "cannot read on: ");
  assertStringIncludes(stderr, "3 bytes acknowledged in 1 requests");
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

Deno.test("cli says once why it tries again", async () => {
  await using server = new FaultyServer([respond(503), respond(503)]);
  const { code, stderr } = await run([server.url], "data");
  assertEquals(code, 0);
  assertMatch(stderr, /^stream-buffer: .* responded with 503; trying again\n$/);
});

Deno.test("cli waits for the server as long as it is told, not only as long as close()", async () => {
  await using server = new FaultyServer();
  const { code, stdout } = await run(
    ["--timeout", "20s", server.url],
    "data",
    after(tellTimers),
  );
  assertEquals(code, 0);
  const [, end] = stdout.split("cleared 20000\n");
  assert(end !== undefined, stdout);
  // The limit of close() begins when all is delivered.
  assertEquals(stdout.includes("set 30000"), end.includes("set 30000"));
});

Deno.test("cli leaves alone what comes after --", async () => {
  await using server = new FaultyServer();
  for (const args of [[server.url, "--"], ["--", server.url]]) {
    const { code, stderr } = await run([...args, "--compress"]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "cannot read --compress: no such file");
  }
});

Deno.test("cli keeps little in memory, however much it sends", {
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

Deno.test("cli names an environment variable that is not set", async () => {
  await using server = new FaultyServer();
  const { code, stderr } = await run(
    ["-H", "A: ${NO_SUCH_VARIABLE}", server.url],
    "data",
    [...PERMISSIONS, "--allow-env"],
  );
  assertEquals(code, 2);
  assertStringIncludes(stderr, "needs the environment variable NO_SUCH_VARI");
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

for (
  const [title, exitCode, behaviour, space, message] of [
    ["the server repeats what it was sent", 1, echo, " ", "responded with 400"],
    ["the server breaks off", 1, close, " ", "fetch failed"],
    ["a header has a line break", 2, echo, "\n", '--header must be "Name'],
  ] as const
) {
  Deno.test(`cli shows no secret when ${title}`, async () => {
    await using folder = await temporary();
    await using server = new FaultyServer([], behaviour);
    const { code, stdout, stderr } = await run(
      [
        "-H",
        `Authorization: Bearer${space}\${TEST_TOKEN}`,
        ...["--retry-for", "0", "--unsent", folder.file("unsent")],
        `${server.url}?k=hunter2`,
      ],
      "data",
      [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
    );
    assertEquals([code, stdout], [exitCode, ""]);
    assertStringIncludes(stderr, message);
    assert(!stderr.includes("hunter2"), stderr);
  });
}

// -- Signals --

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  const ignore = Deno.build.os === "windows";
  Deno.test(`cli sends what it has read on ${signal}, and counts it`, {
    ignore,
  }, async () => {
    await using server = new FaultyServer();
    await using running = start(
      [server.url, "--lines", "--interval", "10ms"],
      after(tellTimers),
    );
    await running.write("one\ntwo");
    await running.until(server.received(1));
    running.kill(signal);
    const { code, stdout, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertEquals(received(server), "one\ntwo");
    // What it was granted: for all, and for a read that was under way.
    assertStringIncludes(stdout, "set 5000\nset 100\n");
    // The sender has one of 5 seconds, too.
    const [set, cleared] = [/set 5000/g, /cleared 5000/g]
      .map((pattern) => stdout.match(pattern)?.length);
    assertEquals(cleared, set);
    assertStringIncludes(stderr, "interrupted: sending what was read");
    assertStringIncludes(stderr, "7 bytes acknowledged in 2 requests");
  });

  Deno.test(
    `cli saves what it has read on a second ${signal}`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const unsent = folder.file("unsent");
      await using server = new FaultyServer([respond(200)], never);
      await using running = start([
        ...["--lines", "--interval", "10ms", "--unsent", unsent],
        server.url,
      ], after(stopTheClock));
      await writeEach(running, server, "one\n", "two\nthree");
      running.kill(signal);
      await running.said("interrupted");
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "4 bytes acknowledged in 1 requests");
      assertEquals(Deno.readTextFileSync(unsent), "two\nthree");
      assertStringIncludes(stderr, `saving what is left in ${unsent}\n`);
    },
  );
}

Deno.test(
  "cli, without --lines, sends what it has read on SIGINT, or saves it",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    for (const last of [respond(200), never]) {
      await using server = new FaultyServer([respond(200)], last);
      await using running = start([
        ...["--interval", "10ms", "--unsent", unsent],
        server.url,
      ]);
      await writeEach(running, server, "one", "two");
      running.kill("SIGINT");
      await running.said("interrupted");
      if (last === never) running.kill("SIGINT");
      const { code, stderr } = await running.outcome;
      assertEquals([code, received(server)], [1, "onetwo"]);
      const [bytes, requests] = last === never ? [3, 1] : [6, 2];
      assertStringIncludes(
        stderr,
        `${bytes} bytes acknowledged in ${requests} requests`,
      );
    }
    assertEquals(Deno.readTextFileSync(unsent), "two");
  },
);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  for (const source of ["a file", "standard input"]) {
    for (const lines of [false, true]) {
      for (
        const [state, last] of [
          ["works", respond(200)],
          ["is down", close],
          ["stalls", never],
        ] as const
      ) {
        Deno.test(
          `cli loses nothing on ${signal}, from ${source}${
            lines ? " with --lines" : ""
          }, while the server ${state}`,
          {
            ignore: Deno.build.os === "windows",
          },
          async () => {
            await using folder = await temporary();
            const unsent = folder.file("unsent");
            const text = linesOf(3_000_000);
            const { release, behaviour } = held(last);
            await using server = new FaultyServer(
              [respond(200), behaviour],
              last,
            );
            await using running = start([
              ...["--capacity", "100K", "--unsent", unsent],
              ...lines ? ["--lines"] : [],
              ...[
                server.url,
                source === "a file" ? folder.file("input", text) : "-",
              ],
            ]);
            // More than it reads ahead: it ends in the midst of it.
            const writing = source === "a file"
              ? Promise.resolve()
              : running.write(text).catch(() => {});
            await running.until(server.received(2));
            running.kill(signal);
            await running.said("interrupted");
            release();
            // Another one: two of a kind may arrive as one.
            if (state !== "works") running.kill("SIGHUP");
            const { code, stderr } = await running.outcome;
            await writing;
            assertEquals(code, 1);
            const [, count] = stderr.match(/(\d+) bytes acknowledged/)!;
            const saved = await Deno.readTextFile(unsent).catch(() => "");
            const acknowledged = received(server).slice(0, Number(count));
            assertEquals(saved === "", state === "works", stderr);
            // No gap, and nothing twice; and two requests at least.
            const whole = acknowledged + saved;
            assert(text.startsWith(whole), "bytes are missing");
            assert(whole.length > 200_000, `only ${whole.length} bytes`);
          },
        );
      }
    }
  }
}

for (const lines of [false, true]) {
  Deno.test(
    `cli leaves no gap when a second signal comes at once, and data still${
      lines ? " with --lines" : ""
    }`,
    {
      ignore: Deno.build.os === "windows",
    },
    async () => {
      await using folder = await temporary();
      const unsent = folder.file("unsent");
      const text = linesOf(2_000_000);
      await using server = new FaultyServer([respond(200)], never);
      await using running = start([
        ...["--capacity", "1M", "--interval", "1ms", "--unsent", unsent],
        ...lines ? ["--lines"] : [],
        server.url,
      ]);
      const feeding = (async () => {
        for (let at = 0; at < text.length; at += 50) {
          const piece = text.slice(at, at + 50);
          await running.write(piece);
        }
      })().catch(() => {});
      await running.until(server.received(2));
      running.kill("SIGINT");
      running.kill("SIGTERM");
      const { code, stderr } = await running.outcome;
      await feeding;
      assertEquals(code, 1);
      const [, count] = stderr.match(/(\d+) bytes acknowledged/)!;
      const saved = Deno.readTextFileSync(unsent);
      const whole = received(server).slice(0, Number(count)) + saved;
      assert(text.startsWith(whole), "there is a gap");
    },
  );
}

Deno.test("cli gives up by itself after an interrupt, and saves what is left", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([respond(200)], never);
  await using running = start([
    ...["--interval", "10ms", "--unsent", unsent],
    server.url,
  ]);
  await writeEach(running, server, "one", "two");
  running.kill("SIGINT");
  const { code } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "two"]);
});

// -- One object --

/** A tus server whose requests go wrong after so many that send bytes. */
async function tusServer(good = Infinity) {
  const server = await startTusServer({ relativeLocation: true });
  let count = 0;
  const refuse = { now: false };
  const front = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
  }, async (request) => {
    const sends = request.method === "PATCH" && request.body !== null;
    if (sends && (refuse.now ||= ++count > good)) {
      await request.body?.cancel();
      return new Response("no more", { status: 400 });
    }
    const { pathname } = new URL(request.url);
    return await fetch(`http://127.0.0.1:${server.port}${pathname}`, {
      method: request.method,
      headers: request.headers,
      body: request.body && await request.bytes(),
    });
  });
  return {
    url: `http://127.0.0.1:${front.addr.port}/files`,
    server,
    /** From now on all is well. */
    mend() {
      refuse.now = false;
      good = Infinity;
    },
    async [Symbol.asyncDispose]() {
      await front.shutdown();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** What has become of the only upload that a message names. */
function uploaded(server: TusServer, stderr: string) {
  const [url] = stderr.match(/http:\S+\/files\/\w+/)!;
  const text = new TextDecoder().decode(server.read(url));
  return { url, text, isComplete: server.isComplete(url) };
}

/** Runs the command that a message ends with. */
async function obey(stderr: string, input = "") {
  const [line] = stderr.trimEnd().split("\n").slice(-1);
  const shell = new Deno.Command("sh", {
    args: ["-c", line!],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: {
      PATH: `${dirname(Deno.execPath())}:${Deno.env.get("PATH")}`,
      TEST_TOKEN: "hunter2",
    },
  }).spawn();
  await ReadableStream.from([new TextEncoder().encode(input)])
    .pipeTo(shell.stdin).catch(() => {});
  const output = await shell.output();
  return { code: output.code, stderr: new TextDecoder().decode(output.stderr) };
}

Deno.test("cli --upload sends one request, with the size of files", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const text = linesOf(3_000_000);
  const files = [folder.file("one", text), folder.file("two", "2")];
  assertEquals(await run(["--upload", server.url, ...files]), WELL);
  assertEquals(await run(["--upload", "-X", "POST", server.url], text), WELL);
  const [put, post] = server.requests;
  assertEquals([put!.method, post!.method], ["PUT", "POST"]);
  assertEquals(put!.headers.get("content-length"), `${text.length + 1}`);
  assertEquals(post!.headers.get("transfer-encoding"), "chunked");
  assert(received(server) === `${text}2${text}`, "other bytes arrived");
});

Deno.test("cli --upload of nothing makes an empty object", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  assertEquals(await run(["--upload", server.url], ""), WELL);
  const empty = folder.file("empty", "");
  assertEquals(await run(["--upload", server.url, empty]), WELL);
  assertEquals(server.bodies, ["", ""]);
});

Deno.test("cli --upload tells a refusal, and how far it was", async () => {
  await using server = new FaultyServer([respond(413)]);
  const { code, stderr } = await run(["--upload", server.url], "an object");
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "responded with 413; the object is larger than it a",
  );
  assertStringIncludes(stderr, "\nstream-buffer: 9 bytes handed to the conn");
  assert(!stderr.includes("unsent"), stderr);
  assertEquals(server.requests.length, 1);
});

Deno.test("cli --upload stops when it is refused, while it waits for input", async () => {
  await using server = new FaultyServer([async ({ read, write, receive }) => {
    await read(1);
    await write("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n");
    await receive();
  }]);
  await using running = start(["--upload", "--interval", "1ms", server.url]);
  await running.write("half");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "the server responded with 401; check the credent",
  );
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  for (const mode of ["--upload", "--tus"]) {
    Deno.test(`cli ${mode} completes nothing after ${signal}`, {
      ignore: Deno.build.os === "windows",
    }, async () => {
      await using faulty = new FaultyServer();
      await using tus = await tusServer();
      const url = mode === "--upload" ? faulty.url : tus.url;
      await using running = start([mode, "--interval", "1ms", url]);
      await running.write("half an object");
      if (mode === "--upload") {
        while (faulty.connections === 0) await sleep(5);
      } else await running.said("the upload is at");
      await sleep(50);
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "\nstream-buffer: the object is not compl");
      if (mode === "--upload") {
        while (faulty.broken.length === 0) await sleep(1);
        assertEquals(faulty.requests.length, 0);
        return;
      }
      const { text, isComplete } = uploaded(tus.server, stderr);
      assertEquals([text, isComplete], ["half an object", false]);
      const again = await obey(stderr, "half an object, and the rest");
      assertEquals(again, { code: 0, stderr: "" });
      assertEquals(
        uploaded(tus.server, stderr).text,
        "half an object, and the rest",
      );
    });
  }
}

for (const mode of ["--upload", "--tus"]) {
  Deno.test(`cli ${mode} completes nothing when it cannot read on`, async () => {
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    await using faulty = new FaultyServer([async (exchange) => {
      await exchange.read(1);
      begin();
      await respond(200)(exchange);
    }]);
    await using tus = await tusServer();
    await using folder = await temporary();
    const gone = folder.file("gone", "the rest");
    const url = mode === "--upload" ? faulty.url : tus.url;
    await using running = start([mode, "--interval", "1ms", url, "-", gone]);
    await running.write("half an object");
    await (mode === "--upload"
      ? running.until(begun)
      : running.said("the upload is at"));
    await Deno.remove(gone);
    await running.end();
    const { code, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertStringIncludes(stderr, "cannot read on: ");
    assertEquals(faulty.requests.length, 0);
    if (mode === "--upload") return;
    const { text, isComplete } = uploaded(tus.server, stderr);
    assertEquals([text, isComplete], ["half an object", false]);
  });
}

Deno.test("cli --upload sends what a file has that says it is empty", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using server = new FaultyServer();
  const path = "/proc/version";
  assertEquals(await run(["--upload", server.url, path], "", ["-A"]), WELL);
  assertEquals(server.bodies, [Deno.readTextFileSync(path)]);
});

Deno.test("cli --tus goes on with a file whose name begins with a dash", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await tusServer(0);
  await using folder = await temporary();
  folder.file("-x", "an object");
  const shell = `cd ${folder.file("")}`;
  const args = ["--tus", tus.url, "--", "-x"];
  await using running = start(args, PERMISSIONS, shell);
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  const { url } = uploaded(tus.server, stderr);
  const command = stderr.trimEnd().split("\n").at(-1)!;
  assert(command.endsWith(` -- ${url} -x`), command);
  tus.mend();
  assertEquals(
    await obey(`${shell}; ${command}`),
    { code: 0, stderr: "" },
  );
  assert(uploaded(tus.server, stderr).isComplete);
});

Deno.test("cli --tus uploads files and standard input, and says where", async () => {
  await using tus = await tusServer();
  await using folder = await temporary();
  const text = linesOf(3_000_000);
  const input = folder.file("in put.txt", text);
  for (const args of [[input], [input, "-"], []]) {
    const { code, stdout, stderr } = await run(
      ["--tus", "--metadata", "a=b=c", tus.url, ...args],
      text,
    );
    assertEquals([code, stdout], [0, ""]);
    const found = uploaded(tus.server, stderr);
    assertEquals(stderr, `stream-buffer: the upload is at ${found.url}\n`);
    assert(found.isComplete);
    assert(found.text === (args.length === 2 ? text + text : text));
    const { headers } = await fetch(found.url, {
      method: "HEAD",
      headers: { "Tus-Resumable": "1.0.0" },
    });
    const name = args.length === 1 ? `filename ${btoa("in put.txt")},` : "";
    assertEquals(
      headers.get("upload-metadata"),
      `${name}a ${btoa("b=c")}`,
    );
  }
  const quiet = await run(["--tus", "-q", tus.url, input]);
  assertEquals(quiet, WELL);
});

Deno.test("cli --tus says what a server answers that speaks no tus", async () => {
  await using server = new FaultyServer([respond(404), respond(404)]);
  const { code, stderr } = await run(["--tus", server.url], "an object");
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "responded with 404; it does not seem to speak tus",
  );
  assert(!stderr.includes("to go on"));
});

Deno.test("cli advises what the command can do, where the server wants a size", async () => {
  const offers = { "tus-version": "1.0.0", "tus-extension": "creation" };
  for (
    const [mode, behaviour] of [
      ["--tus", respond(204, offers)],
      ["--upload", respond(411)],
    ] as const
  ) {
    await using server = new FaultyServer([behaviour]);
    const { code, stderr } = await run([mode, server.url], "an object");
    assertEquals(code, 1);
    assertMatch(stderr, /size.*, so send a file/);
    assert(!stderr.includes("`length`"), stderr);
  }
});

Deno.test("cli --tus prints the command that goes on with files", async () => {
  await using tus = await tusServer(3);
  await using folder = await temporary();
  const text = linesOf(50_000);
  const files = [folder.file("it's one", text), folder.file("two", text)];
  const { code, stderr } = await run(
    [
      ...["--tus", "--capacity", "10000", "-H", "X-A: ${TEST_TOKEN}"],
      ...["-H", "X-Secret: hunter2", tus.url, ...files],
    ],
    "",
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals(code, 1);
  const { url, text: first, isComplete } = uploaded(tus.server, stderr);
  assertEquals([first, isComplete], [text.slice(0, 30_000), false]);
  assert(!/hunter2|--unsent/.test(stderr), stderr);
  assertStringIncludes(
    stderr,
    `\nstream-buffer: to go on, with the headers' values in place of ...:\ndeno run -N -R --allow-env=TEST_TOKEN ${CLI} --resume --capacity 10000 -H 'X-A: \${TEST_TOKEN}' -H 'X-Secret: ...' ${url} '`,
  );
  tus.mend();
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assert(found.isComplete && found.text === text + text);
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
});

Deno.test("cli --tus goes on from what --unsent saved of standard input, twice", async () => {
  await using tus = await tusServer(3);
  await using folder = await temporary();
  const text = linesOf(200_000);
  const unsent = folder.file("rest");
  const first = await run(
    ["--tus", "--capacity", "10000", "--unsent", unsent, tus.url],
    text,
  );
  assertEquals(first.code, 1);
  assertStringIncludes(first.stderr, `${text.length - 30_000} bytes saved in`);
  assert(Deno.readTextFileSync(unsent) === text.slice(30_000));
  const second = await obey(first.stderr);
  assertEquals(second.code, 1);
  const command = first.stderr.trimEnd().split("\n").at(-1)!;
  assertStringIncludes(command, " --offset 30000 ");
  assert(second.stderr.endsWith(`to go on:\n${command}\n`), second.stderr);
  tus.mend();
  assertEquals(await obey(second.stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, first.stderr);
  assert(found.isComplete && found.text === text);
});

Deno.test("cli --tus goes on when only the end of standard input was refused", async () => {
  await using tus = await tusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object");
  assertEquals(code, 1);
  assertMatch(stderr, /9 bytes acknowledged.*\n.*\n.* 0 bytes saved in/);
  tus.mend();
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assertEquals([found.text, found.isComplete], ["an object", true]);
});

Deno.test("cli --tus goes on only from all of the rest of standard input", async () => {
  await using tus = await tusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--capacity", "3", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object", after(fillTheDisk));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `cannot write ${unsent}: the disk is full`);
  assertMatch(stderr, /to go on, with the same input:\n.* -\n$/);
  assert(!/--offset/.test(stderr), stderr);
});

Deno.test("cli --tus goes on only from the whole input after an interrupt", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await tusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  await using running = start([
    ...["--tus", "--capacity", "4", "--retry-for", "0", "--unsent", unsent],
    tus.url,
  ]);
  await running.write("one,");
  await running.said("the upload is at");
  await running.write("two, and");
  await running.said("saving what is left");
  running.kill("SIGINT");
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "two, and"]);
  assertMatch(stderr, /to go on, with the same input:\n.* -\n$/);
});

Deno.test("cli --tus prints no headers for another server", async () => {
  await using other = new FaultyServer([respond(400)]);
  const location = `http://127.0.0.1:${other.port}/files/1`;
  await using server = new FaultyServer([
    respond(204),
    respond(201, { location }),
  ]);
  await using folder = await temporary();
  const input = folder.file("input", "an object");
  const { code, stderr } = await run(
    [
      ...["--tus", "-H", "Authorization: Bearer ${TEST_TOKEN}"],
      ...[server.url, input],
    ],
    "",
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals(code, 1);
  assertStringIncludes(stderr, `--resume ${location} ${input}\n`);
  assertEquals(other.requests[0]!.headers.get("authorization"), null);
});

Deno.test("cli --tus says that its input has changed, instead of how to go on", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "an object");
  for (
    const change of [() => Deno.truncate(input, 3), () => Deno.remove(input)]
  ) {
    const refuse: Behaviour = async (exchange) => {
      await change();
      await respond(400)(exchange);
    };
    await using server = new FaultyServer([
      respond(204),
      respond(201, { location: "/files/1" }),
      refuse,
    ]);
    const { code, stderr } = await run(["--tus", server.url, input]);
    assertEquals(code, 1);
    assertMatch(stderr, /\n.*the input has changed.*\n$/);
  }
});

Deno.test("cli --tus wants an --unsent that is empty", async () => {
  await using tus = await tusServer();
  await using folder = await temporary();
  const unsent = folder.file("rest", "something else");
  const { code, stderr } = await run(["--tus", "--unsent", unsent, tus.url]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "it is not empty, and is to hold the rest");
});

Deno.test("cli --resume skips what the server has, of files and of standard input", async () => {
  const text = linesOf(40_000);
  for (const skip of [0, 7, 10_000, 10_001, 25_000, 40_000]) {
    await using server = await startTusServer();
    await using folder = await temporary();
    const sender = new TusSender(server.url);
    const url = await sender.create();
    const bytes = new TextEncoder().encode(text);
    const out = new StreamBuffer(sender, { capacity: 50_000 });
    await out.write(bytes.subarray(0, skip));
    await out.flush();
    await out.abort();
    const one = folder.file("one", text.slice(0, 10_000));
    const two = folder.file("two", text.slice(30_000));
    const args = ["--resume", url, one, "-", two];
    assertEquals(await run(args, text.slice(10_000, 30_000)), WELL);
    assert(new TextDecoder().decode(server.read(url)) === text, `${skip}`);
    assert(server.isComplete(url));
  }
});

Deno.test("cli --resume refuses an input that cannot be the same", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const sender = new TusSender(server.url, { length: 20 });
  const url = await sender.create();
  const signal = new AbortController().signal;
  await sender.send(new Uint8Array(10), { sequence: 0, offset: 0, signal });
  for (
    const [args, input, code, message] of [
      [[url], "short", 1, "cannot read on: the upload has 5 bytes more than"],
      [[url, folder.file("a", "short")], "", 1, "Upload-Length 20, but the le"],
      [["--offset", "11", url], "x", 2, "upload has only 10 bytes, and the in"],
      [[url], "x".repeat(21), 1, "its length is 20"],
      [[url], "x".repeat(19), 1, "has 19 bytes, but its length is 20"],
      [[`${url}0`], "x", 1, "the upload no longer exists"],
    ] as const
  ) {
    const outcome = await run(["--resume", ...args], input);
    assertEquals(outcome.code, code, outcome.stderr);
    assertStringIncludes(outcome.stderr, message);
    assert(!server.isComplete(url));
  }
});

// -- The terminal --

async function onTerminal(command: string[]): Promise<string> {
  const { stdout } = await new Deno.Command("script", {
    args: ["-qec", command.join(" "), "/dev/null"],
    stdin: "null",
  }).output();
  return new TextDecoder().decode(stdout);
}

const hasScript = Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v script"] })
    .outputSync().success;

Deno.test("cli shows its progress on a terminal, unless --quiet", {
  ignore: !hasScript,
}, async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const input = folder.file("input", linesOf(100_000));
  const command = [
    ...[Deno.execPath(), "run", "-q", "-N", "-R", CLI],
    ...[server.url, input],
  ];
  const shown = await onTerminal(command);
  assertMatch(
    shown,
    /0.1 MB of 0.1 MB acknowledged, [\d.]+ MB\/s, 0s left/,
  );
  assertMatch(shown, /\d+ bytes acknowledged in 1 requests/);
  assertEquals(await onTerminal([...command, "-q"]), "");
  const endless = await onTerminal([...command, "-"]);
  assert(!/ of | left/.test(endless) && endless.includes(" MB acknowledged, "));
  assertEquals(server.requests.length, 3);
  const [program, ...rest] = command;
  const upload = await onTerminal([program!, ...rest, "--upload"]);
  assertStringIncludes(upload, "0.1 MB of 0.1 MB handed over, ");
  assertMatch(upload, /\d+ bytes handed to the connection/);
});

Deno.test("cli takes bytes as they are", async () => {
  await using server = new FaultyServer();
  const bytes = crypto.getRandomValues(new Uint8Array(60_000));
  const { code } = await run([server.url, "--capacity", "7000"], bytes);
  assertEquals(code, 0);
  const bodies = server.requests.map(({ body }) => body);
  assertEquals(concat(bodies), bytes);
});
