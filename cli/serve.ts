/**
 * A web server for a handler of requests, by what each platform brings: `Deno.serve`,
 * `Bun.serve`, and `node:http`.
 */
import type { IncomingMessage } from "node:http";
import { AccessError, reasonOf } from "./errors.ts";
import { IS_DENO } from "./platform.ts";

/** Takes a request, and makes the response to it. */
export type Handler = (request: Request) => Promise<Response>;

/** Where a server listens. */
export interface Address {
  readonly hostname: string;
  /** 0 stands for any that is free. */
  readonly port: number;
}

/** A server that listens. */
export interface Server {
  readonly port: number;
  /**
   * Accepts no further requests, and resolves when those under way have their
   * responses.
   */
  stop(): Promise<void>;
}

/** How long the headers of a request may take on Node, in ms: usually they are one packet. */
const HEADERS_TIMEOUT = 10_000;
/**
 * How long a whole request may take on Node, in ms: longer than the handler allows, so
 * that its response says why, but not indefinitely.
 */
const REQUEST_TIMEOUT = 60_000;
/**
 * How long nothing may arrive on Bun, in seconds: longer than the handler allows a body
 * to take, so that its response says why.
 */
const IDLE_TIMEOUT = 60;

/** The part of Bun that is used. */
interface Bun {
  serve(options: {
    readonly hostname: string;
    readonly port: number;
    readonly idleTimeout: number;
    readonly maxRequestBodySize: number;
    readonly fetch: Handler;
  }): {
    readonly port: number;
    stop(closeActiveConnections: boolean): Promise<void>;
  };
}

/**
 * Starts a server.
 *
 * @throws {AccessError} If it cannot listen there.
 */
export async function serve(
  handler: Handler,
  address: Address,
): Promise<Server> {
  const { Bun } = globalThis as unknown as { readonly Bun?: Bun };
  try {
    if (IS_DENO) return serveOnDeno(handler, address);
    if (Bun !== undefined) return serveOnBun(Bun, handler, address);
    return await serveOnNode(handler, address);
  } catch (error) {
    throw new AccessError(
      `cannot listen on ${hostOf(address)}: ${whyNot(error as Error)}`,
    );
  }
}

/** A host and a port, as in a URL. */
export function hostOf({ hostname, port }: Address): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** The platforms say the same in their own ways. */
function whyNot(error: Error & { readonly code?: string }): string {
  switch (error.code) {
    case "EADDRINUSE":
      return "another program does; choose another --port";
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return "--host must be an address of this machine";
    case "EACCES":
      return "this user may not; choose a --port above 1023";
    default:
      return reasonOf(error);
  }
}

/**
 * `shutdown` makes every body unreadable that is under way
 * (https://github.com/denoland/deno/issues/36809), so it comes last. Until then further
 * requests are to be retried.
 */
function serveOnDeno(handler: Handler, address: Address): Server {
  const underWay = new Set<Promise<Response>>();
  let isStopping = false;
  const server = Deno.serve({ ...address, onListen() {} }, (request) => {
    if (isStopping) return refusal();
    const response = handler(request);
    underWay.add(response);
    void response.finally(() => underWay.delete(response));
    return response;
  });
  return {
    port: server.addr.port,
    async stop() {
      isStopping = true;
      await Promise.all(underWay);
      await server.shutdown();
    },
  };
}

function refusal(): Response {
  return new Response("the receiver is being stopped\n", {
    status: 503,
    headers: { "Retry-After": "1", Connection: "close" },
  });
}

function serveOnBun(bun: Bun, handler: Handler, address: Address): Server {
  const server = bun.serve({
    ...address,
    idleTimeout: IDLE_TIMEOUT,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER, // the handler has a limit
    fetch: handler,
  });
  return {
    port: server.port,
    stop: () => server.stop(false),
  };
}

async function serveOnNode(
  handler: Handler,
  { hostname, port }: Address,
): Promise<Server> {
  const { createServer } = await import("node:http");
  const server = createServer({
    headersTimeout: HEADERS_TIMEOUT,
    requestTimeout: REQUEST_TIMEOUT,
  });
  server.on("request", async (message, target) => {
    const request = toRequest(message);
    if (request === undefined) return void target.writeHead(405).end();
    const response = await handler(request);
    // A connection that is kept alive would hold up the end.
    if (!server.listening) target.setHeader("Connection", "close");
    target.writeHead(response.status, [...response.headers].flat());
    target.end(await response.text());
    // Drops the rest of a body that was refused: a client reads the response once it has
    // sent all of it.
    message.removeAllListeners("data").resume();
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject).listen(port, hostname, resolve);
  await promise;
  return {
    port: (server.address() as { port: number }).port,
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/**
 * A request of Node's, as one of the web's, without its URL, which the handler does not
 * look at. `undefined` for a TRACE: no `Request` may have that method.
 */
function toRequest(message: IncomingMessage): Request | undefined {
  const { method = "GET", rawHeaders } = message;
  if (method === "TRACE") return;
  const headers = new Headers();
  for (let i = 0; i < rawHeaders.length; i += 2) {
    headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  const hasBody = method !== "GET" && method !== "HEAD";
  return new Request("http://localhost/", {
    method,
    headers,
    ...hasBody && { body: bodyOf(message), duplex: "half" },
  });
}

/**
 * The body of a request. One that is cut off makes a read fail; none is read before
 * someone asks for it.
 *
 * `Readable.toWeb` reads ahead, and once it is cancelled, the connection is closed
 * before there is a response.
 */
function bodyOf(message: IncomingMessage): ReadableStream<Uint8Array> {
  let controller: ReadableStreamDefaultController<Uint8Array>;
  const take = (chunk: Uint8Array) => {
    message.pause();
    controller.enqueue(chunk);
  };
  const end = () => controller.close();
  // After the end it does nothing.
  const fail = () => controller.error(new Error("the connection was closed"));
  message.pause().on("data", take).on("end", end).on("close", fail);
  return new ReadableStream<Uint8Array>({
    start: (its) => void (controller = its),
    pull: () => void message.resume(),
    cancel: () => void message.off("data", take).off("end", end),
  }, { highWaterMark: 0 });
}
