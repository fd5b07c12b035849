/**
 * Runs the conformance suite in this process, over each origin of the server:
 *
 *     deno run -A tests/conformance/deno.ts [FILTER]
 */
import type { ServerInfo } from "./server.ts";
import { run } from "./suite.ts";

const server = new Deno.Command(Deno.execPath(), {
  args: ["run", "-A", `${import.meta.dirname}/server.ts`],
  stdin: "piped",
  stdout: "piped",
}).spawn();
let text = "";
for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream())) {
  text += chunk;
  if (text.includes("\n")) break;
}
const info: ServerInfo = JSON.parse(text);
let last = performance.now();
const results = await run(
  {
    name: "deno",
    server: info.http,
    tus: info.tus.http,
    ...Deno.args[0] !== undefined && { filter: Deno.args[0] },
  },
  ({ name, outcome, detail = "" }) => {
    const now = performance.now();
    console.log(outcome, `${Math.round(now - last)} ms`, name, detail);
    last = now;
  },
);
await server.stdin.close();
await server.status;
const failed = results.filter(({ outcome }) => outcome === "failed");
console.log(`${results.length} checks, ${failed.length} failed`);
Deno.exit(failed.length > 0 ? 1 : 0);
