/**
 * A destination for [pino](https://getpino.io). To try it, log each line of the
 * standard input:
 *
 *     deno run -N -E -S examples/loggers/pino.ts http://127.0.0.1:8000/ < README.md
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { pino } from "pino";
import { LogStream, type LogStreamOptions } from "./log_stream.ts";

/** Where pino writes to: `pino({}, destination)`. */
export interface PinoDestination extends AsyncDisposable {
  write(line: string): void;
  /** What `logger.flush(callback)` calls. */
  flush(callback?: (error?: Error) => void): void;
  /** Sends the rest. Pino has no call for that: do it at the end. */
  close(): Promise<void>;
}

/** Sends what pino logs to `url`, as NDJSON. */
export function pinoDestination(
  url: string | URL,
  options: LogStreamOptions = {},
): PinoDestination {
  const logs = new LogStream(url, options);
  return {
    write: (line) => logs.write(line),
    flush: (callback) =>
      void logs.flush().then(() => callback?.(), (error) => callback?.(error)),
    close: () => logs.close(),
    [Symbol.asyncDispose]: () => logs.close(),
  };
}

if (import.meta.main) {
  const destination = pinoDestination(process.argv[2]!);
  const logger = pino({}, destination);
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) logger.info(line);
  await destination.close();
}
