/**
 * {@linkcode undiciTransport}: requests by
 * {@link https://undici.nodejs.org | undici} instead of `fetch`, for servers that
 * speak HTTP/1.1. Faster, and it never repeats a request on its own.
 *
 * @example Usage
 * ```ts
 * import { streamTo } from "@stream-buffer/stream-buffer";
 * import { undiciTransport } from "@stream-buffer/stream-buffer/undici";
 * import { assertEquals } from "@std/assert";
 *
 * let received = "";
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   received += await request.text();
 *   return new Response();
 * });
 * await using transport = undiciTransport();
 * {
 *   const url = `http://localhost:${server.addr.port}/ingest`;
 *   await using out = streamTo(url, { transport });
 *   await out.write("hello\n");
 * }
 * assertEquals(received, "hello\n");
 * ```
 *
 * @module
 */
import { buildConnector, Client, type Dispatcher } from "undici";
import { check, show } from "../internal/checks.ts";
import type { TransportRequest, TransportResponse } from "./options.ts";
import { askToConnect } from "./permissions.ts";
import { chooseProxy, type ProxyChoice } from "./proxies.ts";

export type {
  Transport,
  TransportRequest,
  TransportResponse,
} from "./options.ts";

const ACTION = "Cannot create undiciTransport";
/**
 * How long the head of a response may be, in bytes: as long as Deno's `fetch`
 * allows, about.
 */
const MAX_HEAD_SIZE = 256 * 1024;
/**
 * How much of a response may wait to be read, in bytes. Senders read at once, and no
 * more than a part of that.
 */
const MAX_UNREAD_SIZE = 1024 * 1024;
/** Headers about the connection, which undici refuses because it sets them. */
const CONNECTION_HEADERS = new Set([
  "expect",
  "keep-alive",
  "transfer-encoding",
  "upgrade",
]);
/** What the codes of Node's errors mean, for those who read messages. */
const MEANINGS: Record<string, string> = {
  EAI_AGAIN: "host not found",
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EHOSTUNREACH: "host not reachable",
  ENETUNREACH: "network not reachable",
  ENOTFOUND: "host not found",
  EPIPE: "connection closed",
  ETIMEDOUT: "connection timed out",
  UND_ERR_SOCKET: "connection closed",
};

/** Options of {@linkcode undiciTransport}. Those for TLS are named as in `node:tls`. */
export interface UndiciTransportOptions {
  /**
   * Certificates of the authorities to trust, in place of the platform's: text in
   * PEM format, not the path of a file.
   *
   * @default {the platform's}
   */
  ca?: string | string[];
  /** The client's certificate, for a server that asks for one, in PEM format. */
  cert?: string;
  /** The private key of `cert`, in PEM format. */
  key?: string;
  /**
   * The name that the server's certificate must have, if it is not that of the URL.
   *
   * @default {the host of the URL}
   */
  servername?: string;
  /**
   * Whether a server without a valid certificate is rejected.
   *
   * @default {true}
   */
  rejectUnauthorized?: boolean;
  /**
   * The proxy: an `http:` or `https:` URL, with credentials if it needs them, or
   * `false` for none. Requests to `https:` go through a tunnel (`CONNECT`).
   *
   * @default {as the environment variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say, in lower or upper case}
   */
  proxy?: string | URL | false;
}

/** A transport over undici, with the connections that it keeps alive. */
export interface UndiciTransport extends AsyncDisposable {
  /**
   * Makes one request.
   *
   * @param request What to send, and where.
   * @returns A promise that resolves when the head of the response is there.
   */
  (request: TransportRequest): Promise<TransportResponse>;
  /**
   * Closes idle connections now, and the others when their requests have ended.
   * A later request fails at once.
   *
   * @returns A promise that resolves when all connections are closed.
   */
  close(): Promise<void>;
}

