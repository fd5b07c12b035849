import { assert, assertEquals } from "@std/assert";
import { StreamBuffer } from "../buffer.ts";
import { temporary } from "../testing/temporary.ts";
import { Spool } from "./spool.ts";

const MIB = 2 ** 20;
/** More than the unused pages that a file may keep. */
const BACKLOG = 70 * MIB;

Deno.test("Spool gives disk space back as soon as little waits", async () => {
  await using folder = await temporary();
  const path = folder.file("a.spool");
  const stuck = Promise.withResolvers<void>();
  const served = Promise.withResolvers<void>();
  let sends = 0;
  const send = async () => {
    await served.promise;
    if (++sends === BACKLOG / MIB) stuck.resolve();
    if (sends >= BACKLOG / MIB) await new Promise(() => {});
  };
  const spool = new Spool(path, send, {
    durability: "process",
    drainTimeout: 0,
  });
  const out = new StreamBuffer(spool, { capacity: MIB });
  const bytes = new Uint8Array(MIB);
  for (let size = 0; size < BACKLOG; size += MIB) await out.write(bytes);
  await out.flush();
  assert(Deno.statSync(path).size > 64 * MIB);
  served.resolve();
  await stuck.promise;
  assertEquals(spool.stats.bytesWaiting, MIB);
  assert(Deno.statSync(path).size < 8 * MIB);
  await out.close();
});
