/**
 * The options of the command: help text, parsing, units, metadata, and which
 * options can be combined. Headers are read in headers.ts.
 */
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { UsageError } from "./errors.ts";
import type { InputInfo } from "./files.ts";

/** What Deno has to allow. */
const PERMISSIONS =
  `Permissions: -N for the URL, -R for each FILE, -R -W for --unsent and --refused,
-R -W for the FILE of --spool, FILE-owner and FILE-reserve, -R for the folder of
--follow, and --allow-env=NAME for \${NAME}. With --ignore-env, or with -E and no
proxy in the environment, undici makes the requests, faster than fetch.

`;

/**
 * The help text.
 *
 * @param program What to pass to `deno run`: a path, or a specifier. `undefined` if
 *   it does not run on Deno, but as a program of its own.
 */
export function help(program: string | undefined): string {
  const [main, spool, receive] = program === undefined
    ? Array(3).fill("stream-buffer")
    : ["-N -R", "-R -W", "-N -R -W"].map((flags) =>
      `deno run ${flags} ${program}`
    );
  const permissions = program === undefined ? "" : PERMISSIONS;
  return `Sends standard input or files to a URL in few requests; loses nothing silently.

Usage: ${main} [options] URL [FILE...]

       ${spool} spool FILE [--export]

       ${receive} receive --store STORE

Without FILE, or when FILE is -, reads standard input.

To send one object instead of many requests:
      --upload           Send it in one request, to the URL of the object.
      --tus              Send it as a resumable upload (tus 1.0.0), to the URL
                         where the server creates uploads.
      --resume           Resume an upload from its upload URL, with the same
                         input.

Options:
  -H, --header HEADER    "Name: value", or @FILE with one header per line.
                         \${NAME} in a value is replaced by the environment
                         variable NAME. May be repeated.
  -X, --method METHOD    Request method (default: POST, with --upload PUT).
      --capacity SIZE    Maximum bytes per request (default: 256K).
      --interval TIME    Maximum time that a byte waits before it is sent
                         (default: 1s). 0: send only full requests, and the rest
                         at the end.
      --lines            Never split a line. One that is longer than --capacity
                         is sent in a request of its own, up to 16M.
      --compress [FORMAT]
                         Compress with gzip (default), deflate or brotli.
      --timeout TIME     Time limit for one attempt, including the response
                         (default: 30s).
      --retry-for TIME   Time limit for all attempts of one request
                         (default: 2m). 0: do not retry. forever: no limit.
      --unsent FILE      On failure, append everything undelivered to FILE.
      --spool FILE       Put what is read into FILE first, and deliver it from
                         there, after what an earlier run has left in it.
                         Without input (</dev/null, or a terminal and no other
                         FILE), deliver what is left in it and exit.
      --drain TIME       With --spool: how long to wait for the server at the
                         end (default: forever). The next run with the same
                         --spool delivers the rest.
      --follow FILE      With --spool: read the lines that are appended to FILE,
                         across rotations, until interrupted. The next run
                         continues where this one stopped.
      --refused FILE     Append requests that the server refuses with 400 or 422
                         to FILE, and continue.
      --metadata NAME=VALUE
                         With --tus: describe the object to the server
                         (default: filename, if there is exactly one FILE, and
                         fingerprint, for --resume). May be repeated.
      --offset SIZE      With --resume: where the input begins in the object
                         (default: 0).
  -q, --quiet            Report failures only.
      --help             Show this help.
      --version          Show the version.

"spool FILE" shows how much waits in the FILE of a --spool. With --export, it
writes what waits to standard output, and leaves it in FILE.

"receive" starts a server that stores what it is sent: see "receive --help".

--upload, --tus and --resume exclude --lines, --compress, --refused and --spool;
--upload also excludes --retry-for and --unsent, --tus and --resume exclude
--method. --spool excludes --unsent; --follow excludes FILE, --lines and
--interval.

With --spool, --capacity is also the maximum size of a commit, --interval the
longest time before one, and --retry-for the time after which a failure is
reported, while attempts continue. The spool takes up to 1 GiB; then reading
waits.

A SIZE is in bytes, or has a unit: 64K, 1M, 1G.
A TIME is in milliseconds, or has a unit: 500ms, 30s, 2m.

${permissions}Exit codes: 0 all bytes acknowledged, 1 failed or interrupted, 2 invalid usage
or missing permission, 3 all bytes acknowledged or appended to --refused, 4 all
that was read is acknowledged or in --spool, after an interrupt or --drain.
`;
}

/** How a number with a unit is written. */
interface Unit {
  /** Captures the digits and the unit. */
  readonly pattern: RegExp;
  readonly factors: Readonly<Record<string, number>>;
  readonly description: string;
  /** Whether it may also be "forever". */
  readonly isUnlimited?: boolean;
}

/** In bytes. */
export const SIZE: Unit = {
  pattern: /^(\d+)([KMG]?)$/,
  factors: { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 },
  description: "a size like 64K or 1M",
};

/** In ms. */
export const TIME: Unit = {
  pattern: /^(\d+)(ms|s|m|)$/,
  factors: { "": 1, ms: 1, s: 1_000, m: 60_000 },
  description: "a time like 500ms, 30s or 2m",
};

/** In ms. */
export const TIME_OR_FOREVER: Unit = {
  ...TIME,
  description: `${TIME.description}, or forever`,
  isUnlimited: true,
};

/**
 * How the input is sent: as many requests, as one object in one request, as one
 * in a new resumable upload, or as the rest of an upload.
 */
export type Mode = "records" | "upload" | "tus" | "resume";

