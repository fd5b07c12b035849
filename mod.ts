/**
 * Collects many small writes and sends them to a web server in few requests,
 * without losing, reordering or silently dropping a byte.
 *
 * {@linkcode streamTo} is all that most scripts need. A {@linkcode StreamBuffer}
 * takes any {@linkcode Sender}, for a server that needs more than a POST.
 *
 * @example Usage
 * ```ts
 * import { streamTo } from "@stream-buffer/stream-buffer";
 * import { assertEquals } from "@std/assert";
 *
 * const requests: string[] = [];
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   requests.push(await request.text());
 *   return new Response();
 * });
 * {
 *   await using out = streamTo(`http://localhost:${server.addr.port}/ingest`);
 *   for (let id = 0; id < 1000; id++) {
 *     await out.write(JSON.stringify({ id }) + "\n");
 *   }
 * }
 * assertEquals(requests.length, 1);
 * assertEquals(requests[0]!.split("\n").length, 1001);
 * ```
 *
 * @module
 */
export * from "./buffer.ts";
export * from "./sender.ts";
