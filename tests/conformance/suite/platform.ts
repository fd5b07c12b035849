/** What the platform itself can do, found out without the library. */
import type { Tools } from "./check.ts";
import { textOf } from "./check.ts";

/** What becomes of a stream that is the body of a request. */
export type StreamBodies =
  /** It is sent, in chunks or in frames of HTTP/2. */
  | "sent"
  /** A text is sent in its place. */
  | "sent as text"
  /** The request fails, and the server sees nothing of it. */
  | "not sent";

const TEXT = "a stream";

/** Sends a stream by the platform's own `fetch`. */
export async function streamBodies(t: Tools): Promise<StreamBodies> {
  const before = (await t.record()).requests.length;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(TEXT));
      controller.close();
    },
  });
  // `duplex` is not in every platform's types.
  const init = { method: "PUT", body, duplex: "half" } as RequestInit;
  try {
    await (await fetch(t.url, init)).text();
  } catch {
    return "not sent";
  }
  const { requests } = await t.record();
  const [request] = requests.slice(before);
  return request && textOf(request) === TEXT ? "sent" : "sent as text";
}
