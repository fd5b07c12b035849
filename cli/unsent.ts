/** What could not be delivered. */
import { fstatSync } from "node:fs";
import type { Input } from "./input.ts";
import { say } from "./log.ts";
import type { Mode } from "./options.ts";
import { attempt } from "./usage.ts";

/** The file for what could not be delivered. */
export interface Unsent {
  readonly path: string;
  file: Deno.FsFile;
  readonly created: boolean;
}

/** Opened at the start, so that it cannot fail when it is needed most. */
export function openUnsent(
  path: string,
  files: string[],
  mode: Mode,
): Promise<Unsent> {
  return attempt(`write ${path}`, async () => {
    let created = true;
    let file: Deno.FsFile;
    try {
      file = await Deno.open(path, { append: true, createNew: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      created = false;
      file = await Deno.open(path, { append: true });
    }
    const { dev, ino, size } = await file.stat();
    if (mode !== "records" && size > 0) {
      file.close();
      throw new Error("it is not empty, and is to hold the rest of one object");
    }
    for (const input of files) {
      const other = input === "-" ? fstatSync(0) : await Deno.stat(input);
      // What is saved would be read again, and saved again, without end.
      if (ino !== null && other.ino === ino && other.dev === dev) {
        file.close();
        throw new Error(`it is the input ${input}`);
      }
    }
    return { path, file, created };
  });
}

/**
 * Nothing of the input is lost, even what has not been read yet.
 *
 * @returns Whether it could be written.
 */
export async function save(
  unsent: Unsent,
  left: Uint8Array[],
  input: Input,
): Promise<boolean> {
  const { path } = unsent;
  try {
    // It has gone when another command shared it, and did not need it.
    const file = await Deno.open(path, { append: true, create: true });
    unsent.file.close();
    unsent.file = file;
  } catch {
    // The one that is open will do.
  }
  const { file } = unsent;
  let saved = 0;
  let failed = false;
  const write = async (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length;) {
      const size = await file.write(bytes.subarray(at));
      at += size;
      saved += size;
    }
  };
  try {
    for (const bytes of left) await write(bytes);
    for await (const bytes of input.remaining()) await write(bytes);
    await file.sync();
  } catch (error) {
    failed = true;
    say(`cannot write ${path}: ${(error as Error).message}`);
  }
  say(`${saved} bytes saved in ${path}`);
  return !failed;
}
