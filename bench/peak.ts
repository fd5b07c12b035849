/**
 * Streams BYTES bytes to a URL, and prints the peak of its own resident set.
 *
 *     deno run -A bench/peak.ts URL BYTES TRANSPORT [SPOOL]
 *
 * TRANSPORT is `fetch` or `undici`. With the path of a SPOOL, the bytes go through it.
 */
import { undiciTransport } from "../http/undici.ts";
import { FetchSender, StreamBuffer } from "../mod.ts";
import { Spool } from "../spool/mod.ts";

const MIB = 2 ** 20;
const [url, size, name, path] = Deno.args;
const piece = new Uint8Array(64 * 1024).fill(65);
let peak = 0;
await using transport = undiciTransport();
const sender = new FetchSender(url!, name === "undici" ? { transport } : {});
const spool = path === undefined ? undefined : new Spool(path, sender);
await using out = new StreamBuffer(spool ?? sender, { capacity: MIB });
for (let at = 0; at < Number(size); at += piece.length) {
  await out.write(piece);
  if (at % MIB === 0) peak = Math.max(peak, Deno.memoryUsage().rss);
}
await out.flush();
await spool?.drained();
console.log(Math.max(peak, Deno.memoryUsage().rss));
