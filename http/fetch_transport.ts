/**
 * The default transport: `fetch`, and what platforms do to the body of a request.
 *
 * Deno resends a body on its own when a pooled connection dies after the server
 * has read the request, so that the server may see it twice in one attempt. It
 * cannot do that with a stream, so bytes are sent as one. But `fetch` never releases
 * a stream that it is not permitted to send, and the process would not end: so a
 * stream is made, or sent, only with the permission to connect.
 */
import { HTTP1_CLIENT } from "./http1_client.ts";
import type { HttpClient, Transport, TransportRequest } from "./options.ts";
import { askToConnect, mayConnect } from "./permissions.ts";
import { isVersionRefused } from "./platform_errors.ts";

type Stream = ReadableStream<Uint8Array<ArrayBuffer>>;

/**
 * A transport over `fetch`. If neither `fetch` nor `client` is given, requests to
 * `https:` URLs are made over HTTP/1.1 on Deno, unless the server speaks HTTP/2 only.
 *
 * @param fetch Called as a plain function: a browser's `fetch` throws if `this` is
 *   another object.
 */
export function fetchTransport(
  fetch: typeof globalThis.fetch | undefined,
  client: HttpClient | undefined,
): Transport {
  if (fetch !== undefined) return overGivenFetch(fetch, client);
  const transport = overFetch(globalThis.fetch, client);
  return client === undefined && HTTP1_CLIENT
    ? preferHttp1(overFetch(globalThis.fetch, HTTP1_CLIENT), transport)
    : transport;
}

/**
 * Over the platform's own `fetch`, without a `Request`: Deno would make another of
 * it, and that takes half as long as a small request.
 */
function overFetch(
  fetch: typeof globalThis.fetch,
  client: HttpClient | undefined,
): Transport {
  return async (request) => {
    const { url, body } = request;
    if (body instanceof ReadableStream) await askToConnect(url);
    const init = toInit(request);
    if (body instanceof Uint8Array && "Deno" in globalThis && mayConnect(url)) {
      init.body = new SizedStream(streamOf(body), body.length);
    }
    return await fetch(url, client ? { ...init, client } as RequestInit : init);
  };
}

/** Over a `fetch` of the caller's, which gets a `Request` of its own each time. */
function overGivenFetch(
  fetch: typeof globalThis.fetch,
  client: HttpClient | undefined,
): Transport {
  return async (request) => {
    const { url, body } = request;
    if (body instanceof ReadableStream) await askToConnect(url);
    const given = new Request(url, toInit(request));
    // Turns the body into a stream.
    if (mayConnect(url)) void given.body;
    return await fetch(given, client && { client } as RequestInit);
  };
}

/**
 * Makes requests to `https:` URLs over HTTP/1.1, and over HTTP/2 to servers that
 * speak nothing else. A request that such a server has refused is made once more,
 * unless its body was a stream, which is lost.
 */
function preferHttp1(http1: Transport, any: Transport): Transport {
  const http2Only = new Set<string>(); // origins
  return async (request) => {
    const { url: { protocol, origin }, body } = request;
    if (protocol !== "https:" || http2Only.has(origin)) {
      return await any(request);
    }
    try {
      return await http1(request);
    } catch (error) {
      if (!isVersionRefused(error) || body instanceof ReadableStream) {
        throw error;
      }
      http2Only.add(origin);
      return await any(request);
    }
  };
}

function toInit(
  { method, headers, body, signal, keepalive }: TransportRequest,
): RequestInit {
  const length = headers["content-length"];
  return {
    ...{ method, headers, signal },
    ...keepalive && { keepalive },
    body: body instanceof ReadableStream && length !== undefined
      ? sized(body, Number(length))
      : body,
    redirect: "manual",
    duplex: "half",
  } as RequestInit;
}

/**
 * A stream of a copy of `bytes`. If the server responds before it has read them, Deno
 * still sends what it was given, and the bytes may be others by then.
 */
function streamOf(bytes: Uint8Array<ArrayBuffer>): Stream {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes.slice());
      controller.close();
    },
  });
}

/**
 * A stream that is sent with a `Content-Length`. Node takes that from the header.
 * Deno takes it from the size of a `Blob`, and asks that for its stream. Cloudflare
 * Workers take it from a stream of their own.
 */
function sized(stream: Stream, size: number): Stream | Blob {
  if ("Deno" in globalThis) return new SizedStream(stream, size);
  const { FixedLengthStream } = globalThis as {
    FixedLengthStream?: new (size: number) => TransformStream;
  };
  // If either side fails, so does the other, and `fetch` reports it.
  return FixedLengthStream === undefined
    ? stream
    : stream.pipeThrough(new FixedLengthStream(size));
}

class SizedStream extends Blob {
  readonly #stream: Stream;
  readonly #size: number;

  constructor(stream: Stream, size: number) {
    super();
    this.#stream = stream;
    this.#size = size;
  }

  override get size(): number {
    return this.#size;
  }

  override stream(): Stream {
    return this.#stream;
  }
}
