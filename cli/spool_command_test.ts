import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { breakOutput, CAN_BREAK_OUTPUT } from "../testing/broken_output.ts";
import {
  leaveInSpool,
  LIMIT,
  linesOf,
  run,
  start,
  SUCCESS,
  untilSpooled,
} from "../testing/command.ts";
import { CLI } from "../testing/child.ts";
import { FaultyServer, never, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** The permissions that a spool needs, and no other. */
function permissionsFor(spool: string): string[] {
  const files = [spool, `${spool}-owner`, `${spool}-reserve`].join();
  return [`--allow-read=${files}`, `--allow-write=${files}`];
}

/** The figures that were printed, by their names. */
function figures(stdout: string): Record<string, string> {
  return Object.fromEntries(
    stdout.trimEnd().split("\n").map((line) => line.split(/: (.*)/s)),
  );
}

Deno.test("cli spool FILE shows what waits in it, and that nobody has it open", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await using server = new FaultyServer([respond(200), respond(400)]);
  const args = ["--spool", spool, "--refused", folder.file("refused")];
  await run([...args, server.url], "12345");
  await run([...args, server.url], "123");
  await leaveInSpool(spool, "one\n", "2\n");
  const { code, stdout, stderr } = await run(
    ["spool", spool],
    "",
    permissionsFor(spool),
  );
  assertEquals([code, stderr], [0, ""]);
  const { stream, oldest, ...rest } = figures(stdout);
  assertMatch(stream!, /^[\da-f-]{36}$/);
  assertMatch(oldest!, /^\d+s ago$/);
  assertEquals(rest, {
    waiting: "6 bytes",
    "batches waiting": "2",
    delivered: "5 bytes",
    refused: "3 bytes",
    open: "no",
  });
});

Deno.test("cli spool FILE shows a spool with nothing in it", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await leaveInSpool(spool);
  const { stdout } = await run(["spool", spool]);
  const { stream: _, ...rest } = figures(stdout);
  assertEquals(rest, {
    waiting: "0 bytes",
    "batches waiting": "0",
    oldest: "none",
    delivered: "0 bytes",
    open: "no",
  });
});

Deno.test("cli spool FILE shows who has it open, and does not disturb them", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await using server = new FaultyServer([respond(200), never]);
  await using running = start([
    ...["--spool", spool, "--interval", "10ms", server.url],
  ]);
  await running.write("one");
  await running.waitFor(server.received(1));
  await running.write("four");
  await untilSpooled(running, spool, 4);
  const { code, stdout, stderr } = await run(
    ["spool", spool],
    "",
    permissionsFor(spool),
  );
  assertEquals([code, stderr], [0, ""]);
  const { waiting, delivered, open, figures: age } = figures(stdout);
  assertEquals([waiting, delivered], ["4 bytes", "3 bytes"]);
  assertEquals(open, `by process ${running.pid}`);
  assertMatch(age!, /^of \d+s ago$/);

  const exported = await run(["spool", spool, "--export"]);
  assertEquals([exported.code, exported.stdout], [1, ""]);
  assertStringIncludes(
    exported.stderr,
    `cannot open the spool ${spool}: process ${running.pid} has it open; only one`,
  );
});

Deno.test("cli spool FILE --export writes what waits, and removes nothing", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  const text = linesOf(300_000);
  await leaveInSpool(spool, text, "", "\r\n\n", text);
  const args = ["spool", "--export", spool];
  const outcome = await run(args, "", permissionsFor(spool));
  assertEquals(outcome, { ...SUCCESS, stdout: `${text}\r\n\n${text}` });
  assertEquals(await run(args), outcome);
});

Deno.test("cli spool FILE --export leaves out what is damaged, and says so", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await leaveInSpool(spool, "one\n", "two\n", "six\n");
  const database = new DatabaseSync(spool);
  database.exec("update batch set bytes = x'00000000' where number = 1");
  database.close();
  const { code, stdout, stderr } = await run(["spool", spool, "--export"]);
  assertEquals([code, stdout], [1, "one\nsix\n"]);
  assertMatch(
    stderr,
    /^stream-buffer: The spool .* at offset 4 are not those that were added; left out\n$/,
  );
});

for (
  const output of ["a full disk", "a pipe whose reader has gone"] as const
) {
  Deno.test(`cli spool FILE --export fails when standard output is ${output}`, {
    ignore: !CAN_BREAK_OUTPUT,
  }, async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    await leaveInSpool(spool, linesOf(300_000));
    await using broken = await breakOutput(output, 1);
    const args = ["spool", spool, "--export"];
    await using running = start(args, undefined, broken.shell);
    const { code, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertMatch(stderr, /^stream-buffer: cannot write to standard output: /);
    // It has closed the file.
    const { stdout } = await run(["spool", spool]);
    assertStringIncludes(stdout, "open: no\n");
  });
}

Deno.test("cli spool FILE --export ends with the program that reads it", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await leaveInSpool(spool, ...Array(20).fill(linesOf(100_000)));
  const { stdout } = await new Deno.Command("sh", {
    args: [
      "-c",
      '"$@" | head -n 1',
      ...["sh", Deno.execPath(), "run", "-q", "-R", "-W", CLI],
      ...["spool", spool, "--export"],
    ],
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  assertEquals(new TextDecoder().decode(stdout), "line 0\n");
});

for (
  const [title, make, message] of [
    ["does not exist", () => {}, "there is no such file"],
    ["is a folder", Deno.mkdirSync, "it is a folder"],
    [
      "is not a spool",
      (file: string) => Deno.writeTextFileSync(file, linesOf(1_000)),
      "it is not a spool, and was not changed; choose another path",
    ],
  ] as const
) {
  Deno.test(`cli spool FILE rejects one that ${title}`, async () => {
    await using folder = await temporary();
    const spool = folder.file("spool");
    make(spool);
    for (const options of [[], ["--export"]]) {
      const { code, stdout, stderr } = await run(["spool", spool, ...options]);
      assertEquals([code, stdout], [2, ""]);
      assertEquals(
        stderr,
        `stream-buffer: cannot open the spool ${spool}: ${message}\n`,
      );
    }
  });
}

Deno.test("cli spool FILE reports one that is cut off", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  await leaveInSpool(spool, linesOf(300_000));
  Deno.truncateSync(spool, 100_000);
  const { code, stderr } = await run(["spool", spool]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "it is damaged: 100000 bytes are left of ");
});

Deno.test("cli spool FILE names all permissions that it lacks", async () => {
  await using folder = await temporary();
  const spool = folder.file("spool");
  const all = permissionsFor(spool);
  for (const missing of all) {
    const { code, stderr } = await run(
      ["spool", spool],
      "",
      all.filter((flag) => flag !== missing),
    );
    assertEquals(code, 2);
    assertEquals(
      stderr,
      `stream-buffer: cannot use the spool ${spool}: add ${all.join(" ")}\n`,
    );
  }
  assert([...Deno.readDirSync(folder.file(""))].length === 0);
});
