/** Processes that print lines. */

/** How a process is started. */
export interface ProcessOptions {
  readonly args: string[];
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  /** Kills it. */
  readonly signal: AbortSignal;
  /** Called with each line that it prints, on either output. */
  readonly print: (line: string) => void;
}

/** A process that has been started. */
export interface Process extends AsyncDisposable {
  /** Rejects if the process ends with another code than 0, or is killed. */
  readonly ended: Promise<void>;
}

/** Starts a process, and passes on the lines that it prints. */
export function start(
  program: string,
  { args, cwd, env = {}, signal, print }: ProcessOptions,
): Process {
  signal.throwIfAborted();
  const process = new Deno.Command(program, {
    args,
    ...cwd !== undefined && { cwd },
    // The server is on this machine, whatever proxy there is.
    env: { NO_COLOR: "1", NO_PROXY: "127.0.0.1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const kill = () => {
    try {
      process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
  };
  signal.addEventListener("abort", kill);
  const ended = Promise.all([
    process.status,
    printLines(process.stdout, print),
    printLines(process.stderr, print),
  ]).then(([status]) => {
    signal.removeEventListener("abort", kill);
    signal.throwIfAborted();
    if (status.success) return;
    throw new Error(`${program} exited with ${status.signal ?? status.code}`);
  });
  return {
    ended,
    async [Symbol.asyncDispose]() {
      kill();
      await ended.catch(() => {});
    },
  };
}

async function printLines(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  print: (line: string) => void,
): Promise<void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) print(line);
  }
  if (rest !== "") print(rest);
}
