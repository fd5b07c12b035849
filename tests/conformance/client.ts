/**
 * Runs the suite in Deno, Node or Bun, with the environment that its argument is in
 * JSON, and prints each result as a line of JSON.
 */
import process from "node:process";
import { run } from "./suite.ts";

await run(
  JSON.parse(process.argv[2]!),
  (result) => console.log(JSON.stringify(result)),
);
// Deno would not end over TLS: it waits for a server that reads nothing of an upload
// which has been aborted.
process.exit();
