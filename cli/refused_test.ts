import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { open } from "node:fs/promises";
import process from "node:process";
import { SendError } from "../mod.ts";
import { PERMISSIONS } from "../testing/child.ts";
import { after, linesOf, muteStderr, run, start } from "../testing/command.ts";
import {
  type Behaviour,
  close,
  FaultyServer,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { AccessError } from "./errors.ts";
import { RefusedFile } from "./refused.ts";

const decoder = new TextDecoder();

/** Accepts batches, except those in which a line has a bad word. */
function refuse(statuses: Record<string, number>): Behaviour {
  return async (exchange) => {
    const { body } = await exchange.receive();
    const text = decoder.decode(body);
    const [, status] = Object.entries(statuses)
      .find(([word]) => text.includes(word)) ?? [];
    await respond(status ?? 200, {}, status ? `no "${status}"` : "")(exchange);
  };
}

test("cli --refused appends what is refused with 400 or 422, and continues", async () => {
  for (const options of [[], ["--quiet"], ["--compress"]]) {
    const isPlain = !options.includes("--compress");
    await using folder = await temporary();
    const file = folder.file("refused", "from before\n");
    await using server = new FaultyServer(
      [],
      isPlain ? refuse({ bad: 400, worse: 422 }) : respond(400),
    );
    const { code, stderr } = await run(
      ["--lines", "--capacity", "6", "--refused", file, ...options, server.url],
      "one\nbad 1\ntwo\nworse\nsix",
    );
    assertEquals(code, 3);
    assertEquals(
      Deno.readTextFileSync(file),
      isPlain
        ? "from before\nbad 1\nworse\n"
        : "from before\none\nbad 1\ntwo\nworse\nsix",
    );
    const [first, ...others] = stderr.trimEnd().split("\n");
    assertStringIncludes(first!, `POST of `);
    assertStringIncludes(
      first!,
      `the server responded with 400${
        isPlain ? ': "no \\"400\\""' : ""
      }; appending what is refused to ${file}`,
    );
    assertEquals(
      others,
      isPlain
        ? [
          "stream-buffer: 11 bytes acknowledged in 3 requests",
          `stream-buffer: 2 requests refused: 12 bytes appended to ${file}`,
        ]
        : [
          "stream-buffer: 0 bytes acknowledged in 0 requests",
          `stream-buffer: 5 requests refused: 23 bytes appended to ${file}`,
        ],
    );
  }
});

test("cli --refused leaves no file behind that it does not need", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const file = folder.file("refused");
  assertEquals((await run(["--refused", file, server.url], "data")).code, 0);
  assertEquals([...Deno.readDirSync(folder.file(""))], []);
  folder.file("refused", "from before");
  assertEquals((await run(["--refused", file, server.url], "data")).code, 0);
  assertEquals(Deno.readTextFileSync(file), "from before");
});

for (const status of [401, 404, 413]) {
  test(`cli --refused stops at ${status}, which concerns every request`, async () => {
    await using folder = await temporary();
    const file = folder.file("refused");
    const unsent = folder.file("unsent");
    await using server = new FaultyServer([respond(200)], respond(status));
    await using running = start([
      ...["--lines", "--capacity", "4", "--interval", "10ms"],
      ...["--refused", file, "--unsent", unsent, server.url],
    ]);
    await running.write("one\ntwo\nsix\n");
    await running.waitForOutput("saving undelivered");
    await running.end();
    const { code, stderr } = await running.outcome;
    assertEquals([code, server.bodies], [1, ["one\n", "two\n"]]);
    assertEquals(Deno.readTextFileSync(unsent), "two\nsix\n");
    assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
    const advice = status === 413 ? "; make --capacity smaller\n" : "";
    assertStringIncludes(stderr, advice);
    assert(!/refused|deadLetter/.test(stderr), stderr);
  });
}

