/** The options of `receive`: help text, parsing, and what they mean. */
import { parseArgs } from "node:util";
import { UsageError } from "./errors.ts";
import { orUsageError, quantity, SIZE } from "./options.ts";
import type { Address } from "./serve.ts";

const DEFAULT_PORT = 8000;
/** Other machines cannot reach it: nobody is asked who they are. */
const DEFAULT_HOST = "127.0.0.1";
/** In ms. */
const DAY = 24 * 60 * 60 * 1_000;

/** What Deno has to allow. */
const PERMISSIONS =
  `Permissions: -N for --host and PostgreSQL, -R -W for FILE and the files beside
it, whose names begin with its name, and --ignore-env or -E for PostgreSQL.

`;

/**
 * The help text of `receive`.
 *
 * @param program As for that of the command.
 */
export function receiveHelp(program: string | undefined): string {
  const main = program === undefined
    ? "stream-buffer"
    : `deno run -N -R -W ${program}`;
  return `Receives what this command or the library sends; stores each batch exactly once.

Usage: ${main} receive --store STORE [options]

A STORE is one of these:
  FILE                   A file, to which bytes are appended as they arrive.
  FILE.db                An SQLite database (or .sqlite, .sqlite3), which puts
                         each stream in order.
  postgres://HOST/NAME   A PostgreSQL database, for any number of receivers.

Options:
      --port PORT        Where to listen (default: ${DEFAULT_PORT}). 0: any free port.
      --host ADDRESS     The address of this machine to listen on (default:
                         ${DEFAULT_HOST}, which other machines cannot reach).
      --max-bytes SIZE   Maximum bytes per batch (default: 16M).
      --any-key          Also accept requests without the key of a batch, such
                         as those of curl.
  -q, --quiet            Report failures only.
      --help             Show this help.

Instead of listening:
      --read ID          Write the bytes of the stream ID to standard output.
      --prune DAYS       Forget batches that arrived more than DAYS ago. If one
                         comes again, it is not stored again.

A SIZE is in bytes, or has a unit: 64K, 1M, 1G.

${
    program === undefined
      ? ""
      : PERMISSIONS
  }Exit codes: 0 ended by an interrupt, or done, 1 failed, 2 invalid usage, missing
permission, or a store or a port that cannot be used.
`;
}

/** What `receive` is to do. */
export type ReceiveTask =
  | { readonly name: "help" }
  | { readonly name: "read"; readonly store: string; readonly id: string }
  | {
    readonly name: "prune";
    readonly store: string;
    /** In ms. */
    readonly age: number;
  }
  | {
    readonly name: "serve";
    readonly store: string;
    readonly address: Address;
    readonly maxBytes: number | undefined;
    readonly requireKey: boolean;
    readonly quiet: boolean;
  };

/** What has a meaning for a server alone. */
const OF_SERVER = ["port", "host", "max-bytes", "any-key", "quiet"] as const;

/**
 * Reads the arguments.
 *
 * @param args What follows "receive" on the command line.
 * @throws {UsageError} If they are invalid.
 */
export function parseReceiveOptions(args: string[]): ReceiveTask {
  const { values, positionals } = orUsageError(() =>
    parseArgs({
      args,
      allowPositionals: true,
      options: {
        store: { type: "string" },
        port: { type: "string" },
        host: { type: "string" },
        "max-bytes": { type: "string" },
        "any-key": { type: "boolean" },
        read: { type: "string" },
        prune: { type: "string" },
        quiet: { type: "boolean", short: "q" },
        help: { type: "boolean" },
      },
    })
  );
  const { help, store, read, prune, host = DEFAULT_HOST } = values;
  if (help) return { name: "help" };
  if (positionals.length > 0) {
    throw new UsageError("receive takes no FILE but that of --store");
  }
  if (!store) throw new UsageError("receive requires --store STORE");
  if (read === undefined && prune === undefined) {
    return {
      name: "serve",
      store,
      address: { hostname: host, port: readPort(values.port) },
      maxBytes: quantity(values, "max-bytes", SIZE)["max-bytes"],
      requireKey: !values["any-key"],
      quiet: values.quiet ?? false,
    };
  }
  const name = read === undefined ? "prune" : "read";
  const others = name === "read" ? ["prune", ...OF_SERVER] : OF_SERVER;
  const other = others.find((option) => option in values);
  if (other !== undefined) {
    throw new UsageError(`--${name} and --${other} cannot be used together`);
  }
  return read === undefined
    ? { name: "prune", store, age: readDays(prune!) }
    : { name: "read", store, id: read };
}

function readPort(text = `${DEFAULT_PORT}`): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : NaN;
  if (port <= 65_535) return port;
  throw new UsageError(
    `--port must be a number from 0 to 65535, received ${JSON.stringify(text)}`,
  );
}

/** In ms. */
function readDays(text: string): number {
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * DAY;
  throw new UsageError(
    `--prune must be a number of days, received ${JSON.stringify(text)}`,
  );
}
