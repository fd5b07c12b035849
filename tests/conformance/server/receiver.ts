/** Handles the requests under test as their scripts say, and records them. */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { brotliDecompressSync, gunzipSync, inflateSync } from "node:zlib";
import { Condition } from "../../../testing/condition.ts";
import type {
  Behaviour,
  Recorded,
  RecordedRequest,
  Script,
} from "../suite/control.ts";
import type { Connection } from "./fronts.ts";

/** Up to this size, in bytes, a record has the bytes themselves. */
const MAX_SHOWN = 100_000;

const DECODERS: Record<string, (bytes: Uint8Array) => Uint8Array> = {
  br: (bytes) => brotliDecompressSync(bytes),
  deflate: (bytes) => inflateSync(bytes),
  gzip: (bytes) => gunzipSync(bytes),
};

/** A response that no one gets: its connection is closed, or about to be. */
const NOBODY = () => new Response(null, { status: 500 });

/** A request under test, as far as it has arrived. */
class Arrival {
  readonly method: string;
  readonly version: "HTTP/1.1" | "HTTP/2";
  readonly headers: Record<string, string>;
  readonly #chunks: Uint8Array[] = [];
  size = 0;
  complete = false;
  stored = false;
  status = 0;
  /** It is over for the server. */
  ended = false;

  constructor({ method, headers }: Request, version: "HTTP/1.1" | "HTTP/2") {
    this.method = method;
    this.version = version;
    this.headers = Object.fromEntries(headers);
  }

  add(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.size += chunk.length;
  }

  /** The `Idempotency-Key`; its number is that of the batch. */
  get key(): string | undefined {
    return this.headers["idempotency-key"]?.slice(1, -1);
  }

  /** What the client compressed, if it did. */
  get bytes(): Uint8Array {
    const bytes = Buffer.concat(this.#chunks);
    const decode = DECODERS[this.headers["content-encoding"] ?? ""];
    return this.complete && decode ? decode(bytes) : bytes;
  }

  toRecord(): RecordedRequest {
    const { method, version, headers, size, complete, stored, status } = this;
    const record = { method, version, headers, size, complete, stored, status };
    return { ...record, ...digest(this.bytes) };
  }
}

/** The SHA-256 of bytes, and the bytes if they are few. */
export function digest(bytes: Uint8Array): { sha256: string; body?: string } {
  return {
    sha256: createHash("sha256").update(bytes).digest("hex"),
    ...bytes.length <= MAX_SHOWN && {
      body: Buffer.from(bytes).toString("base64"),
    },
  };
}

/** How a request ends that no script says anything else about. */
export type Store = (
  body: ReadableStream<Uint8Array> | null,
) => Promise<Response>;

/** Everything about one check. */
export class Receiver {
  #script: Script = { behaviours: [] };
  readonly #arrivals: Arrival[] = [];
  readonly #preflights: string[] = [];
  readonly #changes = new Condition();
  #held: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Says what there is of its latest upload by tus, if it made any. */
  upload: (() => { bytes: Uint8Array; complete: boolean }) | undefined;

  get script(): Script {
    return this.#script;
  }

  set script(script: Script) {
    this.#script = script;
  }

  /** Lets requests that are held continue. */
  release(): void {
    this.#held.resolve();
    this.#held = Promise.withResolvers();
  }

  addPreflight(asked: string): void {
    this.#preflights.push(asked);
  }

  /** What has arrived, once that many requests have begun or ended. */
  async record(begun: number, ended: number): Promise<Recorded> {
    await this.#changes.wait(
      "requests",
      () =>
        this.#arrivals.length >= begun &&
        this.#arrivals.filter(({ ended }) => ended).length >= ended,
    );
    const requests = this.#arrivals.map((arrival) => arrival.toRecord());
    return { requests, preflights: this.#preflights, object: this.#object() };
  }

  #object(): Recorded["object"] {
    if (this.upload) {
      const { bytes, complete } = this.upload();
      const size = bytes.length;
      return { size, conflicts: 0, complete, ...digest(bytes) };
    }
    const batches = new Map<string, Arrival>();
    let conflicts = 0;
    const stored = this.#arrivals.filter(({ stored }) => stored);
    for (const [index, arrival] of stored.entries()) {
      const { key = `-${index}` } = arrival;
      const known = batches.get(key);
      if (known === undefined) batches.set(key, arrival);
      else if (!Buffer.from(known.bytes).equals(arrival.bytes)) conflicts++;
    }
    const sequenceOf = (key: string) =>
      Number(key.slice(key.lastIndexOf("-") + 1));
    const parts = [...batches]
      .sort(([a], [b]) => sequenceOf(a) - sequenceOf(b))
      .map(([, { bytes }]) => bytes);
    const bytes = Buffer.concat(parts);
    const size = bytes.length;
    return { size, conflicts, complete: true, ...digest(bytes) };
  }

