/**
 * The command: sends standard input, or files, to a URL; in many requests, or as
 * one object, in one request or in an upload that can be resumed.
 *
 * ```sh
 * tail -F app.log | deno run -N jsr:@stream-buffer/stream-buffer/cli --lines https://example.com/ingest
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli https://example.com/upload dump.sql
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli --tus https://example.com/files backup.tar
 * ```
 *
 * It exits with 0 when every byte of the input has been acknowledged, with 1
 * when some were not, or it was interrupted, and with 2 when it was called
 * wrongly; then nothing was sent.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { fstatSync } from "node:fs";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import config from "../deno.json" with { type: "json" };
import {
  type Compression,
  FetchSender,
  type FetchSenderOptions,
  type Reader,
  SendError,
  StreamBuffer,
  type StreamBufferOptions,
} from "../mod.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";

const NAME = "stream-buffer";

const HELP =
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

const SIZE = /^(\d+)([KMG]?)$/;
const TIME = /^(\d+)(ms|s|m|)$/;
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
type Mode = "records" | "upload" | "tus" | "resume";
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
/** How long a first interrupt lets what was read be sent, in ms. */
const LAST_CHANCE = 5_000;
/** How long an interrupted read may take to end, in ms. */
const GRACE = 100;
const READ_SIZE = 256 * 1024;
const SIGNALS: Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP"];
const NEWLINE = 10;
/** How far the input is read ahead; a power of 2. */
const RING_SIZE = 2 * 1024 * 1024;
/** Where counting begins: so shortly before it overflows that tests see that. */
const START = 2 ** 31 - 2 ** 20;

/** Wrong usage: exit code 2. */
class UsageError extends Error {}

/** What the command line asks for, ready to begin. */
interface Job {
  readonly mode: Mode;
  readonly out: StreamBuffer;
  /** In a mode that has one. */
  readonly upload: TusSender | undefined;
  /** How much of the input, and of the object, is not to be sent any more. */
  readonly skip: number;
  readonly start: number;
  /** The size of the object, if it is known. */
  readonly size: number | undefined;
  /** Whose headers they are. */
  readonly origin: string;
  readonly values: Values;
  readonly files: string[];
  readonly capacity: number;
  readonly lines: boolean;
  readonly quiet: boolean;
  readonly unsent: Unsent | undefined;
  /** Fulfils with a failure that no write was waiting for. */
  readonly failed: Promise<Error>;
}

/** The file for what could not be delivered. */
interface Unsent {
  readonly path: string;
  file: Deno.FsFile;
  readonly created: boolean;
}

/**
 * Runs the command.
 *
 * @example Usage
 * ```ts
 * import { main } from "@stream-buffer/stream-buffer/cli";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(await main(["--version"]), 0);
 * ```
 *
 * @param args The arguments, without the program's name.
 * @returns The exit code: 0, 1 or 2.
 */
export async function main(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parse(args);
    if (values.help || values.version) {
      console.log(values.help ? HELP.trimEnd() : config.version);
      return 0;
    }
    return await run(await prepare(values, positionals));
  } catch (error) {
    if (error instanceof SendError) { // nothing has been read
      say(error.message);
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    say(`${error.message}\nTry --help.`);
    return 2;
  }
}

function say(text: string): void {
  console.error(`${NAME}: ${text}`);
}

// -- The command line --

