import { assertEquals, assertMatch } from "@std/assert";
import { randomUuid } from "./random.ts";

/** Makes `crypto.getRandomValues` fill with `byte` until disposed. */
function randomBytes(byte: number): Disposable {
  Object.defineProperty(crypto, "getRandomValues", {
    value: (bytes: Uint8Array) => bytes.fill(byte),
    configurable: true,
  });
  return {
    [Symbol.dispose]() {
      Reflect.deleteProperty(crypto, "getRandomValues");
    },
  };
}

for (
  const [byte, uuid] of [
    [0x00, "00000000-0000-4000-8000-000000000000"],
    [0xff, "ffffffff-ffff-4fff-bfff-ffffffffffff"],
    [0x0a, "0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a"],
  ] as const
) {
  Deno.test(`randomUuid() of bytes that are all ${byte}`, () => {
    using _ = randomBytes(byte);
    assertEquals(randomUuid(), uuid);
  });
}

Deno.test("randomUuid() never returns the same", () => {
  const uuids = Array.from({ length: 1_000 }, () => randomUuid());
  assertEquals(new Set(uuids).size, 1_000);
  for (const uuid of uuids) {
    assertMatch(
      uuid,
      /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/,
    );
  }
});
