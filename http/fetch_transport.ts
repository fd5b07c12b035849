/**
 * The default transport: `fetch`, and what platforms do to the body of a request.
 *
 * Deno resends a body on its own when a pooled connection dies after the server
 * has read the request, so that the server may see it twice in one attempt. It
 * cannot do that with a stream. Reading `request.body` turns bytes into one,
 * which keeps its `Content-Length`. But `fetch` never releases a stream that it
 * is not permitted to send, and the process would not end: so a stream is made,
 * or sent, only with the permission to connect.
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
  const transport = overFetch(fetch ?? globalThis.fetch, client);
  return fetch === undefined && client === undefined && HTTP1_CLIENT
    ? preferHttp1(overFetch(globalThis.fetch, HTTP1_CLIENT), transport)
    : transport;
}

function overFetch(
  fetch: typeof globalThis.fetch,
  client: HttpClient | undefined,
): Transport {
  return async (request) => {
    if (request.body instanceof ReadableStream) {
      await askToConnect(request.url);
    }
    const init = client && { client } as RequestInit;
    return await fetch(makeRequest(request), init);
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

/** Makes a request that Deno does not resend on its own, if it may connect. */
function makeRequest(
  { url, method, headers, body, signal }: TransportRequest,
): Request {
  const length = headers["content-length"];
  const request = new Request(url, {
    ...{ method, headers, signal },
    body: body instanceof ReadableStream && length !== undefined
      ? sized(body, Number(length))
      : body,
    redirect: "manual",
    duplex: "half",
  } as RequestInit);
  // Turns the body into a stream, which Deno cannot resend.
  if (mayConnect(url)) void request.body;
  return request;
}

/**
 * A stream that is sent with a `Content-Length`. Node takes that from the header.
 * Deno takes it from the size of a `Blob`, and asks that for its stream.
 */
function sized(stream: Stream, size: number): Stream | Blob {
  return "Deno" in globalThis ? new SizedStream(stream, size) : stream;
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
