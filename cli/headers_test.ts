import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { PERMISSIONS } from "../testing/child.ts";
import { refuseWithEcho, run } from "../testing/command.ts";
import { close, FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

Deno.test("cli names an environment variable that is not set", async () => {
  await using server = new FaultyServer();
  const { code, stderr } = await run(
    ["-H", "A: ${NO_SUCH_VARIABLE}", server.url],
    "data",
    [...PERMISSIONS, "--allow-env"],
  );
  assertEquals(code, 2);
  assertStringIncludes(
    stderr,
    "the environment variable NO_SUCH_VARIABLE is not set",
  );
});

Deno.test("cli names the permission for an environment variable that is ignored", async () => {
  const { code, stderr } = await run(
    ["-H", "A: ${TEST_TOKEN}", "http://127.0.0.1/"],
    "",
    [...PERMISSIONS, "--ignore-env"],
  );
  assertEquals(code, 2);
  assertStringIncludes(stderr, "add --allow-env=TEST_TOKEN\n");
});

for (
  const [title, exitCode, behaviour, space, message] of [
    [
      "the server echoes the request",
      1,
      refuseWithEcho,
      " ",
      "responded with 400",
    ],
    ["the server drops the connection", 1, close, " ", "failed (attempt 1): "],
    [
      "a header has a line break",
      2,
      refuseWithEcho,
      "\n",
      '--header must be "Name',
    ],
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
