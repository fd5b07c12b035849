/**
 * A port that is free now. It is below those that systems hand out themselves
 * (Linux from 32768 on, others from 49152 on): none of these can take it before
 * its server is started, or while that is restarted.
 */
export function freePort(): number {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}
