/**
 * The functions of `@std` that the tests use, with what they rely on. It runs
 * with the real ones and with the stand-ins in `std/`, which must agree.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat, equals } from "@std/bytes";
import { toText } from "@std/streams";

const reject = (error: unknown) => Promise.reject(error);

const PASS: Record<string, () => unknown> = {
  "assert(1)": () => assert(1),
  "assertEquals of bytes": () =>
    assertEquals(new Uint8Array([0, 1]).subarray(1), new Uint8Array([1])),
  "assertEquals of objects": () =>
    assertEquals({ a: [1, { b: "c" }], d: NaN }, {
      a: [1, { b: "c" }],
      d: NaN,
    }),
  "assertStrictEquals(NaN, NaN)": () => assertStrictEquals(NaN, NaN),
  "assertInstanceOf": () => assertInstanceOf(new TypeError(), Error),
  "assertMatch": () => assertMatch("abc", /b/),
  "assertStringIncludes": () => assertStringIncludes("abc", "bc"),
  "assertThrows": () =>
    assertThrows(
      () => {
        throw new RangeError("a b");
      },
      Error,
      "b",
    ),
  "assertRejects of anything": () => assertRejects(() => reject(undefined)),
  "assertRejects of a class": () =>
    assertRejects(() => reject(new RangeError("a b")), RangeError, "a b"),
};

const FAIL: Record<string, () => unknown> = {
  "assert('')": () => assert(""),
  "assertEquals of bytes": () =>
    assertEquals(new Uint8Array([1, 2]), new Uint8Array([1, 3])),
  "assertEquals of bytes and an array": () =>
    assertEquals<unknown>(new Uint8Array([1]), [1]),
  "assertEquals of 1 and '1'": () => assertEquals<unknown>(1, "1"),
  "assertEquals of an extra key": () =>
    assertEquals<unknown>({ a: 1, b: 2 }, { a: 1 }),
  "assertEquals of undefined and absent": () =>
    assertEquals<unknown>({ a: undefined }, {}),
  "assertEquals of errors": () => assertEquals(new Error("a"), new Error("b")),
  "assertStrictEquals of equal objects": () => assertStrictEquals({}, {}),
  "assertInstanceOf": () => assertInstanceOf(new Error(), TypeError),
  "assertMatch": () => assertMatch("abc", /d/),
  "assertStringIncludes": () => assertStringIncludes("abc", "ac"),
  "assertThrows of none": () => assertThrows(() => {}),
  "assertThrows of another class": () =>
    assertThrows(() => {
      throw new Error();
    }, TypeError),
  "assertThrows of another text": () =>
    assertThrows(
      () => {
        throw new Error("a");
      },
      Error,
      "b",
    ),
  "assertThrows of a non-error": () =>
    assertThrows(() => {
      throw "a";
    }, Error),
  "assertRejects of none": () => assertRejects(() => Promise.resolve()),
  "assertRejects of a throw": () =>
    assertRejects(() => {
      throw new Error();
    }),
  "assertRejects of another class": () =>
    assertRejects(() => reject(new Error()), TypeError),
  "assertRejects of another text": () =>
    assertRejects(() => reject(new Error("a")), Error, "b"),
  "assertRejects of a non-error": () => assertRejects(() => reject("a"), Error),
};

for (const [name, fn] of Object.entries(PASS)) {
  Deno.test(`@std passes: ${name}`, async () => {
    await fn();
  });
}

for (const [name, fn] of Object.entries(FAIL)) {
  Deno.test(`@std fails: ${name}`, async () => {
    let failed = false;
    try {
      await fn();
    } catch {
      failed = true;
    }
    if (!failed) throw new Error("The assertion passed");
  });
}

Deno.test("@std: assertRejects() and assertThrows() return the error", async () => {
  const error = new Error();
  const thrown = assertThrows(() => {
    throw error;
  });
  if (thrown !== error) throw new Error("Another error was returned");
  const rejected = await assertRejects(() => reject(error));
  if (rejected !== error) throw new Error("Another error was returned");
});

Deno.test("@std: concat() copies, equals() compares", () => {
  const part = new Uint8Array([1, 2]);
  const whole = concat([part, new Uint8Array(), part]);
  part[0] = 9;
  assertEquals(whole, new Uint8Array([1, 2, 1, 2]));
  assert(equals(whole, new Uint8Array([1, 2, 1, 2])));
  assert(!equals(whole, new Uint8Array([1, 2, 1, 3])));
  assert(!equals(whole, new Uint8Array([1, 2, 1])));
});

Deno.test("@std: toText() decodes a character that spans chunks", async () => {
  const [a, b, c] = new TextEncoder().encode("€");
  const chunks = [new Uint8Array([a!]), new Uint8Array([b!, c!])];
  assertStrictEquals(await toText(ReadableStream.from(chunks)), "€");
});
