/** What the tests of senders over HTTP share. */
import type { BatchContext, FetchSenderOptions, SendError } from "../sender.ts";
import type { fakeTime } from "./fake_time.ts";
import { type Behaviour, head } from "./faulty_server.ts";
import { FetchSender } from "./transports.ts";

/** A URL without a server: no service has the port, and only root may take it. */
export const NO_SERVER_URL = "http://127.0.0.1:2/ingest";
/** What `deliver` sends. */
export const BYTES: Uint8Array<ArrayBuffer> = new TextEncoder().encode(
  "0123456789",
);
/** Retries almost without a delay. */
export const FAST = { initialDelay: 1, maxDelay: 1 };

/** The context of one batch, by default of a stream of its own. */
export function context(
  sequence = 0,
  signal: AbortSignal = new AbortController().signal,
): BatchContext {
  return { sequence, offset: 10 * sequence, signal };
}

/** Sends `BYTES` as the first batch of a new sender. */
export function deliver(
  url: string,
  options: FetchSenderOptions,
): Promise<void> {
  return new FetchSender(url, options).send(BYTES, context());
}

/** Makes the delays between attempts pass at once, and lists them. */
export function skipDelays(time: ReturnType<typeof fakeTime>): {
  delays: number[];
  onRetry: (failure: SendError, delay: number) => void;
} {
  const delays: number[] = [];
  const onRetry = (_: SendError, delay: number) => {
    delays.push(delay);
    setImmediate(() => time.tick(delay));
  };
  return { delays, onRetry };
}

/** Everything that printing an error shows. */
export function printed(error: unknown): string {
  const parts = [Deno.inspect(error, { depth: 10, showHidden: true })];
  for (let link = error; link instanceof Error; link = link.cause) {
    parts.push(String(link), String(link.stack), JSON.stringify(link));
  }
  return parts.join("\n");
}

/** Responds with a 200 whose body stops in the middle. */
export const stallInBody: Behaviour = async ({ receive, write, closed }) => {
  await receive();
  await write(head(200, { "content-length": "100" }) + "some");
  await closed();
};
