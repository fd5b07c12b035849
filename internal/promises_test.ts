import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { counted } from "../testing/counted_signal.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { handled, notify, until, within } from "./promises.ts";

const REASON = new Error("enough");
const never = new Promise<never>(() => {});

Deno.test("handled() returns the same promise, whose rejection is no longer unhandled", async () => {
  const promise = Promise.reject(REASON);
  assertStrictEquals(handled(promise), promise);
  // An unhandled rejection would fail the test within a turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve));
  assertStrictEquals(await assertRejects(() => promise), REASON);
});

Deno.test("until() settles as its promise does, and leaves no listener", async () => {
  const { signal, listeners } = counted();
  assertEquals(await until(signal, Promise.resolve(1)), 1);
  const rejected = until(signal, Promise.reject(REASON));
  assertStrictEquals(await assertRejects(() => rejected), REASON);
  assertEquals(listeners.size, 0);
});

Deno.test("until() rejects with the reason of its signal, before or after", async () => {
  const { controller, signal } = counted();
  const waiting = until(signal, never);
  controller.abort(REASON);
  assertStrictEquals(await assertRejects(() => waiting), REASON);
  const late = until(signal, never);
  assertStrictEquals(await assertRejects(() => late), REASON);
});

Deno.test("within() aborts its signal with a TimeoutError when the time has passed", async () => {
  using time = fakeTime();
  const { signal, listeners } = counted();
  const timed = within(1_000, signal, (signal) => until(signal, never));
  const outcome = assertRejects(
    () => timed,
    DOMException,
    "it took longer than 1000 ms",
  );
  await time.tickAsync(999);
  assertEquals(listeners.size, 1);
  await time.tickAsync(1);
  assertEquals((await outcome).name, "TimeoutError");
  assertEquals([listeners.size, time.countTimers()], [0, 0]);
});

Deno.test("within() aborts its signal with the outer one, before or after", async () => {
  using time = fakeTime();
  const { controller, signal, listeners } = counted();
  const wait = () => within(1_000, signal, (signal) => until(signal, never));
  const timed = wait();
  controller.abort(REASON);
  assertStrictEquals(await assertRejects(() => timed), REASON);
  assertStrictEquals(await assertRejects(wait), REASON);
  assertEquals([listeners.size, time.countTimers()], [0, 0]);
});

Deno.test("notify() passes its arguments on, and ignores what the callback throws or rejects with", async () => {
  const calls: unknown[] = [];
  const step = (ending: () => unknown) => (...args: unknown[]) => {
    calls.push(args);
    return ending();
  };
  notify(step(() => {}), 1, "a");
  notify(step(() => Promise.reject(REASON)), 2);
  notify(
    step(() => {
      throw REASON;
    }),
    3,
  );
  // An unhandled rejection would fail the test within a turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve));
  assertEquals(calls, [[1, "a"], [2], [3]]);
});
