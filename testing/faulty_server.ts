/**
 * An HTTP/1.1 server on a raw TCP socket, which does to each request what its
 * script tells it to, and remembers every byte that it read. Run it with
 *
 *     deno run -N testing/faulty_server.ts --help
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { listen } from "./free_port.ts";

const CRLF = "\r\n";

/** What is known of a request before its body has been read. */
export interface RequestHead {
  /** 0 for the first connection, and so on. */
  readonly connection: number;
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
}

/** A request as it was read off the wire. */
export interface RawRequest extends RequestHead {
  readonly body: Uint8Array<ArrayBuffer>;
}

/** What a behaviour may do once it has seen the head of a request. */
export interface Exchange {
  readonly request: RequestHead;
  /** Reads so many bytes of the body, or what is left of it. */
  read(size: number): Promise<void>;
  /** Reads the request to its end. */
  receive(): Promise<RawRequest>;
  /** Stores the request, as a server does that answers with a 2xx. */
  keep(): Promise<void>;
  /** Sends bytes or text as they are. */
  write(data: string | Uint8Array): Promise<void>;
  /**
   * Closes the connection. That resets it if there are bytes which were not
   * read, and what was written may then never be seen.
   */
  close(): void;
  /** Waits until the client closes the connection, or this server is stopped. */
  closed(): Promise<void>;
  /** Reads no more, and waits until this server is stopped. */
  hang(): Promise<void>;
  /** Waits for the beginning of the next request on this connection. */
  next(): Promise<void>;
  /** Breaks all connections off and takes no more, for so many milliseconds. */
  refuse(ms: number): void;
}

/** What becomes of one request. */
export type Behaviour = (exchange: Exchange) => Promise<void> | void;

/** Reads the request, and answers as a server should; keeps it if with a 2xx. */
export function respond(
  status: number,
  headers: Record<string, string> = {},
  body = "",
): Behaviour {
  return async ({ receive, keep, write }) => {
    await receive();
    if (status < 300) await keep();
    await write(reply(status, headers, body));
  };
}

function reply(
  status: number,
  headers: Record<string, string> = {},
  body = "",
): string {
  return head(status, { "content-length": `${body.length}`, ...headers }) +
    body;
}

/** A status line and headers, whatever they may be. */
export function head(status: number, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([k, v]) => `${k}: ${v}${CRLF}`);
  return `HTTP/1.1 ${status} Status${CRLF}${lines.join("")}${CRLF}`;
}

/** Reads the request, and closes the connection without an answer. */
export const close: Behaviour = async (exchange) => {
  await exchange.receive();
  exchange.close();
};

/** Reads the request, and never answers. */
export const never: Behaviour = async ({ receive, closed }) => {
  await receive();
  await closed();
};

/** Reads the request, and goes on when it is released. */
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

/** Answers, and closes the connection that it said it would keep. */
export function respondAndClose(status: number): Behaviour {
  return async (exchange) => {
    await respond(status)(exchange);
    exchange.close();
  };
}

