/** Processes that a test starts, watches, and always ends. */
import type { StreamBuffer, streamTo } from "../mod.ts";
import type { TusSender } from "../senders/tus.ts";
import type { UploadSender } from "../senders/upload.ts";

/** How a process ended, and what it said before. */
export interface Outcome {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running process. */
export interface Child extends AsyncDisposable {
  readonly pid: number;
  readonly outcome: Promise<Outcome>;
  /** What it has said so far. */
  readonly heard: Readonly<Record<"stdout" | "stderr", string>>;
  kill(signal: Deno.Signal): void;
  /** Writes to its standard input. */
  write(data: string | Uint8Array): Promise<void>;
  /** Ends its standard input. */
  end(): Promise<void>;
  /** Waits until it has said something on standard output or error. */
  said(text: string): Promise<void>;
  /** Waits for what only the process brings about, as long as it runs. */
  until(event: Promise<void>): Promise<void>;
}

/**
 * Starts `deno run`. It may not ask for permissions, and has a secret in its
 * environment.
 *
 * @param shell Commands for a shell that then becomes the process.
 */
export function run(args: string[], shell?: string): Child {
  const command = [Deno.execPath(), "run", "-q", "--no-prompt", ...args];
  if (shell) command.unshift("sh", "-c", `${shell}; exec "$@"`, "sh");
  const process = new Deno.Command(command[0]!, {
    args: command.slice(1),
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1", TEST_TOKEN: "hunter2" },
  }).spawn();
  const stdin = process.stdin.getWriter();
  const heard = { stdout: "", stderr: "" };
  const ears: (() => void)[] = [];
  const hear = async (name: keyof typeof heard) => {
    const texts = process[name].pipeThrough(new TextDecoderStream());
    for await (const text of texts) {
      heard[name] += text;
      for (const ear of ears) ear();
    }
  };
  const outcome = Promise.all([process.status, hear("stdout"), hear("stderr")])
    .then(([{ code, signal }]) => ({ code, signal, ...heard }));
  const until = (event: Promise<void>) => {
    const ended = outcome.then(({ code, stderr }) => {
      throw new Error(`It ended too early, with ${code}: ${stderr}`);
    });
    return Promise.race([event, ended]);
  };
  return {
    pid: process.pid,
    outcome,
    heard,
    kill: (signal) => process.kill(signal),
    write: (data) =>
      stdin.write(
        typeof data === "string" ? new TextEncoder().encode(data) : data,
      ),
    end: () => stdin.close(),
    said: (text) =>
      until(
        new Promise((resolve) => {
          const ear = () => {
            if (heard.stdout.includes(text) || heard.stderr.includes(text)) {
              resolve();
            }
          };
          ears.push(ear);
          ear();
        }),
      ),
    until,
    async [Symbol.asyncDispose]() {
      try {
        process.kill("SIGKILL");
      } catch {
        // It has ended by itself.
      }
      await stdin.close().catch(() => {});
      await outcome;
    },
  };
}

/**
 * A flag with which `script` runs before the program, so that time, disks and
 * ports do as a test says. It is sent there as text.
 */
export function preload(script: () => void): string {
  const code = encodeURIComponent(`(${script})()`);
  return `--preload=data:text/javascript,${code}`;
}

/** What a script in a child process is given. */
export interface Scope {
  readonly StreamBuffer: typeof StreamBuffer;
  readonly streamTo: typeof streamTo;
  readonly TusSender: typeof TusSender;
  readonly UploadSender: typeof UploadSender;
  readonly url: string;
  readonly args: string[];
  /** Fulfils at each byte of standard input. */
  readonly told: () => Promise<unknown>;
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
  const module = (name: string) =>
    JSON.stringify(import.meta.resolve(`../${name}.ts`));
  const code = `
    import { StreamBuffer, streamTo } from ${module("mod")};
    import { TusSender } from ${module("senders/tus")};
    import { UploadSender } from ${module("senders/upload")};
    const told = () => Deno.stdin.read(new Uint8Array(1));
    const [url, ...args] = Deno.args;
    const senders = { TusSender, UploadSender };
    await (${script})({ StreamBuffer, streamTo, ...senders, url, args, told });`;
  const data = `data:text/javascript,${encodeURIComponent(code)}`;
  return run([...permissions, data, url, ...args]);
}

// -- The command --

/** The command, and what it is usually allowed. */
export const CLI = new URL("../cli/main.ts", import.meta.url).pathname;
export const PERMISSIONS = ["-N=127.0.0.1", "-R", "-W"];

/** Starts the command. */
export function startCommand(
  args: string[],
  permissions: string[] = PERMISSIONS,
  shell?: string,
): Child {
  return run([...permissions, CLI, ...args], shell);
}

/** Runs the command to its end, with `input`. */
export async function runCommand(
  args: string[],
  input: string | Uint8Array = "",
  permissions?: string[],
): Promise<Outcome> {
  await using command = startCommand(args, permissions);
  // It may end without reading all of it.
  await command.write(input).then(() => command.end()).catch(() => {});
  return await command.outcome;
}
