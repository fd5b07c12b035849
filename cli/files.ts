/** The files of the command line: whether they can be read, and their sizes. */
import { resolve } from "node:path";
import { AccessError, tryTo } from "./errors.ts";

/**
 * The size of the object: `offset`, plus the sizes of the files, which are its end.
 *
 * @param files Paths; `-` is standard input.
 * @param offset Where in the object the first file begins.
 * @returns The size in bytes; `undefined` if it cannot be known before reading.
 * @throws {AccessError} If a file cannot be read.
 */
export async function objectSize(
  files: readonly string[],
  offset: number,
): Promise<number | undefined> {
  let size: number | undefined = offset;
  for (const file of files) {
    const stat = file === "-" ? undefined : await statInput(file);
    // Some systems have files that claim to be empty and are not (/proc).
    size = size === undefined || !stat?.isFile || stat.size === 0
      ? undefined
      : size + stat.size;
  }
  return size;
}

/** The absolute path of a file; `-` stays standard input. */
export function absolutePath(file: string): string {
  return file === "-" ? file : resolve(file);
}

async function statInput(file: string): Promise<Deno.FileInfo> {
  const stat = await tryTo(`read ${file}`, () => Deno.stat(file));
  if (stat.isDirectory) {
    throw new AccessError(`cannot read ${file}: it is a directory`);
  }
  return stat;
}
