import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import process from "node:process";
import { StreamBuffer } from "../buffer.ts";
import { TusSender } from "../senders/tus.ts";
import {
  after,
  LIMIT,
  linesOf,
  logTimers,
  muteStderr,
  received,
  run,
  start,
  startRefusingTusServer,
  SUCCESS,
  uploaded,
} from "../testing/command.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { startTusServer } from "../testing/tus_server.ts";
import { main } from "./main.ts";

test("cli sends standard input and prints nothing on success", async () => {
  await using server = new FaultyServer();
  const outcome = await run([server.url], "a\nb\nc");
  assertEquals(outcome, SUCCESS);
  assertEquals(server.bodies, ["a\nb\nc"]);
});

test("cli with nothing to send makes no request", async () => {
  await using server = new FaultyServer();
  const outcome = await run([server.url], "");
  assertEquals(outcome, SUCCESS);
  assertEquals(server.connections, 0);
});

Deno.test("main() leaves nothing that keeps the process alive", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const script = folder.file(
    "script.ts",
    `import { main } from ${JSON.stringify(import.meta.resolve("./main.ts"))};
    if (await main(Deno.args) !== 0) throw new Error("It failed");`,
  );
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", script],
      ...[server.url, folder.file("input", "data")],
    ],
    stdin: "null",
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  assertEquals(code, 0, "It failed, or did not end on its own");
  assertEquals(server.bodies, ["data"]);
});

Deno.test("main() closes its files and removes its signal listeners", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "data");
  const unsent = folder.file("unsent");
  await using server = new FaultyServer();
  assertEquals(await main(["--unsent", unsent, server.url, input]), 0);
  using _ = muteStderr();
  assertEquals(await main(["--unsent", input, server.url, input]), 2);
  assertEquals(server.bodies, ["data"]);
});

Deno.test("main() rejects with an error that is not invalid usage", async () => {
  await using server = new FaultyServer();
  const { on } = process;
  process.on = () => {
    throw new RangeError("a mistake");
  };
  try {
    await assertRejects(() => main([server.url]), RangeError, "a mistake");
  } finally {
    process.on = on;
  }
});

test("cli stops when a send fails while it waits for input", async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([], respond(400, {}, "no"));
  await using running = start([server.url, "--interval", "10ms"]);
  await running.write("data");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  assertStringIncludes(stderr, 'the server responded with 400: "no"');
  assertStringIncludes(
    stderr,
    "4 bytes were read but not acknowledged; use --unsent FILE to save them next time\n",
  );

  // Even if the server would accept later bytes: there would be a gap.
  await using recovered = new FaultyServer([respond(400)]);
  await using stopped = start([recovered.url, "--interval", "10ms"]);
  await stopped.write("data");
  const outcome = await stopped.outcome;
  assertEquals(outcome.code, 1);
  assertStringIncludes(outcome.stderr, "4 bytes were read but not");

  // Later bytes are still saved, until the input ends.
  await using saving = start([
    ...["--interval", "10ms", "--unsent", unsent],
    server.url,
  ]);
  await saving.write("data");
  await saving.waitForOutput("0 bytes acknowledged");
  await saving.write(" and more");
  await saving.end();
  assertEquals((await saving.outcome).code, 1);
  assertEquals(Deno.readTextFileSync(unsent), "data and more");
});

test("cli reports only the first retry", async () => {
  await using server = new FaultyServer([respond(503), respond(503)]);
  const { code, stderr } = await run([server.url], "data");
  assertEquals(code, 0);
  assertMatch(stderr, /^stream-buffer: .* responded with 503; retrying\n$/);
});

test("cli --retry-for forever retries", async () => {
  await using server = new FaultyServer([respond(503)]);
  const { code } = await run(["--retry-for", "forever", server.url], "data");
  assertEquals([code, server.bodies], [0, ["data", "data"]]);
});

test("cli waits for the full --timeout, even beyond closeTimeout", async () => {
  await using server = new FaultyServer();
  const { code, stdout } = await run(
    ["--timeout", "20s", server.url],
    "data",
    after(logTimers),
  );
  assertEquals(code, 0);
  const [, end] = stdout.split("cleared 20000\n");
  assert(end !== undefined, stdout);
  // The limit of close() starts when everything has been delivered.
  assertEquals(stdout.includes("set 30000"), end.includes("set 30000"));
});

test("cli --upload sends one request, with the size of its files", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const text = linesOf(3_000_000);
  const files = [folder.file("one", text), folder.file("two", "2")];
  assertEquals(await run(["--upload", server.url, ...files]), SUCCESS);
  assertEquals(
    await run(["--upload", "-X", "POST", server.url], text),
    SUCCESS,
  );
  const [put, post] = server.requests;
  assertEquals([put!.method, post!.method], ["PUT", "POST"]);
  assertEquals(put!.headers.get("content-length"), `${text.length + 1}`);
  assertEquals(post!.headers.get("transfer-encoding"), "chunked");
  assert(received(server) === `${text}2${text}`, "other bytes arrived");
});

