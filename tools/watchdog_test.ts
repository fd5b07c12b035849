import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { temporary } from "../testing/temporary.ts";

const MODULE = JSON.stringify(import.meta.resolve("./watchdog.ts"));

/** Runs test files under a watchdog that allows `maxSilence` ms of silence. */
async function watch(files: Record<string, string>, maxSilence: number) {
  await using folder = await temporary();
  const paths = Object.entries(files)
    .map(([name, code]) => folder.file(name, code));
  const args = ["test", "--no-config", "--no-check", "-A", "--parallel"];
  const script = folder.file(
    "run.ts",
    `import { runWatched } from ${MODULE};
    const args = ${JSON.stringify([...args, ...paths])};
    Deno.exit(await runWatched(args, ${maxSilence}));`,
  );
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "-A", script],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

for (
  const [outcome, body, expected] of [
    ["passes", "", 0],
    ["fails", "throw new Error('no');", 1],
  ] as const
) {
  Deno.test(`a test run that ${outcome} is passed on as it is`, async () => {
    const { code, output } = await watch({
      "a_test.ts": `Deno.test('that ${outcome}', () => { ${body} });`,
    }, 60_000);
    assertEquals(code, expected);
    assertStringIncludes(output, `that ${outcome} ... `);
    assertStringIncludes(output, expected === 0 ? "1 passed" : "1 failed");
  });
}

Deno.test({
  name: "tests that hang end the run, which names them",
  // There, an interrupt ends a process without a word.
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const { code, output } = await watch({
      "a_test.ts": `Deno.test("waits forever", async () => {
        setInterval(() => {}, 1e6);
        await new Promise(() => {});
      });`,
      "b_test.ts": `Deno.test("never yields", async () => {
        for (;;) await 0;
      });`,
    }, 5_000);
    assert(code !== 0);
    assertStringIncludes(output, "No output for 5 s");
    assertStringIncludes(output, "waits forever => ");
    assertStringIncludes(output, "never yields => ");
  },
});
