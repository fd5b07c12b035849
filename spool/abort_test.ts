/** The end of a spool that waits for its server. */
import { assertEquals } from "@std/assert";
import { StreamBuffer } from "../buffer.ts";
import { temporary } from "../testing/temporary.ts";
import { Spool } from "./spool.ts";

Deno.test("Spool.abort() ends a close() that waits for the server", async () => {
  await using folder = await temporary();
  const called = Promise.withResolvers<void>();
  const errors: Error[] = [];
  const spool = new Spool(folder.file("spool"), (_, { signal }) => {
    called.resolve();
    return new Promise((_, reject) =>
      signal.addEventListener("abort", () => reject(signal.reason))
    );
  }, { drainTimeout: 2_147_483_647, onError: (error) => errors.push(error) });
  const out = new StreamBuffer(spool);
  await out.write("hello");
  await out.flush();
  const closed = spool.close();
  await called.promise;
  await spool.abort();
  await closed;
  assertEquals([spool.ended, spool.stats.bytesWaiting, errors], [true, 5, []]);
});
