/** Checks of what stores are given. */
import { check } from "../internal/checks.ts";

/**
 * The time before which batches are forgotten, in milliseconds since 1970.
 *
 * @param age How long ago, in milliseconds.
 * @throws {TypeError} If `age` is not a number.
 * @throws {RangeError} If it is negative or `NaN`.
 */
export function oldest(action: string, age: number): number {
  // Left out, it would forget everything: it is no option.
  check(
    action,
    { age: age ?? null },
    "a number of milliseconds, 0 or more",
    "number",
    (age) => age >= 0,
  );
  return Date.now() - age;
}

/** Checks the option of that name. */
export function checkDurability(
  action: string,
  option: { durability: string },
): void {
  check(
    action,
    option,
    '"power" or "process"',
    "string",
    (value) => value === "power" || value === "process",
  );
}
