/** The part of `@std/streams` that the tests use, for when JSR cannot be reached. */
import { text } from "node:stream/consumers";

export async function toText(
  stream: ReadableStream<Uint8Array | string>,
): Promise<string> {
  return await text(stream);
}
