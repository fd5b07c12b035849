/**
 * How the input is read on Node and Bun: by their streams, in the main thread, into
 * the same ring. The thread of read_ahead.ts would not do, because a process does not
 * end there as long as one of its threads waits for a pipe.
 */
import { createReadStream, fstatSync } from "node:fs";
import { stat } from "node:fs/promises";
import process from "node:process";
import { isatty } from "node:tty";
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
    let start = 0;
    if (path !== "-") {
      const info = await stat(path);
      // In a file, begin behind the bytes to leave out; from a pipe they must be read.
      if (info.isFile()) start = Math.min(skip, info.size);
      skip -= start;
    }
    const stream = path === "-"
      ? openStdin()
      : createReadStream(path, { start, highWaterMark: READ_SIZE });
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
function openStdin() {
  const info = fstatSync(0);
  return info.isFIFO() || info.isSocket() || isatty(0)
    ? process.stdin
    : createReadStream("", {
      fd: 0,
      autoClose: false,
      highWaterMark: READ_SIZE,
    });
}
