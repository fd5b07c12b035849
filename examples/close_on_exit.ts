/**
 * Closes a stream however the script ends: normally, by a signal, after an
 * uncaught error, or by `Deno.exit()`. It cannot help against a crash of the
 * runtime, SIGKILL or a power failure. It needs `--allow-write=<unsent>`.
 */
import type { StreamBuffer } from "@stream-buffer/stream-buffer";

/**
 * Sends the remaining bytes before the process exits, and appends to the file
 * `unsent` what could not be sent. Call it once, before the first write.
 *
 * The exit takes at most `closeTimeout` milliseconds. By default Docker allows a
 * container 10 seconds, Kubernetes 30.
 */
export function closeOnExit(out: StreamBuffer, unsent: string): void {
  let closing = false;
  const end = async (code: number) => {
    closing = true;
    await out.close().catch(() => {}); // reported by "unload", below
    const timeout = new Promise((resolve) => setTimeout(resolve, 1_000));
    await Promise.race([reported, timeout]);
    Deno.exit(code);
  };

  // Without preventDefault() the process would exit before close() has settled.
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    void end(1);
    show(event.reason);
  });
  addEventListener("error", (event) => {
    event.preventDefault();
    void end(1);
    show(event.error);
  });
  const signals = Deno.build.os === "windows"
    ? { SIGINT: 130, SIGBREAK: 149 }
    : { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };
  for (const [signal, code] of Object.entries(signals)) {
    // The second signal exits without waiting for the server.
    const listener = () => closing ? Deno.exit(code) : end(code);
    Deno.addSignalListener(signal as Deno.Signal, listener);
  }
  // The normal end of the script. A `flushInterval` keeps it alive while there is
  // something to send, and so does a server that is down.
  addEventListener("beforeunload", (event) => {
    event.preventDefault();
    void end(Deno.exitCode);
  });

  // Every exit reaches this listener, Deno.exit() included, and only synchronous
  // calls still run. Writes that wait for room were never accepted: await write().
  addEventListener("unload", () => {
    void out.abort();
    const left = out.takeUnsent();
    if (left.length === 0) return;
    Deno.writeFileSync(unsent, left, { append: true });
    report(`${left.length} bytes not acknowledged, saved in ${unsent}`);
    // Another thread writes that: give it a moment.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
  });
}

/** Resolves when all messages have been written, or could not be. */
let reported: Promise<unknown> = Promise.resolve();

/**
 * Prints a message in the background. `console.error` throws when the terminal has
 * gone or the disk is full, and waits for whoever reads a full pipe: neither may
 * keep the rest from being sent, or saved.
 */
function report(message: string): void {
  const text = new TextEncoder().encode(`${message}\n`);
  reported = Deno.stderr.write(text).catch(() => {}); // one after another
}

/** Deno does not print the two errors within a `SuppressedError`. */
function show(error: unknown): void {
  if (error instanceof SuppressedError) {
    show(error.suppressed);
    show(error.error);
  } else {
    report(`Uncaught ${Deno.inspect(error)}`);
  }
}
