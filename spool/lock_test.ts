/** One process at a time has a spool. */
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { SpoolError } from "./errors.ts";
import { inspectSpool } from "./inspect.ts";
import { Spool } from "./spool.ts";

Deno.test("Spool() says which process has the file open", async () => {
  await using folder = await temporary();
  const file = folder.file("app.spool");
  const script = folder.file(
    "script.ts",
    `import { Spool } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    await using spool = new Spool(Deno.args[0], () => {});
    console.log("open");
    await Deno.stdin.read(new Uint8Array(1));`,
  );
  await using child = run(["-A", "--no-check", script, file]);
  await child.waitForOutput("open");
  const error = assertThrows(() => new Spool(file, () => {}), SpoolError);
  assertEquals(error.code, "in-use");
  assertStringIncludes(error.message, `process ${child.pid} `);
  assertEquals(inspectSpool(file).owner?.pid, child.pid);
  await child.write("x");
  assertEquals((await child.outcome).code, 0);
  assertEquals(inspectSpool(file).owner, undefined);
});

Deno.test("inspectSpool() by another name does not drop the lock", async () => {
  await using folder = await temporary();
  const [file, link] = [folder.file("app.spool"), folder.file("link.spool")];
  await using _ = new Spool(file, () => {});
  Deno.linkSync(file, link);
  assertThrows(() => inspectSpool(link), SpoolError, "has it open");
  const script = folder.file(
    "script.ts",
    `import { Spool } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    try {
      new Spool(Deno.args[0], () => {});
    } catch ({ code }) {
      console.log(code);
    }`,
  );
  await using child = run(["-A", "--no-check", script, file]);
  assertEquals((await child.outcome).stdout, "in-use\n");
});
