/** Errors that `main` reports without a stack, and how they are made. */

/**
 * Invalid usage: a mistake that the user can correct, found before the first byte is
 * read. `main` reports it and returns exit code 2.
 */
export class UsageError extends Error {}

/**
 * Something that the command line names, such as a file, a host or a variable, cannot
 * be used. `--help` does not explain that, so `main` does not suggest it.
 */
export class AccessError extends UsageError {}

/**
 * Why something failed, for a message that says itself what that was. `node:` begins
 * with a code, and repeats what it did: "EACCES: permission denied, open 'FILE'".
 */
export function reasonOf(error: unknown): string {
  const { code, message } = error as Error & { code?: string };
  return code !== undefined && message.startsWith(`${code}: `)
    ? message.slice(code.length + 2).replace(/, \w+(?: '.*')?$/s, "")
    : message;
}

/**
 * Calls `fn`, and reports its failure as invalid usage: "cannot read FILE: no such
 * file or directory", or "cannot read FILE: add --allow-read=FILE".
 *
 * @param action What `fn` does: "read FILE".
 * @throws {AccessError} If `fn` fails.
 */
export async function tryTo<T>(
  action: string,
  fn: () => Promise<T>,
): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    const { message } = error as Error;
    const [, kind, path] = message.match(
      /^Requires (read|write) access to "(.*)", run again/s,
    ) ?? [];
    const reason = kind !== undefined
      ? `add --allow-${kind}=${path}`
      : reasonOf(error);
    throw new AccessError(`cannot ${action}: ${reason}`);
  }
}
