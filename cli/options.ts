/** The command line. */
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { UsageError } from "./usage.ts";

export const HELP =
  `Sends standard input, or files, to a URL: few requests, no byte lost.

Usage: deno run -N -R cli/main.ts [options] URL [FILE...]

Without a FILE, or where it is -, it reads standard input.

As one object, instead of many requests:
      --upload           One request, to the URL of the object.
      --tus              A resumable upload (tus 1.0.0), to the URL where the
                         server creates them.
      --resume           Goes on with one, to its own URL, with the same input.

Options:
  -H, --header HEADER    "Name: value", or @FILE with one header a line.
                         \${NAME} in a value stands for an environment variable.
                         May be given several times.
  -X, --method METHOD    Request method (default: POST, with --upload PUT).
      --capacity SIZE    Bytes a request; 64K, 1M (default: 256K).
      --interval TIME    Longest wait before a byte is sent (default: 1s).
                         0: only full requests, and the rest at the end.
      --lines            Never cut a line: each request holds whole lines.
      --compress [FORMAT]
                         Compress with gzip (default), deflate or brotli.
      --timeout TIME     For one attempt, reply included (default: 30s).
      --retry-for TIME   For all attempts of one request (default: 2m; 0: one).
      --unsent FILE      Append to FILE what could not be delivered.
      --metadata NAME=VALUE
                         With --tus: what the server is told about the object
                         (default: filename, where there is one FILE).
      --offset SIZE      With --resume: where in the object the input begins
                         (default: 0).
  -q, --quiet            No progress line.
      --help             Show this.
      --version          Show the version.

A TIME is in milliseconds, or has a unit: 500ms, 30s, 2m.

Permissions: -N for the URL, -R for each FILE, -R -W for --unsent, and
--allow-env=NAME for \${NAME}.

Exit codes: 0 all acknowledged, 1 not delivered or interrupted, 2 wrong usage.
`;

export const SIZE = /^(\d+)([KMG]?)$/;
export const TIME = /^(\d+)(ms|s|m|)$/;
const UNITS: Record<string, number> = {
  "": 1,
  ms: 1,
  s: 1_000,
  m: 60_000,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
};
/** What the input becomes. */
export type Mode = "records" | "upload" | "tus" | "resume";
/** Options that not every mode has. */
const BELONGS_TO: Record<string, Mode[]> = {
  method: ["records", "upload"],
  lines: ["records"],
  compress: ["records"],
  "retry-for": ["records", "tus", "resume"],
  unsent: ["records", "tus", "resume"],
  metadata: ["tus"],
  offset: ["resume"],
};

export function parse(args: string[]) {
  // The format of --compress may be left out, which parseArgs does not know.
  const end = args.indexOf("--");
  const given = args.flatMap((arg, i) => {
    if (end >= 0 && i > end) return [arg];
    const format = /^(gzip|deflate|brotli)$/;
    if (args[i - 1] === "--compress" && format.test(arg)) return [];
    if (arg !== "--compress") return [arg];
    return [`--compress=${args[i + 1]?.match(format)?.[0] ?? "gzip"}`];
  });
  try {
    return parseArgs({
      args: given,
      allowPositionals: true,
      options: {
        header: { type: "string", short: "H", multiple: true },
        method: { type: "string", short: "X" },
        capacity: { type: "string" },
        interval: { type: "string" },
        lines: { type: "boolean" },
        compress: { type: "string" },
        timeout: { type: "string" },
        "retry-for": { type: "string" },
        unsent: { type: "string" },
        upload: { type: "boolean" },
        tus: { type: "boolean" },
        resume: { type: "boolean" },
        metadata: { type: "string", multiple: true },
        offset: { type: "string" },
        quiet: { type: "boolean", short: "q" },
        help: { type: "boolean" },
        version: { type: "boolean" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

export type Values = ReturnType<typeof parse>["values"];

/** What the input becomes; the other options must belong to it. */
export function modeOf(values: Values): Mode {
  const modes = (["upload", "tus", "resume"] as const)
    .filter((mode) => values[mode]);
  if (modes.length > 1) {
    throw new UsageError(`--${modes[0]} and --${modes[1]} do not go together`);
  }
  const [mode = "records"] = modes;
  for (const [option, owners] of Object.entries(BELONGS_TO)) {
    if (option in values && !owners.includes(mode)) {
      throw new UsageError(
        mode === "records"
          ? `--${option} belongs to --${owners.join(", --")}`
          : `--${option} does not go with --${mode}`,
      );
    }
  }
  return mode;
}

export function readMetadata(
  given: string[],
  files: string[],
): Record<string, string> {
  const metadata: Record<string, string> = {};
  const [file, another] = files;
  if (file !== "-" && another === undefined) {
    metadata.filename = basename(file!);
  }
  for (const item of given) {
    const [, name, value] = item.match(/^([^=]*)=(.*)$/s) ?? [];
    if (name === undefined || value === undefined) {
      throw new UsageError(
        `--metadata must be NAME=VALUE, received ${JSON.stringify(item)}`,
      );
    }
    metadata[name] = value;
  }
  return metadata;
}

/** An option with a unit, under the name that the library has for it. */
export function quantity(
  values: Values,
  option: keyof Values & string,
  pattern: RegExp,
  name: string = option,
): Record<string, number> {
  const value = values[option];
  if (value === undefined) return {};
  const [, digits, unit] = String(value).match(pattern) ?? [];
  if (digits === undefined || unit === undefined) {
    const kind = pattern === SIZE
      ? "a size like 64K or 1M"
      : "a time like 500ms, 30s or 2m";
    throw new UsageError(
      `--${option} must be ${kind}, received ${JSON.stringify(value)}`,
    );
  }
  return { [name]: Number(digits) * UNITS[unit]! };
}
