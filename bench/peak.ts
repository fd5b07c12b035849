/**
 * Streams BYTES bytes to a URL, and prints the peak of its own resident set.
 *
 *     deno run -A bench/peak.ts URL BYTES TRANSPORT
 *
 * TRANSPORT is `fetch` or `undici`.
 */
import { undiciTransport } from "../http/undici.ts";
import { streamTo } from "../mod.ts";

const MIB = 2 ** 20;
const [url, size, name] = Deno.args;
const piece = new Uint8Array(64 * 1024).fill(65);
let peak = 0;
await using transport = undiciTransport();
await using out = streamTo(url!, {
  capacity: MIB,
  ...name === "undici" && { transport },
});
for (let at = 0; at < Number(size); at += piece.length) {
  await out.write(piece);
  if (at % MIB === 0) peak = Math.max(peak, Deno.memoryUsage().rss);
}
await out.flush();
console.log(Math.max(peak, Deno.memoryUsage().rss));
