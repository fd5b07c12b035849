/** Processes that a test starts, watches, and always ends. */
import { fileURLToPath } from "node:url";
import type { undiciTransport } from "../http/undici.ts";
import type { StreamBuffer, streamTo } from "../mod.ts";
import type { TusSender } from "../senders/tus.ts";
import type { UploadSender } from "../senders/upload.ts";
import type { spoolTo } from "../spool/mod.ts";
import { Condition } from "./condition.ts";

/** How a process ended, and all of its output. */
export interface Outcome {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running process. */
export interface Child extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when it has exited and closed its output. */
  readonly outcome: Promise<Outcome>;
  /** Its output so far. */
  readonly output: Readonly<Record<"stdout" | "stderr", string>>;
  kill(signal: Deno.Signal): void;
  /** Writes to its standard input. */
  write(data: string | Uint8Array): Promise<void>;
  /** Closes its standard input. */
  end(): Promise<void>;
  /**
   * Waits until its standard output or its standard error contains a text.
   * Rejects if it exits without that text.
   */
  waitForOutput(text: string): Promise<void>;
  /**
   * Waits for an event that only this process can cause. Rejects if it exits
   * first.
   */
  waitFor(event: Promise<void>): Promise<void>;
}

/**
 * Starts `deno run`, without permission prompts and with a secret in the
 * environment.
 *
 * @param shell Commands for a POSIX shell, which runs them and then becomes the
 *   process (`exec`).
 */
export function run(args: string[], shell?: string): Child {
  const command = [Deno.execPath(), "run", "-q", "--no-prompt", ...args];
  if (shell) command.unshift("sh", "-c", `${shell}; exec "$@"`, "sh");
  return watch(
    new Deno.Command(command[0]!, {
      args: command.slice(1),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1", TEST_TOKEN: "hunter2" },
    }).spawn(),
  );
}

/** Watches a process whose standard streams are pipes. */
export function watch(process: Deno.ChildProcess): Child {
  const stdin = process.stdin.getWriter();
  const output = { stdout: "", stderr: "" };
  const changes = new Condition();
  const read = async (name: keyof typeof output) => {
    const texts = process[name].pipeThrough(new TextDecoderStream());
    for await (const text of texts) {
      output[name] += text;
      changes.notify();
    }
  };
  const outcome = Promise.all([process.status, read("stdout"), read("stderr")])
    .then(([{ code, signal }]) => {
      const { stdout, stderr } = output;
      changes.close(
        `the process exited with ${signal ?? code}: ${stdout}${stderr}`,
      );
      return { code, signal, stdout, stderr };
    });
  return {
    pid: process.pid,
    outcome,
    output,
    kill: (signal) => process.kill(signal),
    write: (data) =>
      stdin.write(
        typeof data === "string" ? new TextEncoder().encode(data) : data,
      ),
    end: () => stdin.close(),
    waitForOutput: (text) =>
      changes.wait(
        `the output ${JSON.stringify(text)}`,
        () => output.stdout.includes(text) || output.stderr.includes(text),
      ),
    waitFor: (event) =>
      Promise.race([event, changes.wait("an event", () => false)]),
    async [Symbol.asyncDispose]() {
      try {
        process.kill("SIGKILL");
      } catch {
        // It has exited already.
      }
      await stdin.close().catch(() => {});
      await outcome;
    },
  };
}

/**
 * Waits for the end of a process that has to end on its own: after this many
 * milliseconds it is killed, and the promise rejects.
 */
export async function outcomeWithin(
  ms: number,
  child: Child,
): Promise<Outcome> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, ms);
  const outcome = await child.outcome;
  clearTimeout(timer);
  if (!late) return outcome;
  const { stdout, stderr } = outcome;
  throw new Error(
    `The process was still running after ${ms} ms: ${stdout}${stderr}`,
  );
}

/**
 * Returns a flag that runs `script` before the program, to replace a clock, a
 * disk or a port. The function is passed on as text.
 */
export function preload(script: () => void): string {
  const code = encodeURIComponent(`(${script})()`);
  return `--preload=data:text/javascript,${code}`;
}

/** What a script in a child process is called with. */
export interface Scope {
  readonly StreamBuffer: typeof StreamBuffer;
  readonly streamTo: typeof streamTo;
  readonly TusSender: typeof TusSender;
  readonly UploadSender: typeof UploadSender;
  readonly spoolTo: typeof spoolTo;
  /** Loads undici, which reads the environment. */
  readonly makeUndici: () => Promise<ReturnType<typeof undiciTransport>>;
  readonly url: string;
  readonly args: string[];
  /** Waits for a byte of standard input, which the test writes. */
  readonly readByte: () => Promise<unknown>;
}

/**
 * Runs `script` in a process of its own. The function is passed on as text, and
 * so can use its scope and the globals, but no variables around it.
 *
 * @param options Flags for `deno run`, further arguments for the script, and
 *   commands for a shell as for {@linkcode run}.
 */
export function start(
  url: string,
  script: (scope: Scope) => unknown,
  { permissions = ["-A"], args = [], shell }: {
    permissions?: string[];
    args?: string[];
    shell?: string | undefined;
  } = {},
): Child {
  const module = (name: string) =>
    JSON.stringify(import.meta.resolve(`../${name}.ts`));
  const code = `
    import { StreamBuffer, streamTo } from ${module("mod")};
    import { TusSender } from ${module("senders/tus")};
    import { UploadSender } from ${module("senders/upload")};
    import { spoolTo } from ${module("spool/mod")};
    const makeUndici = async () =>
      (await import(${module("http/undici")})).undiciTransport();
    const readByte = () => Deno.stdin.read(new Uint8Array(1));
    const [url, ...args] = Deno.args;
    const senders = { streamTo, TusSender, UploadSender, spoolTo };
    const scope = { StreamBuffer, ...senders, makeUndici, url, args, readByte };
    await (${script})(scope);`;
  const data = `data:text/javascript,${encodeURIComponent(code)}`;
  const config = fileURLToPath(import.meta.resolve("../deno.json"));
  return run(["--config", config, ...permissions, data, url, ...args], shell);
}

// -- The command --

/** The path of the command, and the permissions that it usually has. */
export const CLI: string = fileURLToPath(
  import.meta.resolve("../cli/main.ts"),
);
export const PERMISSIONS = ["-N=127.0.0.1", "-R", "-W"];

/** Starts the command. */
export function startCommand(
  args: string[],
  permissions: string[] = PERMISSIONS,
  shell?: string,
): Child {
  return run([...permissions, CLI, ...args], shell);
}

/** Runs the command with `input`, and waits for its end. */
export async function runCommand(
  args: string[],
  input: string | Uint8Array = "",
  permissions?: string[],
): Promise<Outcome> {
  await using command = startCommand(args, permissions);
  // It may exit without reading all of its input.
  await command.write(input).then(() => command.end()).catch(() => {});
  return await command.outcome;
}
