/**
 * pino-loki in a worker thread, as its README recommends. By default it sends
 * every 5 s, and keeps 10,000 records: fewer than are made here in that time.
 */
import process from "node:process";
import { pino } from "pino";
import { type Connect, recordOf } from "./peer.ts";

export const connect: Connect = (url, losses) => {
  // It prints its errors, and the worker's output passes here.
  const write = process.stderr.write.bind(process.stderr);
  process.stderr.write = (chunk: string | Uint8Array, ...rest) => {
    const text = typeof chunk === "string"
      ? chunk
      : new TextDecoder().decode(chunk);
    if (/^Got .*error/m.test(text)) losses.notice();
    return write(chunk, ...rest as []);
  };
  const logger = pino(pino.transport({
    target: "pino-loki",
    options: { host: url, batching: { interval: 1.5, maxBufferSize: 50_000 } },
  }));
  return {
    send(n) {
      const { message, ...record } = recordOf(n);
      logger.info(record, message);
    },
    // pino ends the worker, which sends the rest, when the process ends.
    close: () => Promise.resolve(),
  };
};
