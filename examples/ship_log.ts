/**
 * Ships what is appended to a log file, in whole lines and across rotations,
 * until it is interrupted. Start the receiver, and then, in another terminal:
 *
 *     deno run -N -R examples/ship_log.ts http://127.0.0.1:8000/ app.log
 */
import { FlushError, streamTo } from "@stream-buffer/stream-buffer";

/** How often to check the file for changes, in milliseconds. */
const POLL_INTERVAL = 200;

const [url, path] = Deno.args;
if (url === undefined || path === undefined) {
  console.error("usage: ship_log.ts URL FILE");
  Deno.exit(2);
}

const out = streamTo(url, {
  oversize: "whole",
  onError: (error) => console.error(`${error.message}; retrying`),
});
let stopped = false;
Deno.addSignalListener("SIGINT", () => stopped = true);
if (Deno.build.os !== "windows") { // which has no SIGTERM
  Deno.addSignalListener("SIGTERM", () => stopped = true);
}

let file = await Deno.open(path);
await file.seek(0, Deno.SeekMode.End);
let line: Uint8Array[] = []; // the parts of a line that has not ended yet
console.log(`Shipping what is appended to ${path}`);

while (!stopped) {
  const chunk = new Uint8Array(64 * 1024);
  const size = await file.read(chunk) ?? 0;
  const end = chunk.lastIndexOf(10, size - 1) + 1;
  if (size > 0 && end > 0) {
    await ship([...line, chunk.subarray(0, end)]);
    line = [];
  }
  if (size > end) line.push(chunk.subarray(end, size));
  if (size === 0 && !await reopenIfRotated()) await pause();
}
await ship(line);
file.close();
await out.close();

/** Reopens the file if it was truncated, or replaced by another one. */
async function reopenIfRotated(): Promise<boolean> {
  const now = await Deno.stat(path!).catch(() => undefined);
  const position = await file.seek(0, Deno.SeekMode.Current);
  const { ino } = await file.stat();
  if (now === undefined || (now.ino === ino && now.size >= position)) {
    return false;
  }
  file.close();
  file = await Deno.open(path!);
  return true;
}

/** Writes until the buffer accepts it, however long the server is down. */
async function ship(parts: Uint8Array[]): Promise<void> {
  const bytes = await new Blob(parts as BlobPart[]).bytes();
  for (;;) {
    try {
      return await out.write(bytes);
    } catch (error) {
      if (stopped || !(error instanceof FlushError)) throw error;
      if (error.acceptedBytes > 0) return; // the buffer keeps retrying
      await pause();
    }
  }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
}
