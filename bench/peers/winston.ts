/** winston's Http transport: its `docs/transports.md`, "Http Transport". */
import { once } from "node:events";
import { createLogger, transports } from "winston";
import { type Connect, recordOf } from "./peer.ts";

export const connect: Connect = (url, losses) => {
  const { hostname: host, port, pathname: path } = new URL(url);
  const http = new transports.Http({ host, port: Number(port), path });
  // The documentation does not mention this event: one for each failed request.
  http.on("warn", () => losses.notice());
  const logger = createLogger({ transports: [http] });
  return {
    send(n) {
      const { message, ...record } = recordOf(n);
      logger.info(message, record);
    },
    async close() {
      const finished = once(logger, "finish");
      logger.end();
      await finished;
    },
  };
};
