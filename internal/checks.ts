/**
 * Checks of arguments, and values as error messages show them.
 *
 * Every check follows the same rule: a value of the wrong type is a
 * `TypeError`, a value of the right type that is not allowed is a
 * `RangeError`, and `undefined` is an option that was left out.
 */

/**
 * The longest delay of a timer, in milliseconds. A longer one fires at once:
 * timers keep it in a signed 32-bit integer (HTML, "timer initialization
 * steps").
 */
export const MAX_DURATION: number = 2 ** 31 - 1;

/**
 * The largest store, in bytes: a size that every 64-bit engine can allocate, far
 * above any useful capacity. It equals `MAX_DURATION` only by coincidence.
 */
const MAX_CAPACITY = 2 ** 31 - 1;

/**
 * Checks options that have a type and perhaps further restrictions.
 *
 * @param action What cannot be done with a wrong value: "Cannot create X".
 * @param options The options by name; those that are `undefined` pass.
 * @param expected What is allowed, as the message says it: "a function".
 * @param type The result of `typeof` for an allowed value.
 * @param allows Whether a value of that type is allowed.
 * @throws {TypeError} If a value has another type, or is `null`.
 * @throws {RangeError} If `allows` returns false for a value.
 */
export function check<T>(
  action: string,
  options: Record<string, T>,
  expected: string,
  type: string,
  allows: (value: NonNullable<T>) => boolean = () => true,
): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    // A string where an object is expected may be a URL or a header, with a secret.
    const isUnsafe = type === "object" && typeof value === "string";
    const message = `${action}: ${name} must be ${expected}, received ${
      isUnsafe ? "a string" : show(value)
    }`;
    if (typeof value !== type || value === null) throw new TypeError(message);
    if (!allows(value)) throw new RangeError(message);
  }
}

/** Checks options that are integers from `min` to `max`. */
export function checkInteger(
  action: string,
  options: Record<string, number | undefined>,
  min: number,
  max: number,
): void {
  check(
    action,
    options,
    `an integer from ${min} to ${max}`,
    "number",
    (value) => Number.isInteger(value) && value >= min && value <= max,
  );
}

/** Checks options that are a number of milliseconds, from `min` on. */
export function checkDuration(
  action: string,
  options: Record<string, number | undefined>,
  min: number,
): void {
  checkInteger(action, options, min, MAX_DURATION);
}

/** Checks options that are the size of a store in bytes, from `min` on. */
export function checkCapacity(
  action: string,
  options: Record<string, number | undefined>,
  min: number,
): void {
  checkInteger(action, options, min, MAX_CAPACITY);
}

/** A value as error messages show it: briefly, and so that its type is clear. */
export function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "bigint":
      return `${value}n`;
    case "function":
      return "a function";
    case "object":
      if (value === null) return "null";
      return `an object (${
        value.constructor === undefined
          ? "no prototype"
          : value.constructor.name || "no name"
      })`;
    default:
      return String(value);
  }
}

/** A number of bytes, as messages show it: "1 byte", "2 bytes". */
export function countOf(bytes: number): string {
  return bytes === 1 ? "1 byte" : `${bytes} bytes`;
}

/**
 * The message of whatever was thrown, for the message of another error. It
 * never throws, even if a getter or `toString` of the value does.
 */
export function messageOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? String(thrown.message) : show(thrown);
  } catch {
    return "an error that cannot be shown";
  }
}

/**
 * A property of something that is not ours; `undefined` if it cannot have any, or
 * its getter throws.
 */
export function property(object: unknown, name: string): unknown {
  try {
    return (object as Record<string, unknown>)[name];
  } catch {
    return undefined;
  }
}
