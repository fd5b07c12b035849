/**
 * What `follow` may do with a spool. It stands in a module of its own, so that the
 * types of the entry point need none of `node:`.
 */
import type { FileRecord, SpoolDatabase } from "./database.ts";
import type { Modules } from "../internal/node/platform.ts";

/** What `follow` may do with a spool. */
export interface SpoolInternals {
  readonly modules: Modules;
  readonly database: SpoolDatabase;
  /** Adds bytes, once there is room for them, and what is known of their file. */
  append(
    bytes: Uint8Array,
    file: FileRecord,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * Makes sure that nobody else writes.
   *
   * @throws {TypeError} If somebody does, or the spool is closed.
   */
  claim(): void;
  /** @throws {TypeError} If the spool is closed. */
  throwIfClosed(): void;
}

/** The internals of each `Spool`, for the modules of this folder only. */
export const internalsOf: WeakMap<object, SpoolInternals> = new WeakMap();
