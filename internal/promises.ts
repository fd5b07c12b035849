/** Promises that need not be awaited, that time out, or that can be aborted; and callbacks that cannot do harm. */

/**
 * Marks a rejection as handled, so that it cannot end the process when the
 * promise is not awaited.
 *
 * @returns The same promise, which still rejects for those who do await it.
 */
export function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Settles as `promise` does, or rejects as soon as `signal` is aborted. */
export function until<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.finally(() => signal.removeEventListener("abort", abort))
      .then(resolve, reject);
  });
}

/**
 * Runs `work` with a signal that is aborted with `outer`, if there is one, and with a
 * `TimeoutError` after `ms` milliseconds. `work` has to obey it: it is waited for
 * all the same.
 *
 * `AbortSignal.any()` and `AbortSignal.timeout()` would say the same in less,
 * but a dependent signal with a listener is kept alive as long as its sources,
 * and `outer` may live as long as the process.
 */
export async function within<T>(
  ms: number,
  outer: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const abort = () => controller.abort(outer?.reason);
  const timer = setTimeout(() => {
    const message = `it took longer than ${ms} ms`;
    controller.abort(new DOMException(message, "TimeoutError"));
  }, ms);
  if (outer?.aborted) abort();
  outer?.addEventListener("abort", abort);
  try {
    return await work(controller.signal);
  } finally {
    clearTimeout(timer);
    outer?.removeEventListener("abort", abort);
  }
}

/**
 * Calls a callback that is only told something. It must not be able to change what
 * happens, so what it throws, or rejects with, is ignored.
 */
export function notify<T extends unknown[]>(
  callback: (...args: T) => unknown,
  ...args: T
): void {
  try {
    void Promise.resolve(callback(...args)).catch(() => {});
  } catch {
    // As above.
  }
}
