/**
 * One request through `fetch`, and what platforms do to its body.
 *
 * Deno resends a body on its own when a pooled connection dies after the server
 * has read the request, so that the server may see it twice in one attempt. It
 * cannot do that with a stream. Reading `request.body` turns bytes into one,
 * which keeps its `Content-Length`. But `fetch` never releases a stream that it
 * is not permitted to send, and the process would not end: so a stream is made,
 * or sent, only with the permission to connect.
 */
import { until } from "../internal/promises.ts";
import type { HttpClient } from "./options.ts";
import { askToConnect, mayConnect } from "./permissions.ts";

/** What a request may carry. */
export type RequestBody =
  | Uint8Array<ArrayBuffer>
  | Blob
  | ReadableStream<Uint8Array<ArrayBuffer>>;

/** The size in bytes of a body that is in memory; else `undefined`. */
export function byteLengthOf(
  body: RequestBody | undefined,
): number | undefined {
  return body !== undefined && "byteLength" in body
    ? body.byteLength
    : undefined;
}

/** Makes a request that Deno does not resend on its own, if it may connect. */
export function makeRequest(
  url: URL,
  init: {
    method: string;
    headers: Headers;
    body: RequestBody | undefined;
    signal: AbortSignal;
  },
): Request {
  const request = new Request(url, {
    ...init,
    redirect: "manual",
    duplex: "half",
  } as RequestInit);
  // Turns the body into a stream, which Deno cannot resend.
  if (mayConnect(url)) void request.body;
  return request;
}

/**
 * Gets the response to a request.
 *
 * @param signal That of the request, which `request.signal` only follows.
 * @param fetch Called as a plain function: a browser's `fetch` throws if `this` is
 *   another object.
 * @param wasStream Whether the body was a stream when it was given.
 */
export async function getResponse(
  request: Request,
  { signal, fetch, client, wasStream }: {
    signal: AbortSignal;
    fetch: typeof globalThis.fetch;
    client: HttpClient | undefined;
    wasStream: boolean;
  },
): Promise<Response> {
  if (wasStream) await askToConnect(new URL(request.url));
  const init = client && { client } as RequestInit;
  return await until(signal, fetch(request, init));
}
