/**
 * What a small write costs, in the form of `deno bench`. One iteration is 4,095
 * writes and a flush.
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

Deno.bench({
  name: "StreamBuffer.write",
  group: "64 bytes",
  baseline: true,
  fn: () => writes(RECORD, COUNT),
});
Deno.bench("Uint8Array.set", { group: "64 bytes" }, () => sets(COUNT));
Deno.bench(
  "WritableStreamDefaultWriter.write",
  { group: "64 bytes" },
  () => writerWrites(COUNT),
);
Deno.bench(
  "SonicBoom.write",
  { group: "64 bytes" },
  () => sonicBoomWrites(COUNT),
);

for (const [group, text] of Object.entries(TEXTS)) {
  Deno.bench({
    name: "StreamBuffer.write of a string",
    group,
    baseline: true,
    fn: () => writes(text, COUNT),
  });
  Deno.bench(
    "TextEncoder.encode, then StreamBuffer.write",
    { group },
    () => encodedWrites(text, COUNT),
  );
}
