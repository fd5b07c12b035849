/** Wrong usage, and what is attempted. */

/** Wrong usage: exit code 2. */
export class UsageError extends Error {}

/** Does something; if that fails, says what and why. */
export async function attempt<T>(
  what: string,
  fn: () => Promise<T>,
): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    const { name, message } = error as Error;
    throw new UsageError(
      `cannot ${what}: ${
        name === "NotFound" ? "no such file or directory" : message
      }`,
    );
  }
}
