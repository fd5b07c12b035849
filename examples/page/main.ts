/**
 * A flight recorder in the browser: what its visitor does is streamed to a receiver
 * in this process, which can be broken and mended from the page.
 *
 *     deno task page [PORT]
 */
import { PageServer } from "./server.ts";

const [port = "0"] = Deno.args;
if (!/^\d+$/.test(port) || Number(port) > 65_535) {
  console.error(`PORT must be a number from 0 to 65535, received ${port}`);
  Deno.exit(2);
}
const server = await PageServer.start(Number(port)).catch((error) => {
  console.error(`Cannot serve the page: ${error.message}`);
  Deno.exit(1);
});
console.log(`Open ${server.url} in a browser. Ctrl+C ends it.`);
