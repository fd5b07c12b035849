/** What stores share. */
import { StoreError } from "./store.ts";

/** Whether two arrays have the same bytes. */
export function equals(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** The SHA-256 digest of some bytes. */
export async function digestOf(
  bytes: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/**
 * Throws unless bytes that were read are those that were stored.
 *
 * @param action What was attempted, for the message.
 * @param id The stream of the batch.
 * @param sequence Its number.
 * @param digest The digest that was stored with it.
 * @throws {StoreError} If they are not.
 */
export async function verify(
  bytes: Uint8Array<ArrayBuffer>,
  { action, id, sequence, digest }: {
    readonly action: string;
    readonly id: string;
    readonly sequence: unknown;
    readonly digest: Uint8Array;
  },
): Promise<void> {
  if (equals(await digestOf(bytes), digest)) return;
  throw new StoreError(
    `${action}: batch ${sequence} of ${id} is not what was stored`,
    { code: "damaged" },
  );
}

/**
 * A stream of what an iterator yields. `ReadableStream.from` would say the same, but Bun
 * and Chromium lack it.
 */
export function streamOf<T>(
  chunks: Iterable<T> | AsyncIterable<T>,
): ReadableStream<T> {
  const iterator = Symbol.asyncIterator in chunks
    ? chunks[Symbol.asyncIterator]()
    : chunks[Symbol.iterator]();
  return new ReadableStream<T>(
    {
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await iterator.return?.();
      },
    },
    { highWaterMark: 0 },
  );
}