function parse(args: string[]) {
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

type Values = ReturnType<typeof parse>["values"];

/** Checks everything that can be checked before the first byte is read. */
async function prepare(
  values: Values,
  [url, ...files]: string[],
): Promise<Job> {
  const mode = modeOf(values);
  if (url === undefined) throw new UsageError("there is no URL");
  if (files.length === 0) files.push("-");
  const headers = await readHeaders(values.header ?? []);
  const { offset = 0 } = quantity(values, "offset", SIZE);
  const size = await sizeOf(files, offset);
  const { capacity = 256 * 1024 } = quantity(values, "capacity", SIZE);
  const lines = values.lines ?? false;
  const quiet = values.quiet ?? false;
  let silent = quiet;
  const { promise: failed, resolve: onError } = Promise.withResolvers<Error>();
  const options: StreamBufferOptions = {
    capacity,
    oversize: lines ? "whole" : "split",
    onError,
    ...quantity(values, "interval", TIME, "flushInterval"),
  };
  const request: FetchSenderOptions & { length?: number } = {
    headers,
    ...quantity(values, "timeout", TIME),
    retry: quantity(values, "retry-for", TIME, "maxElapsed"),
    onRetry: ({ message }) => {
      if (!silent) say(`${message}; trying again`);
      silent = true; // once is enough to know why it takes so long
    },
    ...values.method !== undefined && { method: values.method },
    ...values.compress !== undefined && {
      compression: values.compress as Compression,
    },
    ...size !== undefined && { length: size },
  };
  let out: StreamBuffer;
  let upload: TusSender | undefined;
  try {
    if (mode === "upload") {
      const sender = new UploadSender(url, request);
      sender.closed.catch(onError); // be it that there is nothing to write
      out = new StreamBuffer(sender, options);
    } else if (mode === "records") {
      out = new StreamBuffer(new FetchSender(url, request), options);
    } else {
      upload = new TusSender(url, {
        ...request,
        metadata: readMetadata(values.metadata ?? [], files),
      });
      out = new StreamBuffer(upload, options);
    }
    await checkNet(new URL(url));
    if (mode === "resume") {
      upload = await TusSender.resume(url, request);
      out = new StreamBuffer(upload, options);
    }
  } catch (error) {
    if (error instanceof SendError) throw error;
    throw new UsageError(
      (error as Error).message.replace(/^Cannot create \w+: /, ""),
    );
  }
  const start = upload?.offset ?? 0;
  if (start < offset) {
    throw new UsageError(
      `the upload has only ${start} bytes, and the input begins at ${offset}`,
    );
  }
  const unsent = values.unsent === undefined
    ? undefined
    : await openUnsent(values.unsent, files, mode);
  return {
    ...{ mode, out, upload, start, size, files, capacity, lines, quiet },
    ...{ unsent, failed, skip: start - offset, values },
    origin: new URL(url).origin,
  };
}

/** What the input becomes; the other options must belong to it. */
function modeOf(values: Values): Mode {
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

/** Where the input ends in the object, if that is known. */
async function sizeOf(
  files: string[],
  offset: number,
): Promise<number | undefined> {
  let size: number | undefined = offset;
  for (const file of files) {
    const stat = file === "-" ? undefined : await checkFile(file);
    // Some systems have files that say they are empty, and are not.
    size = size === undefined || !stat?.isFile || stat.size === 0
      ? undefined
      : size + stat.size;
  }
  return size;
}

function readMetadata(
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
function quantity(
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

async function readHeaders(given: string[]): Promise<Headers> {
  const headers = new Headers();
  for (const header of given) {
    if (!header.startsWith("@")) {
      addHeader(headers, header);
      continue;
    }
    const text = await attempt(
      `read the headers in ${header.slice(1)}`,
      () => Deno.readTextFile(header.slice(1)),
    );
    for (const line of text.split("\n")) {
      if (line.trim() !== "") addHeader(headers, line);
    }
  }
  return headers;
}

function addHeader(headers: Headers, text: string): void {
  const colon = text.indexOf(":");
  const name = text.slice(0, Math.max(colon, 0)).trim();
  const value = text.slice(colon + 1).trim().replace(
    /\$\{(\w+)\}/g,
    (_, variable: string) => {
      const value = getEnv(variable);
      if (value !== undefined) return value;
      throw new UsageError(
        `the header ${name} needs the environment variable ${variable}`,
      );
    },
  );
  try {
    headers.append(name, value);
  } catch {
    // The text may hold a secret, and so is not repeated.
    throw new UsageError(
      `--header must be "Name: value"${
        name && `, and that of ${JSON.stringify(name)} is not`
      }`,
    );
  }
}

function getEnv(variable: string): string | undefined {
  try {
    return Deno.env.get(variable);
  } catch {
    throw new UsageError(
      `cannot read the environment variable ${variable}: add --allow-env=${variable}`,
    );
  }
}

async function checkFile(file: string): Promise<Deno.FileInfo> {
  const stat = await attempt(`read ${file}`, () => Deno.stat(file));
  if (stat.isDirectory) {
    throw new UsageError(`cannot read ${file}: it is a directory`);
  }
  return stat;
}

async function checkNet(url: URL): Promise<void> {
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  const host = `${url.hostname}:${port}`;
  const { state } = await attempt(
    `connect to ${host}`,
    () => Deno.permissions.request({ name: "net", host }),
  );
  if (state !== "granted") {
    throw new UsageError(`cannot connect to ${host}: add --allow-net=${host}`);
  }
}

/** Opened at the start, so that it cannot fail when it is needed most. */
function openUnsent(
  path: string,
  files: string[],
  mode: Mode,
): Promise<Unsent> {
  return attempt(`write ${path}`, async () => {
    let created = true;
    let file: Deno.FsFile;
    try {
      file = await Deno.open(path, { append: true, createNew: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      created = false;
      file = await Deno.open(path, { append: true });
    }
    const { dev, ino, size } = await file.stat();
    if (mode !== "records" && size > 0) {
      file.close();
      throw new Error("it is not empty, and is to hold the rest of one object");
    }
    for (const input of files) {
      const other = input === "-" ? fstatSync(0) : await Deno.stat(input);
      // What is saved would be read again, and saved again, without end.
      if (ino !== null && other.ino === ino && other.dev === dev) {
        file.close();
        throw new Error(`it is the input ${input}`);
      }
    }
    return { path, file, created };
  });
}

/** Does something; if that fails, says what and why. */
async function attempt<T>(what: string, fn: () => Promise<T>): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    const { name, message } = error as Error;
    throw new UsageError(
      `cannot ${what}: ${
        name === "NotFound" ? "no such file or directory" : message
      }`,
    );
  }
}

// -- The work --

async function run(job: Job): Promise<number> {
  const { out, files, unsent } = job;
  const progress = showProgress(job);
  let interrupted = false;
  const timers: ReturnType<typeof setTimeout>[] = [];
  const interrupt = () => {
    const giveUp = () => void out.abort(new Error("interrupted"));
    if (interrupted) return giveUp();
    timers.push(setTimeout(giveUp, LAST_CHANCE));
    // What is on its way from the kernel counts as read.
    timers.push(setTimeout(() => input.stop(), GRACE));
    interrupted = true;
    say("interrupted: sending what was read (interrupt again to stop)");
  };
  for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupt);
  const input = new Input(job);
  void job.failed.then((error) => input.fail(error));

  let failure: unknown;
  try {
    if (job.mode === "tus") {
      const url = await job.upload!.create();
      if (!job.quiet) say(`the upload is at ${url}`);
    }
    await input.sendAll();
    await out.flush();
    if (job.mode !== "records" && (interrupted || input.error)) {
      throw new Error("the object is not complete");
    }
    await out.close();
  } catch (error) {
    failure = error;
    input.fail(error);
    await out.abort(error);
  }
  progress.stop();

  if (failure !== undefined) {
    const { message } = failure as Error;
    say(message.replace("so give `length`", "so send a file"));
  }
  const { bytesDelivered, sends } = out.stats;
  const unfinished = failure !== undefined || input.error !== undefined ||
    interrupted;
  if (unfinished || progress.shown) {
    say(
      job.mode === "upload"
        ? `${bytesDelivered} bytes handed to the connection`
        : `${bytesDelivered} bytes acknowledged in ${sends} requests`,
    );
  }
  let saved: string | undefined;
  if (failure !== undefined && job.mode !== "upload") {
    const left = [out.takeUnsent(), ...input.held];
    if (unsent === undefined) {
      let lost = left.reduce((sum, { length }) => sum + length, 0);
      input.stop();
      for await (const { length } of input.rest()) lost += length;
      // The rest of an object is still where it was, if that is a file.
      if (job.mode === "records" || (lost > 0 && files.includes("-"))) {
        say(
          `${lost} bytes were read and not acknowledged (--unsent keeps them)`,
        );
      }
    } else {
      const end = interrupted ? "" : ", to the end of the input";
      say(`saving what is left in ${unsent.path}${end}`);
      // Only then is it all that the object lacks.
      const isAll = await save(unsent, left, input) && !interrupted &&
        input.error === undefined;
      if (isAll && job.upload !== undefined) saved = unsent.path;
    }
  }
  if (input.error !== undefined) say(`cannot read on: ${input.error.message}`);
  if (unsent !== undefined) {
    const { size } = await unsent.file.stat();
    unsent.file.close();
    if (unsent.created && size === 0 && saved === undefined) {
      await Deno.remove(unsent.path).catch(() => {});
    }
  }
  if (failure !== undefined) await tellHowToGoOn(job, saved);
  input.close();
  for (const timer of timers) clearTimeout(timer);
  for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupt);
  return unfinished ? 1 : 0;
}

/** Tells the command that goes on with an upload, if there is one. */
async function tellHowToGoOn(
  { mode, out, upload, files, size, start, skip, origin, values }: Job,
  saved: string | undefined,
): Promise<void> {
  const url = upload?.url;
  if (mode === "upload" || url === undefined) return;
  const before = start - skip;
  const now = await sizeOf(files, before).catch(() => NaN);
  if (size !== undefined && size !== now) {
    return say("the input has changed: it is no longer what the upload is of");
  }
  const isRead = files.includes("-");
  const input = isRead && saved !== undefined ? [saved] : files;
  const offset = input === files ? before : start + out.stats.bytesDelivered;
  const here = import.meta.url;
  const words = [
    ...["deno", "run", "-N", "-R"],
    here.startsWith("file:")
      ? fileURLToPath(here)
      : `jsr:${config.name}@${config.version}/cli`,
    "--resume",
  ];
  for (const option of ["capacity", "interval", "timeout", "retry-for"]) {
    const value = values[option as keyof Values];
    if (value !== undefined) words.push(`--${option}`, String(value));
  }
  // Another server gets none of them now, and so later.
  const headers = new URL(url).origin === origin ? values.header ?? [] : [];
  const needs = new Set<string>();
  if (isRead && input === files) needs.add("the same input");
  for (const header of headers) {
    for (const [, variable] of header.matchAll(/\$\{(\w+)\}/g)) {
      words.splice(4, 0, `--allow-env=${variable}`);
    }
    const isPublic = /^@|^[\w-]+: *((Basic|Bearer|Token) +)?\$\{\w+\}$/i.test(
      header,
    );
    words.push("-H", isPublic ? header : header.replace(/:.*/s, ": ..."));
    if (!isPublic) needs.add("the headers' values in place of ...");
  }
  if (offset > 0) words.push("--offset", `${offset}`);
  if (input.some((file) => /^-./.test(file))) words.push("--");
  const quote = (word: string) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, "'\\''")}'`;
  const hint = needs.size > 0 ? `, with ${[...needs].join(" and ")}` : "";
  say(`to go on${hint}:\n${[...words, url, ...input].map(quote).join(" ")}`);
}

