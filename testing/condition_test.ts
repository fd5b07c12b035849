import { assertEquals, assertRejects } from "@std/assert";
import { Condition } from "./condition.ts";

Deno.test("wait() resolves at once if its condition is met, even after close()", async () => {
  const condition = new Condition();
  await condition.wait("truth", () => true);
  condition.close("it is over");
  await condition.wait("truth", () => true);
});

Deno.test("wait() resolves at the notify() that finds its condition met", async () => {
  const condition = new Condition();
  const events: string[] = [];
  let count = 0;
  const waiting = condition.wait("two", () => count === 2)
    .then(() => events.push("resolved"));
  for (count = 1; count <= 2; count++) {
    events.push(`${count}`);
    condition.notify();
    await Promise.resolve();
  }
  await waiting;
  assertEquals(events, ["1", "2", "resolved"]);
});

Deno.test("wait() rejects with the reason once the condition is closed", async () => {
  const condition = new Condition();
  const reject = () =>
    assertRejects(
      () => condition.wait("two", () => false),
      Error,
      "Waited for two, but it is over",
    );
  const waiting = reject();
  condition.close("it is over");
  await waiting;
  await reject();
});
