import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { Ranges } from "./ranges.ts";

Deno.test("Ranges has what was added, in any order, and nothing else", () => {
  const number = fc.integer({ min: 0, max: 30 });
  fc.assert(fc.property(fc.array(number, { maxLength: 40 }), (numbers) => {
    const ranges = new Ranges();
    const model = new Set<number>();
    for (const added of numbers) {
      ranges.add(added);
      model.add(added);
      for (let i = -1; i <= 32; i++) {
        assertEquals(ranges.has(i), model.has(i), `${i}, after ${added}`);
      }
    }
  }));
});

Deno.test("Ranges takes the largest numbers", () => {
  const ranges = new Ranges();
  const max = Number.MAX_SAFE_INTEGER;
  for (const number of [max, max - 2, 0]) ranges.add(number);
  const has = [0, 1, max - 3, max - 2, max - 1, max].map((i) => ranges.has(i));
  assertEquals(has, [true, false, false, true, false, true]);
  ranges.add(max - 1);
  assertEquals(ranges.has(max - 1), true);
});
