/** A script in a process of its own, which a test writes where it needs it. */
import { toText } from "@std/streams";
import type { StreamBuffer, streamTo } from "../mod.ts";

/** What a script in a child process is given. */
export interface Scope {
  readonly StreamBuffer: typeof StreamBuffer;
  readonly streamTo: typeof streamTo;
  readonly url: string;
  readonly args: string[];
  /** Fulfils at each `child.go()`. */
  readonly told: () => Promise<unknown>;
}

/** How a process ended, and what it said before. */
export interface Outcome {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running script. */
export interface Child extends AsyncDisposable {
  readonly outcome: Promise<Outcome>;
  kill(signal: Deno.Signal): void;
  /** Lets the script's `told()` go on. */
  go(): Promise<void>;
  /** Writes to the script's standard input, and ends it. */
  tell(text: string): Promise<void>;
  /** Waits until the script has said something on standard output. */
  said(text: string): Promise<void>;
  /** Waits for what only the script brings about, as long as it runs. */
  until(event: Promise<void>): Promise<void>;
}

/**
 * Runs `script` as the body of a module. It is sent there as text, and so uses
 * nothing but what it is given and the globals.
 *
 * @param options Flags for `deno run`, and further arguments for the script.
 */
export function start(
  url: string,
  script: (scope: Scope) => unknown,
  { permissions = ["-A"], args = [] }: {
    permissions?: string[];
    args?: string[];
  } = {},
): Child {
  const module = (path: string) =>
    JSON.stringify(new URL(path, import.meta.url).href);
  const code = `
    import { StreamBuffer, streamTo } from ${module("../mod.ts")};
    const told = () => Deno.stdin.read(new Uint8Array(1));
    const [url, ...args] = Deno.args;
    await (${script})({ StreamBuffer, streamTo, url, args, told });`;
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", "--no-prompt", "--no-check", ...permissions],
      ...[`data:text/javascript,${encodeURIComponent(code)}`, url, ...args],
    ],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  const [watched, whole] = process.stdout.tee();
  let heard = "";
  const ears: { text: string; resolve: () => void }[] = [];
  const listening = watched.pipeThrough(new TextDecoderStream()).pipeTo(
    new WritableStream({
      write(text) {
        heard += text;
        for (const ear of ears) if (heard.includes(ear.text)) ear.resolve();
      },
    }),
  );
  const outcome = Promise.all([
    process.status,
    toText(whole),
    toText(process.stderr),
    listening,
  ]).then(([{ code, signal }, stdout, stderr]) => {
    return { code, signal, stdout, stderr };
  });
  const until = (event: Promise<void>) => {
    const ended = outcome.then(({ code, stderr }) => {
      throw new Error(`It ended too early, with ${code}: ${stderr}`);
    });
    return Promise.race([event, ended]);
  };
  return {
    outcome,
    kill: (signal) => process.kill(signal),
    async go() {
      const writer = process.stdin.getWriter();
      await writer.write(new Uint8Array(1));
      writer.releaseLock();
    },
    async tell(text) {
      const writer = process.stdin.getWriter();
      await writer.write(new TextEncoder().encode(text));
      await writer.close();
      writer.releaseLock();
    },
    said: (text) =>
      until(
        new Promise((resolve) => {
          ears.push({ text, resolve });
          if (heard.includes(text)) resolve();
        }),
      ),
    until,
    async [Symbol.asyncDispose]() {
      try {
        process.kill("SIGKILL");
      } catch {
        // It has ended by itself.
      }
      await process.stdin.close().catch(() => {});
      await outcome;
    },
  };
}
