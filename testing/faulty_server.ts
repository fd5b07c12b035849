/**
 * An HTTP/1.1 server on a raw TCP socket. It handles each request as its script
 * prescribes, correctly or not, and records every byte that it reads.
 *
 *     deno run -N testing/faulty_server.ts --help
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Condition } from "./condition.ts";
import { turns } from "./event_loop.ts";
import { listen } from "./free_port.ts";

const CRLF = "\r\n";

/** A request whose body has not been read yet. */
export interface RequestHead {
  /** 0 for the first connection, and so on. */
  readonly connection: number;
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
}

/** A request, with as much of its body as was read. */
export interface RawRequest extends RequestHead {
  readonly body: Uint8Array<ArrayBuffer>;
}

/** What a behaviour can do once the head of a request has been read. */
export interface Exchange {
  readonly request: RequestHead;
  /** Reads this many bytes of the body, or what is left of it. */
  read(size: number): Promise<void>;
  /** Reads the request to its end. */
  receive(): Promise<RawRequest>;
  /** Reads the request and stores it, as a server does before a 2xx. */
  store(): Promise<void>;
  /** Sends bytes or text unchanged. */
  write(data: string | Uint8Array): Promise<void>;
  /**
   * Closes the connection. If there are unread bytes, that resets it, and the
   * client may never see what was written.
   */
  close(): void;
  /** Waits until the client closes the connection, or this server is stopped. */
  closed(): Promise<void>;
  /** Reads no more, and waits until this server is stopped. */
  hang(): Promise<void>;
  /** Waits for the beginning of the next request on this connection. */
  next(): Promise<void>;
  /** Waits this many milliseconds, or until this server is stopped. */
  sleep(ms: number): Promise<void>;
  /** Drops all connections, and accepts none for this many milliseconds. */
  refuse(ms: number): void;
}

/** Handles one request. */
export type Behaviour = (exchange: Exchange) => Promise<void> | void;

/** Reads the request, and stores it if the status is a 2xx; then responds. */
export function respond(
  status: number,
  headers: Record<string, string> = {},
  body = "",
): Behaviour {
  return async ({ receive, store, write }) => {
    await receive();
    if (status < 300) await store();
    await write(response(status, headers, body));
  };
}

function response(
  status: number,
  headers: Record<string, string> = {},
  body = "",
): string {
  return head(status, { "content-length": `${body.length}`, ...headers }) +
    body;
}

/** A status line and these headers, without any check. */
export function head(status: number, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([k, v]) => `${k}: ${v}${CRLF}`);
  return `HTTP/1.1 ${status} Status${CRLF}${lines.join("")}${CRLF}`;
}

/** Reads the request, and closes the connection without a response. */
export const close: Behaviour = async (exchange) => {
  await exchange.receive();
  exchange.close();
};

/** Reads the request, and never responds. */
export const never: Behaviour = async ({ receive, closed }) => {
  await receive();
  await closed();
};

/** Reads the request, and continues with `rest` after `release()`. */
export function held(
  rest: Behaviour = respond(200),
): { release: () => void; behaviour: Behaviour } {
  const { promise, resolve: release } = Promise.withResolvers<void>();
  const behaviour: Behaviour = async (exchange) => {
    await exchange.receive();
    await promise;
    await rest(exchange);
  };
  return { release, behaviour };
}

/** Responds, and closes the connection although the client may reuse it. */
export function respondAndClose(status: number): Behaviour {
  return async (exchange) => {
    await respond(status)(exchange);
    exchange.close();
  };
}

/** Stores the request, writes `data`, and closes or waits for the client to. */
function storeAnd(data: string, then: "close" | "closed"): Behaviour {
  return async ({ store, write, ...exchange }) => {
    await store();
    await write(data);
    await exchange[then]();
  };
}

const AGES_AGO = "Sun, 06 Nov 1994 08:49:37 GMT";
const RETRY_AFTER: Record<string, string> = {
  "0": "0",
  "a date": AGES_AGO,
  "a date of RFC 850": "Sunday, 06-Nov-94 08:49:37 GMT",
  "a date of asctime": "Sun Nov  6 08:49:37 1994",
  "a list": "0, 0",
  "a negative number": "-5",
  "garbage": "soon",
};

