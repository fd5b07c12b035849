/**
 * What a test awaits to see that nothing happens: turns of the event loop, in
 * which all that needs no time gets done, and not a number of milliseconds.
 */

/** Enough for what goes through a few sockets and streams of this process. */
const MANY = 100;

/** Lets the event loop turn this many times. */
export async function turns(count = MANY): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Waits until a value has stayed the same for many turns, and returns it. */
export async function stable<T>(value: () => T): Promise<T> {
  for (;;) {
    const before = value();
    let same = 0;
    while (same < MANY && value() === before) {
      await turns(1);
      same++;
    }
    if (same === MANY) return before;
  }
}

/** Whether a promise is still pending after many turns. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  const settled = () => void (pending = false);
  promise.then(settled, settled);
  await turns();
  return pending;
}
