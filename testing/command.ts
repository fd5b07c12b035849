/** What the tests of the command share. */
import process from "node:process";
import { dirname } from "node:path";
import { StreamBuffer } from "../buffer.ts";
import { inspectSpool, Spool } from "../spool/mod.ts";
import {
  type Child,
  type Outcome,
  PERMISSIONS,
  startCommand,
} from "./child.ts";
import { type Behaviour, type FaultyServer, respond } from "./faulty_server.ts";
import { currentTransport } from "./transports.ts";
import { startTusServer, type TusServer } from "./tus_server.ts";

/**
 * How long a process may run, in ms, so that a test fails instead of hanging. The
 * slowest takes about 6 s on an idle machine.
 */
export const LIMIT = 60_000;

/** The outcome of a command that succeeds: it prints nothing. */
export const SUCCESS = { code: 0, signal: null, stdout: "", stderr: "" };

/**
 * Starts the command, over the transport of the test (`transports.ts`); it is
 * killed at the limit.
 */
export function start(
  args: string[],
  permissions: string[] = PERMISSIONS,
  shell?: string,
): Child {
  const env = currentTransport() === undefined ? [] : ["--ignore-env"];
  const child = startCommand(args, [...permissions, ...env], shell);
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT);
  void child.outcome.finally(() => clearTimeout(timer));
  return child;
}

/** Runs the command to its end, with `input`. */
export async function run(
  args: string[],
  input: string | Uint8Array = "",
  permissions?: string[],
): Promise<Outcome> {
  await using child = start(args, permissions);
  // It may end without reading all of it.
  await child.write(input).then(() => child.end()).catch(() => {});
  return await child.outcome;
}

/** Drops what this process writes to standard error, as the command does. */
export function muteStderr(): Disposable {
  const { write } = Deno.stderr;
  Deno.stderr.write = (p) => Promise.resolve(p.length);
  return { [Symbol.dispose]: () => void (Deno.stderr.write = write) };
}

/** Responds with 400, and with what should stay secret. */
export const refuseWithEcho: Behaviour = async (exchange) => {
  const { headers, path } = exchange.request;
  await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
};

/**
 * The permissions of a command before which `script` runs, with `args`. It is sent
 * there as text, and so uses nothing else.
 */
export function after<Args extends unknown[]>(
  script: (...args: Args) => void | Promise<void>,
  ...args: Args
): string[] {
  const code = encodeURIComponent(
    `await (${script})(...${JSON.stringify(args)})`,
  );
  return [...PERMISSIONS, `--preload=data:text/javascript,${code}`];
}

/** Lets no timer of `delay` ms fire. */
export function dropTimers(delay: number): void {
  const { setTimeout } = globalThis;
  globalThis.setTimeout =
    ((fn: () => void, ms?: number) =>
      ms === delay ? 0 : setTimeout(fn, ms)) as typeof setTimeout;
}

/** Prints to standard output which timers are set and cleared. */
export function logTimers(): void {
  const { setTimeout, clearTimeout } = globalThis;
  const delays = new Map<unknown, number | undefined>();
  globalThis.setTimeout = ((fn: () => void, ms?: number) => {
    const id = setTimeout(fn, ms);
    delays.set(id, ms);
    console.log(`set ${ms}`);
    return id;
  }) as typeof setTimeout;
  globalThis.clearTimeout = (id) => {
    console.log(`cleared ${delays.get(id)}`);
    clearTimeout(id);
  };
}

/** Leaves room for 5 bytes on the disk. */
export async function fillTheDisk(): Promise<void> {
  const { open } = process.getBuiltinModule("node:fs/promises");
  await using file = await open(Deno.execPath());
  const prototype = Object.getPrototypeOf(file);
  const { write } = prototype;
  let room = 5;
  prototype.write = function (bytes: Uint8Array) {
    if (room === 0) throw new Error("the disk is full");
    const part = bytes.subarray(0, room);
    room -= part.length;
    return write.call(this, part);
  };
}

/**
 * Leaves no room on the disk the first times that a spool wants to reserve some,
 * which it does before it adds anything.
 */
