/** The reading thread. */

/**
 * What the reading thread does. It is sent there as text, and so uses nothing
 * of this module.
 */
export function readAhead(): void {
  type Task =
    & Record<"written" | "taken" | "news", Int32Array>
    & { files: string[]; skip: number; ring: Uint8Array };
  const scope = self as unknown as Worker;

  scope.onmessage = ({ data }: MessageEvent<Task>) => {
    const { files, ring, written, taken, news } = data;
    let { skip } = data;
    try {
      for (const path of files) readFile(path);
      scope.postMessage(
        skip > 0 ? `the upload has ${skip} bytes more than the input` : null,
      );
    } catch (error) {
      scope.postMessage((error as Error).message);
    }

    function readFile(path: string): void {
      using opened = path === "-" ? null : Deno.openSync(path);
      const file = opened ?? Deno.stdin;
      if (opened?.statSync().isFile) {
        const size = Math.min(skip, opened.statSync().size);
        opened.seekSync(size, Deno.SeekMode.Start);
        skip -= size;
      }
      for (;;) {
        const start = Atomics.load(written, 0);
        const out = Atomics.load(taken, 0);
        const room = ring.length - ((start - out) | 0);
        if (room === 0) {
          Atomics.wait(taken, 0, out);
          continue;
        }
        const at = start & (ring.length - 1);
        const size = file.readSync(ring.subarray(at, at + room));
        if (size === null) return;
        const skipped = Math.min(skip, size);
        skip -= skipped;
        if (skipped > 0) ring.copyWithin(at, at + skipped, at + size);
        Atomics.store(written, 0, start + size - skipped);
        Atomics.add(news, 0, 1);
        Atomics.notify(news, 0);
      }
    }
  };
}