test("cli --refused fails as usual when something else was not delivered", async () => {
  await using folder = await temporary();
  const file = folder.file("refused");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([respond(200), respond(400)], close);
  const text = "one\ntwo\nsix\nten\n";
  const { code, stderr } = await run([
    ...["--lines", "--capacity", "4", "--retry-for", "0"],
    ...["--refused", file, "--unsent", unsent, server.url],
  ], text);
  assertEquals(code, 1);
  assertEquals(Deno.readTextFileSync(file), "two\n");
  assertEquals(Deno.readTextFileSync(unsent), "six\nten\n");
  assertStringIncludes(
    stderr,
    "\nstream-buffer: 1 request refused: 4 bytes app",
  );
});

test("cli --refused fails after an interrupt", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  const file = folder.file("refused");
  await using server = new FaultyServer([], respond(422));
  await using running = start([
    ...["--interval", "10ms", "--refused", file, server.url],
  ]);
  await running.write("one");
  await running.waitForOutput("appending what is refused");
  running.kill("SIGINT");
  assertEquals((await running.outcome).code, 1);
  assertEquals(Deno.readTextFileSync(file), "one");
});

Deno.test("cli rejects a --refused that is an input or the --unsent file", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const file = folder.file("input", "data");
  const other = folder.file("other");
  for (
    const [args, name] of [
      [["--refused", file, server.url, file], `the input ${file}`],
      [["--refused", file, "--unsent", file, server.url], "the --unsent file"],
      [
        ["--refused", other, "--unsent", other, server.url],
        "the --unsent file",
      ],
    ] as const
  ) {
    const { code, stderr } = await run([...args], "data");
    assertEquals([code, Deno.readTextFileSync(file)], [2, "data"]);
    assertEquals(
      stderr,
      `stream-buffer: cannot write ${args[1]}: it is also ${name}\n`,
    );
  }
  assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
  await using running = start(
    ["--refused", file, server.url],
    PERMISSIONS,
    `exec < ${file}`,
  );
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(file)], [2, "data"]);
  assertStringIncludes(stderr, "it is also standard input");
  assertEquals(server.connections, 0);
});

test("cli --refused appends no part of a batch, and fails, when the disk is full", async () => {
  await using folder = await temporary();
  const file = folder.file("refused", "from before\n");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400));
  const { code, stderr } = await run(
    [
      ...["--lines", "--capacity", "4", "--refused", file],
      ...["--unsent", unsent, server.url],
    ],
    "one\ntwo\nsix\n",
    after(async () => {
      const { open } = process.getBuiltinModule("node:fs/promises");
      await using file = await open(Deno.execPath());
      const prototype = Object.getPrototypeOf(file);
      const { write } = prototype;
      let room = 6;
      prototype.write = function (bytes: Uint8Array) {
        if (room === 0) {
          prototype.write = write; // the other file has room
          throw new Error("the disk is full");
        }
        const part = bytes.subarray(0, room);
        room -= part.length;
        return write.call(this, part);
      };
    }),
  );
  assertEquals(code, 1);
  assertEquals(Deno.readTextFileSync(file), "from before\none\n");
  assertEquals(Deno.readTextFileSync(unsent), "two\nsix\n");
  assertStringIncludes(stderr, `cannot write ${file}: the disk is full`);
  assertStringIncludes(stderr, "1 request refused: 4 bytes appended to");
});

Deno.test("cli --refused and --unsent can be a pipe", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  for (
    const [option, status, code] of [["--refused", 400, 3], [
      "--unsent",
      404,
      1,
    ]] as const
  ) {
    await using server = new FaultyServer([], respond(status));
    const args = [option, "/dev/stdout", server.url];
    const outcome = await run(args, "record", ["-A"]);
    assertEquals([outcome.code, outcome.stdout], [code, "record"]);
    assert(!outcome.stderr.includes("cannot write"), outcome.stderr);
  }
});

