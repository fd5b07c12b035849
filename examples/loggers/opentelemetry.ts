/**
 * A log exporter for [OpenTelemetry](https://opentelemetry.io), over OTLP/HTTP
 * with JSON. To try it, log each line of the standard input:
 *
 *     deno run -N -E examples/loggers/opentelemetry.ts http://127.0.0.1:4318/v1/logs < README.md
 */
import { JsonLogsSerializer } from "@opentelemetry/otlp-transformer";
import {
  LoggerProvider,
  type LogRecordExporter,
  SimpleLogRecordProcessor,
} from "@opentelemetry/sdk-logs";
import process from "node:process";
import { createInterface } from "node:readline";
import { type Format, LogStream, type LogStreamOptions } from "./log_stream.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** What is around the elements of an ExportLogsServiceRequest. */
const OPEN = '{"resourceLogs":[';
const CLOSE = "]}";

/** A batch is whole writes, `element,element,`; a request is one JSON object. */
const OTLP_JSON: Format = {
  type: "application/json",
  bodyOf(batch) {
    const elements = decoder.decode(batch.subarray(0, -1));
    return encoder.encode(OPEN + elements + CLOSE);
  },
};

/**
 * Sends what OpenTelemetry logs to `url`. Use it with a SimpleLogRecordProcessor:
 * the batches are made here, and a BatchLogRecordProcessor drops what exceeds
 * its own queue.
 */
export function otlpLogExporter(
  url: string | URL,
  options: LogStreamOptions = {},
): LogRecordExporter & AsyncDisposable {
  const logs = new LogStream(url, options, OTLP_JSON);
  return {
    export(records, callback) {
      const request = decoder.decode(
        JsonLogsSerializer.serializeRequest(records),
      );
      const elements = request.slice(OPEN.length, -CLOSE.length);
      if (elements !== "") logs.write(`${elements},`);
      callback({ code: 0 }); // SUCCESS: there is nothing left for OpenTelemetry to do
    },
    forceFlush: () => logs.flush(),
    shutdown: () => logs.close(),
    [Symbol.asyncDispose]: () => logs.close(),
  };
}

if (import.meta.main) {
  const exporter = otlpLogExporter(process.argv[2]!);
  const processors = [new SimpleLogRecordProcessor({ exporter })];
  const provider = new LoggerProvider({ processors });
  const logger = provider.getLogger("example");
  const lines = createInterface({ input: process.stdin });
  for await (const line of lines) logger.emit({ body: line });
  await provider.shutdown();
}
