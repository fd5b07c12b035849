/**
 * OpenTelemetry's batch processor and OTLP exporter, as in the README of
 * `@opentelemetry/exporter-logs-otlp-http`, with a queue that holds every record.
 */
import { diag } from "@opentelemetry/api";
import { OTLPLogExporter } from "@opentelemetry/exporter-logs-otlp-http";
import {
  BatchLogRecordProcessor,
  type BatchLogRecordProcessorOptions,
  LoggerProvider,
} from "@opentelemetry/sdk-logs";
import { type Connect, recordOf } from "./peer.ts";

/** With a buffer as these options say. */
export function withBuffer(
  options: Partial<BatchLogRecordProcessorOptions>,
): Connect {
  return (url, losses) => {
    const ignore = () => {};
    diag.setLogger({
      error: () => losses.notice(),
      ...{ warn: ignore, info: ignore, debug: ignore, verbose: ignore },
    });
    const exporter = new OTLPLogExporter({ url });
    const provider = new LoggerProvider({
      processors: [new BatchLogRecordProcessor({ exporter, ...options })],
    });
    const logger = provider.getLogger("peers");
    return {
      send(n) {
        const { message, ...record } = recordOf(n);
        logger.emit({ body: message, attributes: record });
      },
      close: () => provider.shutdown(),
    };
  };
}

export const connect: Connect = withBuffer({ maxQueueSize: 65_536 });
