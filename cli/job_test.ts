import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { PERMISSIONS } from "../testing/child.ts";
import { run } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";

for (const [url, port] of [["http:", 80], ["https:", 443]] as const) {
  Deno.test(`cli names port ${port} when it lacks permission for ${url}`, async () => {
    const { code, stderr } = await run([`${url}//127.0.0.1`], "", []);
    assertEquals(code, 2);
    assertStringIncludes(stderr, `add --allow-net=127.0.0.1:${port}\n`);
  });
}

for (
  const [missing, message] of [
    ["-N", /cannot connect to (127.0.0.1:\d+): add --allow-net=\1/],
    ["-R", /cannot read (.*input): add --allow-read=\1\n/],
    ["-W", /cannot write (.*unsent): add --allow-write=\1\n/],
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

Deno.test("cli names the file of headers that it may not read", async () => {
  await using folder = await temporary();
  const file = folder.file("headers", "X-A: b");
  const { code, stderr } = await run(
    ["-H", `@${file}`, "http://127.0.0.1/"],
    "",
    [],
  );
  assertEquals(code, 2);
  assertEquals(
    stderr,
    `stream-buffer: cannot read headers from ${file}: add --allow-read=${file}\n`,
  );
});

test("cli needs no permission except -N for standard input", async () => {
  await using server = new FaultyServer();
  const host = `127.0.0.1:${server.port}`;
  const { code } = await run([server.url], "data", [`--allow-net=${host}`]);
  assertEquals([code, server.bodies], [0, ["data"]]);
});

Deno.test("cli --resume reports an invalid option before it asks for a permission", async () => {
  const args = ["--resume", "--capacity", "0", "http://127.0.0.1/"];
  const { code, stderr } = await run(args, "", []);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "capacity must be an integer from 1");
});

Deno.test("cli --resume names the permission that it lacks", async () => {
  const { code, stderr } = await run(["--resume", "http://127.0.0.1/"], "", []);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "add --allow-net=127.0.0.1:80\n");
});
