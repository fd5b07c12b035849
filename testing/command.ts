/** What the tests of the command share. */
import { dirname } from "node:path";
import { type Child, PERMISSIONS, preload } from "./child.ts";
import { type Behaviour, type FaultyServer, respond } from "./faulty_server.ts";
import { startTusServer, type TusServer } from "./tus_server.ts";

/** How it ends when all is well: it says nothing. */
export const WELL = { code: 0, signal: null, stdout: "", stderr: "" };

/** Refuses, and repeats what should be secret. */
export const echo: Behaviour = async (exchange) => {
  const { headers, path } = exchange.request;
  await respond(400, {}, `${path} ${headers.get("authorization")}`)(exchange);
};

/** The permissions of a command in which `script` runs first. */
export function after(script: () => void): string[] {
  return [...PERMISSIONS, preload(script)];
}

/** Says on standard output which timers are set and cleared. */
export function tellTimers(): void {
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

/** Lets 5 seconds never pass. */
export function stopTheClock(): void {
  const { setTimeout } = globalThis;
  globalThis.setTimeout =
    ((fn: () => void, ms?: number) =>
      ms === 5_000 ? 0 : setTimeout(fn, ms)) as typeof setTimeout;
}

/** Leaves room for 5 bytes. */
export function fillTheDisk(): void {
  const { write } = Deno.FsFile.prototype;
  let room = 5;
  Deno.FsFile.prototype.write = function (bytes) {
    if (room === 0) throw new Error("the disk is full");
    const part = bytes.subarray(0, room);
    room -= part.length;
    return write.call(this, part);
  };
}

/** Numbered lines, so that any two parts of them differ. */
export function linesOf(size: number): string {
  let text = "";
  for (let i = 0; text.length < size; i++) text += `line ${i}\n`;
  return text;
}

export function received(server: FaultyServer): string {
  return server.bodies.join("");
}

/** Writes each text when the server has had a request with the one before. */
export async function writeEach(
  running: Child,
  server: FaultyServer,
  ...texts: string[]
): Promise<void> {
  for (const [i, text] of texts.entries()) {
    await running.write(text);
    await running.until(server.received(i + 1));
  }
}

/** A tus server whose requests go wrong after so many that send bytes. */
export async function tusServer(good = Infinity) {
  const server = await startTusServer({ relativeLocation: true });
  let count = 0;
  const refuse = { now: false };
  const front = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
  }, async (request) => {
    const sends = request.method === "PATCH" && request.body !== null;
    if (sends && (refuse.now ||= ++count > good)) {
      await request.body?.cancel();
      return new Response("no more", { status: 400 });
    }
    const { pathname } = new URL(request.url);
    return await fetch(`http://127.0.0.1:${server.port}${pathname}`, {
      method: request.method,
      headers: request.headers,
      body: request.body && await request.bytes(),
    });
  });
  return {
    url: `http://127.0.0.1:${front.addr.port}/files`,
    server,
    /** From now on all is well. */
    mend() {
      refuse.now = false;
      good = Infinity;
    },
    async [Symbol.asyncDispose]() {
      await front.shutdown();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** What has become of the only upload that a message names. */
export function uploaded(server: TusServer, stderr: string) {
  const [url] = stderr.match(/http:\S+\/files\/\w+/)!;
  const text = new TextDecoder().decode(server.read(url));
  return { url, text, isComplete: server.isComplete(url) };
}

/** Runs the command that a message ends with. */
export async function obey(stderr: string, input = "") {
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
  }).spawn();
  await ReadableStream.from([new TextEncoder().encode(input)])
    .pipeTo(shell.stdin).catch(() => {});
  const output = await shell.output();
  return { code: output.code, stderr: new TextDecoder().decode(output.stderr) };
}