/** Faults that pass: a retry succeeds, if one is needed at all. */
const RETRYABLE: Record<string, Behaviour> = {
  "200": respond(200),
  "201 with a body": respond(201, {}, "stored\n"),
  "204": respond(204),
  "never read": ({ hang }) => hang(),
  "read slowly": async (exchange) => {
    for (let i = 0; i < 20; i++) {
      await exchange.read(50);
      await exchange.sleep(1);
    }
    await respond(200)(exchange);
  },
  "200 before the body is read": async ({ write, store }) => {
    await Promise.all([store(), write(response(200))]);
  },
  "503 before the body is read": async ({ write, receive }) => {
    await write(response(503));
    await receive();
  },
  "100 first": async (exchange) => {
    await exchange.write(head(100, {}));
    await respond(200)(exchange);
  },
  "103 first, twice": async (exchange) => {
    await exchange.write(head(103, { link: "</a>" }).repeat(2));
    await respond(200)(exchange);
  },
  "endless 103": async ({ receive, write }) => {
    await receive();
    for (;;) await write(head(103, { link: "</a>" }));
  },
  "endless head": async ({ receive, write }) => {
    await receive();
    await write("HTTP/1.1 200 OK\r\n");
    for (;;) await write(`x-long: ${"x".repeat(1000)}${CRLF}`);
  },
  "respond late": async (exchange) => {
    await exchange.store();
    await exchange.sleep(20);
    await respond(200)(exchange);
  },
  "never respond": never,
  "store and never respond": storeAnd("", "closed"),
  "garbage": async ({ receive, write, close }) => {
    await receive();
    await write(`\0\xff not HTTP${CRLF}${CRLF}`);
    close();
  },
  "half a head": storeAnd("HTTP/1.1 200 OK\r\ncontent-le", "close"),
  "close": close,
  "close before the body is read": (exchange) => exchange.close(),
  "close within the body": async ({ read, close }) => {
    await read(1);
    close();
  },
  "store and close": storeAnd("", "close"),
  "200 and close": respondAndClose(200),
  "200 and close, announced": async (exchange) => {
    await respond(200, { connection: "close" })(exchange);
    exchange.close();
  },
  "200, then close at the next request": async (exchange) => {
    await respond(200)(exchange);
    await exchange.next();
    exchange.close();
  },
  "refuse connections for 20 ms": ({ refuse }) => refuse(20),
  "store and refuse connections for 20 ms": async ({ store, refuse }) => {
    await store();
    refuse(20);
  },
  "408 and close": respondAndClose(408),
  "500": respond(500, {}, "oh\n"),
  "502": respond(502, { "content-type": "text/html" }, "<html></html>"),
  ...Object.fromEntries(
    Object.entries(RETRY_AFTER).flatMap(([name, value]) =>
      [429, 503].map((status) => [
        `${status}, Retry-After ${name}`,
        respond(status, { "retry-after": value }),
      ])
    ),
  ),
  "a response that stalls": storeAnd(
    head(200, { "content-length": "10" }) + "12345",
    "closed",
  ),
  "an endless response": async ({ store, write }) => {
    await store();
    await write(head(200, { "transfer-encoding": "chunked" }));
    for (;;) await write(`400${CRLF}${"x".repeat(1024)}${CRLF}`);
  },
  "a response shorter than its Content-Length": storeAnd(
    head(200, { "content-length": "10" }) + "12345",
    "close",
  ),
  "a response longer than its Content-Length": storeAnd(
    head(200, { "content-length": "5" }) + "1234567890",
    "close",
  ),
  "a response of 1 MB": respond(200, {}, "x".repeat(1_000_000)),
  "a response with 100 kB of headers": respond(200, {
    "x-long": "x".repeat(1e5),
  }),
  "a response with 1000 headers": respond(
    200,
    Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`x-${i}`, "x"])),
  ),
};

