/** Timers that may be longer than those of the platform, and sleeping. */
import { MAX_DURATION } from "./checks.ts";

/**
 * Calls `callback` after `ms` milliseconds, which may be infinite. The platform's
 * timers would fire at once after more than `MAX_DURATION`.
 *
 * @returns A function that cancels it.
 */
export function after(ms: number, callback: () => void): () => void {
  const part = Math.min(ms, MAX_DURATION);
  let cancel = () => clearTimeout(timer);
  const timer = setTimeout(() => {
    if (ms > part) cancel = after(ms - part, callback);
    else callback();
  }, part);
  return () => cancel();
}

/**
 * Waits `ms` milliseconds, or until one of `wakes` is aborted. It rejects at once
 * when `signal` is aborted.
 */
export async function sleep(
  ms: number,
  signal: AbortSignal,
  ...wakes: readonly AbortSignal[]
): Promise<void> {
  signal.throwIfAborted();
  if (wakes.some(({ aborted }) => aborted)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal.reason);
  const awake = () => resolve();
  const cancel = after(ms, resolve);
  signal.addEventListener("abort", abort);
  // Not one signal of AbortSignal.any(): that lives as long as its sources.
  for (const wake of wakes) wake.addEventListener("abort", awake);
  try {
    await promise;
  } finally {
    cancel();
    signal.removeEventListener("abort", abort);
    for (const wake of wakes) wake.removeEventListener("abort", awake);
  }
}
