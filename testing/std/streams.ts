/** Stands in for `@std/streams` where JSR cannot be reached: what the tests use. */
import { text } from "node:stream/consumers";

export async function toText(
  stream: ReadableStream<Uint8Array | string>,
): Promise<string> {
  return await text(stream);
}
