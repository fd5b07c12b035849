/**
 * A server that stores every batch exactly once, in the order of arrival, as long as its
 * process lives. That is the order of the stream, unless the `concurrency` of the sender
 * is above 1. It shows how little is needed; `receive()` survives restarts as well.
 *
 *     deno run -N -W examples/receiver.ts received.bin
 */

/** The sequence numbers that have been stored of a stream. */
interface Stored {
  /** All below this one. */
  end: number;
  /** Those that arrived before one below them, as they do when sends overlap. */
  readonly ahead: Set<number>;
}

/**
 * Makes a handler for `Deno.serve`. It keeps which sequence numbers of each stream
 * it has stored, and so recognises a repeated batch by its `Idempotency-Key`. To
 * survive a restart, store that in the same transaction as the bytes.
 */
export function receiver(
  store: (bytes: Uint8Array) => void,
): (request: Request) => Promise<Response> {
  const streams = new Map<string, Stored>();
  return async ({ headers, body }) => {
    const coding = headers.get("Content-Encoding")?.replace("br", "brotli");
    if (coding !== undefined) {
      const format = coding as CompressionFormat;
      body = body!.pipeThrough(new DecompressionStream(format));
    }
    // Throws if the connection is lost, and then nothing is stored.
    const bytes = await new Response(body).bytes();
    const key = headers.get("Idempotency-Key")?.match(/^"(.+)-(\d+)"$/);
    if (key) {
      const [, stream, number] = key as unknown as [string, string, string];
      const sequence = Number(number);
      const stored = streams.get(stream) ?? { end: 0, ahead: new Set() };
      if (sequence < stored.end || stored.ahead.has(sequence)) {
        return new Response("stored before\n");
      }
      store(bytes);
      streams.set(stream, stored);
      stored.ahead.add(sequence);
      while (stored.ahead.delete(stored.end)) stored.end++;
    } else {
      store(bytes);
    }
    return new Response("stored\n", { status: 201 });
  };
}

if (import.meta.main) {
  const [path = "received.bin"] = Deno.args;
  Deno.serve(
    { hostname: "127.0.0.1" },
    receiver((bytes) => {
      Deno.writeFileSync(path, bytes, { append: true });
      console.log(`${bytes.length} bytes appended to ${path}`);
    }),
  );
}
