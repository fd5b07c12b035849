/** What tests do to the files of a store. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { StoreError, type StoreErrorCode } from "../receiver/mod.ts";

/** All files of a folder, and what they hold. */
export function filesOf(folder: string): Record<string, Uint8Array | string> {
  const files: Record<string, Uint8Array | string> = {};
  for (const { name, isFile } of Deno.readDirSync(folder)) {
    files[name] = isFile ? Deno.readFileSync(`${folder}/${name}`) : "no file";
  }
  return files;
}

/**
 * Checks that a store cannot be opened, and that no file is changed by that.
 *
 * @param reason What the message must match, whole.
 */
export function assertRefused(
  open: () => unknown,
  folder: string,
  code: StoreErrorCode,
  reason: RegExp,
): void {
  const before = filesOf(folder);
  const error = assertThrows(open, StoreError);
  assert(
    new RegExp(`^Cannot open the store [^:]*: ${reason.source}$`).test(
      error.message,
    ),
    error.message,
  );
  assertEquals(error.code, code, error.message);
  assertEquals(filesOf(folder), before);
}

/** Runs statements on a database that no store has open. */
export function sql(path: string, statements: string): void {
  const db = new DatabaseSync(path);
  db.exec(statements);
  db.close();
}

/** Changes some bytes of a file. */
export function overwrite(path: string, at: number, text: string): void {
  using file = Deno.openSync(path, { write: true });
  file.seekSync(at, Deno.SeekMode.Start);
  file.writeSync(new TextEncoder().encode(text));
}
