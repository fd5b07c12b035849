/**
 * Ships what is appended to a log file, in whole lines and across rotations,
 * until it is interrupted. Start the receiver, and then, in another terminal:
 *
 *     deno run -N -R examples/ship_log.ts http://127.0.0.1:8000/ app.log
 *
 * It waits for a server that is down, and for a file that is missing. It cannot
 * ship what was truncated before it was read, and does not notice a truncation or
 * a file that the next one follows within `POLL_INTERVAL`.
 */
import { FlushError, streamTo } from "@stream-buffer/stream-buffer";
import { Buffer } from "node:buffer";

/** How often to look at the files, in milliseconds. */
const POLL_INTERVAL = 100;
/**
 * How many polls in a row must find a replaced file unchanged before it is left:
 * programs write to it until they open the new one.
 */
const QUIET_POLLS = 20;

/** A file that is or was at the path. A truncation makes it another one. */
interface LogFile {
  readonly handle: Deno.FsFile;
  readonly info: Deno.FileInfo;
  /** Its size at the latest poll, in bytes. */
  size: number;
  /** How many polls have found it unchanged since it was replaced. */
  quiet: number;
  truncated: boolean;
}

const [url, path] = Deno.args;
if (url === undefined || path === undefined) {
  console.error("usage: ship_log.ts URL FILE");
  Deno.exit(2);
}

const out = streamTo(url, {
  oversize: "whole",
  retry: { maxElapsed: Infinity },
  onRetry: ({ message }) => report(`${message}; retrying`),
  onError: ({ message }) => report(`${message}; retrying`),
});
let stopped = false;
let stopWaiting = () => {};
function stop(): void {
  stopped = true;
  stopWaiting();
}
Deno.addSignalListener("SIGINT", stop);
if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", stop);

/** The oldest first. The last one is at the path. */
const files: LogFile[] = [];
/** The parts of a line that has not ended yet. */
let line: Uint8Array[] = [];
/** The latest write. */
let written = Promise.resolve();
/** What the latest poll found wrong. */
let problem = "";

await poll();
await files[0]?.handle.seek(0, Deno.SeekMode.End);
report(`Shipping what is appended to ${path}`, Deno.stdout);
try {
  while (!stopped) await readOn();
  // Writes that wait for room are accepted by close().
  const writes = [written, out.write(Buffer.concat(line))];
  await Promise.all([out.close(), ...writes]);
} catch (error) {
  report(`${error}`);
  await out.close().catch(() => {});
  await pause(); // for the report to be printed
  Deno.exit(1);
}
Deno.exit();

/** Reads the next part of the oldest file, or leaves that file. */
async function readOn(): Promise<void> {
  const file = files[0];
  if (file === undefined) return await pause();
  const chunk = new Uint8Array(64 * 1024);
  const size = file.truncated ? null : await file.handle.read(chunk);
  if (size !== null) {
    const end = chunk.lastIndexOf(10, size - 1) + 1;
    const rest = chunk.subarray(end, size);
    if (end > 0) await ship(chunk.subarray(0, end), rest);
    else line.push(rest);
  } else if (file.truncated || file.quiet >= QUIET_POLLS) {
    files.shift();
    file.handle.close();
    // The next file does not continue this line.
    if (line.some(({ length }) => length > 0)) await ship(new Uint8Array([10]));
  } else await pause();
}

/** Ships the line up to its `end`, even if the server is down for long. */
async function ship(end: Uint8Array, next?: Uint8Array): Promise<void> {
  const bytes = Buffer.concat([...line, end]);
  line = next ? [next] : [];
  for (;;) {
    try {
      written = out.write(bytes);
      return await new Promise((resolve, reject) => {
        written.then(resolve, reject);
        stopWaiting = resolve;
        if (stopped) resolve();
      });
    } catch (error) {
      if (stopped || !(error instanceof FlushError)) throw error;
      if (error.acceptedBytes > 0) return; // the buffer keeps retrying
      report(`${error.message}; retrying`);
      await pause();
    }
  }
}

/** Looks at the files and the path, now and later, even during an outage. */
async function poll(): Promise<void> {
  try {
    await Promise.all(
      files.slice(0, -1).map(async (file) => {
        const { size } = await file.handle.stat();
        file.quiet = size === file.size ? file.quiet + 1 : 0;
        file.size = size;
      }),
    );
    await openNew();
    problem = "";
  } catch (error) {
    const { message } = error as Error;
    if (message !== problem) report(`Waiting: ${message}`, Deno.stdout);
    problem = message;
  }
  setTimeout(poll, POLL_INTERVAL);
}

/** Opens what is at the path, unless that is the last file. */
async function openNew(): Promise<void> {
  const last = files.at(-1);
  const now = await Deno.stat(path!);
  if (!now.isFile) throw new Error(`${path} is not a file`);
  const isLast = now.ino === last?.info.ino && now.dev === last.info.dev;
  if (last && isLast && now.size >= last.size) {
    last.size = now.size;
  } else {
    // First of all: what would be read from it now is not what follows.
    if (last) last.truncated = isLast;
    const handle = await Deno.open(path!);
    const info = await handle.stat();
    const { size } = info;
    files.push({ handle, info, size, quiet: 0, truncated: false });
  }
}

/** Prints without failing or waiting: the terminal may have gone, or hang. */
function report(message: string, to = Deno.stderr): void {
  to.write(new TextEncoder().encode(`${message}\n`)).catch(() => {});
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
}
