/**
 * Invalid usage: a mistake that the user can correct, found before the first byte is
 * read. `main` reports it and returns exit code 2.
 */
export class UsageError extends Error {}

/**
 * Calls `fn`, and reports its failure as invalid usage: "cannot read FILE: no such
 * file or directory".
 *
 * @param action What `fn` does: "read FILE".
 */
export async function tryTo<T>(
  action: string,
  fn: () => Promise<T>,
): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    const { name, message } = error as Error;
    throw new UsageError(
      `cannot ${action}: ${
        name === "NotFound" ? "no such file or directory" : message
      }`,
    );
  }
}
