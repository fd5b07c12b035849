import { assertEquals, assertRejects } from "@std/assert";
import { run, start } from "./child.ts";
import { FaultyServer } from "./faulty_server.ts";

Deno.test("waitForOutput() resolves when the text has arrived on either stream", async () => {
  await using child = start("", async ({ readByte }) => {
    console.log("one");
    await readByte();
    console.error("two");
    await readByte();
  });
  await child.waitForOutput("one\n");
  await child.waitForOutput("one\n");
  assertEquals(child.output, { stdout: "one\n", stderr: "" });
  await child.write("x");
  await child.waitForOutput("two\n");
});

Deno.test("waitForOutput() rejects when the process exits without the text", async () => {
  await using child = start("", () => {
    console.log("another text");
    Deno.exit(3);
  });
  await assertRejects(
    () => child.waitForOutput("the text"),
    Error,
    'Waited for the output "the text", but the process exited with 3: another text\n',
  );
});

Deno.test("waitFor() rejects when the process exits before the event", async () => {
  await using server = new FaultyServer();
  await using child = run(["data:text/javascript,Deno.exit(3)"]);
  await assertRejects(
    () => child.waitFor(server.received(1)),
    Error,
    "Waited for an event, but the process exited with 3: ",
  );
});
