import { assertEquals, assertRejects } from "@std/assert";
import { outcomeWithin, run, start } from "./child.ts";
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

Deno.test("outcomeWithin() returns how a process ended, or kills it and rejects", async () => {
  await using brief = run(["data:text/javascript,Deno.exit(3)"]);
  assertEquals((await outcomeWithin(60_000, brief)).code, 3);
  await using endless = run(["data:text/javascript,setInterval(()=>{},1e6)"]);
  await assertRejects(
    () => outcomeWithin(1, endless),
    Error,
    "The process was still running after 1 ms: ",
  );
  assertEquals((await endless.outcome).signal, "SIGKILL");
});
