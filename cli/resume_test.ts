import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import {
  CLI,
  PERMISSIONS,
  runCommand as run,
  startCommand as start,
} from "../testing/child.ts";
import {
  after,
  fillTheDisk,
  linesOf,
  obey,
  tusServer,
  uploaded,
} from "../testing/command.ts";
import {
  type Behaviour,
  FaultyServer,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

Deno.test("cli --tus prints a command that resumes with the same files", async () => {
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
    `\nstream-buffer: to resume, with the header values in place of ...:\ndeno run -N -R --allow-env=TEST_TOKEN ${CLI} --resume --capacity 10000 -H 'X-A: \${TEST_TOKEN}' -H 'X-Secret: ...' ${url} '`,
  );
  tus.mend();
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assert(found.isComplete && found.text === text + text);
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
});

Deno.test("cli --tus resumes from what --unsent saved of standard input, twice", async () => {
  await using tus = await tusServer(3);
  await using folder = await temporary();
  const text = linesOf(200_000);
  const unsent = folder.file("rest");
  const first = await run(
    ["--tus", "--capacity", "10000", "--unsent", unsent, tus.url],
    text,
  );
  assertEquals(first.code, 1);
  assertStringIncludes(first.stderr, `${text.length - 30_000} bytes saved to`);
  assert(Deno.readTextFileSync(unsent) === text.slice(30_000));
  const second = await obey(first.stderr);
  assertEquals(second.code, 1);
  const command = first.stderr.trimEnd().split("\n").at(-1)!;
  assertStringIncludes(command, " --offset 30000 ");
  assert(second.stderr.endsWith(`to resume:\n${command}\n`), second.stderr);
  tus.mend();
  assertEquals(await obey(second.stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, first.stderr);
  assert(found.isComplete && found.text === text);
});

Deno.test("cli --tus resumes when only the end of standard input was refused", async () => {
  await using tus = await tusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object");
  assertEquals(code, 1);
  assertMatch(stderr, /9 bytes acknowledged.*\n.*\n.* 0 bytes saved to/);
  tus.mend();
  assertEquals(await obey(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assertEquals([found.text, found.isComplete], ["an object", true]);
});

Deno.test("cli --tus does not resume from an --unsent that lacks a part", async () => {
  await using tus = await tusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--capacity", "3", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object", after(fillTheDisk));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `cannot write ${unsent}: the disk is full`);
  assertMatch(stderr, /to resume, with the same input:\n.* -\n$/);
  assert(!/--offset/.test(stderr), stderr);
});

Deno.test("cli --tus resumes only from the whole input after an interrupt", {
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
  await running.said("saving undelivered bytes");
  running.kill("SIGINT");
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "two, and"]);
  assertMatch(stderr, /to resume, with the same input:\n.* -\n$/);
});

Deno.test("cli --tus resumes with a file whose name begins with a dash", {
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

Deno.test("cli --tus reports that its input has changed, instead of how to resume", async () => {
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