  /** Handles a request under test. */
  async handle(
    request: Request,
    connection: Connection,
    store: Store | undefined,
  ): Promise<Response> {
    const { promise: released } = this.#held; // before anyone learns of it
    const arrival = new Arrival(request, connection.version);
    this.#arrivals.push(arrival);
    this.#changes.notify();
    const behaviour = this.#take(request.method);
    try {
      const { cut } = behaviour;
      const body = record(
        request.body,
        arrival,
        typeof cut === "number" ? cut : Infinity,
        () => this.#cutWithin(arrival, connection),
      );
      const response = await this.#respond(
        { request, arrival, connection, behaviour, body, store, released },
      );
      arrival.status = response.status;
      return response;
    } catch {
      return NOBODY();
    } finally {
      arrival.ended = true;
      this.#changes.notify();
    }
  }

  /**
   * Closes the connection within a body. By then the tus server has written what it
   * got, so that a part of a batch is there.
   */
  async #cutWithin(arrival: Arrival, connection: Connection): Promise<void> {
    const end = Number(arrival.headers["upload-offset"] ?? 0) + arrival.size;
    const size = () => this.upload?.().bytes.length ?? end;
    while (size() < end && !arrival.ended) await sleep(1);
    connection.cut();
  }

  /** The behaviour that the next request with this method gets. */
  #take(method: string): Behaviour {
    const { behaviours } = this.#script;
    const index = behaviours.findIndex((behaviour) =>
      (behaviour.method ?? method) === method
    );
    return index < 0 ? {} : behaviours.splice(index, 1)[0]!;
  }

  async #respond(
    { request, arrival, connection, behaviour, body, store, released }: {
      request: Request;
      arrival: Arrival;
      connection: Connection;
      behaviour: Behaviour;
      body: ReadableStream<Uint8Array> | null;
      store: Store | undefined;
      released: Promise<void>;
    },
  ): Promise<Response> {
    const { status, cut, silent, early, held } = behaviour;
    /** Ends the request here, if it is to end at this stage. */
    const end = async (stage: "unread" | "read" | "stored") => {
      if (cut === stage) connection.cut();
      else if (silent === stage) await abandoned(request, connection);
      else return;
      throw new Error("There is no response");
    };
    await end("unread");
    const respond = () => respondAs(behaviour);
    if (early) {
      void drain(body).catch(() => {});
      return respond();
    }
    const isScripted = store === undefined || status !== undefined;
    if (isScripted || cut === "read" || silent === "read") await drain(body);
    if (held) await released;
    await end("read");
    const response = isScripted ? respond() : await store(body);
    arrival.stored = response.ok;
    await end("stored");
    return response;
  }
}

/** The response that a script prescribes. */
function respondAs(
  { status = 200, headers = {}, body, endless }: Behaviour,
): Response {
  if (!endless) return new Response(body ?? null, { status, headers });
  const text = new TextEncoder().encode(body ?? "begun");
  const stream = new ReadableStream({
    start: (controller) => controller.enqueue(text),
  });
  return new Response(stream, { status, headers });
}

/**
 * The body of a request, which is recorded as it is read.
 *
 * @param limit How many bytes there may be, before it fails.
 * @param cut Called before it fails.
 */
function record(
  body: ReadableStream<Uint8Array> | null,
  arrival: Arrival,
  limit: number,
  cut: () => Promise<void>,
): ReadableStream<Uint8Array> | null {
  if (body === null) {
    arrival.complete = true;
    return null;
  }
  return body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      async transform(chunk, controller) {
        const part = chunk.subarray(0, limit - arrival.size);
        arrival.add(part);
        controller.enqueue(part);
        if (arrival.size < limit) return;
        await cut();
        controller.error(new Error("The connection was cut"));
      },
      flush() {
        arrival.complete = true;
      },
    }),
  );
}

async function drain(body: ReadableStream<Uint8Array> | null): Promise<void> {
  await body?.pipeTo(new WritableStream());
}

/**
 * Waits until the client has given up. It resets a stream of HTTP/2, which aborts the
 * signal. Else it closes the connection, of which the signal does not always learn.
 */
async function abandoned(
  { signal }: Request,
  connection: Connection,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<Event>();
  signal.addEventListener("abort", resolve);
  if (!signal.aborted) await Promise.race([promise, connection.closed]);
}