/** Stores the request, and answers it with whatever this is. */
function keepAnd(data: string, then: "close" | "closed"): Behaviour {
  return async ({ keep, write, ...exchange }) => {
    await keep();
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

/** Those that a retry helps against, if it takes one. */
const PASSING: Record<string, Behaviour> = {
  "200": respond(200),
  "201 with a body": respond(201, {}, "stored\n"),
  "204": respond(204),
  "never read": ({ hang }) => hang(),
  "read slowly": async (exchange) => {
    for (let i = 0; i < 20; i++) {
      await exchange.read(50);
      await sleep(1);
    }
    await respond(200)(exchange);
  },
  "200 before the body is read": async ({ write, keep }) => {
    await Promise.all([keep(), write(reply(200))]);
  },
  "503 before the body is read": async ({ write, receive }) => {
    await write(reply(503));
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
  "103 without end": async ({ receive, write }) => {
    await receive();
    for (;;) await write(head(103, { link: "</a>" }));
  },
  "a head without end": async ({ receive, write }) => {
    await receive();
    await write("HTTP/1.1 200 OK\r\n");
    for (;;) await write(`x-long: ${"x".repeat(1000)}${CRLF}`);
  },
  "answer late": async (exchange) => {
    await exchange.keep();
    await sleep(20);
    await respond(200)(exchange);
  },
  "never answer": never,
  "keep and never answer": keepAnd("", "closed"),
  "garbage": async ({ receive, write, close }) => {
    await receive();
    await write(`\0\xff not HTTP${CRLF}${CRLF}`);
    close();
  },
  "half a head": keepAnd("HTTP/1.1 200 OK\r\ncontent-le", "close"),
  "close": close,
  "close before the body is read": (exchange) => exchange.close(),
  "close within the body": async ({ read, close }) => {
    await read(1);
    close();
  },
  "keep and close": keepAnd("", "close"),
  "200 and close": respondAndClose(200),
  "200 and close, as it says": async (exchange) => {
    await respond(200, { connection: "close" })(exchange);
    exchange.close();
  },
  "200, then close at the next request": async (exchange) => {
    await respond(200)(exchange);
    await exchange.next();
    exchange.close();
  },
  "refuse for a while": ({ refuse }) => refuse(20),
  "keep and refuse for a while": async ({ keep, refuse }) => {
    await keep();
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
  "a reply that stalls": keepAnd(
    head(200, { "content-length": "10" }) + "12345",
    "closed",
  ),
  "a reply that never ends": async ({ keep, write }) => {
    await keep();
    await write(head(200, { "transfer-encoding": "chunked" }));
    for (;;) await write(`400${CRLF}${"x".repeat(1024)}${CRLF}`);
  },
  "a reply that is shorter than it says": keepAnd(
    head(200, { "content-length": "10" }) + "12345",
    "close",
  ),
  "a reply that is longer than it says": keepAnd(
    head(200, { "content-length": "5" }) + "1234567890",
    "close",
  ),
  "a reply of 1 MB": respond(200, {}, "x".repeat(1_000_000)),
  "a reply with 100 kB of headers": respond(200, { "x-long": "x".repeat(1e5) }),
  "a reply with 1000 headers": respond(
    200,
    Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`x-${i}`, "x"])),
  ),
};

/** Those that it does not help against, unless they change their minds. */
const FINAL: Record<string, Behaviour> = {
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
    await write(reply(413, { connection: "close" }));
    close();
  },
  "503, Retry-After a year": respond(503, { "retry-after": "31536000" }),
};

/** Behaviours by name, for schedules. */
export const BEHAVIOURS: Record<string, Behaviour> = { ...PASSING, ...FINAL };

function behaviour(name: string): Behaviour {
  const found = BEHAVIOURS[name];
  if (found !== undefined) return found;
  throw new TypeError(`There is no behaviour "${name}"`);
}

/** The behaviours of these names. */
export function script(names: readonly string[]): Behaviour[] {
  return names.map(behaviour);
}

/**
 * A schedule that the seed decides: every other request meets a good server,
 * each of the rest any behaviour that a retry helps against.
 *
 * @param by Gives the behaviour of a name.
 */
export function anyBehaviour(seed: number, by = behaviour): Behaviour {
  const names = Object.keys(PASSING);
  const random = randomFrom(seed);
  return (exchange) => {
    const good = random() < 0.5;
    const name = good ? "200" : names[Math.floor(random() * names.length)]!;
    return by(name)(exchange);
  };
}

/** Numbers from 0 to 1 that the seed decides (Tommy Ettinger's mulberry32). */
export function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The client went away, or this server was stopped. */
class Gone extends Error {}

/** Takes one behaviour of its script a request, and then `otherwise`. */
export class FaultyServer implements AsyncDisposable {
  readonly #script: Behaviour[];
  readonly #otherwise: Behaviour;
  readonly #connections = new Set<Deno.Conn>();
  /** Those whose request it may have acknowledged without having read it. */
  readonly #keeping = new Set<Deno.Conn>();
  readonly #handlers = new Set<Promise<void>>();
  readonly #arrived = new EventTarget();
  readonly #stopped = Promise.withResolvers<void>();
  #listener: Deno.TcpListener;
  #serving: Promise<void>;
  #running = true;
  readonly port: number;
  /** Every request that was read to its end, in order. */
  readonly requests: RawRequest[] = [];
  /** Those that broke off, with as much of their bodies as was read. */
  readonly broken: RawRequest[] = [];
  /** Those that were stored, in order. */
  readonly kept: RawRequest[] = [];
  /** How many connections were accepted. */
  connections = 0;

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