/** Faults that last: the same request would fail again. */
const PERMANENT: Record<string, Behaviour> = {
  ...Object.fromEntries([301, 302, 303, 307, 308].map((status) => [
    `${status}`,
    (exchange: Exchange) => {
      const origin = `http://${exchange.request.headers.get("host")}`;
      return respond(status, { location: `${origin}/moved` })(exchange);
    },
  ])),
  "304": respond(304),
  "400": respond(400, {}, "no\n"),
  "401": respond(401),
  "413 and close before the body is read": async ({ write, close }) => {
    await write(response(413, { connection: "close" }));
    close();
  },
  "503, Retry-After a year": respond(503, { "retry-after": "31536000" }),
};

/** All behaviours that have a name. */
export const BEHAVIOURS: Record<string, Behaviour> = {
  ...RETRYABLE,
  ...PERMANENT,
};

function behaviour(name: string): Behaviour {
  const found = BEHAVIOURS[name];
  if (found !== undefined) return found;
  throw new TypeError(`There is no behaviour "${name}"; see --help`);
}

/** The behaviours with these names. */
export function script(names: readonly string[]): Behaviour[] {
  return names.map(behaviour);
}

/**
 * Handles half of the requests correctly, and each of the others with a random
 * retryable fault. The same seed gives the same schedule.
 *
 * @param find Returns the behaviour with a given name.
 */
export function anyBehaviour(seed: number, find = behaviour): Behaviour {
  const names = Object.keys(RETRYABLE);
  const random = randomFrom(seed);
  return (exchange) => {
    const good = random() < 0.5;
    const name = good ? "200" : names[Math.floor(random() * names.length)]!;
    return find(name)(exchange);
  };
}

/**
 * Returns a generator of numbers from 0 to 1, the same for the same seed (Tommy
 * Ettinger's mulberry32).
 */
export function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The client closed the connection, or this server was stopped. */
class Disconnected extends Error {}

/** Handles each request with the next behaviour of its script, then `otherwise`. */
export class FaultyServer implements AsyncDisposable {
  readonly #script: Behaviour[];
  readonly #otherwise: Behaviour;
  readonly #connections = new Set<Deno.Conn>();
  /** Connections whose request may be acknowledged before it has been read. */
  readonly #storing = new Set<Deno.Conn>();
  readonly #handlers = new Set<Promise<void>>();
  readonly #changes = new Condition();
  readonly #stop = new AbortController();
  readonly #stopped = Promise.withResolvers<void>();
  #listener: Deno.TcpListener;
  #serving: Promise<void>;
  readonly port: number;
  /** All requests that were read to their end, in order. */
  readonly requests: RawRequest[] = [];
  /** Requests whose connection was closed before their end. */
  readonly incomplete: RawRequest[] = [];
  /** Requests that were stored, in order. */
  readonly stored: RawRequest[] = [];
  /** How many connections were accepted. */
  connections = 0;
  /** How many bytes of bodies were read, of incomplete requests as well. */
  bodyBytes = 0;

  constructor(
    script: Behaviour[] = [],
    otherwise: Behaviour = respond(200),
    port?: number,
  ) {
    this.#script = [...script];
    this.#otherwise = otherwise;
    this.#listener = port === undefined
      ? listen()
      : Deno.listen({ hostname: "127.0.0.1", port });
    this.port = this.#listener.addr.port;
    this.#serving = this.#serve();
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
    return this.requests.map(keyOf);
  }

  /** Adds behaviours to the script. */
  next(...behaviours: Behaviour[]): void {
    this.#script.push(...behaviours);
  }

  /** Waits until this many requests have been read to their end. */
  received(count: number): Promise<void> {
    return this.waitFor(
      `${count} requests`,
      () => this.requests.length >= count,
    );
  }

  /** Waits until this many requests were closed before their end. */
  aborted(count: number): Promise<void> {
    return this.waitFor(
      `${count} incomplete requests`,
      () => this.incomplete.length >= count,
    );
  }

  /** Waits until this many bytes of bodies have been read. */
  receivedBytes(count: number): Promise<void> {
    return this.waitFor(
      `${count} bytes of bodies`,
      () => this.bodyBytes >= count,
    );
  }

