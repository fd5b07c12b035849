/**
 * The commands that are printed for the user to copy: the one that resumes an upload
 * that was not completed, and the one that delivers what waits in a spool.
 */
import type { InputInfo } from "./files.ts";
import { VARIABLE } from "./headers.ts";
import type { Values } from "./options.ts";

/** An upload that was not completed, and where the rest of it is. */
export interface UnfinishedUpload {
  /** What to pass to `deno run`, or to `interpreter`: a path, or a specifier. */
  readonly program: string;
  /** What runs it in place of Deno, without flags. */
  readonly interpreter?: string | undefined;
  /** Where the upload is. */
  readonly url: string;
  /**
   * The origin of the URL on the command line. The headers are sent to this origin
   * only, now and when the upload is resumed.
   */
  readonly origin: string;
  /**
   * Whether undici made the requests. The command that resumes the upload then
   * lets it do so again.
   */
  readonly isFast: boolean;
  /** The options as they were given. */
  readonly values: Values;
  /** The absolute paths of the files of the input; `-` is standard input. */
  readonly files: readonly string[];
  /** Where in the object the files begin, in bytes. */
  readonly offset: number;
  /** What was known of the input when the upload began. */
  readonly info: InputInfo | undefined;
  /** The same now; `undefined` if the files can no longer be read. */
  readonly currentInfo: InputInfo | undefined;
  /** The file with the whole rest of the object, and where in the object it begins. */
  readonly saved:
    | { readonly path: string; readonly offset: number }
    | undefined;
}

/** Options that are repeated as they were given. */
const REPEATED = ["capacity", "interval", "timeout", "retry-for"] as const;
/** Headers without a secret of their own: a file, or a variable as the only value. */
const PUBLIC_HEADER = /^@|^[\w-]+: *((Basic|Bearer|Token) +)?\$\{\w+\}$/i;

/**
 * Makes the text that says how to resume an upload: what is needed for that, then
 * the command, on a line of its own. Its words are quoted for POSIX shells;
 * PowerShell reads them in the same way, unless one holds a single quote.
 *
 * @returns The text; `undefined` if the input has changed, so that no command can
 *   resume the upload.
 */
export function resumeCommand(upload: UnfinishedUpload): string | undefined {
  const { url, values, files, info, saved } = upload;
  if (
    info !== undefined && info.fingerprint !== upload.currentInfo?.fingerprint
  ) {
    return undefined;
  }
  const needed: string[] = [];
  // Files can be read again, standard input only if it was saved.
  const isRead = files.includes("-");
  const input = isRead && saved !== undefined
    ? { files: [saved.path], offset: saved.offset }
    : { files, offset: upload.offset };
  if (isRead && saved === undefined) needed.push("give the same input");

  const headers = new URL(url).origin === upload.origin
    ? values.header ?? []
    : [];
  const { flags, options, isIncomplete } = repeatHeaders(headers);
  if (isIncomplete) needed.push("fill in the header values (...)");

  const words = [
    ...invoke(upload, ["-N", "-R"], flags),
    "--resume",
    ...repeat(REPEATED, values),
    ...options,
    ...input.offset > 0 ? ["--offset", `${input.offset}`] : [],
    // Otherwise the file would be mistaken for an option.
    ...input.files.some((file) => /^-./.test(file)) ? ["--"] : [],
    ...[url, ...input.files],
  ];
  const steps = new Intl.ListFormat("en").format([...needed, "run"]);
  return `to resume, ${steps}:\n${words.map(quote).join(" ")}`;
}

/** What waits in a spool, and how it was to be delivered. */
export interface Undelivered extends
  Pick<
    UnfinishedUpload,
    "program" | "interpreter" | "url" | "isFast" | "values"
  > {
  /** The absolute path of the spool. */
  readonly path: string;
}

/** As `REPEATED`: what the requests are like, and what becomes of a refused one. */
const REPEATED_WITH_SPOOL = [
  ...["method", "capacity", "compress", "timeout", "retry-for"],
  "refused",
] as const;

/**
 * Makes the text that says how to deliver what waits in a spool, as `resumeCommand`
 * does.
 */
export function deliverCommand(undelivered: Undelivered): string {
  const { url, values, path } = undelivered;
  const needed: string[] = [];
  const { flags, options, isIncomplete } = repeatHeaders(values.header ?? []);
  if (isIncomplete) needed.push("fill in the header values (...)");
  // A query may hold a secret, and this may end up in a log.
  const shown = url.replace(/\?.*/s, "?...");
  if (shown !== url) needed.push("fill in the query of the URL (...)");
  const words = [
    ...invoke(undelivered, ["-N", "-R", "-W"], flags),
    ...["--spool", path],
    ...repeat(REPEATED_WITH_SPOOL, values),
    ...options,
    shown,
  ];
  const steps = new Intl.ListFormat("en").format([...needed, "run"]);
  return `to deliver them, ${steps}:\n${words.map(quote).join(" ")} </dev/null`;
}

/** The words that run the program. */
function invoke(
  { program, interpreter, isFast }: Pick<
    UnfinishedUpload,
    "program" | "interpreter" | "isFast"
  >,
  permissions: readonly string[],
  flags: readonly string[],
): string[] {
  if (interpreter !== undefined) return [interpreter, program];
  const ignored = isFast ? ["--ignore-env"] : [];
  return ["deno", "run", ...permissions, ...ignored, ...flags, program];
}

/** The options as they were given. */
function repeat(
  names: readonly Exclude<keyof Values & string, "header">[],
  values: Values,
): string[] {
  return names.flatMap((name) => {
    const value = values[name];
    return value === undefined ? [] : [`--${name}`, `${value}`];
  });
}

/** Repeats headers, without the secrets in them. */
function repeatHeaders(headers: readonly string[]): {
  /** Flags of `deno run`. */
  readonly flags: string[];
  readonly options: string[];
  /** Whether values were left out. */
  readonly isIncomplete: boolean;
} {
  const variables = new Set(
    headers.flatMap((header) =>
      [...header.matchAll(VARIABLE)].map(([, name]) => name)
    ),
  );
  const shown = headers.map((header) =>
    PUBLIC_HEADER.test(header) ? header : header.replace(/:.*/s, ": ...")
  );
  return {
    flags: [...variables].map((name) => `--allow-env=${name}`),
    options: shown.flatMap((header) => ["-H", header]),
    isIncomplete: shown.some((header, i) => header !== headers[i]),
  };
}

/** Quotes a word for a shell, where necessary. */
function quote(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replace(/'/g, "'\\''")}'`;
}
