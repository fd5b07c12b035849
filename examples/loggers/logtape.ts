/**
 * A sink for [LogTape](https://logtape.org). To try it, log each line of the
 * standard input:
 *
 *     deno run -N examples/loggers/logtape.ts http://127.0.0.1:8000/ < README.md
 */
import {
  configure,
  dispose,
  type Drainable,
  getLogger,
  jsonLinesFormatter,
  type Sink,
  type TextFormatter,
} from "@logtape/logtape";
import process from "node:process";
import { createInterface } from "node:readline";
import { LogStream, type LogStreamOptions } from "./log_stream.ts";

/** Sends what LogTape logs to `url`: as NDJSON, unless there is a `formatter`. */
export function logTapeSink(
  url: string | URL,
  options: LogStreamOptions & { formatter?: TextFormatter } = {},
): Sink & Drainable & AsyncDisposable {
  const { formatter = jsonLinesFormatter } = options;
  const logs = new LogStream(url, options);
  const sink: Sink = (record) => logs.write(formatter(record));
  return Object.assign(sink, {
    drain: () => logs.flush(),
    [Symbol.asyncDispose]: () => logs.close(),
  });
}

if (import.meta.main) {
  await configure({
    sinks: { server: logTapeSink(process.argv[2]!) },
    loggers: [
      { category: "example", sinks: ["server"] },
      { category: ["logtape", "meta"], lowestLevel: "warning" },
    ],
  });
  const logger = getLogger("example");
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) logger.info("{line}", { line });
  await dispose();
}
