import { assert, assertEquals } from "@std/assert";
import { StreamBuffer } from "../buffer.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { temporary } from "../testing/temporary.ts";
import { Spool } from "./spool.ts";

const MIB = 2 ** 20;
/** More than the unused pages that a file may keep. */
const BACKLOG = 70 * MIB;

Deno.test("Spool gives disk space back after ten seconds, although something waits", async () => {
  await using folder = await temporary();
  using time = fakeTime();
  const path = folder.file("a.spool");
  const gates = [0, 1].map(() => Promise.withResolvers<void>());
  const arrived = [0, 1, 2].map(() => Promise.withResolvers<void>());
  let sends = 0;
  const send = async () => {
    const left = BACKLOG / MIB - sends++;
    if (left > 3) return await gates[0]!.promise;
    arrived[3 - left]!.resolve();
    if (left === 2) await gates[1]!.promise;
    if (left === 1) await new Promise(() => {});
  };
  const spool = new Spool(path, send, {
    durability: "process",
    drainTimeout: 0,
  });
  const out = new StreamBuffer(spool, { capacity: MIB });
  const bytes = new Uint8Array(MIB);
  for (let size = 0; size < BACKLOG; size += MIB) await out.write(bytes);
  await out.flush();
  gates[0]!.resolve();
  await arrived[1]!.promise;
  const before = Deno.statSync(path).size;
  assert(before > 64 * MIB, "it shrank before its time");
  await time.tickAsync(10_000);
  gates[1]!.resolve();
  await arrived[2]!.promise;
  assertEquals(spool.stats.bytesWaiting, MIB);
  assert(Deno.statSync(path).size < before - 3 * MIB);
  const closed = out.close();
  await time.tickAsync(1_000);
  await closed;
});
