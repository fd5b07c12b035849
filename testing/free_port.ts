/** Below those that systems hand out by themselves: Linux from 32768 on. */
const FIRST = 10_000;
const COUNT = 22_000;

let next = Math.floor(COUNT * Math.random());

/**
 * A port that is free now, and stays so for a while: no system hands it out by
 * itself, and the next call returns another. So nobody takes it before its
 * server is started, or while that is restarted.
 */
export function freePort(): number {
  for (;;) {
    const port = FIRST + next++ % COUNT;
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}
