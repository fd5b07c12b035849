/** What can be wrong with a file, and how messages say it. */
import { messageOf, property } from "../checks.ts";

/**
 * What is wrong with a file:
 *
 * - `"in-use"`: another process, or another part of this one, has it open;
 * - `"foreign"`: it is not what it has to be;
 * - `"newer"`: it was made by a later version of this library;
 * - `"damaged"`: a part of it is missing, or differs from what was written;
 * - `"full"`: there is no room left on the disk;
 * - `"io"`: it cannot be opened, read or written for another reason.
 */
export type FileErrorCode =
  | "in-use"
  | "foreign"
  | "newer"
  | "damaged"
  | "full"
  | "io";

/** An error with such a code, or another one. */
export interface FileError extends Error {
  readonly code: string;
}

/** A class of them. */
export interface FileErrorClass<E extends FileError = FileError> {
  new (
    message: string,
    options: { code: FileErrorCode; cause?: unknown },
  ): E;
}

/** Codes of SQLite (https://www.sqlite.org/rescode.html), without their details. */
const ERROR = 1;
const BUSY = 5;
const CORRUPT = 11;
const FULL = 13;
const NOT_A_DATABASE = 26;

/** What to do about a damaged file, for the end of a message. */
export const DAMAGED_ADVICE =
  "; to start over, move it and its -wal file away; .recover in the sqlite3 shell reads what is left";

/** What an error of SQLite, or of the file system, says. */
export function codeOf(thrown: unknown): FileErrorCode {
  const code = property(thrown, "code");
  if (code === "ENOSPC" || code === "EDQUOT") return "full";
  const errcode = property(thrown, "errcode");
  if (typeof errcode !== "number") return "io";
  switch (errcode & 0xff) {
    case BUSY:
      return "in-use";
    case ERROR: // a table is missing
    case CORRUPT:
      return "damaged";
    case FULL:
      return "full";
    case NOT_A_DATABASE:
      return "foreign";
    default:
      return "io";
  }
}

/**
 * The error that `thrown` is to a user of the file.
 *
 * @param Class The class that it is to be of. One that is already remains itself.
 * @param action What was attempted.
 */
export function toFileError<E extends FileError>(
  Class: FileErrorClass<E>,
  action: string,
  thrown: unknown,
): E {
  if (thrown instanceof Class) return thrown;
  const code = codeOf(thrown);
  const reason = code === "full" ? "the disk is full" : messageOf(thrown);
  const advice = adviceFor(code, reason);
  return new Class(`${action}: ${reason}${advice}`, { code, cause: thrown });
}

function adviceFor(code: FileErrorCode, reason: string): string {
  if (code === "full") return "; free some space on it";
  if (code === "damaged") return DAMAGED_ADVICE;
  // By its message, as Deno leaves out the code of SQLite here.
  return /^unable to open|^attempt to write a readonly/.test(reason)
    ? "; its folder must exist and be writable, for the files beside it as well"
    : "";
}
