import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { readStreams } from "./read_streams.ts";
import { Ring } from "./ring.ts";

const never = new AbortController().signal;

function textOf(ring: Ring): string {
  const p = new Uint8Array(100);
  return new TextDecoder().decode(p.subarray(0, ring.take(p)));
}

for (const skip of [0, 1, 10, 11, 20]) {
  Deno.test(`readStreams() gives files one after another, without the first ${skip} bytes`, async () => {
    await using folder = await temporary();
    const files = [
      folder.file("one", "0123456789"),
      folder.file("two", "abcdefghij"),
    ];
    const ring = new Ring();
    await readStreams({ files, skip }, ring, never);
    assertEquals(textOf(ring), "0123456789abcdefghij".slice(skip));
  });
}

Deno.test("readStreams() rejects if the input is shorter than what is skipped", async () => {
  await using folder = await temporary();
  const files = [folder.file("one", "0123456789")];
  await assertRejects(
    () => readStreams({ files, skip: 11 }, new Ring(), never),
    Error,
    "the input is 1 byte shorter than what the server has",
  );
});

/** Reads standard input, as the shell has opened it, in a process of its own. */
async function readStdin(shell: string) {
  const url = (name: string) => new URL(name, import.meta.url).href;
  await using folder = await temporary();
  const script = folder.file(
    "read.ts",
    `import { readStreams } from "${url("read_streams.ts")}";
     import { Ring } from "${url("ring.ts")}";
     const ring = new Ring();
     const { signal } = new AbortController();
     await readStreams({ files: ["-"], skip: 0 }, ring, signal);
     const p = new Uint8Array(100);
     console.log(new TextDecoder().decode(p.subarray(0, ring.take(p))));`,
  );
  await using child = run(["-A", script], `cd '${folder.file("")}'; ${shell}`);
  await child.end();
  return await child.outcome;
}

Deno.test("readStreams() rejects if standard input is a directory", async () => {
  const { code, stderr } = await readStdin("exec < .");
  assertEquals(code, 1);
  assertStringIncludes(stderr, "illegal operation on a directory");
});

Deno.test("readStreams() reads standard input from where the shell has left it", async () => {
  const { stdout } = await readStdin(
    "echo 12 > f; echo 34 >> f; exec < f; read line",
  );
  assertEquals(stdout, "34\n\n");
});
