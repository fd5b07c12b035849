/**
 * The thread that reads ahead: it puts the input into the ring that input.ts
 * empties.
 *
 * The thread runs the text of {@linkcode readAhead}, sent in a `data:` URL. A
 * worker whose module is a file or comes from a registry needs a permission for
 * that, and the command must run with no permission but the network's. So
 * `readAhead` must not use anything of this module: no import, no constant, no
 * other function. Types are safe, because they are erased.
 */
import type { SharedRing } from "./ring.ts";

/** What the thread is sent when it begins. */
export interface ReadTask {
  /** Paths, to be read in this order; `-` is standard input. */
  readonly files: readonly string[];
  /** The number of bytes at the beginning to leave out. */
  readonly skip: number;
  readonly ring: SharedRing;
}

/**
 * What the thread sends when it ends: `null` if the whole input is in the ring,
 * else why it is not.
 */
export type ReadResult = string | null;

/** The module that a worker runs. */
export const READ_AHEAD_URL = `data:text/javascript,${
  encodeURIComponent(`(${readAhead})()`)
}`;

function readAhead(): void {
  const scope = self as unknown as Worker;
  const report = (result: ReadResult) => scope.postMessage(result);

  scope.onmessage = ({ data }: MessageEvent<ReadTask>) => {
    const { bytes, written, taken, events } = data.ring;
    let { skip } = data;
    try {
      for (const path of data.files) readFile(path);
      report(
        skip > 0
          ? `the input is ${skip} byte${
            skip === 1 ? "" : "s"
          } shorter than what the server has`
          : null,
      );
    } catch (error) {
      report((error as Error).message);
    }

    function readFile(path: string): void {
      if (path === "-") return readAll(Deno.stdin);
      const file = Deno.openSync(path);
      try {
        seek(file);
        readAll(file);
      } finally {
        file.close();
      }
    }

    /** In a file, seeks past the bytes to leave out; from a pipe they must be read. */
    function seek(file: Deno.FsFile): void {
      if (!file.statSync().isFile) return;
      const size = Math.min(skip, file.statSync().size);
      file.seekSync(size, Deno.SeekMode.Start);
      skip -= size;
    }

    function readAll(file: { readSync(p: Uint8Array): number | null }): void {
      for (;;) {
        const start = Atomics.load(written, 0);
        const end = Atomics.load(taken, 0);
        const room = bytes.length - ((start - end) | 0);
        if (room === 0) {
          // Full. This returns at once if `taken` has changed since it was read.
          Atomics.wait(taken, 0, end);
          continue;
        }
        const at = start & (bytes.length - 1);
        // All the room, or the part of it before the end of the array.
        const size = file.readSync(bytes.subarray(at, at + room));
        if (size === null) return;
        const skipped = Math.min(skip, size);
        skip -= skipped;
        if (skipped > 0) bytes.copyWithin(at, at + skipped, at + size);
        // Only now: from here on the other thread may take them.
        Atomics.store(written, 0, start + size - skipped);
        Atomics.add(events, 0, 1);
        Atomics.notify(events, 0);
      }
    }
  };
}