  /** Adds to its script. */
  next(...behaviours: Behaviour[]): void {
    this.#script.push(...behaviours);
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
    for await (const connection of this.#listener) {
      this.#connections.add(connection);
      const handler = this.#handle(connection, this.connections++)
        .catch((error) => {
          if (!(error instanceof Gone)) throw error;
        }).finally(() => {
          this.#connections.delete(connection);
          this.#keeping.delete(connection);
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
      const body = new Body(wire, headers);
      let received: RawRequest | undefined;
      const receive = async () => {
        await body.read(Infinity);
        if (received === undefined) {
          received = { ...request, body: body.bytes };
          this.requests.push(received);
          this.#arrived.dispatchEvent(new Event("request"));
        }
        return received;
      };
      try {
        await (this.#script.shift() ?? this.#otherwise)({
          request,
          read: (size) => body.read(size),
          receive,
          keep: async () => {
            this.#keeping.add(connection);
            const request = await receive();
            this.#keeping.delete(connection);
            if (!this.kept.includes(request)) this.kept.push(request);
          },
          write: (data) => wire.write(data),
          close: () => wire.close(),
          closed: () => wire.end(),
          hang: () => this.#stopped.promise,
          next: () => wire.more(),
          refuse: (ms) => this.refuse(ms),
        });
        await receive();
      } finally {
        if (received === undefined) {
          this.broken.push({ ...request, body: body.bytes });
        }
      }
    }
  }

  /** Breaks all connections off and takes no more, for so many milliseconds. */
  refuse(ms: number): void {
    tryClose(this.#listener);
    // Nothing that was acknowledged is lost.
    for (const connection of this.#connections.difference(this.#keeping)) {
      tryClose(connection);
    }
    this.#serving = this.#serving.then(async () => {
      await sleep(ms);
      while (this.#running) {
        try {
          this.#listener = Deno.listen({
            hostname: "127.0.0.1",
            port: this.port,
          });
          return await this.#serve();
        } catch (error) {
          // Someone else has the port for a moment.
          if (!(error instanceof Deno.errors.AddrInUse)) throw error;
          await sleep(ms);
        }
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#running = false;
    tryClose(this.#listener);
    this.#stopped.resolve();
    for (const connection of this.#connections) tryClose(connection);
    await this.#serving;
    await Promise.all(this.#handlers);
  }
}

/** The request's `Idempotency-Key`. */
export function keyOf({ headers }: RequestHead): string | null {
  return headers.get("idempotency-key");
}

/** Which flush of its stream it is, as its `Idempotency-Key` says. */
export function sequenceOf(request: RequestHead): number {
  return Number(keyOf(request)?.match(/-(\d+)"$/)?.[1]);
}

/**
 * The bodies without those that repeat a key, by their place in the stream.
 * Throws if one differs from what it repeats, or there is a gap.
 */
export function deduplicate(
  requests: readonly RawRequest[],
): Uint8Array<ArrayBuffer>[] {
  const bodies: Uint8Array<ArrayBuffer>[] = [];
  for (const request of requests) {
    const { body } = request;
    const before = bodies[sequenceOf(request)] ??= body;
    if (Buffer.compare(before, body) !== 0) {
      throw new Error(`${keyOf(request)} came again with other bytes`);
    }
  }
  for (let i = 0; i < bodies.length; i++) {
    if (bodies[i] === undefined) throw new Error(`Request ${i} never came`);
  }
  return bodies;
}

function tryClose(resource: { close(): void }): void {
  try {
    resource.close();
  } catch {
    // Closed already.
  }
}

/** The body of a request, as far as it was read: of a known size, or in chunks. */
class Body {
  readonly #wire: Wire;
  readonly #isChunked: boolean;
  /** How much is left of it, or of the chunk that it is in. */
  #left: number;
  #ended = false;
  #buffer: Uint8Array<ArrayBuffer>;
  #size = 0;

  constructor(wire: Wire, headers: Headers) {
    this.#wire = wire;
    this.#isChunked = headers.get("transfer-encoding") === "chunked";
    this.#left = Number(headers.get("content-length") ?? 0);
    this.#buffer = new Uint8Array(this.#left);
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#buffer.subarray(0, this.#size);
  }

  /** Reads so many bytes of it, or what is left. */
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
      if (this.#isChunked && this.#left === 0) await this.#wire.until(CRLF);
    }
  }

  async #nextChunk(): Promise<void> {
    if (!this.#isChunked || this.#ended) return;
    this.#left = parseInt(await this.#wire.until(CRLF), 16);
    this.#ended = this.#left === 0;
    if (this.#ended) await this.#wire.until(CRLF);
  }
}

/** A connection, read up to a separator, or a number of bytes. */
class Wire {
  readonly #connection: Deno.Conn;
  /** What was read beyond what was asked for. */
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

  /** Also forgets what was read and not asked for. */
  close(): void {
    tryClose(this.#connection);
    this.#pending = new Uint8Array();
  }

  /** Reads at least a byte into `target`. */
  async read(target: Uint8Array): Promise<number> {
    if (this.#pending.length === 0) return await this.#read(target);
    const part = this.#pending.subarray(0, target.length);
    target.set(part);
    this.#pending = this.#pending.subarray(part.length);
    return part.length;
  }

  /** Reads at least a byte more than it has. */
  async more(): Promise<void> {
    const chunk = new Uint8Array(16 * 1024);
    const size = await this.#read(chunk);
    const parts = [this.#pending, chunk.subarray(0, size)];
    this.#pending = new Uint8Array(Buffer.concat(parts));
  }

  /** Reads until the client closes the connection. */
  async end(): Promise<void> {
    const chunk = new Uint8Array(16 * 1024);
    try {
      for (;;) await this.#read(chunk);
    } catch (error) {
      if (!(error instanceof Gone)) throw error;
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
    if (size === null) throw new Gone();
    return size;
  }
}

/** What ends a connection is nobody's fault. */
function rethrow(error: unknown): never {
  const { BadResource, BrokenPipe, ConnectionReset, Interrupted } = Deno.errors;
  for (const kind of [BadResource, BrokenPipe, ConnectionReset, Interrupted]) {
    if (error instanceof kind) throw new Gone();
  }
  throw error;
}

const HELP = `An HTTP server that does what it should not.

Usage: deno run -N testing/faulty_server.ts [options] [BEHAVIOUR...]

It does to each request the next of the behaviours given, and answers 200 after
the last; without any, to every other request something at random that a retry
helps against. Interrupt it to see what it has kept.

Options:
      --port PORT   (default: 8000)
      --seed SEED   Decides what is random (default: another each time).
      --out FILE    Writes what it has kept to FILE at the end; needs -W.
      --help        Show this.

Behaviours that a retry helps against, if it takes one:
${Object.keys(PASSING).map((name) => `  "${name}"`).join("\n")}
and others:
${Object.keys(FINAL).map((name) => `  "${name}"`).join("\n")}
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
  const say = (name: string): Behaviour => (exchange) => {
    const { method, path } = exchange.request;
    console.log(`${method} ${path} ${keyOf(exchange.request)}: ${name}`);
    return behaviour(name)(exchange);
  };
  const otherwise = positionals.length > 0
    ? say("200")
    : anyBehaviour(Number(values.seed), say);
  const port = Number(values.port);
  await using server = new FaultyServer(positionals.map(say), otherwise, port);
  console.log(`${server.url}, seed ${values.seed}`);
  await new Promise<void>((resolve) => {
    Deno.addSignalListener("SIGINT", resolve);
  });
  const bodies = deduplicate(server.kept);
  for (const body of bodies) {
    if (values.out) Deno.writeFileSync(values.out, body, { append: true });
  }
  const bytes = Buffer.concat(bodies);
  const sum = createHash("sha256").update(bytes).digest("hex");
  console.log(
    `${server.kept.length} requests kept, ${bodies.length} of them different: ${bytes.length} bytes, SHA-256 ${sum}`,
  );
}

if (import.meta.main) await main();
