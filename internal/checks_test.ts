import { assertEquals, assertThrows } from "@std/assert";
import {
  check,
  checkCapacity,
  checkDuration,
  checkInteger,
  messageOf,
  show,
} from "./checks.ts";

const MAX = 2 ** 31 - 1;

Deno.test("check() accepts an option that was left out", () => {
  check("Cannot test", { a: undefined }, "a function", "function");
});

Deno.test("check() rejects another type with a TypeError, another value with a RangeError", () => {
  const even = (value: unknown) =>
    check(
      "Cannot test",
      { size: value },
      "an even number",
      "number",
      (number) => Number(number) % 2 === 0,
    );
  even(2);
  for (const [value, shown] of [["2", '"2"'], [null, "null"]] as const) {
    assertThrows(
      () => even(value),
      TypeError,
      `Cannot test: size must be an even number, received ${shown}`,
    );
  }
  assertThrows(
    () => even(3),
    RangeError,
    "Cannot test: size must be an even number, received 3",
  );
});

Deno.test("check() does not show a string in place of an object, which may be a secret", () => {
  const error = assertThrows(
    () => check("Cannot test", { a: "Bearer hunter2" }, "an object", "object"),
    TypeError,
  );
  assertEquals(
    error.message,
    "Cannot test: a must be an object, received a string",
  );
});

for (
  const [name, accepts] of [
    ["checkDuration", (ms: number) => checkDuration("Cannot test", { ms }, 1)],
    ["checkCapacity", (n: number) => checkCapacity("Cannot test", { n }, 1)],
  ] as const
) {
  Deno.test(`${name}() accepts integers from its minimum to 2^31 - 1`, () => {
    for (const value of [1, MAX]) accepts(value);
    for (const value of [0, MAX + 1, 1.5, NaN, Infinity]) {
      assertThrows(
        () => accepts(value),
        RangeError,
        `must be an integer from 1 to ${MAX}, received ${value}`,
      );
    }
  });
}

Deno.test("checkInteger() names the first option that is wrong", () => {
  assertThrows(
    () => checkInteger("Cannot test", { a: 1, b: 9, c: 10 }, 0, 5),
    RangeError,
    "b must be an integer from 0 to 5, received 9",
  );
});

Deno.test("show() makes the type of a value clear", () => {
  class Thing {}
  assertEquals(
    [
      ...["a", 1, 1n, Symbol("s"), () => {}, Thing, undefined, null],
      ...[{}, new Thing(), Object.create(null)],
    ].map(show),
    [
      '"a"',
      "1",
      "1n",
      "Symbol(s)",
      "a function",
      "a function",
      "undefined",
      "null",
      "an object (Object)",
      "an object (Thing)",
      "an object (no prototype)",
    ],
  );
});

Deno.test("messageOf() never throws", () => {
  assertEquals(messageOf(new RangeError("too far")), "too far");
  assertEquals(messageOf("text"), '"text"');
  const hostile = Object.defineProperty(new Error(), "message", {
    get() {
      throw new Error("no");
    },
  });
  assertEquals(messageOf(hostile), "an error that cannot be shown");
});
