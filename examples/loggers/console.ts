/**
 * Sends what is logged by `console.log` and its like, and prints it as before. To
 * try it, log each line of the standard input:
 *
 *     deno run -N examples/loggers/console.ts http://127.0.0.1:8000/ < README.md
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { format } from "node:util";
import { LogStream, type LogStreamOptions } from "./log_stream.ts";

const METHODS = ["debug", "info", "log", "warn", "error"] as const;

/** Sends what is logged on the console to `url`, as NDJSON, until it is closed. */
export function captureConsole(
  url: string | URL,
  options: LogStreamOptions = {},
): AsyncDisposable & { close(): Promise<void> } {
  const logs = new LogStream(url, options);
  const captured = METHODS.map((level) => {
    const original = console[level];
    const replacement = (...args: unknown[]) => {
      const time = new Date().toISOString();
      const record = { time, level, message: textOf(args) };
      logs.write(`${JSON.stringify(record)}\n`);
      try {
        original(...args);
      } catch {
        // On Deno, printing throws when the terminal has gone.
      }
    };
    console[level] = replacement;
    return { level, original, replacement };
  });
  const close = () => {
    for (const { level, original, replacement } of captured) {
      // Someone else may have replaced it since.
      if (console[level] === replacement) console[level] = original;
    }
    return logs.close();
  };
  return { close, [Symbol.asyncDispose]: close };
}

function textOf(args: unknown[]): string {
  try {
    return format(...args);
  } catch {
    return "a value that cannot be printed"; // its own code has thrown
  }
}

if (import.meta.main) {
  const capture = captureConsole(process.argv[2]!);
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) console.log(line);
  await capture.close();
}