Deno.test("cli --refused fails when it is a device that is full", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using server = new FaultyServer([], respond(400));
  const args = ["--refused", "/dev/full", server.url];
  const { code, stderr } = await run(args, "data", ["-A"]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "cannot write /dev/full: No space left");
  assertStringIncludes(stderr, "responded with 400\n");
});

test("cli --refused loses nothing of a long input, whatever is refused", async () => {
  await using folder = await temporary();
  const file = folder.file("refused");
  const text = linesOf(1_000_000);
  let requests = 0;
  const accepted: string[] = [];
  await using server = new FaultyServer([], async (exchange) => {
    const { body } = await exchange.receive();
    const isRefused = requests++ % 2 === 0;
    if (!isRefused) accepted.push(decoder.decode(body));
    await respond(isRefused ? 400 : 200)(exchange);
  });
  const { code } = await run(
    ["--lines", "--capacity", "64K", "--refused", file, server.url],
    text,
  );
  assertEquals(code, 3);
  const refused = Deno.readTextFileSync(file);
  assert(refused.length > text.length / 4, "little was refused");
  const number = (line: string) => Number(line.slice(5));
  const lines = (accepted.join("") + refused).trimEnd().split("\n")
    .sort((a, b) => number(a) - number(b));
  assert(`${lines.join("\n")}\n` === text, "lines are missing");
});

const REFUSAL = new SendError("refused", { attempts: 1, status: 400 });

/** A file that was opened for refused batches. */
async function openRefused() {
  const folder = await temporary();
  const path = folder.file("refused");
  const muted = muteStderr();
  const file = await RefusedFile.open(path, [], undefined);
  return {
    path,
    file,
    async [Symbol.asyncDispose]() {
      muted[Symbol.dispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

Deno.test("RefusedFile.take() takes nothing when the batch counts as undelivered meanwhile", async () => {
  await using given = await openRefused();
  const { file, path } = given;
  const bytes = new TextEncoder().encode("data");
  const controller = new AbortController();
  assertEquals(await file.take(bytes, REFUSAL, controller.signal), true);
  const taking = file.take(bytes, REFUSAL, controller.signal);
  controller.abort();
  assertEquals(await taking, false);
  await file.close();
  assertEquals(Deno.readTextFileSync(path), "data");
});

Deno.test("RefusedFile.close() waits for a batch that is being appended", async () => {
  await using given = await openRefused();
  const { file, path } = given;
  const bytes = new TextEncoder().encode("data");
  const taking = file.take(bytes, REFUSAL, new AbortController().signal);
  await file.close();
  assertEquals([await taking, Deno.readTextFileSync(path)], [true, "data"]);
});

Deno.test("RefusedFile.take() does not cut off what another command has appended", async () => {
  await using given = await openRefused();
  const { file, path } = given;
  await using handle = await open(path);
  const prototype = Object.getPrototypeOf(handle);
  const { sync } = prototype;
  prototype.sync = async () => {
    await Deno.writeTextFile(path, " and more", { append: true });
    throw new Error("the disk has gone");
  };
  const bytes = new TextEncoder().encode("data");
  const { signal } = new AbortController();
  assertEquals(await file.take(bytes, REFUSAL, signal), false);
  prototype.sync = sync;
  await file.close();
  assertEquals(Deno.readTextFileSync(path), "data and more");
});

Deno.test("RefusedFile.take() appends to a new file when the file was removed", async () => {
  await using given = await openRefused();
  const { file, path } = given;
  await Deno.remove(path);
  const bytes = new TextEncoder().encode("data");
  const { signal } = new AbortController();
  assertEquals(await file.take(bytes, REFUSAL, signal), true);
  await file.close();
  assertEquals(Deno.readTextFileSync(path), "data");
});

Deno.test("RefusedFile.open() rejects a file that cannot be written to", async () => {
  await assertRejects(
    () => RefusedFile.open("/no/such/file", [], undefined),
    AccessError,
    "cannot write /no/such/file",
  );
});