/**
 * Nothing of the input is lost, even what has not been read yet.
 *
 * @returns Whether it could be written.
 */
async function save(
  unsent: Unsent,
  left: Uint8Array[],
  input: Input,
): Promise<boolean> {
  const { path } = unsent;
  try {
    // It has gone when another command shared it, and did not need it.
    const file = await Deno.open(path, { append: true, create: true });
    unsent.file.close();
    unsent.file = file;
  } catch {
    // The one that is open will do.
  }
  const { file } = unsent;
  let saved = 0;
  let failed = false;
  const write = async (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length;) {
      const size = await file.write(bytes.subarray(at));
      at += size;
      saved += size;
    }
  };
  try {
    for (const bytes of left) await write(bytes);
    for await (const bytes of input.rest()) await write(bytes);
    await file.sync();
  } catch (error) {
    failed = true;
    say(`cannot write ${path}: ${(error as Error).message}`);
  }
  say(`${saved} bytes saved in ${path}`);
  return !failed;
}

/**
 * The input, on its way into the buffer. A thread of its own reads ahead into a
 * ring: a pipe gives at most 64 KiB at a time, and to wake the main thread for
 * each of them costs more than to send them. And so a read that waits can be
 * given up without losing anything.
 */
class Input implements Reader {
  readonly #job: Job;
  readonly #thread: Worker;
  readonly #ring = new Uint8Array(new SharedArrayBuffer(RING_SIZE));
  /** How many bytes came into the ring and went out, modulo 2^32. */
  readonly #written = new Int32Array(new SharedArrayBuffer(4)).fill(START);
  readonly #taken = new Int32Array(new SharedArrayBuffer(4)).fill(START);
  /** Counts what one may wait for. */
  readonly #news = new Int32Array(new SharedArrayBuffer(4));
  #ended = false;
  /** What was written when it was stopped. */
  #stop: number | undefined;
  #failure: unknown;
  /** What was read and has not been accepted yet. */
  held: Uint8Array[] = [];
  /** Why reading ended, if it failed. */
  error: Error | undefined;