/** The options that only some modes have, and these modes. */
const MODES_OF_OPTION: Readonly<Record<string, readonly Mode[]>> = {
  method: ["records", "upload"],
  lines: ["records"],
  compress: ["records"],
  "retry-for": ["records", "tus", "resume"],
  unsent: ["records", "tus", "resume"],
  refused: ["records"],
  spool: ["records"],
  metadata: ["tus"],
  offset: ["resume"],
};

/** Options, and those that they need. */
const REQUIREMENTS = [["drain", "spool"], ["follow", "spool"]] as const;
/** Options that exclude each other. */
const CONFLICTS = [
  ["spool", "unsent"], // nothing is undelivered: it is in the spool
  ["follow", "lines"], // it always reads lines
  ["follow", "interval"],
] as const;

/** The options as they were given, by their long names. */
export type Values = ReturnType<typeof parseOptions>["values"];

/**
 * Parses the arguments. Values are not checked yet.
 *
 * @throws {UsageError} If an option is unknown or its value is missing.
 */
export function parseOptions(args: readonly string[]) {
  return orUsageError(() =>
    parseArgs({
      args: withFormat(args),
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
        refused: { type: "string" },
        spool: { type: "string" },
        drain: { type: "string" },
        follow: { type: "string" },
        export: { type: "boolean" },
        upload: { type: "boolean" },
        tus: { type: "boolean" },
        resume: { type: "boolean" },
        metadata: { type: "string", multiple: true },
        offset: { type: "string" },
        quiet: { type: "boolean", short: "q" },
        help: { type: "boolean" },
        version: { type: "boolean" },
      },
    })
  );
}

/** Calls what parses arguments, with a {@linkcode UsageError} if it fails. */
export function orUsageError<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    const { message } = error as Error;
    const [, option] = message.match(/^Unknown option '(.*?)'/) ?? [];
    throw new UsageError(option ? `unknown option ${option}` : message);
  }
}

/** Adds the default value of `--compress`, since `parseArgs` has no optional ones. */
function withFormat(args: readonly string[]): string[] {
  const format = /^(gzip|deflate|brotli)$/;
  const end = args.indexOf("--");
  return args.flatMap((arg, i) => {
    if (end >= 0 && i > end) return [arg];
    if (args[i - 1] === "--compress" && format.test(arg)) return [];
    if (arg !== "--compress") return [arg];
    return [`--compress=${args[i + 1]?.match(format)?.[0] ?? "gzip"}`];
  });
}

/**
 * The mode that the options select.
 *
 * @throws {UsageError} If they select two, or include an option of another mode, or
 *   options that do not go together.
 */
export function modeOf(values: Values): Mode {
  const modes = (["upload", "tus", "resume"] as const)
    .filter((mode) => values[mode]);
  if (modes.length > 1) {
    throw cannotBeCombined(modes[0]!, modes[1]!);
  }
  const [mode = "records"] = modes;
  for (const [option, owners] of Object.entries(MODES_OF_OPTION)) {
    if (option in values && !owners.includes(mode)) {
      throw new UsageError(
        mode === "records"
          ? `--${option} requires --${owners.join(" or --")}`
          : `--${option} cannot be used with --${mode}`,
      );
    }
  }
  if (values.export) throw new UsageError("--export requires spool FILE");
  for (const [option, other] of REQUIREMENTS) {
    if (option in values && !(other in values)) {
      throw new UsageError(`--${option} requires --${other}`);
    }
  }
  for (const [option, other] of CONFLICTS) {
    if (option in values && other in values) {
      throw cannotBeCombined(option, other);
    }
  }
  return mode;
}

function cannotBeCombined(option: string, other: string): UsageError {
  return new UsageError(`--${option} and --${other} cannot be used together`);
}

/**
 * The value of an option, in bytes or ms, as an object to spread into options of
 * the library. Without the option it is empty, so that the default applies.
 *
 * @param name The library's name of the option.
 * @throws {UsageError} If the value is not a number with a unit of this kind.
 */
export function quantity<Option extends string>(
  values: { readonly [option in Option]?: unknown },
  option: Option,
  { pattern, factors, description, isUnlimited = false }: Unit,
  name: string = option,
): Record<string, number> {
  const value = values[option];
  if (value === undefined) return {};
  if (isUnlimited && value === "forever") return { [name]: Infinity };
  const [, digits, unit] = String(value).match(pattern) ?? [];
  if (digits === undefined || unit === undefined) {
    throw new UsageError(
      `--${option} must be ${description}, received ${JSON.stringify(value)}`,
    );
  }
  return { [name]: Number(digits) * factors[unit]! };
}

/**
 * The metadata of an upload: `filename` if there is one file, `fingerprint` if the
 * input has one, and the values of `--metadata`, which override them.
 *
 * @throws {UsageError} If a value is not NAME=VALUE.
 */
export function readMetadata(
  options: readonly string[],
  files: readonly string[],
  info: Pick<InputInfo, "fingerprint"> | undefined,
): Record<string, string> {
  const metadata: Record<string, string> = {};
  const [file, another] = files;
  if (file !== undefined && file !== "-" && another === undefined) {
    metadata.filename = basename(file);
  }
  if (info !== undefined) metadata.fingerprint = info.fingerprint;
  for (const option of options) {
    const [, name, value] = option.match(/^([^=]*)=(.*)$/s) ?? [];
    if (name === undefined || value === undefined) {
      throw new UsageError(
        `--metadata must be NAME=VALUE, received ${JSON.stringify(option)}`,
      );
    }
    metadata[name] = value;
  }
  return metadata;
}
