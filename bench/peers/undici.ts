/** undici, whose RetryAgent has to be told to retry a POST: its page "RetryAgent". */
import { Agent, RetryAgent } from "undici";
import { type Connect, recordOf } from "./peer.ts";

export const connect: Connect = (url) => {
  const agent = new RetryAgent(new Agent(), {
    maxRetries: 10,
    methods: ["POST"],
  });
  const { origin, pathname: path } = new URL(url);
  return {
    async send(n) {
      const { statusCode, body } = await agent.request({
        ...{ origin, path, method: "POST" },
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(recordOf(n)),
      });
      await body.dump();
      if (statusCode >= 300) throw new Error(`Status ${statusCode}`);
    },
    close: () => agent.close(),
  };
};
