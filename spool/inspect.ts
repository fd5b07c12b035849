/** Looking at a spool, and taking out what waits in it, without delivering. */
import { type SpoolError, toSpoolError } from "./errors.ts";
import { type Published, SpoolDatabase } from "./database.ts";
import { OwnerFile } from "../internal/node/owner_file.ts";
import { loadModules, realPath } from "../internal/node/platform.ts";

/** What a spool holds, as {@linkcode inspectSpool} finds it. */
export interface SpoolInfo {
  /** Names the stream. All keys of its requests begin with it. */
  readonly id: string;
  /** Bytes on disk that have been neither delivered nor diverted. */
  readonly bytesWaiting: number;
  /** The number of sends that committed them. */
  readonly batchesWaiting: number;
  /** When the oldest of them was committed; `undefined` if nothing waits. */
  readonly oldest: Date | undefined;
  /** Bytes acknowledged since the file was created. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken since then. */
  readonly bytesDiverted: number;
  /** Bytes of a followed file that are known to have been destroyed before they were read. */
  readonly bytesLost: number;
  /** Who has it open; `undefined` if nobody has. */
  readonly owner: SpoolOwner | undefined;
}

/** A process that has a spool open. */
export interface SpoolOwner {
  /** Its process id. */
  readonly pid: number;
  /** The name of its host; `undefined` if it has no permission to know that. */
  readonly host: string | undefined;
  /** When it published the figures, which it does within a second of a change. */
  readonly updated: Date;
}

/**
 * Tells what is in a spool, and delivers nothing. If a process has it open, the figures
 * are those that this process has published, and the file itself is not touched. It
 * needs the same permissions as a `Spool`.
 *
 * @example Usage
 * ```ts
 * import {
 *   inspectSpool,
 *   Spool,
 *   StreamBuffer,
 * } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * const file = `${Deno.makeTempDirSync()}/app.spool`;
 * const away = () => Promise.reject(new Error("the server is away"));
 * const spool = new Spool(file, away, { drainTimeout: 0 });
 * const out = new StreamBuffer(spool);
 * await out.write("hello\n");
 * await out.close();
 * assertEquals(inspectSpool(file).bytesWaiting, 6);
 * ```
 *
 * @param path Where it is.
 * @returns What it holds.
 * @throws {TypeError} If this platform has no `node:sqlite`.
 * @throws {SpoolError} If the file cannot be opened, or is not a spool.
 */
export function inspectSpool(path: string | URL): SpoolInfo {
  const action = "Cannot inspect the spool";
  const modules = loadModules(action);
  const file = realPath(action, path, modules);
  try {
    const database = new SpoolDatabase(modules, file, "power", false);
    const { published } = database;
    database.close();
    return toInfo(published, undefined);
  } catch (error) {
    const { code } = toSpoolError(action, error);
    const owner = new OwnerFile<Published>(modules, file).read();
    if (code !== "in-use" || owner === undefined) throw error;
    const { pid, host, updated } = owner;
    return toInfo(owner, {
      pid,
      host: host ?? undefined,
      updated: new Date(updated),
    });
  }
}

function toInfo(
  published: Published,
  owner: SpoolOwner | undefined,
): SpoolInfo {
  const { id, bytesWaiting, batchesWaiting, oldest } = published;
  const { bytesDelivered, bytesDiverted, bytesLost } = published;
  return {
    ...{ id, bytesWaiting, batchesWaiting },
    oldest: oldest === null ? undefined : new Date(oldest),
    ...{ bytesDelivered, bytesDiverted, bytesLost, owner },
  };
}

/** Options of {@linkcode readSpool}. */
export interface ReadSpoolOptions {
  /**
   * Called for each send that is damaged, and is left out. Without it, the first one
   * ends the iteration with its error.
   *
   * @default {undefined}
   */
  onDamage?: (error: SpoolError) => void;
}

/**
 * Reads what waits in a spool, for the day when the server is gone for good. Nothing
 * is removed: delete the file when its bytes are safe elsewhere. The first of them may
 * have been delivered already, if the process ended before it knew that.
 *
 * @example Usage
 * ```ts
 * import {
 *   readSpool,
 *   Spool,
 *   StreamBuffer,
 * } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * const file = `${Deno.makeTempDirSync()}/app.spool`;
 * const away = () => Promise.reject(new Error("the server is away"));
 * const spool = new Spool(file, away, { drainTimeout: 0 });
 * const out = new StreamBuffer(spool);
 * await out.write("hello\n");
 * await out.close();
 * const text = await new Response(ReadableStream.from(readSpool(file))).text();
 * assertEquals(text, "hello\n");
 * ```
 *
 * @param path Where it is.
 * @param options Options.
 * @returns The bytes of each send, in order. The file is open until the iteration
 *   ends.
 * @throws {TypeError} If this platform has no `node:sqlite`.
 * @throws {SpoolError} If the file cannot be opened, is not a spool, or a process has
 *   it open; while iterating, if it is damaged and there is no `onDamage`.
 */
export function* readSpool(
  path: string | URL,
  options: ReadSpoolOptions = {},
): Generator<Uint8Array<ArrayBuffer>, void, undefined> {
  const action = "Cannot read the spool";
  const modules = loadModules(action);
  const file = realPath(action, path, modules);
  const database = new SpoolDatabase(modules, file, "power", false);
  try {
    yield* database.waiting(options.onDamage);
  } catch (error) {
    throw toSpoolError(`Cannot read the spool ${file}`, error);
  } finally {
    database.close();
  }
}