/**
 * Makes a transport over undici.
 *
 * - **HTTP/1.1**, one request at a time per connection, and as many connections as
 *   there are requests at the same time. Idle ones are kept for a few seconds, and
 *   do not keep the process alive.
 * - **No hidden repeats**: one attempt is one request, whatever happens to its
 *   connection.
 * - **Only the caller closes it**, after the buffers that use it: several of them
 *   may share one.
 *
 * It runs on Deno and Node; Bun replaces undici with a part of it. On Deno it needs
 * the permission for the server or, if there is one, the proxy; and `--ignore-env`,
 * or the permission to read a few variables.
 *
 * @example A certificate authority of one's own
 * ```ts ignore
 * import { streamTo } from "@stream-buffer/stream-buffer";
 * import { undiciTransport } from "@stream-buffer/stream-buffer/undici";
 *
 * await using transport = undiciTransport({
 *   ca: await Deno.readTextFile("ca.pem"),
 * });
 * await using out = streamTo("https://logs.internal/ingest", { transport });
 * ```
 *
 * @param options Options; all of them apply to every connection.
 * @returns The transport.
 * @throws {TypeError} If an option, or the proxy in the environment, is invalid, or
 *   this platform has only a part of undici.
 */
export function undiciTransport(
  options: UndiciTransportOptions = {},
): UndiciTransport {
  check(ACTION, { options }, "an object", "object");
  const { proxy, servername, ...tls } = options;
  const { ca, cert, key, rejectUnauthorized } = tls;
  if ([ca ?? []].flat().some((text) => typeof text !== "string")) {
    throw new TypeError(
      `${ACTION}: ca must be a string or an array of strings, received ${
        show(ca)
      }`,
    );
  }
  check(ACTION, { cert, key, servername }, "a string", "string");
  check(ACTION, { rejectUnauthorized }, "true or false", "boolean");
  if (Client.prototype.dispatch === undefined) {
    throw new TypeError(
      `${ACTION}: this platform has replaced undici, as Bun does; leave out \`transport\`, and so use fetch`,
    );
  }
  // Without a time limit: that of the attempt includes connecting.
  const connector = buildConnector({ ...tls, timeout: 0 }) as Connector;
  const pool = new Pool({
    server: naming(servername, connector),
    proxy: naming(undefined, connector),
  }, chooseProxy(ACTION, proxy));
  const close = () => pool.close();
  return Object.assign(
    (request: TransportRequest) => pool.request(request),
    { close, [Symbol.asyncDispose]: close },
  );
}

/** Connects a socket, which it returns at once, and which `destroy` ends. */
type Connector = (
  ...parameters: Parameters<ReturnType<typeof buildConnector>>
) => { destroy(): unknown };
type Socket = NonNullable<Parameters<Parameters<Connector>[1]>[1]>;

/** How servers are connected to, and proxies. */
interface Connectors {
  readonly server: Connector;
  readonly proxy: Connector;
}

/** Why a request fails that is made too late; recognised by its name. */
class TransportClosed extends Error {
  override readonly name = "TransportClosed";
}

/**
 * The connections of a transport. Each serves one origin, through a proxy or not,
 * and is in one of the lists of idle ones, or has a request.
 */
class Pool {
  readonly #connectors: Connectors;
  readonly #proxyFor: ProxyChoice;
  /** By origin; the one that was used last is at the end. */
  readonly #idle: Map<string, Connection[]> = new Map();
  /** Settle when a request has ended, and its connection too, if it is to. */
  readonly #busy: Set<Promise<void>> = new Set();
  #closed: Promise<unknown> | undefined;

  constructor(connectors: Connectors, proxyFor: ProxyChoice) {
    this.#connectors = connectors;
    this.#proxyFor = proxyFor;
  }

  async request(request: TransportRequest): Promise<TransportResponse> {
    if (this.#closed) throw new TransportClosed("no request can be made");
    const { signal, url } = request;
    signal.throwIfAborted();
    let connection = this.#idle.get(url.origin)?.pop();
    if (connection === undefined) {
      const proxy = this.#proxyFor(url);
      // Names the permission that is missing, which `node:net` may not.
      await askToConnect(proxy ?? url);
      signal.throwIfAborted();
      connection = this.#open(url, proxy);
    }
    const ended = Promise.withResolvers<void>();
    this.#busy.add(ended.promise);
    try {
      return await connection.send(request, () => {
        this.#busy.delete(ended.promise);
        ended.resolve(this.#release(connection));
      });
    } catch (error) {
      throw explain(error);
    }
  }

  async close(): Promise<void> {
    const idle = [...this.#idle.values()].flat();
    this.#closed ??= Promise.all([
      ...this.#busy,
      ...idle.map((connection) => connection.destroy()),
    ]);
    await this.#closed;
  }

  #open(url: URL, proxy: URL | undefined): Connection {
    const connection = new Connection(url, proxy, this.#connectors);
    connection.onClose(() => this.#forget(connection));
    return connection;
  }

  /** Keeps a connection whose request has ended, or closes it. */
  #release(connection: Connection): Promise<void> | undefined {
    if (this.#closed) return connection.destroy();
    if (!connection.isOpen) return;
    const idle = this.#idle.get(connection.origin) ?? [];
    this.#idle.set(connection.origin, idle);
    idle.push(connection);
  }

  /** Drops a connection that was closed while it was idle. */
  #forget(connection: Connection): void {
    const idle = this.#idle.get(connection.origin) ?? [];
    const index = idle.indexOf(connection);
    if (index >= 0) idle.splice(index, 1);
  }
}

/** One connection to a server, on which one request is made at a time. */
class Connection {
  /** The origin of the server. */
  readonly origin: string;
  /** The proxy that requests are sent to; others are only tunnelled through. */
  readonly #forwarder: URL | undefined;
  readonly #client: Client;
  /** What is being connected, or has been. */
  #connecting: ReturnType<Connector> | undefined;
  /** What the latest request was, or is, written to. */
  #socket: Socket | undefined;
  #exchange: Exchange | undefined;
  #isHeld = false;
  /** Reports that the connection ended while the response was held back. */
  #withheld: (() => void) | undefined;

