/**
 * A server that stores every batch exactly once, in order.
 *
 *     deno run -N -W examples/receiver.ts received.bin
 */

/**
 * Makes a handler for `Deno.serve`. It keeps the highest sequence number of each
 * stream, and so recognises a repeated batch by its `Idempotency-Key`. To survive
 * a restart, store that number in the same transaction as the bytes.
 */
export function receiver(
  store: (bytes: Uint8Array) => void,
): (request: Request) => Promise<Response> {
  const highest = new Map<string, number>();
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
      const [, stream, sequence] = key as unknown as [string, string, string];
      if (Number(sequence) <= (highest.get(stream) ?? -1)) {
        return new Response("stored before\n");
      }
      store(bytes);
      highest.set(stream, Number(sequence));
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
