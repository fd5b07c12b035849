/** A clock and a chance that a test controls. */
// @ts-types="npm:@types/sinonjs__fake-timers@15.0.1"
import FakeTimers from "@sinonjs/fake-timers";

/**
 * Replaces the global timers, `Date` and `performance.now()` until disposed.
 *
 * @example
 * ```ts ignore
 * using time = fakeTime();
 * await time.tickAsync(1_000);
 * ```
 */
export function fakeTime(): FakeTimers.InstalledClock & Disposable {
  const clock = FakeTimers.install({
    toFake: ["setTimeout", "clearTimeout", "Date", "performance"],
  });
  return Object.assign(clock, {
    [Symbol.dispose]: () => clock.uninstall(),
  });
}

/** Makes `Math.random` return `value` until disposed. */
export function fixedRandom(value: number): Disposable {
  const { random } = Math;
  Math.random = () => value;
  return { [Symbol.dispose]: () => void (Math.random = random) };
}

/**
 * Makes timers of half a second and more run a hundred times as fast until
 * disposed, for random tests over real connections, which cannot use fake time and
 * would mostly wait for retries.
 */
export function fastTimers(): Disposable {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = Object.assign(
    (callback: () => void, ms = 0, ...args: []) =>
      setTimeout(callback, ms < 500 ? ms : ms / 100, ...args),
    setTimeout,
  );
  return { [Symbol.dispose]: () => void (globalThis.setTimeout = setTimeout) };
}
