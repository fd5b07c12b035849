import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { toText } from "@std/streams";
import { inspectSpool } from "../spool/mod.ts";
import {
  after,
  dropTimers,
  fillTheDiskOfSpool,
  leaveInSpool,
  linesOf,
  outage,
  received,
  run,
  runLastLine,
  start,
  SUCCESS,
  untilSpooled,
} from "../testing/command.ts";
import {
  close,
  FaultyServer,
  held,
  never,
  type RawRequest,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { SEND_GRACE } from "./signals.ts";

const ignore = Deno.build.os === "windows";

for (const options of [[], ["--lines"], ["--capacity", "100K"]]) {
  test(
    `cli --spool delivers the input, and leaves an empty spool${
      options.map((option) => `, ${option}`).join("")
    }`,
    async () => {
      await using folder = await temporary();
      const spool = folder.file("spool");
      await using server = new FaultyServer();
      const text = linesOf(600_000);
      const outcome = await run(
        ["--spool", spool, ...options, server.url],
        text,
      );
      assertEquals(outcome, SUCCESS);
      assert(received(server) === text, "other bytes arrived");
      const limit = options.includes("100K") ? 102_400 : 262_144;
      assert(server.bodies.every(({ length }) => length <= limit));
      if (options.includes("--lines")) {
        assert(server.bodies.every((body) => body.endsWith("\n")));
      }
      assertEquals(inspectSpool(spool).bytesWaiting, 0);
      assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
    },
  );
}

test("cli --spool delivers what is compressed", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  const args = ["--spool", folder.file("spool"), "--compress", server.url];
  assertEquals(await run(args, "data"), SUCCESS);
  const [{ headers, body }] = server.requests as [RawRequest];
  assertEquals(headers.get("content-encoding"), "gzip");
  const plain = new Blob([body]).stream()
    .pipeThrough(new DecompressionStream("gzip"));
  assertEquals(await toText(plain), "data");
});

test("cli --spool without input delivers what an earlier run has left, and ends", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await leaveInSpool(spool, "one\n", "two\n");
  await using server = new FaultyServer();
  assertEquals(await run(["--spool", spool, server.url]), SUCCESS);
  assertEquals(received(server), "one\ntwo\n");
  // And so if there is nothing.
  assertEquals(await run(["--spool", spool, server.url]), SUCCESS);
  assertEquals(received(server), "one\ntwo\n");
});

test("cli --spool keeps what an outage leaves, and prints the command that delivers it", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  const { behaviour, recover } = outage();
  await using server = new FaultyServer([], behaviour);
  const { code, stderr } = await run(
    ["--spool", spool, "--retry-for", "0", "--drain", "0", server.url],
    "data\n",
  );
  assertEquals(code, 4);
  assertStringIncludes(
    stderr,
    `stream-buffer: 0 bytes acknowledged in 0 requests
stream-buffer: 5 bytes wait in ${spool}; to deliver them, run:\n`,
  );
  recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  assertEquals(server.bodies.at(-1), "data\n");
  assertEquals(inspectSpool(spool).bytesDelivered, 5);
});

test("cli --spool waits for the server, and reports each outage once", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer([
    ...[respond(503), respond(503), respond(401), respond(200), close],
  ]);
  await using running = start([
    ...["--spool", folder.file("spool"), "--retry-for", "0"],
    ...["--interval", "10ms", "--quiet", server.url],
  ]);
  await running.write("one\n");
  await running.waitFor(server.received(4));
  await running.write("two\n");
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertEquals(server.bodies, [
    ...["one\n", "one\n", "one\n", "one\n", "two\n", "two\n"],
  ]);
  const [first, second, third, ...rest] = stderr.split("\n");
  assertMatch(
    first!,
    /Cannot deliver 4 bytes .* responded with 503; retrying$/,
  );
  assertMatch(second!, /401; check the credentials in --header; retrying$/);
  assertMatch(third!, /Cannot deliver 4 bytes at offset 4 .*; retrying$/);
  assertEquals(rest, [""]);
});

test("cli --drain bounds how long it waits for a server that does not respond", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await using server = new FaultyServer([], never);
  const { code } = await run(
    ["--spool", spool, "--drain", "200ms", server.url],
    "data",
  );
  assertEquals([code, inspectSpool(spool).bytesWaiting], [4, 4]);
});

test(
  "cli --spool loses nothing that is in it when it is killed",
  { ignore },
  async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    await using server = new FaultyServer([never]);
    {
      await using running = start([
        ...["--spool", spool, "--interval", "10ms", server.url],
      ]);
      await running.write("one\n");
      await running.waitFor(server.received(1));
      await running.write("two\n");
      await untilSpooled(running, spool, 8);
      running.kill("SIGKILL");
      assertEquals((await running.outcome).signal, "SIGKILL");
    }
    assertEquals(await run(["--spool", spool, server.url], "six\n"), SUCCESS);
    const [unacknowledged, ...others] = server.bodies;
    assertEquals([unacknowledged, others.join("")], [
      "one\n",
      "one\ntwo\nsix\n",
    ]);
    // The same bytes, under the same key: a server that knows it stores them once.
    const [first, second] = server.keys;
    assertEquals([others[0], second], ["one\n", first]);
  },
);