export function fillTheDiskOfSpool(times: number): void {
  const fs = process.getBuiltinModule("node:fs");
  const { writeSync } = fs;
  let left = times;
  // deno-lint-ignore no-explicit-any
  fs.writeSync = ((file: number, data: any, ...rest: []) => {
    const isReserve = data.length === 64 * 1024;
    if (!isReserve || left-- <= 0) return writeSync(file, data, ...rest);
    throw Object.assign(new Error("no space left"), { code: "ENOSPC" });
  }) as typeof fs.writeSync;
}

/** Numbered lines, so that any two parts of them differ. */
export function linesOf(size: number): string {
  let text = "";
  for (let i = 0; text.length < size; i++) text += `line ${i}\n`;
  return text;
}

/** The bodies of all requests, in order. */
export function received(server: FaultyServer): string {
  return server.bodies.join("");
}

/** Writes each text, after the server has received the one before in a request. */
export async function writeEach(
  running: Child,
  server: FaultyServer,
  ...texts: string[]
): Promise<void> {
  for (const [i, text] of texts.entries()) {
    await running.write(text);
    await running.waitFor(server.received(i + 1));
  }
}

/**
 * Starts a tus server behind a proxy that refuses requests.
 *
 * @param good The number of requests with bytes that it forwards before that.
 */
export async function startRefusingTusServer(good = Infinity) {
  const server = await startTusServer({ relativeLocation: true });
  const { promise: appended, resolve: append } = Promise.withResolvers<void>();
  let count = 0;
  let refuses = false;
  const front = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
  }, async (request) => {
    const sends = request.method === "PATCH" && request.body !== null;
    if (sends && (refuses ||= ++count > good)) {
      await request.body?.cancel();
      return new Response("no more", { status: 400 });
    }
    const { pathname } = new URL(request.url);
    const response = await fetch(`http://127.0.0.1:${server.port}${pathname}`, {
      method: request.method,
      headers: request.headers,
      body: request.body && await request.bytes(),
    });
    if (sends && response.ok) append();
    return response;
  });
  return {
    url: `http://127.0.0.1:${front.addr.port}/files`,
    server,
    /** Resolves when the first bytes have been stored. */
    appended,
    /** Refuses nothing from now on. */
    recover() {
      refuses = false;
      good = Infinity;
    },
    async [Symbol.asyncDispose]() {
      await front.shutdown();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** The state of the only upload whose URL was printed. */
export function uploaded(server: TusServer, stderr: string) {
  const [url] = stderr.match(/http:\S+\/files\/\w+/)!;
  const text = new TextDecoder().decode(server.read(url));
  return { url, text, isComplete: server.isComplete(url) };
}

/** Runs the last line that was printed, as a user would copy it. */
export async function runLastLine(stderr: string, input = "") {
  const [line] = stderr.trimEnd().split("\n").slice(-1);
  const shell = new Deno.Command("sh", {
    args: ["-c", line!],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: {
      PATH: `${dirname(Deno.execPath())}:${Deno.env.get("PATH")}`,
      TEST_TOKEN: "hunter2",
    },
    signal: AbortSignal.timeout(LIMIT),
  }).spawn();
  await ReadableStream.from([new TextEncoder().encode(input)])
    .pipeTo(shell.stdin).catch(() => {});
  const output = await shell.output();
  return { code: output.code, stderr: new TextDecoder().decode(output.stderr) };
}

/** Puts each text into a spool, in a send of its own, and delivers none. */
export async function leaveInSpool(
  path: string,
  ...texts: string[]
): Promise<void> {
  const away = () => Promise.reject(new Error("the server is away"));
  const spool = new Spool(path, away, { drainTimeout: 0 });
  await using out = new StreamBuffer(spool);
  for (const text of texts) {
    await out.write(text);
    await out.flush();
  }
}

/** Waits until the process that has a spool open says that so many bytes wait in it. */
export async function untilSpooled(
  running: Child,
  path: string,
  size: number,
): Promise<void> {
  const isThere = () => {
    try {
      return inspectSpool(path).bytesWaiting === size;
    } catch {
      return false; // it does not exist yet
    }
  };
  let hasExited = false;
  void running.outcome.then(() => hasExited = true);
  while (!isThere()) {
    if (hasExited) await running.waitFor(new Promise(() => {}));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A behaviour that responds with 503 until `recover` is called. */
export function outage(): { behaviour: Behaviour; recover(): void } {
  let status = 503;
  return {
    behaviour: (exchange) => respond(status)(exchange),
    recover: () => status = 200,
  };
}
