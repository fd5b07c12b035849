import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { run, SUCCESS } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { AccessError } from "./errors.ts";
import { inspectInput, isOtherInput } from "./files.ts";

Deno.test("inspectInput() gives the size of the object, and a fingerprint", async () => {
  await using folder = await temporary();
  const one = folder.file("one", "x".repeat(100_000));
  const two = folder.file("two", "y");
  const info = await inspectInput([one, two], 7);
  assertEquals(info!.size, 100_008);
  assertMatch(info!.fingerprint, /^v1-[0-9a-f]{64}$/);
  assertEquals(await inspectInput([one, two], 7), info);
});

Deno.test("inspectInput() gives another fingerprint for each change", async () => {
  await using folder = await temporary();
  const one = folder.file("one", "x".repeat(65_536) + "y");
  const two = folder.file("two", "z");
  const seen = new Set<string>();
  const inspect = async (...files: string[]) => {
    const { fingerprint } = (await inspectInput(files, 0))!;
    assert(!seen.has(fingerprint), `${files} look like an input before`);
    seen.add(fingerprint);
  };
  await Deno.utime(two, 1, 1);
  await inspect(one, two);
  await inspect(two, one);
  await inspect(one);
  await inspect(two);
  const set = async (text: string, time: number) => {
    await Deno.writeTextFile(one, text);
    await Deno.utime(one, time, time);
    await inspect(one);
  };
  await set("x".repeat(65_536) + "y", 1);
  await set("x".repeat(65_536) + "y", 1.5);
  await set("x".repeat(65_535) + "zy", 1);
  await set("x".repeat(65_537) + "y", 1);
});

Deno.test("inspectInput() knows nothing of standard input, or of an empty file", async () => {
  await using folder = await temporary();
  const file = folder.file("file", "x");
  assertEquals(await inspectInput(["-"], 0), undefined);
  assertEquals(await inspectInput([file, "-"], 0), undefined);
  assertEquals(
    await inspectInput([file, folder.file("empty", "")], 0),
    undefined,
  );
  await assertRejects(
    () => inspectInput(["-", folder.file("missing")], 0),
    AccessError,
    "no such file",
  );
});

const [A, B] = ["a", "b"].map((digit) => `v1-${digit.repeat(64)}`) as [
  string,
  string,
];

for (
  const [recorded, fingerprint, expected] of [
    [A, A, false],
    [A, B, true],
    [A, undefined, false],
    [undefined, A, false],
    ["", A, false],
    [B.slice(0, -1), A, false],
    [`${B}\n`, A, false],
    [B.replace("v1", "v2"), A, false],
  ] as const
) {
  Deno.test(`isOtherInput() is ${expected} for ${recorded} and ${fingerprint}`, () => {
    const bytes = recorded === undefined
      ? undefined
      : new TextEncoder().encode(recorded);
    const info = fingerprint === undefined
      ? undefined
      : { size: 1, fingerprint };
    assertEquals(isOtherInput(bytes, info), expected);
  });
}

/** A file that is shorter than its size says. */
const SHORT = "/sys/devices/system/cpu/online";

Deno.test(
  "cli sends the whole of a file that is shorter than its reported size",
  {
    ignore: Deno.build.os !== "linux" ||
      (await Deno.stat(SHORT).catch(() => null))?.size !== 4096,
  },
  async () => {
    await using server = new FaultyServer();
    const args = ["--upload", server.url, SHORT];
    assertEquals(await run(args, "", ["-A"]), SUCCESS);
    assertEquals(server.bodies, [Deno.readTextFileSync(SHORT)]);
  },
);
