/** The error of a spool file that cannot be used, read or written. */
import { toFileError } from "../internal/node/file_errors.ts";

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

/** The error that `thrown` is to a user of the spool. */
export function toSpoolError(action: string, thrown: unknown): SpoolError {
  return toFileError(SpoolError, action, thrown);
}
