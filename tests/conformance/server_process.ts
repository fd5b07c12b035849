/** The server of the suite, started and stopped. */
import { fileURLToPath } from "node:url";
import type { ServerInfo } from "./server.ts";

/** A server in a process of its own. */
export interface ServerProcess extends AsyncDisposable {
  readonly info: ServerInfo;
}

/**
 * Starts the server, and waits until it accepts connections.
 *
 * @param dir The folder whose files it serves.
 */
export async function startServer(dir: string): Promise<ServerProcess> {
  const path = (file: string) => fileURLToPath(import.meta.resolve(file));
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "-A", "--frozen"],
      ...["--config", path("../../deno.json")],
      ...[path("./server.ts"), "--files", dir],
    ],
    // It ends when this does, so that nothing is left when this process is killed.
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(process.stderr).text();
  const reader = process.stdout.pipeThrough(new TextDecoderStream())
    .getReader();
  let line = "";
  while (!line.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) {
      throw new Error(`the server of the suite did not start: ${await errors}`);
    }
    line += value;
  }
  return {
    info: JSON.parse(line),
    async [Symbol.asyncDispose]() {
      // A terminal interrupts it, too.
      await process.stdin.close().catch(() => {});
      await reader.cancel();
      await errors;
      await process.status;
    },
  };
}