  /**
   * Waits until a condition on the requests is met. Rejects if this server is
   * stopped first.
   */
  waitFor(what: string, isMet: () => boolean): Promise<void> {
    return this.#changes.wait(what, isMet);
  }

  async #serve(): Promise<void> {
    for await (const connection of this.#listener) {
      this.#connections.add(connection);
      const handler = this.#handle(connection, this.connections++)
        .catch((error) => {
          if (!(error instanceof Disconnected)) throw error;
        }).finally(() => {
          this.#connections.delete(connection);
          this.#storing.delete(connection);
          this.#handlers.delete(handler);
          tryClose(connection);
        });
      this.#handlers.add(handler);
    }
  }

  async #handle(connection: Deno.Conn, number: number): Promise<void> {
    const wire = new Wire(connection);
    for (;;) {
      const headText = await wire.until(CRLF + CRLF);
      const [first, ...lines] = headText.split(CRLF);
      const [method, path] = first!.split(" ");
      const headers = new Headers(lines.map((line): [string, string] => {
        const colon = line.indexOf(":");
        return [line.slice(0, colon), line.slice(colon + 1).trim()];
      }));
      const request: RequestHead = {
        connection: number,
        method: method!,
        path: path!,
        headers,
      };
      const body = new Body(wire, headers, (size) => {
        this.bodyBytes += size;
        this.#changes.notify();
      });
      let received: RawRequest | undefined;
      const receive = async () => {
        await body.read(Infinity);
        if (received === undefined) {
          received = { ...request, body: body.bytes };
          this.requests.push(received);
          this.#changes.notify();
        }
        return received;
      };
      try {
        await (this.#script.shift() ?? this.#otherwise)({
          request,
          read: (size) => body.read(size),
          receive,
          store: async () => {
            this.#storing.add(connection);
            const request = await receive();
            this.#storing.delete(connection);
            if (this.stored.includes(request)) return;
            this.stored.push(request);
            this.#changes.notify();
          },
          write: (data) => wire.write(data),
          close: () => wire.close(),
          closed: () => wire.end(),
          hang: () => this.#stopped.promise,
          next: () => wire.more(),
          sleep: (ms) => this.#sleep(ms),
          refuse: (ms) => this.refuse(ms),
        });
        await receive();
      } finally {
        if (received === undefined) {
          this.incomplete.push({ ...request, body: body.bytes });
          this.#changes.notify();
        }
      }
    }
  }

  /** A delay is a fault here, not a guess; no event could stand in for it. */
  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#stop;
    await sleep(ms, undefined, { signal }).catch(() => {});
  }

  /** Drops all connections, and accepts none for this many milliseconds. */
  refuse(ms: number): void {
    tryClose(this.#listener);
    // A request that may be acknowledged must not be lost.
    for (const connection of this.#connections.difference(this.#storing)) {
      tryClose(connection);
    }
    this.#serving = this.#serving.then(async () => {
      await this.#sleep(ms);
      while (!this.#stop.signal.aborted) {
        try {
          this.#listener = Deno.listen({
            hostname: "127.0.0.1",
            port: this.port,
          });
          return await this.#serve();
        } catch (error) {
          // Another process is using the port for a moment.
          if (!(error instanceof Deno.errors.AddrInUse)) throw error;
          await this.#sleep(ms);
        }
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#stopped.resolve();
    tryClose(this.#listener);
    for (const connection of this.#connections) tryClose(connection);
    const { requests: { length }, connections } = this;
    this.#changes.close(
      `the server was stopped after ${length} requests on ${connections} connections`,
    );
    await this.#serving;
    // A behaviour ends with its connection, unless it waits for a promise that
    // the test resolves. A test that failed before that must still end.
    await Promise.race([Promise.all(this.#handlers), turns()]);
  }
}

/** The request's `Idempotency-Key`. */
export function keyOf({ headers }: RequestHead): string | null {
  return headers.get("idempotency-key");
}

/** The sequence number in the request's `Idempotency-Key`. */
export function sequenceOf(request: RequestHead): number {
  return Number(keyOf(request)?.match(/-(\d+)"$/)?.[1]);
}

/**
 * Returns one body per key, by its sequence number.
 *
 * @throws {Error} If two bodies with the same key differ.
 */
export function bySequence(
  requests: readonly RawRequest[],
): Map<number, Uint8Array<ArrayBuffer>> {
  const bodies = new Map<number, Uint8Array<ArrayBuffer>>();
  for (const request of requests) {
    const { body } = request;
    const sequence = sequenceOf(request);
    const before = bodies.get(sequence) ?? body;
    bodies.set(sequence, before);
    if (Buffer.compare(before, body) !== 0) {
      throw new Error(`Key ${keyOf(request)} was repeated with other bytes`);
    }
  }
  return bodies;
}

/**
 * Returns one body per key, in the order of the stream.
 *
 * @throws {Error} If two bodies with the same key differ, or one is missing.
 */
export function deduplicate(
  requests: readonly RawRequest[],
): Uint8Array<ArrayBuffer>[] {
  const bodies = bySequence(requests);
  return Array.from({ length: bodies.size }, (_, i) => {
    const body = bodies.get(i);
    if (body === undefined) throw new Error(`Request ${i} is missing`);
    return body;
  });
}

function tryClose(resource: { close(): void }): void {
  try {
    resource.close();
  } catch {
    // Closed already.
  }
}

/** The part of a request's body that was read; by length or in chunks. */
class Body {
  readonly #wire: Wire;
  readonly #isChunked: boolean;
  readonly #onRead: (size: number) => void;
  /** How many bytes are left of the body, or of its current chunk. */
  #left: number;
  #ended = false;
  #buffer: Uint8Array<ArrayBuffer>;
  #size = 0;

  constructor(wire: Wire, headers: Headers, onRead: (size: number) => void) {
    this.#wire = wire;
    this.#onRead = onRead;
    this.#isChunked = headers.get("transfer-encoding") === "chunked";
    this.#left = Number(headers.get("content-length") ?? 0);
    this.#buffer = new Uint8Array(this.#left);
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#buffer.subarray(0, this.#size);
  }

  /** Reads this many bytes, or what is left. */
  async read(size: number): Promise<void> {
    while (size > 0) {
      if (this.#left === 0) await this.#nextChunk();
      if (this.#left === 0) return;
      const end = this.#size + Math.min(size, this.#left);
      if (end > this.#buffer.length) {
        const grown = new Uint8Array(2 * end);
        grown.set(this.bytes);
        this.#buffer = grown;
      }
      const part = this.#buffer.subarray(this.#size, end);
      const read = await this.#wire.read(part);
      this.#size += read;
      this.#left -= read;
      size -= read;
      this.#onRead(read);
    }
  }

  async #nextChunk(): Promise<void> {
    if (!this.#isChunked || this.#ended) return;
    // Not before it is needed: a client may send it with the next chunk.
    if (this.#size > 0) await this.#wire.until(CRLF);
    this.#left = parseInt(await this.#wire.until(CRLF), 16);
    this.#ended = this.#left === 0;
    if (this.#ended) await this.#wire.until(CRLF);
  }
}

/** A connection that is read up to a separator, or by a number of bytes. */
class Wire {
  readonly #connection: Deno.Conn;
  /** Bytes that were read from the connection, but not requested yet. */
  #pending: Uint8Array<ArrayBuffer> = new Uint8Array();

  constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  async until(separator: string): Promise<string> {
    for (;;) {
      // Latin-1, so that a character is a byte.
      const text = new TextDecoder("latin1").decode(this.#pending);
      const end = text.indexOf(separator);
      if (end >= 0) {
        this.#pending = this.#pending.subarray(end + separator.length);
        return text.slice(0, end);
      }
      await this.more();
    }
  }

  /** Closes the connection, and discards the pending bytes. */
  close(): void {
    tryClose(this.#connection);
    this.#pending = new Uint8Array();
  }

  /** Reads at least one byte into `target`. */
  async read(target: Uint8Array): Promise<number> {
    if (this.#pending.length === 0) return await this.#read(target);
    const part = this.#pending.subarray(0, target.length);
    target.set(part);
    this.#pending = this.#pending.subarray(part.length);
    return part.length;
  }

  /** Adds at least one byte to the pending ones. */
  async more(): Promise<void> {
    const chunk = new Uint8Array(16 * 1024);
    const size = await this.#read(chunk);
    const parts = [this.#pending, chunk.subarray(0, size)];
    this.#pending = new Uint8Array(Buffer.concat(parts));
  }

  /** Reads and discards until the client closes the connection. */
  async end(): Promise<void> {
    const chunk = new Uint8Array(16 * 1024);
    try {
      for (;;) await this.#read(chunk);
    } catch (error) {
      if (!(error instanceof Disconnected)) throw error;
    }
  }

  async write(data: string | Uint8Array): Promise<void> {
    let bytes = typeof data === "string"
      ? new TextEncoder().encode(data)
      : data;
    while (bytes.length > 0) {
      const size = await this.#connection.write(bytes).catch(rethrow);
      bytes = bytes.subarray(size);
    }
  }

  async #read(target: Uint8Array): Promise<number> {
    const size = await this.#connection.read(target).catch(rethrow);
    if (size === null) throw new Disconnected();
    return size;
  }
}

/** Turns the errors of a connection that was closed into `Disconnected`. */
function rethrow(error: unknown): never {
  const {
    BadResource,
    BrokenPipe,
    ConnectionAborted, // on Windows
    ConnectionReset,
    Interrupted,
  } = Deno.errors;
  const kinds = [
    ...[BadResource, BrokenPipe],
    ...[ConnectionAborted, ConnectionReset, Interrupted],
  ];
  if (kinds.some((kind) => error instanceof kind)) throw new Disconnected();
  throw error;
}

const HELP = `An HTTP server that misbehaves on purpose.

Usage: deno run -N testing/faulty_server.ts [options] [BEHAVIOUR...]

Each request gets the next BEHAVIOUR; after the last, the response is 200. Without
any, about half of the requests get random faults that a retry can overcome.
Press Ctrl+C for a summary of what it has stored.

Options:
      --port PORT   Port on 127.0.0.1 (default: 8000).
      --seed SEED   Seed for the random faults (default: a new one each time).
      --out FILE    At the end, append what was stored to FILE; needs -W.
      --help        Show this help.

Behaviours that a retry can overcome:
${Object.keys(RETRYABLE).map((name) => `  "${name}"`).join("\n")}

Behaviours that fail again when repeated:
${Object.keys(PERMANENT).map((name) => `  "${name}"`).join("\n")}
`;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      port: { type: "string", default: "8000" },
      seed: { type: "string", default: `${Date.now() % 1e6}` },
      out: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return console.log(HELP.trimEnd());
  script(positionals); // throws for a name that does not exist
  const logged = (name: string): Behaviour => (exchange) => {
    const { method, path } = exchange.request;
    const key = keyOf(exchange.request) ?? "without a key";
    console.log(`${method} ${path} ${key}: ${name}`);
    return behaviour(name)(exchange);
  };
  const otherwise = positionals.length > 0
    ? logged("200")
    : anyBehaviour(Number(values.seed), logged);
  const port = Number(values.port);
  await using server = new FaultyServer(
    positionals.map(logged),
    otherwise,
    port,
  );
  console.log(`Listening at ${server.url}, seed ${values.seed}`);
  await new Promise<void>((resolve) => {
    Deno.addSignalListener("SIGINT", resolve);
  });
  const keyed = Map.groupBy(
    server.stored,
    (request) => keyOf(request) !== null,
  );
  const bodies = [
    ...deduplicate(keyed.get(true) ?? []),
    ...(keyed.get(false) ?? []).map(({ body }) => body),
  ];
  for (const body of bodies) {
    if (values.out) Deno.writeFileSync(values.out, body, { append: true });
  }
  const bytes = Buffer.concat(bodies);
  const sum = createHash("sha256").update(bytes).digest("hex");
  console.log(
    `${server.stored.length} requests stored, ${bodies.length} distinct: ${bytes.length} bytes, SHA-256 ${sum}`,
  );
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error((error as Error).message);
    Deno.exit(1);
  }
}
