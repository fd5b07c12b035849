/**
 * Ships a log file that grows, from its end on, in whole lines, over rotations,
 * until it is interrupted. With the receiver running, in another terminal:
 *
 *     deno run -N -R examples/ship_log.ts http://127.0.0.1:8000/ app.log
 */
import { FlushError, streamTo } from "@stream-buffer/stream-buffer";

const PAUSE = 200; // ms between two looks at the file

const [url, path] = Deno.args;
if (url === undefined || path === undefined) {
  console.error("usage: ship_log.ts URL FILE");
  Deno.exit(2);
}

const out = streamTo(url, {
  oversize: "whole",
  onError: (error) => console.error(`${error.message}; trying again`),
});
let stopped = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => stopped = true);
}

let file = await Deno.open(path);
await file.seek(0, Deno.SeekMode.End);
let line: Uint8Array[] = []; // the pieces of one that is not complete yet
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
  if (size === 0 && !await reopened()) await pause();
}
await ship(line);
file.close();
await out.close();

/** Opens the file anew if it was truncated, or another has taken its name. */
async function reopened(): Promise<boolean> {
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

/** Writes until it is accepted, however long the server is away. */
async function ship(pieces: Uint8Array[]): Promise<void> {
  const bytes = await new Blob(pieces as BlobPart[]).bytes();
  for (;;) {
    try {
      return await out.write(bytes);
    } catch (error) {
      if (stopped || !(error instanceof FlushError)) throw error;
      if (error.acceptedBytes > 0) return; // the buffer has it, and goes on trying
      await pause();
    }
  }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, PAUSE));
}
