/**
 * The command: sends standard input, or files, to a URL.
 *
 * ```sh
 * tail -F app.log | deno run -N jsr:@stream-buffer/stream-buffer/cli --lines https://example.com/ingest
 * deno run -N -R jsr:@stream-buffer/stream-buffer/cli https://example.com/upload dump.sql
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
import { parseArgs } from "node:util";
import config from "./deno.json" with { type: "json" };
import {
  type FetchSenderOptions,
  type Reader,
  type StreamBuffer,
  type StreamBufferOptions,
  streamTo,
} from "./mod.ts";

const NAME = "stream-buffer";

const HELP =
  `Sends standard input, or files, to a URL: few requests, no byte lost.

Usage: deno run -N -R cli.ts [options] URL [FILE...]

Without a FILE, or where it is -, it reads standard input.

Options:
  -H, --header HEADER    "Name: value", or @FILE with one header a line.
                         \${NAME} in a value stands for an environment variable.
                         May be given several times.
  -X, --method METHOD    Request method (default: POST).
      --capacity SIZE    Bytes a request; 64K, 1M (default: 256K).
      --interval TIME    Longest wait before a byte is sent (default: 1s).
                         0: only full requests, and the rest at the end.
      --lines            Never cut a line: each request holds whole lines.
      --compress [FORMAT]
                         Compress with gzip (default), deflate or brotli.
      --timeout TIME     For one attempt, reply included (default: 30s).
      --retry-for TIME   For all attempts of one request (default: 2m; 0: one).
      --unsent FILE      Append to FILE what could not be delivered.
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
  readonly out: StreamBuffer;
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
  if (url === undefined) throw new UsageError("there is no URL");
  if (files.length === 0) files.push("-");
  for (const file of files) if (file !== "-") await checkFile(file);
  const headers = await readHeaders(values.header ?? []);
  const { capacity = 256 * 1024 } = quantity(values, "capacity", SIZE);
  const lines = values.lines ?? false;
  const quiet = values.quiet ?? false;
  let silent = quiet;
  const { promise: failed, resolve: onError } = Promise.withResolvers<Error>();
  const options: StreamBufferOptions & FetchSenderOptions = {
    headers,
    capacity,
    oversize: lines ? "whole" : "split",
    onError,
    retry: quantity(values, "retry-for", TIME, "maxElapsed"),
    onRetry: ({ message }) => {
      if (!silent) say(`${message}; trying again`);
      silent = true; // once is enough to know why it takes so long
    },
    ...quantity(values, "interval", TIME, "flushInterval"),
    ...quantity(values, "timeout", TIME),
  };
  if (values.method !== undefined) options.method = values.method;
  if (values.compress !== undefined) {
    options.compression = values.compress as CompressionFormat;
  }
  let out: StreamBuffer;
  try {
    out = streamTo(url, options);
  } catch (error) {
    throw new UsageError(
      (error as Error).message.replace(/^Cannot create \w+: /, ""),
    );
  }
  await checkNet(new URL(url));
  const unsent = values.unsent === undefined
    ? undefined
    : await openUnsent(values.unsent, files);
  return { out, files, capacity, lines, quiet, unsent, failed };
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

async function checkFile(file: string): Promise<void> {
  const { isDirectory } = await attempt(`read ${file}`, () => Deno.stat(file));
  if (isDirectory) {
    throw new UsageError(`cannot read ${file}: it is a directory`);
  }
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
function openUnsent(path: string, files: string[]): Promise<Unsent> {
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
    const { dev, ino } = await file.stat();
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
  const { out, unsent } = job;
  const progress = await showProgress(job);
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
    await input.sendAll();
    await out.flush();
    await out.close();
  } catch (error) {
    failure = error;
    input.fail(error);
    await out.abort(error);
  }
  progress.stop();

  if (failure !== undefined) say((failure as Error).message);
  const { bytesDelivered, sends } = out.stats;
  const unfinished = failure !== undefined || input.error !== undefined ||
    interrupted;
  if (unfinished || progress.shown) {
    say(`${bytesDelivered} bytes acknowledged in ${sends} requests`);
  }
  if (failure !== undefined) {
    const left = [out.takeUnsent(), ...input.held];
    if (unsent === undefined) {
      let lost = left.reduce((sum, { length }) => sum + length, 0);
      input.stop();
      for await (const { length } of input.rest()) lost += length;
      say(`${lost} bytes were read and not acknowledged (--unsent keeps them)`);
    } else {
      const end = interrupted ? "" : ", to the end of the input";
      say(`saving what is left in ${unsent.path}${end}`);
      await save(unsent, left, input);
    }
  }
  if (input.error !== undefined) say(`cannot read on: ${input.error.message}`);
  if (unsent !== undefined) {
    const { size } = await unsent.file.stat();
    unsent.file.close();
    if (unsent.created && size === 0) {
      await Deno.remove(unsent.path).catch(() => {});
    }
  }
  input.close();
  for (const timer of timers) clearTimeout(timer);
  for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupt);
  return unfinished ? 1 : 0;
}

/** Nothing of the input is lost, even what has not been read yet. */
async function save(
  unsent: Unsent,
  left: Uint8Array[],
  input: Input,
): Promise<void> {
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
    say(`cannot write ${path}: ${(error as Error).message}`);
  }
  say(`${saved} bytes saved in ${path}`);
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
    & { files: string[]; ring: Uint8Array };
  const scope = self as unknown as Worker;

  scope.onmessage = ({ data }: MessageEvent<Task>) => {
    const { files, ring, written, taken, news } = data;
    try {
      for (const path of files) readFile(path);
      scope.postMessage(null);
    } catch (error) {
      scope.postMessage((error as Error).message);
    }

    function readFile(path: string): void {
      using opened = path === "-" ? null : Deno.openSync(path);
      const file = opened ?? Deno.stdin;
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
        Atomics.store(written, 0, start + size);
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
async function showProgress(
  { out, files, quiet }: Job,
): Promise<{ shown: boolean; stop: () => void }> {
  if (quiet || !Deno.stderr.isTerminal()) {
    return { shown: false, stop: () => {} };
  }
  let total = 0;
  for (const file of files) {
    total += file === "-" ? NaN : (await Deno.stat(file)).size;
  }
  const start = Date.now();
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  const draw = (text: string) =>
    Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
  const update = () => {
    const { bytesDelivered } = out.stats;
    const rate = 1_000 * bytesDelivered / (Date.now() - start || 1);
    draw(
      `${megabytes(bytesDelivered)} MB${
        total > 0 ? ` of ${megabytes(total)} MB` : ""
      } acknowledged, ${megabytes(rate)} MB/s`,
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

if (import.meta.main) Deno.exit(await main(Deno.args));
