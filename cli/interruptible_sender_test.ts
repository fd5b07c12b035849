import { assertEquals } from "@std/assert";
import { type SendContext, StreamBuffer } from "../mod.ts";
import { InterruptibleSender } from "./interruptible_sender.ts";

/** A sender that logs what it is told, and keeps the contexts of its sends. */
function loggingSender() {
  const log: string[] = [];
  const contexts: SendContext[] = [];
  const sender = new InterruptibleSender({
    lastFailure: "a failure",
    send(bytes, context) {
      log.push(new TextDecoder().decode(bytes));
      contexts.push(context);
    },
    close: () => void log.push("close"),
    abort: (reason) => void log.push(`abort: ${reason}`),
  });
  return { log, contexts, sender };
}

Deno.test("InterruptibleSender passes everything on", async () => {
  const { log, contexts, sender } = loggingSender();
  const out = new StreamBuffer(sender);
  for (const text of ["one", "two"]) {
    await out.write(text);
    await out.flush();
  }
  await out.close();
  sender.abort("enough");
  assertEquals(log, ["one", "two", "close", "abort: enough"]);
  assertEquals(
    contexts.map(({ sequence, offset }) => [sequence, offset]),
    [[0, 0], [1, 3]],
  );
  assertEquals(sender.lastFailure, "a failure");
});

Deno.test("InterruptibleSender needs neither close() nor abort() of its sender", async () => {
  const out = new StreamBuffer(new InterruptibleSender({ send: () => {} }));
  await out.write("data");
  await out.close();
  await new StreamBuffer(new InterruptibleSender({ send: () => {} })).abort();
});

Deno.test("InterruptibleSender tells its sender of an interrupt, in a send and before one", async () => {
  const { contexts, sender } = loggingSender();
  await using out = new StreamBuffer(sender);
  const states = () =>
    contexts.map(({ closing, deadline }) => [closing.aborted, deadline]);
  await out.write("one");
  await out.flush();
  assertEquals(states(), [[false, Infinity]]);
  sender.interrupt(7);
  assertEquals(states(), [[true, 7]]);
  await out.write("two");
  await out.flush();
  assertEquals(states(), [[true, 7], [true, 7]]);
});

Deno.test("InterruptibleSender tells its sender that the buffer closes", async () => {
  const { contexts, sender } = loggingSender();
  const out = new StreamBuffer(sender, { closeTimeout: 5_000 });
  await out.write("one");
  await out.flush();
  await out.close();
  const [{ closing, deadline }] = contexts as [SendContext];
  assertEquals([closing.aborted, deadline < Infinity], [true, true]);
});
