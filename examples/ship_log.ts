/**
 * Ships what is appended to a log file, in whole lines, across rotations and
 * restarts, until it is interrupted. Each line is put on disk first, and so arrives
 * even if this process is killed. Start the receiver, and then, in another terminal:
 *
 *     deno run -N -R=. -W=app.spool,app.spool-owner,app.spool-reserve examples/ship_log.ts http://127.0.0.1:8000/ app.log app.spool
 */
import { FetchSender, follow, Spool } from "@stream-buffer/stream-buffer/spool";

const [url, path, file] = Deno.args;
if (url === undefined || path === undefined || file === undefined) {
  console.error("usage: ship_log.ts URL FILE SPOOL");
  Deno.exit(2);
}

const controller = new AbortController();
const { signal } = controller;
const stop = () => controller.abort();
Deno.addSignalListener("SIGINT", stop);
if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", stop);

const sender = new FetchSender(url, { onRetry: report });
const spool = new Spool(file, sender, { onError: report });
await follow(path, spool, { signal, onError: report });
await spool.close();
Deno.exit();

/** Prints without failing or waiting: the terminal may have gone, or hang. */
function report({ message }: { readonly message: string }): void {
  const line = new TextEncoder().encode(`${message}\n`);
  Deno.stderr.write(line).catch(() => {});
}
