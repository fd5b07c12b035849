/**
 * An HTTP/1.1 server on a raw TCP socket, which does to each request what a
 * test tells it to, and remembers every byte that it read.
 */
import { concat } from "@std/bytes";

const CRLF = "\r\n";

/** A request as it was read off the wire. */
export interface RawRequest {
  /** 0 for the first connection, and so on. */
  readonly connection: number;
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: Uint8Array<ArrayBuffer>;
}

/** What a behaviour may do with a connection whose request has been read. */
export interface Exchange {
  readonly request: RawRequest;
  /** Sends bytes or text as they are. */
  write(data: string | Uint8Array): Promise<void>;
  /** Closes the connection. */
  close(): void;
  /** Waits until the client closes the connection, or this server is stopped. */
  closed(): Promise<void>;
}

/** What becomes of one request. */
export type Behaviour = (exchange: Exchange) => Promise<void> | void;

/** Answers as a server should. */
export function answer(
  status: number,
  headers: Record<string, string> = {},
  body = "",
): Behaviour {
  return async ({ write }) => {
    await write(
      head(status, { "content-length": `${body.length}`, ...headers }),
    );
    await write(body);
  };
}

/** A status line and headers, whatever they may be. */
export function head(status: number, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([k, v]) => `${k}: ${v}${CRLF}`);
  return `HTTP/1.1 ${status} Status${CRLF}${lines.join("")}${CRLF}`;
}

/** Reads the request, and closes the connection without an answer. */
export const close: Behaviour = (exchange) => exchange.close();

/** Reads the request, and never answers. */
export const never: Behaviour = ({ closed }) => closed();

/** Answers, and closes the connection that it said it would keep. */
export function answerAndClose(status: number): Behaviour {
  return async (exchange) => {
    await answer(status)(exchange);
    exchange.close();
  };
}

/** Takes one behaviour of its script a request, and then `otherwise`. */
export class FaultyServer implements AsyncDisposable {
  readonly #listener: Deno.TcpListener;
  readonly #script: Behaviour[];
  readonly #otherwise: Behaviour;
  readonly #connections = new Set<Deno.Conn>();
  readonly #serving: Promise<void>;
  readonly #arrived = new EventTarget();
  #stopped = false;
  /** Every request that was read to its end, in order. */
  readonly requests: RawRequest[] = [];
  /** How many connections were accepted. */
  connections = 0;

  constructor(
    script: Behaviour[] = [],
    otherwise: Behaviour = answer(200),
    port = 0,
  ) {
    this.#script = [...script];
    this.#otherwise = otherwise;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port });
    this.#serving = this.#serve();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/ingest`;
  }

  /** The bodies of all requests, as text. */
  get bodies(): string[] {
    return this.requests.map(({ body }) => new TextDecoder().decode(body));
  }

  /** The `Idempotency-Key` of all requests. */
  get keys(): (string | null)[] {
    return this.requests.map(({ headers }) => headers.get("idempotency-key"));
  }

  /** Resolves when so many requests have been read. */
  async received(count: number): Promise<void> {
    while (this.requests.length < count) {
      await new Promise((resolve) => {
        this.#arrived.addEventListener("request", resolve, { once: true });
      });
    }
  }

  async #serve(): Promise<void> {
    const handlers: Promise<void>[] = [];
    for await (const connection of this.#listener) {
      if (this.#stopped) {
        connection.close();
        continue;
      }
      this.#connections.add(connection);
      handlers.push(
        this.#handle(connection, this.connections++).catch((error) => {
          // The client went away, or this server was stopped.
          if (!(error instanceof TypeError || isNetworkError(error))) {
            throw error;
          }
        }).finally(() => {
          this.#connections.delete(connection);
          tryClose(connection);
        }),
      );
    }
    await Promise.all(handlers);
  }

  async #handle(connection: Deno.Conn, number: number): Promise<void> {
    const reader = new Reader(connection);
    for (;;) {
      const headText = await reader.until(CRLF + CRLF);
      if (headText === undefined) return;
      const [first, ...lines] = headText.split(CRLF);
      const [method, path] = first!.split(" ");
      const headers = new Headers(lines.map((line): [string, string] => {
        const colon = line.indexOf(":");
        return [line.slice(0, colon), line.slice(colon + 1).trim()];
      }));
      const length = Number(headers.get("content-length") ?? 0);
      const body = await reader.take(length);
      if (body === undefined) return;
      const request: RawRequest = {
        connection: number,
        method: method!,
        path: path!,
        headers,
        body,
      };
      this.requests.push(request);
      this.#arrived.dispatchEvent(new Event("request"));
      await (this.#script.shift() ?? this.#otherwise)({
        request,
        write: (data) => writeAll(connection, data),
        close: () => tryClose(connection),
        closed: () => reader.end(),
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    this.#listener.close();
    for (const connection of this.#connections) tryClose(connection);
    await this.#serving;
  }
}

function isNetworkError(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource ||
    error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe;
}

function tryClose(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // Closed already.
  }
}

async function writeAll(
  connection: Deno.Conn,
  data: string | Uint8Array,
): Promise<void> {
  let bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  while (bytes.length > 0) {
    bytes = bytes.subarray(await connection.write(bytes));
  }
}

/** Reads a connection up to a separator, or a number of bytes. */
class Reader {
  readonly #connection: Deno.Conn;
  #pending: Uint8Array<ArrayBuffer> = new Uint8Array();

  constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  async #more(): Promise<boolean> {
    const chunk = new Uint8Array(64 * 1024);
    const read = await this.#connection.read(chunk);
    if (read === null) return false;
    this.#pending = concat([this.#pending, chunk.subarray(0, read)]);
    return true;
  }

  async until(separator: string): Promise<string | undefined> {
    for (;;) {
      // Latin-1, so that a character is a byte.
      const text = new TextDecoder("latin1").decode(this.#pending);
      const end = text.indexOf(separator);
      if (end >= 0) {
        this.#pending = this.#pending.slice(end + separator.length);
        return text.slice(0, end);
      }
      if (!await this.#more()) return undefined;
    }
  }

  async take(length: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
    while (this.#pending.length < length) {
      if (!await this.#more()) return undefined;
    }
    const taken = this.#pending.slice(0, length);
    this.#pending = this.#pending.slice(length);
    return taken;
  }

  async end(): Promise<void> {
    while (await this.#more());
  }
}
