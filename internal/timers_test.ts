import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { counted } from "../testing/counted_signal.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { after, sleep } from "./timers.ts";

const REASON = new Error("enough");
const LONGEST = 2 ** 31 - 1;

for (const ms of [1, 1_000, LONGEST, LONGEST + 1, 3 * LONGEST]) {
  Deno.test(`after() calls its callback after ${ms} ms, not before, and once`, async () => {
    using time = fakeTime();
    let calls = 0;
    after(ms, () => calls++);
    await time.tickAsync(ms - 1);
    assertEquals(calls, 0);
    await time.tickAsync(1);
    assertEquals(calls, 1);
    assertEquals(time.countTimers(), 0);
  });
}

for (const ms of [1_000, 3 * LONGEST, Infinity]) {
  Deno.test(`after() of ${ms} ms can be cancelled at any time`, async () => {
    for (const passed of [0, 999, LONGEST, 2 * LONGEST]) {
      if (passed >= ms) break;
      using time = fakeTime();
      const cancel = after(ms, () => {
        throw new Error("called");
      });
      await time.tickAsync(passed);
      cancel();
      assertEquals(time.countTimers(), 0);
    }
  });
}

Deno.test("sleep() waits, unless its signal is aborted", async () => {
  using time = fakeTime();
  const { controller, signal, listeners } = counted();
  let slept = false;
  const sleeping = sleep(1_000, signal).then(() => slept = true);
  await time.tickAsync(999);
  assertEquals(slept, false);
  await time.tickAsync(1);
  await sleeping;
  assertEquals([listeners.size, time.countTimers()], [0, 0]);
  const aborted = sleep(1_000, signal);
  controller.abort(REASON);
  assertStrictEquals(await assertRejects(() => aborted), REASON);
  assertEquals(time.countTimers(), 0);
  assertStrictEquals(await assertRejects(() => sleep(1, signal)), REASON);
});

Deno.test("sleep() ends when its second signal is aborted, before or after", async () => {
  using time = fakeTime();
  const { signal, listeners } = counted();
  const wake = counted();
  const sleeping = sleep(1_000, signal, wake.signal);
  assertEquals([listeners.size, wake.listeners.size], [1, 1]);
  wake.controller.abort();
  await sleeping;
  await sleep(1_000, signal, wake.signal);
  assertEquals([listeners.size, wake.listeners.size], [0, 0]);
  assertEquals(time.countTimers(), 0);
});
