/** Assertions of the suite. It can import none, as it runs on every platform. */

/** What a check expected did not hold. */
export class AssertionError extends Error {
  /** The name of the error. */
  override readonly name = "AssertionError";
}

/** How much of a value a message shows, in characters. */
const MAX_SHOWN = 300;

function show(value: unknown): string {
  if (value instanceof Error) return String(value).slice(0, MAX_SHOWN);
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch {
    // It is circular, or has a BigInt.
  }
  return (text ?? String(value)).slice(0, MAX_SHOWN);
}

/** @throws {AssertionError} Unless `condition` holds. */
export function assert(
  condition: unknown,
  what: string,
): asserts condition {
  if (!condition) throw new AssertionError(what);
}

/**
 * Compares primitives strictly, and arrays element by element.
 *
 * @throws {AssertionError} If they differ.
 */
export function equal(actual: unknown, expected: unknown, what: string): void {
  if (!isEqual(actual, expected)) {
    throw new AssertionError(
      `${what}: expected ${show(expected)}, received ${show(actual)}`,
    );
  }
}

function isEqual(actual: unknown, expected: unknown): boolean {
  return Array.isArray(actual) && Array.isArray(expected)
    ? actual.length === expected.length &&
      actual.every((element, i) => isEqual(element, expected[i]))
    : Object.is(actual, expected);
}

/** @throws {AssertionError} Unless `text` has a match. */
export function matches(text: string, pattern: RegExp, what: string): void {
  if (!pattern.test(text)) {
    throw new AssertionError(
      `${what}: expected ${pattern}, received ${show(text)}`,
    );
  }
}

/** A class of errors, to recognise one by. */
// deno-lint-ignore no-explicit-any
export type ErrorClass<E extends Error> = new (...parameters: any) => E;

/**
 * The error that a call throws, or that its promise rejects with.
 *
 * @throws {AssertionError} If there is none, or it is another one.
 */
export async function rejects<E extends Error>(
  promise: Promise<unknown> | (() => unknown),
  errorClass: ErrorClass<E>,
  pattern: RegExp,
  what: string,
): Promise<E> {
  const error = await reasonOf(promise, what);
  if (!(error instanceof errorClass)) {
    throw new AssertionError(
      `${what}: expected a ${errorClass.name}, received ${show(error)}`,
    );
  }
  matches(error.message, pattern, what);
  return error;
}

/**
 * What a call throws, or what its promise rejects with.
 *
 * @throws {AssertionError} If it succeeds.
 */
export async function reasonOf(
  promise: Promise<unknown> | (() => unknown),
  what: string,
): Promise<unknown> {
  let result: unknown;
  try {
    result = await (typeof promise === "function" ? promise() : promise);
  } catch (error) {
    return error;
  }
  throw new AssertionError(
    `${what}: expected an error, received ${show(result)}`,
  );
}
