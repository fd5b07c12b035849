/**
 * The server's half: a handler of requests that stores each batch exactly once, and
 * stores for it in memory, in a file and in SQLite. For PostgreSQL, see `./receiver/postgres`.
 *
 * @example Usage
 * ```ts
 * import { streamTo } from "@stream-buffer/stream-buffer";
 * import { MemoryStore, receive } from "@stream-buffer/stream-buffer/receiver";
 *
 * const store = new MemoryStore();
 * await using server = Deno.serve(
 *   { hostname: "127.0.0.1", port: 0, onListen: () => {} },
 *   receive({ store }),
 * );
 *
 * const url = `http://127.0.0.1:${server.addr.port}/`;
 * const out = streamTo(url, { idempotencyKey: "example" });
 * await out.write("hello\n");
 * await out.close();
 *
 * const text = await new Response(store.read("example")).text();
 * console.assert(text === "hello\n");
 * ```
 *
 * @module
 */
export { FileStore, type FileStoreOptions } from "./file_store.ts";
export { MemoryStore } from "./memory_store.ts";
export { receive, type ReceiveOptions } from "./receive.ts";
export {
  SqliteStore,
  type SqliteStoreOptions,
  type SqliteTransaction,
  type SqliteValue,
} from "./sqlite_store.ts";
export {
  type AddResult,
  type Batch,
  BatchRefusedError,
  type OnBatch,
  type Pruned,
  type Store,
  StoreError,
  type StoreErrorCode,
  type StoreErrorOptions,
} from "./store.ts";
