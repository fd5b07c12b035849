/** A clock that a test controls. */
// @ts-types="npm:@types/sinonjs__fake-timers@15.0.1"
import FakeTimers from "@sinonjs/fake-timers";

/**
 * Replaces the global timers and `Date` until disposed.
 *
 * @example
 * ```ts ignore
 * using time = fakeTime();
 * await time.tickAsync(1_000);
 * ```
 */
export function fakeTime(): FakeTimers.InstalledClock & Disposable {
  const clock = FakeTimers.install({
    toFake: ["setTimeout", "clearTimeout", "Date"],
  });
  return Object.assign(clock, {
    [Symbol.dispose]: () => clock.uninstall(),
  });
}
