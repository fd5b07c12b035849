/**
 * How the input is read on Node and Bun: by their streams, in the main thread, into
 * the same ring. The thread of read_ahead.ts would not do, because a process does not
 * end there as long as one of its threads waits for a pipe.
 */
import {
  closeSync,
  constants,
  createReadStream,
  fstatSync,
  open,
  openSync,
  type Stats,
} from "node:fs";
import { stat } from "node:fs/promises";
import { Socket } from "node:net";
import process from "node:process";
import type { Readable } from "node:stream";
import { isatty, ReadStream } from "node:tty";
import { promisify } from "node:util";
import { INTERPRETER } from "./platform.ts";
import type { ReadTask } from "./read_ahead.ts";
import type { Ring } from "./ring.ts";

/**
 * How much of a file is read at a time, in bytes. With 64 KiB, Node's default, a file
 * of 1 GiB took 1.2 to 1.8 times as long.
 */
const READ_SIZE = 1024 * 1024;

/**
 * Puts the whole input into the ring.
 *
 * @param signal Ends it when aborted, as soon as a read under way has ended.
 * @throws {Error} If a file cannot be read, or the input is shorter than what is to be
 *   left out.
 */
export async function readStreams(
  { files, skip }: Omit<ReadTask, "ring">,
  ring: Ring,
  signal: AbortSignal,
): Promise<void> {
  for (const path of files) {
    const info = path === "-" ? undefined : await stat(path);
    // In a file, begin behind the bytes to leave out; from a pipe they must be read.
    const start = info?.isFile() ? Math.min(skip, info.size) : 0;
    skip -= start;
    const stream = info === undefined
      ? standardInput()
      : info.isFile()
      ? createReadStream(path, { start, highWaterMark: READ_SIZE })
      : await openPipe(path, info, signal);
    const end = () => void stream.destroy();
    signal.addEventListener("abort", end);
    try {
      for await (const chunk of stream) {
        const skipped = Math.min(skip, chunk.length);
        skip -= skipped;
        await ring.put(chunk.subarray(skipped), signal);
        if (signal.aborted) return;
      }
    } finally {
      signal.removeEventListener("abort", end);
    }
  }
  if (skip > 0) {
    throw new Error(
      `the input is ${skip} byte${
        skip === 1 ? "" : "s"
      } shorter than what the server has`,
    );
  }
}

/**
 * Standard input. `process.stdin` serves for pipes, sockets and terminals alone: it
 * takes a directory or a block device for an empty input, without an error.
 */
function standardInput(): Readable {
  const info = fstatSync(0);
  return info.isFIFO() || info.isSocket() || isatty(0)
    ? process.stdin
    : createReadStream("", {
      ...{ fd: 0, autoClose: false, highWaterMark: READ_SIZE },
    });
}

/**
 * A stream of a pipe or a device, such as `<(command)` of a shell. It has no
 * positions, and Node does not end as long as a thread waits for it, which the stream
 * of a file would have: so the event loop waits for it.
 */
async function openPipe(
  path: string,
  info: Stats,
  signal: AbortSignal,
): Promise<Readable> {
  if (INTERPRETER === "bun") return createReadStream(path); // ends all the same
  signal.throwIfAborted();
  const release = () => releaseOpen(path);
  signal.addEventListener("abort", release);
  const fd = await promisify(open)(path, "r");
  signal.removeEventListener("abort", release);
  if (info.isFIFO()) return new Socket({ fd, readable: true, writable: false });
  return isatty(fd) ? new ReadStream(fd) : createReadStream(path, { fd });
}

/** Ends the wait of `open` for someone who writes to a named pipe. */
function releaseOpen(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch {
    // Nobody waits, or it may not be written to.
  }
}
