/** The part of `@std/assert` that the tests use, for when JSR cannot be reached. */
import nodeAssert from "node:assert/strict";
import { AssertionError } from "node:assert";

// deno-lint-ignore no-explicit-any
type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

export function assert(condition: unknown, message = ""): asserts condition {
  if (!condition) throw new AssertionError({ message });
}

export function assertEquals<T>(actual: T, expected: T, message?: string) {
  nodeAssert.deepEqual(actual, expected, message);
}

export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  message?: string,
): asserts actual is T {
  nodeAssert.equal(actual, expected, message);
}

export function assertInstanceOf<E extends Error>(
  actual: unknown,
  expected: ErrorClass<E>,
  message = `Not an instance of ${expected.name}: ${actual}`,
): asserts actual is E {
  assert(actual instanceof expected, message);
}

export function assertMatch(
  actual: string,
  expected: RegExp,
  message?: string,
) {
  nodeAssert.match(actual, expected, message);
}

export function assertStringIncludes(
  actual: string,
  expected: string,
  message = `${JSON.stringify(actual)} lacks ${JSON.stringify(expected)}`,
) {
  assert(actual.includes(expected), message);
}

function checkError<E extends Error>(
  error: unknown,
  errorClass?: ErrorClass<E>,
  includes?: string,
): E {
  if (errorClass !== undefined) {
    assertInstanceOf(error, errorClass);
    if (includes !== undefined) assertStringIncludes(error.message, includes);
  }
  return error as E;
}

export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  errorClass?: ErrorClass<E>,
  includes?: string,
): E {
  try {
    fn();
  } catch (error) {
    return checkError(error, errorClass, includes);
  }
  throw new AssertionError({ message: "Expected the function to throw" });
}

export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  errorClass?: ErrorClass<E>,
  includes?: string,
): Promise<E> {
  let promise: PromiseLike<unknown> | undefined;
  try {
    promise = fn();
    await promise;
  } catch (error) {
    assert(
      promise !== undefined,
      `Expected a rejection, but it threw ${error}`,
    );
    return checkError(error, errorClass, includes);
  }
  throw new AssertionError({ message: "Expected the promise to reject" });
}
