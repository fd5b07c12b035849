/**
 * Brings a stream to its end however the script ends: by itself, on a signal,
 * after an uncaught error, by `Deno.exit()`. Only a crash, SIGKILL and a power
 * cut are left. It needs `--allow-write=<unsent>`.
 */
import type { StreamBuffer } from "@stream-buffer/stream-buffer";

/**
 * Sends what is left before the process ends, and appends to the file `unsent`
 * what could not be sent. Call it once, before the first write.
 *
 * `closeTimeout` is how long the end may take. Who stops a container grants it
 * 10 seconds, usually.
 */
export function closeWhateverHappens(out: StreamBuffer, unsent: string): void {
  let closing = false;
  const end = async (code: number) => {
    closing = true;
    await out.close().catch(() => {}); // "unload" tells, below
    Deno.exit(code);
  };

  // Without preventDefault() nothing that takes time would be possible.
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    show(event.reason);
    void end(1);
  });
  addEventListener("error", (event) => {
    event.preventDefault();
    show(event.error);
    void end(1);
  });
  const signals = Deno.build.os === "windows"
    ? { SIGINT: 130, SIGBREAK: 149 }
    : { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };
  for (const [signal, code] of Object.entries(signals)) {
    // The second one does not wait for the server.
    const listener = () => closing ? Deno.exit(code) : end(code);
    Deno.addSignalListener(signal as Deno.Signal, listener);
  }
  // The script's own end, when no `flushInterval` keeps it alive.
  addEventListener("beforeunload", (event) => {
    event.preventDefault();
    void end(Deno.exitCode);
  });

  // Every Deno.exit() comes here, and waits for nothing. These do not need it.
  // Writes that still wait for room were never accepted: await write().
  addEventListener("unload", () => {
    void out.abort();
    const left = out.takeUnsent();
    if (left.length === 0) return;
    Deno.writeFileSync(unsent, left, { append: true });
    console.error(`${left.length} bytes not acknowledged, saved in ${unsent}`);
  });
}

/** Deno shows nothing of what a `SuppressedError` is made of. */
function show(error: unknown): void {
  if (error instanceof SuppressedError) {
    show(error.suppressed);
    show(error.error);
  } else {
    console.error("Uncaught", error);
  }
}
