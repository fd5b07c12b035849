/**
 * Sends records as NDJSON, one object per line, in few requests. Start the
 * receiver, and then, in another terminal:
 *
 *     deno run -N examples/ndjson.ts http://127.0.0.1:8000/ 100000
 */
import { streamTo } from "@stream-buffer/stream-buffer";

const [url = "http://127.0.0.1:8000/", count = "100000"] = Deno.args;

const out = streamTo(url, {
  headers: { "Content-Type": "application/x-ndjson" },
});
for (let id = 0; id < Number(count); id++) {
  const record = { id, time: new Date().toISOString(), value: Math.random() };
  await out.write(JSON.stringify(record) + "\n");
}
await out.close();
const { bytesDelivered, sends } = out.stats;
console.log(`${count} records, ${bytesDelivered} bytes, ${sends} requests`);
