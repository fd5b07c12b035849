/**
 * Ships a log file that grows, from its end on, in whole lines, until it is
 * interrupted. With the receiver running, in another terminal:
 *
 *     deno run -N -R examples/ship_log.ts http://127.0.0.1:8000/ app.log
 */
import { streamTo } from "@stream-buffer/stream-buffer";

const [url, path] = Deno.args;
if (url === undefined || path === undefined) {
  console.error("usage: ship_log.ts URL FILE");
  Deno.exit(2);
}

await using out = streamTo(url, {
  oversize: "whole",
  onError: (error) => console.error(`${error.message}; trying again`),
});
const stop = new AbortController();
Deno.addSignalListener("SIGINT", () => stop.abort());

let file = await Deno.open(path);
let position = await file.seek(0, Deno.SeekMode.End);
let line: Uint8Array<ArrayBuffer> = new Uint8Array(); // not complete yet
const chunk = new Uint8Array(64 * 1024);
console.log(`Shipping what is appended to ${path}`);

while (!stop.signal.aborted) {
  const size = await file.read(chunk);
  if (size !== null) {
    position += size;
    const bytes = new Uint8Array([...line, ...chunk.subarray(0, size)]);
    const end = bytes.lastIndexOf(10) + 1;
    line = bytes.slice(end);
    if (end > 0) await ship(bytes.subarray(0, end));
  } else if ((await Deno.stat(path)).size < position) {
    file.close(); // truncated, or replaced by a new one
    file = await Deno.open(path);
    position = 0;
  } else {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
await ship(line);
file.close();

/** Writes until it is accepted, however long the server is away. */
async function ship(bytes: Uint8Array): Promise<void> {
  for (;;) {
    try {
      return await out.write(bytes);
    } catch (error) {
      if (stop.signal.aborted) throw error;
    }
  }
}
