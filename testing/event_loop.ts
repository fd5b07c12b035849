/**
 * What a test awaits to see that nothing happens: not a number of milliseconds,
 * but other events, which would have come later.
 */

/** Enough for what passes through a few sockets and streams of this process. */
const MANY = 100;

/** Lets the event loop turn: what needs neither time nor the network is done. */
export async function turns(count = MANY): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/**
 * Sends a byte over a loopback connection and back, many times: whatever was on
 * its way over other loopback connections has arrived, and has been handled.
 *
 * Turns of the event loop do not ensure that: the runtime looks at the sockets
 * only now and then while it has other work.
 */
export async function roundTrips(count = MANY): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { hostname, port } = listener.addr;
  const connecting = Deno.connect({ hostname, port });
  using there = await listener.accept();
  using here = await connecting;
  const byte = new Uint8Array(1);
  for (let i = 0; i < count; i++) {
    for (const [from, to] of [[here, there], [there, here]] as const) {
      await from.write(byte);
      await to.read(byte);
    }
    await turns(1);
  }
}

/** Waits until a value no longer changes, and returns it. */
export async function stable<T>(value: () => T): Promise<T> {
  for (;;) {
    const before = value();
    await roundTrips();
    if (value() === before) return before;
  }
}

/** Whether a promise is still pending when all other things have happened. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  const settled = () => void (pending = false);
  promise.then(settled, settled);
  await roundTrips();
  return pending;
}
