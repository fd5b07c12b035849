/**
 * The command that resumes an upload, to be printed when one was not completed:
 * the user copies it from the terminal.
 */
import { VARIABLE } from "./headers.ts";
import type { Values } from "./options.ts";

/** An upload that was not completed, and where the rest of it is. */
export interface UnfinishedUpload {
  /** What `deno run` is to run: a path, or a specifier. */
  readonly program: string;
  /** Where the upload is. */
  readonly url: string;
  /**
   * The origin of the URL that the command was given. Its headers go to no other
   * one, neither now nor when the upload is resumed.
   */
  readonly origin: string;
  /** The options that the command was given. */
  readonly values: Values;
  /** Its files; `-` is standard input. */
  readonly files: readonly string[];
  /** Where in the object they begin, in bytes. */
  readonly offset: number;
  /** The size of the object when the upload began, if it was known, in bytes. */
  readonly size: number | undefined;
  /** The size now, by the same files; `undefined` if they cannot be read. */
  readonly currentSize: number | undefined;
  /** All that the object lacks, if it was saved, and where in the object it begins. */
  readonly saved:
    | { readonly path: string; readonly offset: number }
    | undefined;
}

/** Options that the command repeats as they were given. */
const REPEATED = ["capacity", "interval", "timeout", "retry-for"] as const;
/** Headers that hold no secret: in a file, or nothing but a variable. */
const PUBLIC_HEADER = /^@|^[\w-]+: *((Basic|Bearer|Token) +)?\$\{\w+\}$/i;

/**
 * Says how an upload can be resumed: what it takes, and on a line of its own the
 * command. Its words are quoted for POSIX shells; PowerShell reads them alike
 * unless one holds a single quote.
 *
 * @returns The text; `undefined` if the input has changed, so that no command can.
 */
export function resumeCommand(upload: UnfinishedUpload): string | undefined {
  const { program, url, values, files, saved } = upload;
  if (upload.size !== undefined && upload.size !== upload.currentSize) {
    return undefined;
  }
  const needed: string[] = [];
  // Files are there to be read again. What was read of standard input is gone,
  // unless it was saved.
  const isRead = files.includes("-");
  const input = isRead && saved !== undefined
    ? { files: [saved.path], offset: saved.offset }
    : { files, offset: upload.offset };
  if (isRead && saved === undefined) needed.push("the same input");

  const headers = new URL(url).origin === upload.origin
    ? values.header ?? []
    : [];
  const variables = new Set(
    headers.flatMap((header) =>
      [...header.matchAll(VARIABLE)].map(([, name]) => name)
    ),
  );
  const shown = headers.map((header) =>
    PUBLIC_HEADER.test(header) ? header : header.replace(/:.*/s, ": ...")
  );
  if (shown.some((header, i) => header !== headers[i])) {
    needed.push("the header values in place of ...");
  }

  const words = [
    ...["deno", "run", "-N", "-R"],
    ...[...variables].map((name) => `--allow-env=${name}`),
    ...[program, "--resume"],
    ...REPEATED.flatMap((option) => {
      const value = values[option];
      return value === undefined ? [] : [`--${option}`, value];
    }),
    ...shown.flatMap((header) => ["-H", header]),
    ...input.offset > 0 ? ["--offset", `${input.offset}`] : [],
    // Else the name of such a file would be taken as an option.
    ...input.files.some((file) => /^-./.test(file)) ? ["--"] : [],
    ...[url, ...input.files],
  ];
  const how = needed.length > 0 ? `, with ${needed.join(" and ")}` : "";
  return `to resume${how}:\n${words.map(quote).join(" ")}`;
}

/** Quotes a word for a shell, if it has to be. */
function quote(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replace(/'/g, "'\\''")}'`;
}