test("cli --refused takes what the server refuses from the spool", async () => {
  await using folder = await temporary();
  const refused = folder.file("refused");
  await using server = new FaultyServer([respond(200), respond(422)]);
  const { code, stderr } = await run(
    [
      ...["--spool", folder.file("spool"), "--lines", "--capacity", "4"],
      ...["--refused", refused, server.url],
    ],
    "one\nbad\nsix\n",
  );
  assertEquals([code, Deno.readTextFileSync(refused)], [3, "bad\n"]);
  assertEquals(server.bodies, ["one\n", "bad\n", "six\n"]);
  assertStringIncludes(stderr, "8 bytes acknowledged in 2 requests\n");
  assertStringIncludes(stderr, `1 request refused: 4 bytes appended to`);
});

for (const drain of ["forever", "1m"]) {
  test(`cli --drain ${drain} does not wait for what the server refuses`, async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    await using server = new FaultyServer([], respond(400));
    const { code, stderr } = await run(
      ["--spool", spool, "--drain", drain, server.url],
      "bad",
    );
    assertEquals([code, inspectSpool(spool).bytesWaiting], [1, 3]);
    assertMatch(stderr, /with 400; use --refused FILE to set it aside\n/);
    assertStringIncludes(stderr, `3 bytes wait in ${spool}; to deliver them`);
  });
}

test("cli --spool advises to export what is refused with 413", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer([], respond(413));
  for (const options of [[], ["--refused", folder.file("refused")]]) {
    const { code, stderr } = await run(
      ["--spool", folder.file("spool"), ...options, server.url],
      "bad",
    );
    assertEquals(code, 1);
    assertMatch(stderr, /with 413; save it with spool FILE --export\n/);
  }
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  test(
    `cli --spool delivers what it has read on ${signal}`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const spool = folder.file("spool");
      const { release, behaviour } = held();
      await using server = new FaultyServer([behaviour]);
      await using running = start([
        ...["--spool", spool, "--lines", "--interval", "10ms", server.url],
      ]);
      await running.write("one\ntwo");
      await running.waitFor(server.received(1));
      running.kill(signal);
      await running.waitForOutput("interrupted");
      release();
      const { code, stderr } = await running.outcome;
      assertEquals([code, received(server)], [4, "one\ntwo"]);
      assertStringIncludes(stderr, "7 bytes acknowledged in 2 requests");
      assert(!stderr.includes("wait in"), stderr);
    },
  );

  test(
    `cli --spool keeps what it has read on a second ${signal}`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const spool = folder.file("spool");
      await using server = new FaultyServer([never]);
      await using running = start([
        ...["--spool", spool, "--lines", "--interval", "10ms", server.url],
      ], after(dropTimers, SEND_GRACE));
      await running.write("one\ntwo");
      await running.waitFor(server.received(1));
      running.kill(signal);
      await running.waitForOutput("interrupted");
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals([code, inspectSpool(spool).bytesWaiting], [4, 7]);
      assertStringIncludes(stderr, `7 bytes wait in ${spool}; to deliver them`);
      assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
      assertEquals(server.bodies.slice(1).join(""), "one\ntwo");
    },
  );
}

test(
  "cli --spool keeps what it has read when a second signal follows at once",
  { ignore },
  async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    const text = linesOf(1_000_000);
    await using server = new FaultyServer([], never);
    await using running = start([
      ...[
        "--spool",
        spool,
        "--capacity",
        "100K",
        "--interval",
        "1m",
        server.url,
      ],
    ]);
    const writing = running.write(text).catch(() => {});
    await running.waitFor(server.received(1));
    running.kill("SIGINT");
    running.kill("SIGTERM");
    const { code, stderr } = await running.outcome;
    await writing;
    assertEquals(code, 4, stderr);
    const { stdout } = await run(["spool", spool, "--export"]);
    assert(text.startsWith(stdout), "there is a gap");
    assert(stdout.length > 100_000, `only ${stdout.length} bytes`);
  },
);

/** Makes delays before retries as long as that of a long outage: 30 s. */
function sleepLong(): void {
  Math.random = () => 60;
}

for (const retryFor of ["0", "2m"]) {
  test(
    `cli --spool --retry-for ${retryFor} sleeps through no chance to deliver after an interrupt`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const spool = folder.file("spool");
      await using server = new FaultyServer([respond(503)]);
      await using running = start([
        ...["--spool", spool, "--interval", "10ms", "--retry-for", retryFor],
        server.url,
      ], after(sleepLong));
      await running.write("data");
      await running.waitForOutput("503; retrying");
      running.kill("SIGTERM");
      const { code, stderr } = await running.outcome;
      assertEquals([code, server.bodies], [4, ["data", "data"]]);
      assertStringIncludes(stderr, "4 bytes acknowledged in 1 request\n");
    },
  );
}

