/**
 * A receiver that stores every batch exactly once, in PostgreSQL. Any number of them may
 * share a database, on as many machines as one likes, behind a load balancer that repeats
 * what fails.
 *
 *     deno run -N --ignore-env examples/receiver_postgres.ts postgres://USER:PASSWORD@HOST/DATABASE 8000
 */
import { receive } from "@stream-buffer/stream-buffer/receiver";
import { PostgresStore } from "@stream-buffer/stream-buffer/receiver/postgres";

const [url, port = "8000"] = Deno.args;
if (url === undefined) {
  console.error("usage: receiver_postgres.ts URL [PORT]");
  Deno.exit(2);
}

const store = new PostgresStore(url);
Deno.serve(
  { hostname: "127.0.0.1", port: Number(port) },
  receive({ store, onError: report }),
);

/** An error of PostgreSQL has more properties than a log should have lines. */
function report(error: unknown): void {
  console.error(error instanceof Error ? error.message : error);
}
