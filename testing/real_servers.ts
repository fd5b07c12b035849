/**
 * Real servers for tests: programs of the system, each started on a free port
 * of this machine, with a configuration of its own in a temporary folder.
 */
import { assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { setTimeout as sleep } from "node:timers/promises";
import type { StreamBuffer } from "../buffer.ts";
import { receiver } from "../examples/receiver.ts";
import type { SendError } from "../sender.ts";
import { freePort } from "./free_port.ts";

/** How long a server, or what a test does under a stream, may take, in ms. */
const PATIENCE = 30_000;
/** How often one is started, with another port each time. */
const MAX_STARTS = 5;
/** How long to wait between two looks at something, in ms. */
const PAUSE = 5;

// -- Programs --

/** A program, and the Debian package that brings it. */
export interface Program {
  readonly command: string;
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

/** The path of a program, if it is installed. */
function find({ command }: Program): string | undefined {
  // Debian has servers in folders that are not on the path of every user.
  const folders = `${Deno.env.get("PATH")}:/usr/local/sbin:/usr/sbin`;
  return folders.split(":").map((folder) => `${folder}/${command}`).find(
    (path) => {
      try {
        return Deno.statSync(path).isFile;
      } catch {
        return false;
      }
    },
  );
}

/**
 * Like `Deno.test`, for tests that need these programs: without them they are
 * skipped, and one line says why.
 */
export function testWith(
  ...programs: Program[]
): (name: string, fn: () => Promise<void>) => void {
  const missing = programs.filter((program) => find(program) === undefined);
  for (const program of missing) {
    // Test files are threads of one process; this is what they share.
    const told = `SKIPPED_WITHOUT_${program.command}`;
    if (Deno.env.has(told)) continue;
    Deno.env.set(told, "1");
    console.log(
      `skipped: ${program.command} is not installed (apt-get install ${program.package})`,
    );
  }
  const ignore = missing.length > 0;
  return (name, fn) => Deno.test(name, { ignore }, fn);
}

/** Runs a program to its end, which must be a good one. */
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
  /** Writes what the server needs into the folder; returns its arguments. */
  readonly configure: (
    folder: string,
    port: number,
  ) => Promise<string[]> | string[];
}

/** A server that is a process of its own, and keeps its port when restarted. */
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

  /** Starts one, and waits until it accepts connections. */
  static async start(options: ServerOptions): Promise<RealServer> {
    for (let starts = 1;; starts++) {
      const server = await RealServer.prepare(options);
      try {
        await server.start();
        return server;
      } catch (error) {
        await server[Symbol.asyncDispose]();
        // Someone may have been faster to take the port.
        if (starts === MAX_STARTS) throw error;
      }
    }
  }

  /** Makes one that is not started yet. */
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
    // What the server says goes to a file, and `exec` keeps the process id.
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
    let ended = false;
    void this.#process.status.then(() => ended = true);
    await poll(`${this.#program.command} accepts connections`, async () => {
      const accepts = await connects(this.port);
      if (!ended) return accepts;
      throw new Error(
        `${this.#program.command} ended: ${await this.read("output.log")}`,
      );
    });
  }

  /** Ends it, and waits until it has ended. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    this.#process = undefined;
    kill(process, signal);
    const timer = setTimeout(() => kill(process, "SIGKILL"), PATIENCE);
    await process.status;
    clearTimeout(timer);
  }

  /** A file of its folder, as text. */
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
    // It has ended by itself.
  }
}

/** Waits until something is so. */
export async function poll(
  what: string,
  isSo: () => Promise<boolean> | boolean,
): Promise<void> {
  const start = Date.now();
  while (!await isSo()) {
    if (Date.now() - start > PATIENCE) throw new Error(`Not so: ${what}`);
    await sleep(PAUSE);
  }
}

/** The paths of a key and of a certificate for 127.0.0.1 that it signed itself. */
export async function makeCertificate(
  folder: string,
): Promise<{ key: string; cert: string }> {
  const [key, cert] = [`${folder}/key.pem`, `${folder}/cert.pem`];
  await run(OPENSSL, [
    "req",
    "-x509",
    "-nodes",
    ..."-newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(" "),
    ..."-days 2 -subj /CN=127.0.0.1".split(" "),
    ..."-addext subjectAltName=IP:127.0.0.1".split(" "),
    ..."-addext basicConstraints=critical,CA:FALSE".split(" "),
    ...["-keyout", key, "-out", cert],
  ]);
  return { key, cert };
}

// -- Both ends of a stream --

/** The receiver of the examples, which a test may stop, start again and delay. */
export class Receiver implements AsyncDisposable {
  readonly #stored: Uint8Array[] = [];
  readonly #handle = receiver((bytes) => this.#stored.push(bytes));
  readonly #arrived = new EventTarget();
  #server: Deno.HttpServer<Deno.NetAddr> | undefined;
  #held: PromiseWithResolvers<void> | undefined;
  /** The headers of every request that has been read, in order. */
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

  /** Everything stored. */
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
        // A connection broke while it was read; the default says so at length.
        onError: () => new Response(null, { status: 500 }),
      },
      async (request) => {
        const { method, url, headers } = request;
        const body = await request.bytes();
        this.requests.push(headers);
        this.#arrived.dispatchEvent(new Event("request"));
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

  /** Stores nothing of what it reads before `release` is called. */
  hold(): void {
    this.#held = Promise.withResolvers();
  }

  release(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  /** Waits for a request that satisfies a condition. */
  async saw(isIt: (headers: Headers) => boolean): Promise<void> {
    while (!this.requests.some(isIt)) await this.next();
  }

  /** Waits for the next request. */
  async next(): Promise<void> {
    await event(this.#arrived, "request");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    await this.stop();
  }
}

/** Everything that was written has been stored, once and in order. */
export function assertReceived(
  { bytes }: Receiver,
  written: Uint8Array,
): void {
  // Not `assertEquals`, which would show megabytes.
  assertEquals(bytes.length, written.length);
  const at = bytes.findIndex((byte, i) => byte !== written[i]);
  assertEquals(at, -1, `Not what was written, from byte ${at} on`);
}

/** A line that differs from all others, in its length from most. */
export function line(number: number): string {
  return `${number} ${"*".repeat(number % 199)}\n`;
}

/** Writes so many lines and closes; returns what was written. */
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
 * Writes lines without a pause for as long as something goes on, and closes;
 * returns what was written.
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
  // What the work waits for may never happen, and the lines would go on.
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error(`It took longer than ${PATIENCE} ms`)),
    PATIENCE,
  );
  const end = Promise.race([work(), late.promise]).finally(() => ended = true);
  try {
    await Promise.all([write(), end]);
  } finally {
    clearTimeout(timer);
  }
  return new TextEncoder().encode(lines.join(""));
}

/** Retries soon, so that tests are quick; remembers why. */
export class Retries {
  readonly #happened = new EventTarget();
  readonly failures: SendError[] = [];
  readonly options = {
    retry: { initialDelay: 1, maxDelay: 50 },
    onRetry: (failure: SendError): void => {
      this.failures.push(failure);
      this.#happened.dispatchEvent(new Event("failure"));
    },
  };

  /** Waits for the next one. */
  async next(): Promise<void> {
    await event(this.#happened, "failure");
  }

  /** The statuses of all failures, each once. */
  get statuses(): (number | undefined)[] {
    return [...new Set(this.failures.map(({ status }) => status))];
  }
}

function event(target: EventTarget, type: string): Promise<unknown> {
  return new Promise((resolve) => {
    target.addEventListener(type, resolve, { once: true });
  });
}