test("cli --upload creates an empty object from empty input", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  assertEquals(await run(["--upload", server.url], ""), SUCCESS);
  const empty = folder.file("empty", "");
  assertEquals(await run(["--upload", server.url, empty]), SUCCESS);
  assertEquals(server.bodies, ["", ""]);
});

test("cli --upload reports a refusal and how many bytes it handed over", async () => {
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

test("cli --upload stops when the server refuses it while it waits for input", async () => {
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
    "the server responded with 401; check the credentials in --header;",
  );
});

for (const mode of ["--upload", "--tus"]) {
  test(`cli ${mode} does not complete the object when a read fails`, async () => {
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    await using faulty = new FaultyServer([async (exchange) => {
      await exchange.read(1);
      begin();
      await respond(200)(exchange);
    }]);
    await using tus = await startRefusingTusServer();
    await using folder = await temporary();
    const gone = folder.file("gone", "the rest");
    const url = mode === "--upload" ? faulty.url : tus.url;
    await using running = start([mode, "--interval", "1ms", url, "-", gone]);
    await running.write("half an object");
    await (mode === "--upload"
      ? running.waitFor(begun)
      : running.waitForOutput("the upload is at"));
    await Deno.remove(gone);
    await running.end();
    const { code, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertStringIncludes(stderr, "read failed: ");
    assertEquals(faulty.requests.length, 0);
    if (mode === "--upload") return;
    const { text, isComplete } = uploaded(tus.server, stderr);
    assertEquals([text, isComplete], ["half an object", false]);
  });
}

test("cli --tus uploads files and standard input, and prints the URL of the upload", async () => {
  await using tus = await startRefusingTusServer();
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
    const given = headers.get("upload-metadata")!
      .replace(/,fingerprint \w+=*,/, ",fingerprint,");
    const added = args.length === 1
      ? `filename ${btoa("in put.txt")},fingerprint,`
      : "";
    assertEquals(given, `${added}a ${btoa("b=c")}`);
  }
  const quiet = await run(["--tus", "-q", tus.url, input]);
  assertEquals(quiet, SUCCESS);
});

test("cli --tus reports the response of a server that does not support tus", async () => {
  await using server = new FaultyServer([respond(404), respond(404)]);
  const { code, stderr } = await run(["--tus", server.url], "an object");
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "responded with 404; it does not seem to speak tus",
  );
  assert(!stderr.includes("to resume"));
});

test("cli suggests sending a file when the server requires a size", async () => {
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

test("cli --resume skips the bytes that the server has, in files and standard input", async () => {
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
    assertEquals(await run(args, text.slice(10_000, 30_000)), SUCCESS);
    assert(new TextDecoder().decode(server.read(url)) === text, `${skip}`);
    assert(server.isComplete(url));
  }
});

test("cli --resume rejects an input that cannot be the same", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const sender = new TusSender(server.url, { length: 20 });
  const url = await sender.create();
  const signal = new AbortController().signal;
  await sender.send(new Uint8Array(10), { sequence: 0, offset: 0, signal });
  for (
    const [args, input, code, message] of [
      [[url], "short", 1, "read failed: the input is 5 bytes shorter than"],
      [
        [url, folder.file("a", "short")],
        "",
        2,
        "cannot resume: the upload is 20 bytes long, and the input 5 bytes; give the same files",
      ],
      [
        ["--offset", "11", url],
        "x",
        2,
        "--offset is 11, but the upload has only 10 bytes",
      ],
      [[url], "x".repeat(21), 1, "the length of the object is 20"],
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

test("cli --resume does not complete an object whose file became shorter meanwhile", async () => {
  await using folder = await temporary();
  const path = folder.file("input", "x".repeat(20));
  const headers = { "tus-resumable": "1.0.0", "upload-offset": "10" };
  await using server = new FaultyServer([
    respond(204, { "tus-resumable": "1.0.0", "tus-version": "1.0.0" }),
    async (exchange) => {
      // It does not know the size yet.
      Deno.truncateSync(path, 15);
      await respond(200, headers)(exchange);
    },
    respond(204, { ...headers, "upload-offset": "15" }),
  ]);
  const { code, stderr } = await run(["--resume", server.url, path]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "the input changed while it was read");
  assertEquals(server.requests.map(({ method }) => method), [
    ...["OPTIONS", "HEAD", "PATCH"],
  ]);
});