  constructor(
    { origin, protocol }: URL,
    proxy: URL | undefined,
    connectors: Connectors,
  ) {
    this.origin = origin;
    const isTunnelled = proxy !== undefined && protocol === "https:";
    this.#forwarder = isTunnelled ? undefined : proxy;
    const connect = isTunnelled
      ? tunnelThrough(proxy, connectors)
      : proxy === undefined
      ? connectors.server
      : connectors.proxy;
    this.#client = new Client(this.#forwarder?.origin ?? origin, {
      connect: (options, callback) => {
        this.#connecting = connect(options, (...result) => {
          this.#socket = result[1] ?? undefined;
          this.#withheld = undefined;
          if (this.#socket) this.#filter(this.#socket);
          if (this.#socket && "Deno" in globalThis) neverCork(this.#socket);
          callback(...result);
        });
      },
      pipelining: 1,
      maxHeaderSize: MAX_HEAD_SIZE,
      // Senders have time limits of their own.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  /** Whether it is connected. */
  get isOpen(): boolean {
    return this.#socket?.destroyed === false && !this.#client.destroyed;
  }

  /** Whether the system has yet to take some of what was written. */
  get isSending(): boolean {
    return this.isOpen && this.#socket!.writableLength > 0;
  }

  /**
   * Calls back when the system has taken it all, unless the connection dies. The
   * response is held back until then.
   */
  afterSending(callback: () => void): void {
    this.#isHeld = true;
    // A write is only called back after those before it, even an empty one.
    this.#socket!.write("", (error) => {
      this.#isHeld = false;
      if (error) return;
      callback();
      this.#withheld?.();
    });
  }

  /** Calls back each time it has been closed. */
  onClose(callback: () => void): void {
    this.#client.on("disconnect", callback);
  }

  /**
   * Makes a request.
   *
   * @param onEnd Called when it has ended, whether or not it has failed.
   */
  send(
    request: TransportRequest,
    onEnd: () => void,
  ): Promise<TransportResponse> {
    const { method, url, body } = request;
    const headers = toPairs(request.headers);
    if (request.headers["user-agent"] === undefined) {
      headers.push("user-agent", navigator.userAgent);
    }
    const forwarder = this.#forwarder;
    if (forwarder !== undefined) {
      if (request.headers.host === undefined) headers.push("host", url.host);
      headers.push(...authorization(forwarder));
    }
    const path = url.pathname + url.search;
    const exchange = new Exchange(this, request, onEnd);
    this.#exchange = exchange;
    this.#client.dispatch({
      method: method as Dispatcher.HttpMethod,
      path: forwarder === undefined ? path : url.origin + path,
      headers,
      // undici iterates over a stream, which its types leave out.
      body: (body instanceof ReadableStream ? exchange.chunks(body) : body) as
        | Uint8Array
        | null,
    }, exchange);
    return exchange.response;
  }

  /**
   * Keeps from undici what it does not cope with.
   *
   * It takes a "100 Continue" for an error, though a client must be able to parse
   * one (RFC 9110, section 15.2). One that arrives in pieces, which is rare, still
   * fails the request.
   *
   * If the connection ends while the response is held back, one of its assertions
   * fails, which would end the process.
   */
  #filter(socket: Socket): void {
    const read = socket.read.bind(socket);
    socket.read = (size) => {
      const chunk: Uint8Array | null = read(size);
      if (chunk === null || this.#exchange?.hasHead) return chunk;
      const rest = afterContinues(chunk);
      return rest.length > 0 ? rest : socket.read();
    };
    const emit = socket.emit.bind(socket) as (...args: unknown[]) => boolean;
    socket.emit = (...args: unknown[]) => {
      if (args[0] !== "end" || !this.#isHeld) return emit(...args);
      this.#withheld = () => void emit(...args);
      return true;
    };
  }

  /** Closes it at once, and so aborts its request, if it has one. */
  async destroy(): Promise<void> {
    const destroyed = this.#client.destroy();
    this.#connecting?.destroy();
    await destroyed;
  }
}

