/**
 * The cost of a small write that is not awaited, for `deno bench`. One iteration is
 * 4,095 writes and one call of `flush`.
 *
 *     deno bench -A bench/write_bench.ts
 */
import {
  encodedWrites,
  RECORD,
  sets,
  sonicBoomWrites,
  TEXTS,
  writerWrites,
  writes,
} from "./workloads.ts";

const COUNT = 4_095;

// Each function is declared async: `deno bench` does not await the promise of a
// function that is not.

Deno.bench({
  name: "StreamBuffer.write",
  group: "64 bytes",
  baseline: true,
  fn: async () => await writes(RECORD, COUNT),
});
Deno.bench(
  "Uint8Array.set",
  { group: "64 bytes" },
  async () => await sets(COUNT),
);
Deno.bench(
  "WritableStreamDefaultWriter.write",
  { group: "64 bytes" },
  async () => await writerWrites(COUNT),
);
Deno.bench(
  "SonicBoom.write",
  { group: "64 bytes" },
  async () => await sonicBoomWrites(COUNT),
);

for (const [group, text] of Object.entries(TEXTS)) {
  Deno.bench({
    name: "StreamBuffer.write of a string",
    group,
    baseline: true,
    fn: async () => await writes(text, COUNT),
  });
  Deno.bench(
    "TextEncoder.encode, then StreamBuffer.write",
    { group },
    async () => await encodedWrites(text, COUNT),
  );
}
