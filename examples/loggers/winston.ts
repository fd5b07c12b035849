/**
 * A transport for [winston](https://github.com/winstonjs/winston). To try it, log
 * each line of the standard input:
 *
 *     deno run -N -E examples/loggers/winston.ts http://127.0.0.1:8000/ < README.md
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { createLogger } from "winston";
import Transport, { type TransportStreamOptions } from "winston-transport";
import { LogStream, type LogStreamOptions } from "./log_stream.ts";

/** Where winston's formats leave the record as text. */
const MESSAGE = Symbol.for("message");

/** Sends what winston logs to `url`, one line per record. */
export class StreamTransport extends Transport {
  readonly #logs: LogStream;

  constructor(
    url: string | URL,
    options: LogStreamOptions & TransportStreamOptions = {},
  ) {
    super(options);
    this.#logs = new LogStream(url, options);
  }

  override log(info: Record<symbol, unknown>, next: () => void): void {
    this.#logs.write(`${info[MESSAGE]}\n`);
    next(); // the record waits in the stream, not in winston
  }

  /** After `logger.end()`, which emits "finish" when this has called back. */
  override _final(callback: () => void): void {
    void this.#logs.close().then(callback);
  }

  /** After `logger.remove(transport)`. */
  override close(): void {
    void this.#logs.close();
  }
}

if (import.meta.main) {
  const transport = new StreamTransport(process.argv[2]!);
  const logger = createLogger({ transports: [transport] });
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) logger.info(line);
  logger.end();
}
