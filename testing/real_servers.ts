/**
 * Real servers for tests: installed programs, each started on a free port of
 * 127.0.0.1 with its own configuration in a temporary folder. Unix only.
 */
import { assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { setTimeout as sleep } from "node:timers/promises";
import type { StreamBuffer } from "../buffer.ts";
import { receiver } from "../examples/receiver.ts";
import type { SendError } from "../sender.ts";
import { Condition } from "./condition.ts";
import { freePort } from "./free_port.ts";

/** How long a server may take to start or stop, and `writeDuring`, in ms. */
const TIMEOUT = 30_000;
/** How many times a server is started, with another port each time. */
const MAX_STARTS = 5;
/**
 * How often to poll another program, in ms. It does not notify: whether it
 * accepts connections, or has stored a record, can only be asked again.
 */
const POLL_INTERVAL = 5;

// -- Programs --

/** A program, and the Debian package that contains it. */
export interface Program {
  readonly command: string;
  /** What it is called on other systems. */
  readonly aliases?: readonly string[];
  /** Where it is sought first. */
  readonly folders?: readonly string[];
  readonly package: string;
}

export const NGINX: Program = { command: "nginx", package: "nginx" };
export const TINYPROXY: Program = {
  command: "tinyproxy",
  package: "tinyproxy-bin",
};
export const INFLUXDB: Program = { command: "influxd", package: "influxdb" };
export const CLICKHOUSE: Program = {
  command: "clickhouse-server",
  package: "clickhouse-server",
};
export const OPENSSL: Program = { command: "openssl", package: "openssl" };

/** Returns the path of a program, if it is installed. */
export function find(
  { command, aliases = [], folders = [] }: Program,
): string | undefined {
  // Debian installs servers in folders that are not on every user's path.
  const paths = `${Deno.env.get("PATH")}:/usr/local/sbin:/usr/sbin`.split(":");
  return [command, ...aliases]
    .flatMap((name) => [...folders, ...paths].map((path) => `${path}/${name}`))
    .find(isFile);
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/**
 * Returns a `Deno.test` for tests that need these programs. If one is missing,
 * the tests are skipped, and one line of output names the package.
 */
export function testWith(
  ...programs: Program[]
): (
  name: string,
  fn: (t: Deno.TestContext) => Promise<void>,
  options?: Pick<Deno.TestDefinition, "sanitizeOps" | "sanitizeResources">,
) => void {
  const missing = programs.filter((program) => find(program) === undefined);
  for (const program of missing) {
    // Test files are threads of one process, and share only its environment.
    const reported = `SKIPPED_WITHOUT_${program.command}`;
    if (Deno.env.has(reported)) continue;
    Deno.env.set(reported, "1");
    console.log(
      `skipped: ${program.command} is not installed (apt-get install ${program.package})`,
    );
  }
  const ignore = missing.length > 0;
  return (name, fn, options) => Deno.test(name, { ...options, ignore }, fn);
}

/** Runs a program, and rejects if it fails. */
export async function run(program: Program, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(find(program)!, {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) {
    const text = new TextDecoder().decode(stderr);
    throw new Error(`${program.command} ${args.join(" ")} failed: ${text}`);
  }
}

// -- Servers --

/** How to start a server. */
export interface ServerOptions {
  readonly program: Program;
  /** Writes its configuration into the folder; returns its arguments. */
  readonly configure: (
    folder: string,
    port: number,
  ) => Promise<string[]> | string[];
}

/** A server in its own process, which keeps its port when restarted. */
export class RealServer implements AsyncDisposable {
  readonly #program: Program;
  readonly #args: string[];
  #process: Deno.ChildProcess | undefined;
  readonly folder: string;
  readonly port: number;

  private constructor(
    program: Program,
    args: string[],
    folder: string,
    port: number,
  ) {
    this.#program = program;
    this.#args = args;
    this.folder = folder;
    this.port = port;
  }

  /** Starts a server, and waits until it accepts connections. */
  static async start(options: ServerOptions): Promise<RealServer> {
    for (let starts = 1;; starts++) {
      const server = await RealServer.prepare(options);
      try {
        await server.start();
        return server;
      } catch (error) {
        await server[Symbol.asyncDispose]();
        // Another process may have taken the port in between.
        if (starts === MAX_STARTS) throw error;
      }
    }
  }

  /** Prepares a server without starting it. */
  static async prepare(
    { program, configure }: ServerOptions,
  ): Promise<RealServer> {
    const folder = await Deno.makeTempDir();
    const port = freePort();
    const args = await configure(folder, port);
    return new RealServer(program, args, folder, port);
  }

  /** Starts it, and waits until it accepts connections. */
  async start(): Promise<void> {
    // Its output goes to a file, and `exec` keeps the process id.
    this.#process = new Deno.Command("/bin/sh", {
      args: [
        "-c",
        'exec "$0" "$@" >>output.log 2>&1',
        find(this.#program)!,
        ...this.#args,
      ],
      cwd: this.folder,
      stdin: "null",
    }).spawn();
    let exited = false;
    void this.#process.status.then(() => exited = true);
    await poll(`${this.#program.command} to accept connections`, async () => {
      const accepts = await connects(this.port);
      if (!exited) return accepts;
      throw new Error(
        `${this.#program.command} exited: ${await this.read("output.log")}`,
      );
    });
  }

  /** Sends it a signal, and waits until it has exited. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    this.#process = undefined;
    kill(process, signal);
    const timer = setTimeout(() => kill(process, "SIGKILL"), TIMEOUT);
    await process.status;
    clearTimeout(timer);
  }

  /** Reads a file of its folder, as text. */
  read(file: string): Promise<string> {
    return Deno.readTextFile(`${this.folder}/${file}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await Deno.remove(this.folder, { recursive: true });
  }
}

async function connects(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}

function kill(process: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    process.kill(signal);
  } catch {
    // It has exited already.
  }
}

/** Waits until `isMet` returns true, at most 30 seconds. */
export async function poll(
  what: string,
  isMet: () => Promise<boolean> | boolean,
): Promise<void> {
  const start = Date.now();
  while (!await isMet()) {
    if (Date.now() - start > TIMEOUT) {
      throw new Error(`Waited ${TIMEOUT} ms for ${what}`);
    }
    await sleep(POLL_INTERVAL);
  }
}

// -- Both ends of a stream --

/** The receiver of the examples, which a test can stop, restart and delay. */
export class Receiver implements AsyncDisposable {
  readonly #stored: Uint8Array[] = [];
  readonly #handle = receiver((bytes) => this.#stored.push(bytes));
  readonly #changes = new Condition();
  #server: Deno.HttpServer<Deno.NetAddr> | undefined;
  #held: PromiseWithResolvers<void> | undefined;
  /** The headers of all requests that have been read, in order. */
  readonly requests: Headers[] = [];
  readonly #tls: Deno.TlsCertifiedKeyPem | undefined;
  readonly port: number;

  constructor(tls?: Deno.TlsCertifiedKeyPem) {
    this.#tls = tls;
    this.port = this.start(0);
  }

  get url(): string {
    return `${this.#tls ? "https" : "http"}://127.0.0.1:${this.port}/ingest`;
  }

  /** All bytes that were stored. */
  get bytes(): Uint8Array {
    return concat(this.#stored);
  }

  start(port = this.port): number {
    this.#server = Deno.serve(
      {
        hostname: "127.0.0.1",
        port,
        ...this.#tls,
        onListen() {},
        // A connection was lost while it was read; the default logs a stack.
        onError: () => new Response(null, { status: 500 }),
      },
      async (request) => {
        const { method, url, headers } = request;
        const body = await request.bytes();
        this.requests.push(headers);
        this.#changes.notify();
        await this.#held?.promise;
        return this.#handle(new Request(url, { method, headers, body }));
      },
    );
    return this.#server.addr.port;
  }

  async stop(): Promise<void> {
    await this.#server?.shutdown();
    this.#server = undefined;
  }

  /** Keeps requests from being stored until `release` is called. */
  hold(): void {
    this.#held = Promise.withResolvers();
  }

  release(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  /** Waits for a request whose headers meet a condition. */
  async saw(isMet: (headers: Headers) => boolean): Promise<void> {
    await this.#changes.wait(
      "a certain request",
      () => this.requests.some(isMet),
    );
  }

  /** Waits for the next request. */
  async next(): Promise<void> {
    const { length } = this.requests;
    await this.#changes.wait(
      "the next request",
      () => this.requests.length > length,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#changes.close(
      `the receiver was stopped after ${this.requests.length} requests`,
    );
    this.release();
    await this.stop();
  }
}

/** Asserts that all written bytes were stored, once and in order. */
export function assertReceived(
  { bytes }: Receiver,
  written: Uint8Array,
): void {
  // `assertEquals` would print megabytes.
  assertEquals(bytes.length, written.length);
  const at = bytes.findIndex((byte, i) => byte !== written[i]);
  assertEquals(at, -1, `Differs from what was written at byte ${at}`);
}

/** Returns a line that no other number gives; most differ in length. */
export function line(number: number): string {
  return `${number} ${"*".repeat(number % 199)}\n`;
}

/** Writes this many lines and closes; returns what was written. */
export async function writeLines(
  out: StreamBuffer,
  count: number,
  before: (number: number) => Promise<void> | void = () => {},
): Promise<Uint8Array> {
  const lines = Array.from({ length: count }, (_, number) => line(number));
  for (const [number, line] of lines.entries()) {
    await before(number);
    await out.write(line);
  }
  await out.close();
  return new TextEncoder().encode(lines.join(""));
}

/**
 * Writes lines without a pause until `work` is done, and closes; returns what
 * was written. Rejects when `work` takes longer than 30 seconds.
 */
export async function writeDuring(
  out: StreamBuffer,
  work: () => Promise<void>,
  lineOf: (number: number) => string = line,
): Promise<Uint8Array> {
  const lines: string[] = [];
  let ended = false;
  const write = async () => {
    while (!ended) {
      const next = lineOf(lines.length);
      await out.write(next);
      lines.push(next);
    }
    await out.close();
  };
  const timedOut = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => timedOut.reject(new Error(`It took longer than ${TIMEOUT} ms`)),
    TIMEOUT,
  );
  const end = Promise.race([work(), timedOut.promise])
    .finally(() => ended = true);
  try {
    await Promise.all([write(), end]);
  } finally {
    clearTimeout(timer);
  }
  return new TextEncoder().encode(lines.join(""));
}

/** Options that retry quickly, and a record of the failures. */
export class Retries {
  readonly #changes = new Condition();
  readonly failures: SendError[] = [];
  readonly options = {
    retry: { initialDelay: 1, maxDelay: 50 },
    onRetry: (failure: SendError): void => {
      this.failures.push(failure);
      this.#changes.notify();
    },
  };

  /** Waits for the next failure. Use it in `writeDuring`, which limits the time. */
  async next(): Promise<void> {
    const { length } = this.failures;
    await this.#changes.wait(
      "the next failure",
      () => this.failures.length > length,
    );
  }

  /** The distinct statuses of all failures. */
  get statuses(): (number | undefined)[] {
    return [...new Set(this.failures.map(({ status }) => status))];
  }
}
