/**
 * {@linkcode Spool}, {@linkcode spoolTo} and {@linkcode follow}: what is written is put
 * on disk first, and delivered from there, by this process or a later one.
 *
 * @example Usage
 * ```ts
 * import { spoolTo } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * let received = "";
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   received += await request.text();
 *   return new Response();
 * });
 * const file = `${Deno.makeTempDirSync()}/app.spool`;
 * {
 *   await using out = spoolTo(file, `http://localhost:${server.addr.port}/ingest`);
 *   await out.write("hello\n");
 *   await out.flush(); // on disk: from now on it survives the process
 * }
 * assertEquals(received, "hello\n");
 * ```
 *
 * @module
 */
export * from "../sender.ts";
export {
  SpoolError,
  type SpoolErrorCode,
  type SpoolErrorOptions,
} from "./errors.ts";
export { follow, type FollowOptions } from "./follow.ts";
export {
  inspectSpool,
  readSpool,
  type ReadSpoolOptions,
  type SpoolInfo,
  type SpoolOwner,
} from "./inspect.ts";
export { Spool, type SpoolOptions, type SpoolStats, spoolTo } from "./spool.ts";