  constructor(job: Job) {
    this.#job = job;
    const code = encodeURIComponent(`(${readAhead})()`);
    const url = `data:text/javascript,${code}`;
    this.#thread = new Worker(url, { type: "module" });
    this.#thread.onmessage = ({ data }) => {
      if (data !== null) this.error = new Error(data);
      this.#ended = true;
      this.#wake();
    };
    this.#thread.postMessage({
      files: job.files,
      skip: job.skip,
      ring: this.#ring,
      written: this.#written,
      taken: this.#taken,
      news: this.#news,
    });
  }

  /** Ends the input where it is. */
  stop(): void {
    this.#stop = Atomics.load(this.#written, 0);
    this.#wake();
  }

  /** Makes `sendAll` reject, even while it waits for input. */
  fail(reason: unknown): void {
    this.#failure = reason;
    this.#wake();
  }

  /** Puts everything into the buffer, or what was read before it was stopped. */
  async sendAll(): Promise<void> {
    if (this.#job.lines) await this.#sendLines();
    else await this.#job.out.readFrom(this);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The next bytes for `sendAll`, `null` at the end or after a failure. */
  async read(p: Uint8Array): Promise<number | null> {
    while (this.#failure === undefined) {
      const size = await this.#take(p);
      if (size !== 0) return size;
    }
    return null;
  }

  /** What `sendAll` has left. */
  async *rest(): AsyncGenerator<Uint8Array> {
    const chunk = new Uint8Array(READ_SIZE);
    for (let size; (size = await this.#take(chunk)) !== null;) {
      yield chunk.subarray(0, size);
    }
  }

  close(): void {
    this.#thread.terminate();
  }

  /** Waits for bytes, or for anything else that happens, and then takes none. */
  async #take(p: Uint8Array): Promise<number | null> {
    const news = Atomics.load(this.#news, 0);
    const ended = this.#ended || this.#stop !== undefined;
    const taken = Atomics.load(this.#taken, 0);
    const size = ((this.#stop ?? Atomics.load(this.#written, 0)) - taken) | 0;
    if (size > 0) {
      const at = taken & (RING_SIZE - 1);
      const part = this.#ring.subarray(at, at + Math.min(size, p.length));
      p.set(part);
      Atomics.store(this.#taken, 0, taken + part.length);
      Atomics.notify(this.#taken, 0);
      return part.length;
    }
    if (ended) return null;
    await Atomics.waitAsync(this.#news, 0, news).value;
    return 0;
  }

  #wake(): void {
    Atomics.add(this.#news, 0, 1);
    Atomics.notify(this.#news, 0);
  }

  async #sendLines(): Promise<void> {
    for (;;) {
      const chunk = new Uint8Array(READ_SIZE);
      const size = await this.read(chunk);
      if (size === null) break;
      this.held.push(chunk.subarray(0, size));
      await this.#write(false);
    }
    if (this.#failure === undefined) await this.#write(true);
  }

  /** Writes what is held, but for a line that may go on. */
  async #write(end: boolean): Promise<void> {
    const { out, capacity } = this.#job;
    if (!end && !this.held.at(-1)!.includes(NEWLINE)) return;
    let bytes = this.held.length === 1
      ? this.held[0]!
      : Buffer.concat(this.held);
    for (;;) {
      const size = sizeOfLines(bytes, capacity, end);
      if (size === 0) break;
      const before = out.stats.bytesAccepted;
      try {
        await out.write(bytes.subarray(0, size));
      } finally {
        bytes = bytes.subarray(out.stats.bytesAccepted - before);
        this.held = [bytes];
      }
    }
  }
}

/** The size of the next piece of whole lines, at most `capacity` if one fits. */
function sizeOfLines(
  bytes: Uint8Array,
  capacity: number,
  end: boolean,
): number {
  if (end && bytes.length <= capacity) return bytes.length;
  const last = bytes.lastIndexOf(NEWLINE, capacity - 1);
  if (last >= 0) return last + 1;
  const first = bytes.indexOf(NEWLINE);
  if (first >= 0) return first + 1;
  return end ? bytes.length : 0;
}

/**
 * What the reading thread does. It is sent there as text, and so uses nothing
 * of this module.
 */
function readAhead(): void {
  type Task =
    & Record<"written" | "taken" | "news", Int32Array>
    & { files: string[]; skip: number; ring: Uint8Array };
  const scope = self as unknown as Worker;

  scope.onmessage = ({ data }: MessageEvent<Task>) => {
    const { files, ring, written, taken, news } = data;
    let { skip } = data;
    try {
      for (const path of files) readFile(path);
      scope.postMessage(
        skip > 0 ? `the upload has ${skip} bytes more than the input` : null,
      );
    } catch (error) {
      scope.postMessage((error as Error).message);
    }

    function readFile(path: string): void {
      using opened = path === "-" ? null : Deno.openSync(path);
      const file = opened ?? Deno.stdin;
      if (opened?.statSync().isFile) {
        const size = Math.min(skip, opened.statSync().size);
        opened.seekSync(size, Deno.SeekMode.Start);
        skip -= size;
      }
      for (;;) {
        const start = Atomics.load(written, 0);
        const out = Atomics.load(taken, 0);
        const room = ring.length - ((start - out) | 0);
        if (room === 0) {
          Atomics.wait(taken, 0, out);
          continue;
        }
        const at = start & (ring.length - 1);
        const size = file.readSync(ring.subarray(at, at + room));
        if (size === null) return;
        const skipped = Math.min(skip, size);
        skip -= skipped;
        if (skipped > 0) ring.copyWithin(at, at + skipped, at + size);
        Atomics.store(written, 0, start + size - skipped);
        Atomics.add(news, 0, 1);
        Atomics.notify(news, 0);
      }
    }
  };
}

/**
 * A line on a terminal's standard error. Drawn by hand, because the libraries
 * for it make Deno ask for access to the environment.
 */
function showProgress(
  { out, mode, start, size, quiet }: Job,
): { shown: boolean; stop: () => void } {
  if (quiet || !Deno.stderr.isTerminal()) {
    return { shown: false, stop: () => {} };
  }
  const begin = Date.now();
  const verb = mode === "upload" ? "handed over" : "acknowledged";
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  const draw = (text: string) =>
    Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
  const update = () => {
    const { bytesDelivered } = out.stats;
    const done = start + bytesDelivered;
    const rate = 1_000 * bytesDelivered / (Date.now() - begin || 1);
    const left = size !== undefined && rate > 0
      ? `, ${duration(Math.max(size - done, 0) / rate)} left`
      : "";
    draw(
      `${megabytes(done)} MB${
        size ? ` of ${megabytes(size)} MB` : ""
      } ${verb}, ${megabytes(rate)} MB/s${left}`,
    );
  };
  const timer = setInterval(update, 200);
  return {
    shown: true,
    stop: () => {
      clearInterval(timer);
      update();
      draw("");
    },
  };
}

/** So many seconds, as "59s", "59m 59s" or "100h 00m". */
function duration(seconds: number): string {
  const two = (number: number) => `${number}`.padStart(2, "0");
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60)];
  if (hours > 0) return `${hours}h ${two(minutes % 60)}m`;
  return minutes > 0 ? `${minutes}m ${two(whole % 60)}s` : `${whole}s`;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
