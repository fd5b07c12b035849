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
 * Waits `ms` milliseconds, or until `wake` is aborted. It rejects at once when
 * `signal` is aborted.
 */
export async function sleep(
  ms: number,
  signal: AbortSignal,
  wake?: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  if (wake?.aborted) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal.reason);
  const awake = () => resolve();
  const cancel = after(ms, resolve);
  signal.addEventListener("abort", abort);
  wake?.addEventListener("abort", awake);
  try {
    await promise;
  } finally {
    cancel();
    signal.removeEventListener("abort", abort);
    wake?.removeEventListener("abort", awake);
  }
}
