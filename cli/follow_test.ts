/** `--follow`: what is appended to a file is spooled. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { inspectSpool } from "../spool/mod.ts";
import {
  after,
  fillTheDiskOfSpool,
  outage,
  received,
  run,
  start,
  SUCCESS,
} from "../testing/command.ts";
import { FaultyServer, never, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";

const ignore = Deno.build.os === "windows";

function append(file: string, text: string): void {
  Deno.writeTextFileSync(file, text, { append: true });
}

function arrived(server: FaultyServer, text: string): Promise<void> {
  return server.waitFor(JSON.stringify(text), () => received(server) === text);
}

test("cli --follow ships lines over rotations and restarts, each once", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const log = folder.file("app.log", "one\n");
  await using server = new FaultyServer();
  const args = [
    ...["--spool", folder.file("spool"), "--follow", log, "--quiet"],
    server.url,
  ];
  {
    await using running = start(args);
    await running.waitFor(arrived(server, "one\n"));
    append(log, "two\nthr");
    await running.waitFor(arrived(server, "one\ntwo\n"));
    append(log, "ee\n");
    Deno.renameSync(log, `${log}.1`);
    append(log, "four\n");
    await running.waitFor(arrived(server, "one\ntwo\nthree\nfour\n"));
    running.kill("SIGTERM");
    const { code, stderr } = await running.outcome;
    assertEquals(code, 0);
    assertStringIncludes(stderr, "19 bytes acknowledged in ");
  }
  append(log, "five\n");
  Deno.renameSync(log, `${log}.2`);
  append(log, "six\n");
  {
    await using running = start(args);
    await running.waitFor(
      arrived(server, "one\ntwo\nthree\nfour\nfive\nsix\n"),
    );
    running.kill("SIGKILL");
  }
  // Without the file, what is there is delivered as usual.
  assertEquals(await run([...args.slice(0, 2), server.url]), SUCCESS);
});

test(
  "cli --spool takes no other input once it follows a file",
  { ignore },
  async () => {
    await using folder = await temporary();
    const log = folder.file("app.log", "one\n");
    const spool = folder.file("spool");
    await using server = new FaultyServer();
    const args = ["--spool", spool, server.url];
    await using running = start([...args, "--follow", log]);
    await running.waitFor(arrived(server, "one\n"));
    running.kill("SIGTERM");
    assertEquals((await running.outcome).code, 0);
    const { code, stderr } = await run(args, "two\n");
    assertEquals([code, received(server)], [1, "one\n"]);
    assertStringIncludes(stderr, `follows ${log}, and takes nothing else`);
    assertStringIncludes(
      stderr,
      `4 bytes read, but not acknowledged or put into ${spool}\n`,
    );
  },
);

test("cli --follow spools during an outage, and a later run delivers", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const log = folder.file("app.log", "one\n");
  const spool = folder.file("spool");
  const { behaviour, recover } = outage();
  await using server = new FaultyServer([], behaviour);
  const args = ["--spool", spool, "--follow", log, "--retry-for", "0"];
  await using running = start([...args, server.url]);
  await running.waitForOutput("503; retrying");
  running.kill("SIGINT");
  await running.waitForOutput("interrupted");
  running.kill("SIGINT");
  const { code, stderr } = await running.outcome;
  assertEquals([code, inspectSpool(spool).bytesWaiting], [4, 4]);
  assertStringIncludes(
    stderr,
    `4 bytes wait in ${spool}; to deliver them, run`,
  );
  recover();
  const before = server.requests.length;
  await using again = start([...args, server.url]);
  append(log, "two\n");
  const all = "one\ntwo\n";
  await again.waitFor(server.waitFor(
    "both lines",
    () => server.bodies.slice(before).join("") === all,
  ));
  again.kill("SIGINT");
  assertEquals((await again.outcome).code, 0);
});

test("cli --follow waits for a file that does not exist, and says so", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const log = folder.file("app.log");
  await using server = new FaultyServer();
  await using running = start([
    ...["--spool", folder.file("spool"), "--follow", log, server.url],
  ]);
  await running.waitForOutput(log);
  append(log, "one\n");
  await running.waitFor(arrived(server, "one\n"));
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 0);
});

test("cli --follow reports what was destroyed unread", { ignore }, async () => {
  await using folder = await temporary();
  const log = folder.file("app.log", "one\n");
  const spool = folder.file("spool");
  await using server = new FaultyServer();
  const args = ["--spool", spool, "--follow", log, server.url];
  {
    await using running = start(args);
    await running.waitFor(arrived(server, "one\n"));
    running.kill("SIGTERM");
    assertEquals((await running.outcome).code, 0);
  }
  append(log, "two\n");
  Deno.writeTextFileSync(log, "six\n"); // as copytruncate does
  await using running = start(args);
  await running.waitForOutput("was truncated while it was not followed");
  await running.waitFor(arrived(server, "one\nsix\n"));
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 0);
});

Deno.test(
  "cli --follow gives up at once on a second signal",
  { ignore },
  async () => {
    await using folder = await temporary();
    const log = folder.file("app.log", "one\n");
    const spool = folder.file("spool");
    await using server = new FaultyServer([], never);
    await using running = start([
      ...["--spool", spool, "--follow", log, server.url],
    ]);
    await running.waitFor(server.received(1));
    running.kill("SIGINT");
    running.kill("SIGTERM");
    assertEquals((await running.outcome).code, 4);
    assertEquals(inspectSpool(spool).bytesWaiting, 4);
  },
);

test(
  "cli --follow appends what is refused to --refused",
  { ignore },
  async () => {
    await using folder = await temporary();
    const log = folder.file("app.log", "bad\n");
    const refused = folder.file("refused");
    await using server = new FaultyServer([respond(400)]);
    await using running = start([
      ...["--spool", folder.file("spool"), "--follow", log],
      ...["--refused", refused, server.url],
    ]);
    await running.waitForOutput("appending what is refused");
    running.kill("SIGTERM");
    const { code } = await running.outcome;
    assertEquals([code, Deno.readTextFileSync(refused)], [3, "bad\n"]);
  },
);

Deno.test("cli --follow waits for room on a full disk, and says so once", {
  ignore,
}, async () => {
  await using folder = await temporary();
  const log = folder.file("app.log", "one\n");
  await using server = new FaultyServer();
  await using running = start(
    ["--spool", folder.file("spool"), "--follow", log, server.url],
    after(fillTheDiskOfSpool, 2),
  );
  await running.waitFor(arrived(server, "one\n"));
  running.kill("SIGTERM");
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr.split("the disk is full").length], [0, 2], stderr);
});

Deno.test("cli --follow needs to read the folder of the file", async () => {
  await using folder = await temporary();
  const log = folder.file("app.log", "one\n");
  const spool = folder.file("spool");
  const files = [spool, `${spool}-owner`, `${spool}-reserve`].join();
  await using server = new FaultyServer();
  const args = ["--spool", spool, "--follow", log, server.url];
  const permissions = [
    `--allow-net=127.0.0.1:${server.port}`,
    `--allow-write=${files}`,
  ];
  const denied = await run(args, "", [
    ...permissions,
    `--allow-read=${files},${log}`,
  ]);
  assertEquals(denied, {
    ...SUCCESS,
    code: 2,
    stderr: `stream-buffer: cannot follow ${log}: add --allow-read=${
      folder.file("").slice(0, -1)
    }\n`,
  });
  await using running = start(args, [
    ...permissions,
    `--allow-read=${folder.file("").slice(0, -1)}`,
  ]);
  await running.waitFor(arrived(server, "one\n"));
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 0);
});
