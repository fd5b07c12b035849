/** The error of a spool file that cannot be used, read or written. */
import { messageOf } from "../internal/checks.ts";

/**
 * What is wrong with a spool file:
 *
 * - `"in-use"`: another process, or another `Spool` of this one, has it open;
 * - `"foreign"`: it is not a spool;
 * - `"newer"`: it was made by a later version of this library;
 * - `"damaged"`: a part of it is missing, or differs from what was written;
 * - `"full"`: there is no room left on the disk;
 * - `"io"`: it cannot be opened, read or written for another reason.
 */
export type SpoolErrorCode =
  | "in-use"
  | "foreign"
  | "newer"
  | "damaged"
  | "full"
  | "io";

/** Options of a {@linkcode SpoolError}. */
export interface SpoolErrorOptions extends ErrorOptions {
  /** What is wrong. */
  code: SpoolErrorCode;
}

/** A spool file cannot be opened, read or written. What is in it is kept. */
export class SpoolError extends Error {
  /** The name of the error. */
  override readonly name = "SpoolError";
  /** What is wrong with the file. */
  readonly code: SpoolErrorCode;

  /**
   * Constructs a new instance.
   *
   * @param message What was attempted, why it failed, and what to do about it.
   * @param options The details.
   */
  constructor(message: string, options: SpoolErrorOptions) {
    const { code, ...rest } = options;
    super(message, rest);
    this.code = code;
  }
}

/** Codes of SQLite (https://www.sqlite.org/rescode.html), without their details. */
const ERROR = 1;
const BUSY = 5;
const CORRUPT = 11;
const FULL = 13;
const NOT_A_DATABASE = 26;

/** The error that `thrown` is to a user of the spool. */
export function toSpoolError(action: string, thrown: unknown): SpoolError {
  if (thrown instanceof SpoolError) return thrown;
  const { errcode, code } = thrown as { errcode?: unknown; code?: unknown };
  const kind = code === "ENOSPC" || code === "EDQUOT"
    ? "full"
    : typeof errcode === "number"
    ? kindOf(errcode & 0xff)
    : "io";
  const reason = kind === "full" ? "the disk is full" : messageOf(thrown);
  const advice = adviceFor(kind, reason);
  return new SpoolError(`${action}: ${reason}${advice}`, {
    code: kind,
    cause: thrown,
  });
}

/** What to do about a damaged file, for the end of a message. */
export const DAMAGED_ADVICE =
  "; to start over, move it and its -wal file away; .recover in the sqlite3 shell reads what is left";

function adviceFor(kind: SpoolErrorCode, reason: string): string {
  if (kind === "full") return "; free some space on it";
  if (kind === "damaged") return DAMAGED_ADVICE;
  // By its message, as Deno leaves out the code of SQLite here.
  return /^unable to open|^attempt to write a readonly/.test(reason)
    ? "; its folder must exist and be writable, for the files beside it as well"
    : "";
}

function kindOf(code: number): SpoolErrorCode {
  switch (code) {
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
