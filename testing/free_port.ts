/** Below those that systems hand out by themselves: Linux from 32768 on. */
const FIRST = 10_000;
/** Prime, so that any step comes to each of them. */
const COUNT = 21_997;

// Test files run at the same time, and should not follow one another.
const step = 1 + Math.floor((COUNT - 1) * Math.random());
let next = Math.floor(COUNT * Math.random());

/**
 * Listens on a port that no system hands out by itself, and another one each
 * time: so nobody takes it while its server is down for a while.
 */
export function listen(): Deno.TcpListener {
  for (;;) {
    next = (next + step) % COUNT;
    try {
      return Deno.listen({ hostname: "127.0.0.1", port: FIRST + next });
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** Such a port, for a server that is to be started. */
export function freePort(): number {
  using listener = listen();
  return listener.addr.port;
}