/** One request, and its response. */
class Exchange implements Dispatcher.DispatchHandler {
  readonly #connection: Connection;
  readonly #request: TransportRequest;
  readonly #onEnd: () => void;
  readonly #response = Promise.withResolvers<TransportResponse>();
  /** The response, when its head has arrived. */
  #head: Omit<TransportResponse, "body"> | undefined;
  /** The response has no body. */
  #isEmpty = false;
  #body: ReadableStreamDefaultController<Uint8Array> | undefined;
  /** The body of the request has been handed to the connection, to its end. */
  #isWritten: boolean;

  constructor(
    connection: Connection,
    request: TransportRequest,
    onEnd: () => void,
  ) {
    this.#connection = connection;
    this.#request = request;
    this.#onEnd = onEnd;
    this.#isWritten = !(request.body instanceof ReadableStream);
    request.signal.addEventListener("abort", this.#abort);
  }

  /** Whether the head of the response has arrived. */
  get hasHead(): boolean {
    return this.#head !== undefined;
  }

  /** Settles when the caller may go on. */
  get response(): Promise<TransportResponse> {
    return this.#response.promise;
  }

  /** The chunks of a request's body, up to its `Content-Length`. */
  async *chunks(
    body: ReadableStream<Uint8Array<ArrayBuffer>>,
  ): AsyncGenerator<Uint8Array> {
    let left = Number(this.#request.headers["content-length"] ?? Infinity);
    for await (const chunk of body) {
      left -= chunk.length;
      this.#isWritten = left <= 0;
      yield chunk;
      if (this.#isWritten) return;
    }
    this.#isWritten = true;
  }

  onRequestStart(): void {
    // Nothing to do, but undici calls it.
  }

  /**
   * A server may respond before it has read the request. If that is a 2xx, the rest
   * of it has to be sent all the same, and the caller must not change its bytes
   * before that: so the response is held back until the system has them.
   */
  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    if (status < 200) return; // more follows
    this.#head = { status, headers: new LazyHeaders(headers) };
    this.#isEmpty = status === 204 || status === 304 ||
      this.#request.method === "HEAD" || headers["content-length"] === "0";
    const isEarly = this.#isWritten && this.#connection.isSending;
    if (status >= 300 || !isEarly) return this.#respond();
    controller.pause();
    this.#connection.afterSending(() => {
      this.#respond();
      controller.resume();
    });
  }

