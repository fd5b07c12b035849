/**
 * Ports for servers that tests stop and start again.
 *
 * Port 0 would let the system choose, but it may give the same port to another
 * socket while the server is down. So these are taken below the ephemeral range,
 * which begins at 32,768 on Linux and at 49,152 on macOS and Windows.
 *
 * They are also above 10,080, the highest of the ports that `fetch` blocks
 * (https://fetch.spec.whatwg.org/#port-blocking). Servers that keep running may
 * use port 0: ephemeral ports are above it, too.
 */
export const FIRST_PORT = 10_081;
/** How many there are. A prime, so that steps of any size visit each of them. */
export const PORT_COUNT = 21_997;

// Test files run at the same time, and should not take the same ports in turn.
const step = 1 + Math.floor((PORT_COUNT - 1) * Math.random());
let next = Math.floor(PORT_COUNT * Math.random());

/** Listens on a free port, a different one at each call. */
export function listen(): Deno.TcpListener {
  for (let tries = 0; tries < PORT_COUNT; tries++) {
    next = (next + step) % PORT_COUNT;
    try {
      return Deno.listen({ hostname: "127.0.0.1", port: FIRST_PORT + next });
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
  throw new Error(
    `Cannot listen: none of the ports from ${FIRST_PORT} to ${
      FIRST_PORT + PORT_COUNT - 1
    } is free`,
  );
}

/** Returns a free port for a server that is about to be started. */
export function freePort(): number {
  using listener = listen();
  return listener.addr.port;
}