test("cli --spool stops waiting for the server at once on a second signal", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await using server = new FaultyServer([], never);
  await using running = start(
    ["--spool", spool, server.url],
    after(dropTimers, SEND_GRACE),
  );
  await running.write("data");
  await running.end();
  await running.waitFor(server.received(1));
  running.kill("SIGINT");
  await running.waitForOutput("interrupted");
  running.kill("SIGINT");
  const { code } = await running.outcome;
  assertEquals([code, inspectSpool(spool).bytesWaiting], [4, 4]);
});

test(
  "cli --spool waits for 5 seconds after an interrupt",
  { ignore },
  async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    await using server = new FaultyServer([], never);
    await using running = start([
      ...["--spool", spool, "--interval", "10ms", server.url],
    ]);
    await running.write("data");
    await running.waitFor(server.received(1));
    running.kill("SIGTERM");
    const { code } = await running.outcome;
    assertEquals([code, inspectSpool(spool).bytesWaiting], [4, 4]);
  },
);

test("cli --spool fails when it is interrupted before the end of a file", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const input = folder.file("input", "data");
  await using server = new FaultyServer();
  await using running = start([
    ...["--spool", folder.file("spool"), "--interval", "10ms"],
    ...[server.url, input, "-"],
  ]);
  await running.waitFor(server.received(1));
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 1);
});

test("cli --spool delivers what was read before a read failed", async () => {
  await using folder = await temporary();
  const gone = folder.file("gone", "the rest");
  await using server = new FaultyServer();
  await using running = start([
    ...["--spool", folder.file("spool"), "--interval", "10ms"],
    ...[server.url, "-", gone],
  ]);
  await running.write("half");
  await running.waitFor(server.received(1));
  await Deno.remove(gone);
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.bodies], [1, ["half"]]);
  assertStringIncludes(stderr, "read failed: ");
});

test("cli --spool waits for room on a full disk", async () => {
  await using folder = await temporary();
  await using server = new FaultyServer();
  await using running = start(
    ["--spool", folder.file("spool"), server.url],
    after(fillTheDiskOfSpool, 2),
  );
  await running.write("data");
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.bodies], [0, ["data"]]);
  assertMatch(
    stderr,
    /^stream-buffer: Cannot add 4 bytes .* the disk is full; .*; retrying\n$/,
  );
});

test("cli --spool counts what a full disk had no room for until the end", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await using server = new FaultyServer();
  await using running = start(
    ["--spool", spool, "--interval", "10ms", server.url],
    after(fillTheDiskOfSpool, 1e9),
  );
  await running.write("data");
  await running.waitForOutput("the disk is full");
  running.kill("SIGTERM");
  await running.waitForOutput("interrupted");
  running.kill("SIGTERM");
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.connections], [1, 0]);
  assertStringIncludes(
    stderr,
    `4 bytes read, but not acknowledged or put into ${spool}\n`,
  );
});

test(
  "cli --spool rejects a spool that another command has open",
  { ignore },
  async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    await using server = new FaultyServer();
    await using running = start([
      ...["--spool", spool, "--interval", "10ms", server.url],
    ]);
    await running.write("one");
    await running.waitFor(server.received(1));
    const refused = folder.file("refused");
    const second = await run(
      ["--spool", spool, "--refused", refused, server.url],
      "two",
    );
    assertEquals(second.code, 2);
    assertMatch(
      second.stderr,
      /^stream-buffer: cannot open the spool .*: process \d+ has it open; only one command at a time can use it\n$/,
    );
    assertStringIncludes(second.stderr, `process ${running.pid} has`);
    assertEquals([...Deno.readDirSync(folder.file(""))].length > 2, true);
    await running.write("six");
    await running.end();
    assertEquals((await running.outcome).code, 0);
    assertEquals(received(server), "onesix");
  },
);

Deno.test("cli --spool must be none of the other files", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "data");
  const none = folder.file("none");
  await using server = new FaultyServer();
  Deno.symlinkSync(input, folder.file("link"));
  for (
    const [args, name] of [
      [["--spool", input, server.url, input], `the input ${input}`],
      [
        ["--spool", folder.file("link"), server.url, input],
        `the input ${input}`,
      ],
      [["--spool", none, "--follow", none, server.url], `the input ${none}`],
      [["--spool", none, "--refused", none, server.url], "the --refused file"],
      [["--spool", input, "--refused", input, server.url], "the --refused f"],
      [
        ["--spool", none, "--refused", `${none}-owner`, server.url],
        "the --refused file",
      ],
    ] as const
  ) {
    const { code, stderr } = await run([...args]);
    assertEquals(code, 2);
    assertStringIncludes(
      stderr,
      `cannot use the spool ${args[1]}: it is also ${name}`,
    );
  }
  const refused = ["--refused", input, "--follow", input];
  const { code, stderr } = await run(["--spool", none, ...refused, server.url]);
  assertEquals(code, 2);
  assertStringIncludes(
    stderr,
    `cannot write ${input}: it is also the input ${input}\n`,
  );
  assertEquals(Deno.readTextFileSync(input), "data");
  assertEquals([...Deno.readDirSync(folder.file(""))].length, 2);
});