  onResponseData(_: unknown, chunk: Uint8Array): void {
    // Resuming begins with an empty one.
    if (chunk.length === 0 || this.#body === undefined) return;
    this.#body.enqueue(chunk);
    // Not paused: undici fails if the connection ends meanwhile.
    if (this.#body.desiredSize! < 0) this.#abort();
  }

  onResponseEnd(): void {
    // After an error no server needs the rest of the request. And the connection
    // would be of no use until it had it.
    if (this.#connection.isSending) this.#abort();
    this.#end();
    if (this.#body === undefined) this.#resolve(null);
    else this.#body.close();
  }

  onResponseError(_: unknown, error: Error): void {
    this.#end();
    if (this.#body !== undefined) this.#body.error(error);
    // The status is known, and what is lost is of no interest.
    else if (this.#head !== undefined) this.#resolve(null);
    else this.#response.reject(error);
  }

  /** Hands the response over, now or, if it has no body, at its end. */
  #respond(): void {
    // A proxy that rejects its password may repeat it, and only we know it.
    if (this.#isEmpty || this.#head!.status === 407) return;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => void (this.#body = controller),
      cancel: this.#abort,
    }, new ByteLengthQueuingStrategy({ highWaterMark: MAX_UNREAD_SIZE }));
    this.#resolve(body);
  }

  #resolve(body: TransportResponse["body"]): void {
    this.#response.resolve({ ...this.#head!, body });
  }

  #abort = (): void => void this.#connection.destroy();

  #end(): void {
    this.#request.signal.removeEventListener("abort", this.#abort);
    this.#onEnd();
  }
}

/** What follows the responses of status 100 with which these bytes begin. */
function afterContinues(bytes: Uint8Array): Uint8Array {
  // Most are of another status, which begins at the tenth byte.
  if (bytes[9] !== 0x31 || bytes[10] !== 0x30) return bytes;
  const text = new TextDecoder("latin1").decode(bytes);
  const [continues] = text.match(/^(HTTP\/1\.1 100.*\r\n(.+\r\n)*\r\n)*/)!;
  return bytes.subarray(continues.length);
}

/**
 * Makes a socket of Deno's write a head and a body one after the other. Corked, it
 * joins them in a copy first, which is as large as a batch, and takes about as long
 * as a second write.
 */
function neverCork(socket: Socket): void {
  socket.cork = socket.uncork = () => {};
}

/** Headers as undici takes them: names and values in turn. */
function toPairs(headers: TransportRequest["headers"]): string[] {
  const pairs: string[] = [];
  for (const [name, value] of Object.entries(headers)) {
    if (!CONNECTION_HEADERS.has(name)) pairs.push(name, value);
  }
  return pairs;
}

/** Headers as undici gives them; most are never looked at, and making them takes long. */
class LazyHeaders {
  readonly #raw: Record<string, string | string[] | undefined>;
  #headers: Headers | undefined;

  constructor(raw: Record<string, string | string[] | undefined>) {
    this.#raw = raw;
  }

  get(name: string): string | null {
    return (this.#headers ??= this.#make()).get(name);
  }

  #make(): Headers {
    const headers = new Headers();
    for (const [name, values = []] of Object.entries(this.#raw)) {
      for (const value of [values].flat()) headers.append(name, value);
    }
    return headers;
  }
}

/** The credentials of a proxy, as a header (RFC 9110, section 11.7.2). */
function authorization({ username, password }: URL): string[] {
  if (username === "" && password === "") return [];
  const credentials = new TextEncoder().encode(
    decodeURIComponent(`${username}:${password}`),
  );
  return [
    "proxy-authorization",
    `Basic ${btoa(String.fromCharCode(...credentials))}`,
  ];
}

/**
 * Makes a connector that expects this name in a certificate; by default the host that
 * it connects to. undici would expect that of the request's `Host` header.
 */
function naming(
  servername: string | undefined,
  connector: Connector,
): Connector {
  return (options, callback) =>
    connector({ ...options, servername } as typeof options, callback);
}

/** Connects through a tunnel (RFC 9110, section 9.3.6), for TLS from end to end. */
function tunnelThrough(proxy: URL, connectors: Connectors): Connector {
  return (options, callback) => {
    let connecting: ReturnType<Connector> | undefined;
    const client = new Client(proxy.origin, {
      connect: (...parameters) => {
        connecting = connectors.proxy(...parameters);
      },
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    const host = `${options.hostname}:${options.port || 443}`;
    const request = {
      path: host,
      headers: ["host", host, ...authorization(proxy)],
    };
    client.connect(request, (error, { statusCode, socket }) => {
      // An error of undici's would make it connect again, endlessly.
      if (error !== null) {
        callback(new Error("no tunnel", { cause: explain(error) }), null);
      } else if (statusCode < 200 || statusCode > 299) {
        socket.destroy();
        const problem = `the proxy responded with ${statusCode}`;
        callback(new Error(`no tunnel: ${problem}`), null);
      } else {
        const httpSocket = socket as Socket;
        connecting = connectors.server({ ...options, httpSocket }, callback);
      }
    });
    return {
      destroy: () => {
        void client.destroy();
        connecting?.destroy();
      },
    };
  };
}

/** The same error, with a message for those who do not know the codes. */
function explain(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code } = error as { code?: string };
  const meaning = MEANINGS[code ?? ""];
  if (meaning === undefined) return error;
  // Node tries several addresses, and its error for all of them has no message.
  const cause = error instanceof AggregateError ? error.errors[0] : error;
  return new Error(meaning, { cause });
}
