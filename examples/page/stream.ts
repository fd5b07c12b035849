/** The receiver's side of one stream: it stores each batch once, unless it is broken. */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";

/** How long `"away"` lasts, in ms. */
const AWAY = 10_000;
/** The `Retry-After` of `"429"`, in seconds. */
const RETRY_AFTER = 5;
/** The largest batch that is taken, in bytes; those of the page are far smaller. */
const MAX_BATCH = 1024 * 1024;
/** How many of the latest events are kept: several times what comes between two polls. */
const MAX_EVENTS = 1_000;
/** How far a batch may be ahead of the one that is missing; those of the page are 1. */
const MAX_AHEAD = 4;
const NEWLINE = 0x0a;

/** What is wrong with the receiver. */
export const FAULTS = [
  "503", // responds with 503
  "429", // responds with 429 and Retry-After
  "reset", // stores each batch, then cuts the connection instead of responding
  "silence", // does not respond
  "refuse", // responds with 422 to one batch
  "away", // cuts every connection, for ten seconds
] as const;
export type Fault = (typeof FAULTS)[number];

/** What became of a batch that has arrived. */
export type Fate = "stored" | "repeat" | "refused" | "silent" | "dropped";

/** What the page is told. */
export interface StreamState {
  readonly fault: Fault | null;
  /** When the fault ends by itself, in ms from now. */
  readonly faultLeft: number | null;
  /** What has been stored. */
  readonly batches: number;
  readonly records: number;
  readonly bytes: number;
  readonly sha256: string;
  /** Batches that had been stored before, and were recognised by their keys. */
  readonly repeats: number;
  /** How many events there have been. */
  readonly events: number;
  /** Those that the page does not know yet. `age` is in ms. */
  readonly latest: readonly {
    readonly fate: Fate;
    readonly sequence: number;
    readonly age: number;
  }[];
}

/** Stores the batches of one stream: their number and hash are all that is kept. */
export class ReceivedStream {
  readonly #key: RegExp;
  readonly #hash = createHash("sha256");
  #batches = 0;
  #records = 0;
  #bytes = 0;
  #repeats = 0;
  /** The sequence number that is to be stored next. */
  #next = 0;
  /** Batches after that: sends overlap when the page is hidden, and may arrive so. */
  readonly #ahead = new Map<number, Buffer>();
  /** The sequence numbers of the batches that were refused. */
  readonly #refused = new Set<number>();
  #fault: Fault | undefined;
  /** When it ends by itself, by `performance.now()`. */
  #faultEnd: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Requests that get no response while the fault is `"silence"`. */
  readonly #silent = new Set<() => void>();
  readonly #events: { fate: Fate; sequence: number; time: number }[] = [];
  #eventCount = 0;

  /** @param id The stream's part of each `Idempotency-Key`. */
  constructor(id: string) {
    this.#key = new RegExp(`^"${id}-(\\d{1,15})"$`);
  }

  /** Breaks the receiver, or mends it. */
  setFault(fault: Fault | undefined): void {
    clearTimeout(this.#timer);
    this.#fault = fault;
    this.#faultEnd = undefined;
    if (fault === "away") {
      this.#faultEnd = performance.now() + AWAY;
      this.#timer = setTimeout(() => this.setFault(undefined), AWAY);
    }
    for (const proceed of [...this.#silent]) proceed();
  }

  /** Forgets everything that keeps the process alive. */
  end(): void {
    this.setFault(undefined);
  }

  /** @param since How many events the page has seen. */
  getState(since: number): StreamState {
    const now = performance.now();
    const unseen = Math.max(0, this.#eventCount - since);
    return {
      fault: this.#fault ?? null,
      faultLeft: this.#faultEnd === undefined ? null : this.#faultEnd - now,
      batches: this.#batches,
      records: this.#records,
      bytes: this.#bytes,
      sha256: this.#hash.copy().digest("hex"),
      repeats: this.#repeats,
      events: this.#eventCount,
      latest: this.#events.slice(Math.max(0, this.#events.length - unseen))
        .map(({ time, ...event }) => ({ ...event, age: now - time })),
    };
  }

  /** Takes one batch, or does not, as the fault says. */
  async receive(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const [, number] =
      request.headers["idempotency-key"]?.toString().match(this.#key) ?? [];
    if (number === undefined) {
      request.resume();
      return respond(response, 400, "the Idempotency-Key is not this stream's");
    }
    const sequence = Number(number);
    if (sequence > this.#next + MAX_AHEAD) {
      request.resume();
      return respond(response, 400, "too far ahead");
    }
    if (this.#fault === "away") {
      this.#note("dropped", sequence);
      request.socket.destroy();
      return;
    }
    const batch = await read(request);
    if (batch === undefined) return respond(response, 413, "too large");
    if (this.#fault === "silence") {
      this.#note("silent", sequence);
      if (!await this.#keepSilent(response)) {
        return this.#note("dropped", sequence);
      }
    }
    // When a connection that it has used before dies, a browser repeats the request by
    // itself, and the page does not see it. The page's own retries have other numbers.
    const isFirst = request.headers.attempt === "1";
    this.#respond(response, sequence, batch, isFirst);
  }

  /** Responds to a batch that is there as a whole. */
  #respond(
    response: ServerResponse,
    sequence: number,
    batch: Buffer,
    isFirst: boolean,
  ): void {
    const fault = this.#fault;
    if (fault === "503") {
      this.#note("dropped", sequence);
      respond(response, 503, "broken by the visitor");
    } else if (fault === "429") {
      this.#note("dropped", sequence);
      response.setHeader("Retry-After", RETRY_AFTER);
      respond(response, 429, "slowed down by the visitor");
    } else if (this.#isRefused(sequence)) {
      this.#note("refused", sequence);
      respond(response, 422, "refused by the visitor");
    } else {
      const isRepeat = this.#isStored(sequence);
      if (isRepeat) this.#repeats++;
      else this.#store(sequence, batch);
      this.#note(isRepeat ? "repeat" : "stored", sequence);
      if (fault === "reset" && isFirst) response.socket!.destroy();
      else if (isRepeat) respond(response, 200, "stored before");
      else respond(response, 201, "stored");
    }
  }

  /** Whether a batch is, or was, the one to be refused. */
  #isRefused(sequence: number): boolean {
    if (this.#fault === "refuse" && !this.#isStored(sequence)) {
      this.setFault(undefined);
      this.#refused.add(sequence);
      this.#storeInOrder();
    }
    return this.#refused.has(sequence);
  }

  #isStored(sequence: number): boolean {
    return sequence < this.#next && !this.#refused.has(sequence) ||
      this.#ahead.has(sequence);
  }

  #store(sequence: number, batch: Buffer): void {
    this.#ahead.set(sequence, batch);
    this.#storeInOrder();
  }

  /** Appends what has arrived, as far as nothing is missing before it. */
  #storeInOrder(): void {
    for (;; this.#next++) {
      const batch = this.#ahead.get(this.#next);
      if (batch === undefined && !this.#refused.has(this.#next)) return;
      if (batch !== undefined) this.#append(batch);
      this.#ahead.delete(this.#next);
    }
  }

  #append(batch: Buffer): void {
    this.#batches++;
    this.#bytes += batch.length;
    for (let at = -1; (at = batch.indexOf(NEWLINE, at + 1)) !== -1;) {
      this.#records++;
    }
    this.#hash.update(batch);
  }

  /**
   * Waits until the receiver works again, or the client gives up.
   *
   * @returns Whether the client still waits.
   */
  #keepSilent(response: ServerResponse): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (waits: boolean) => {
        this.#silent.delete(proceed);
        resolve(waits);
      };
      const proceed = () => settle(true);
      this.#silent.add(proceed);
      response.once("close", () => settle(false));
    });
  }

  #note(fate: Fate, sequence: number): void {
    this.#eventCount++;
    this.#events.push({ fate, sequence, time: performance.now() });
    if (this.#events.length > MAX_EVENTS) this.#events.shift();
  }
}

/**
 * Reads a body.
 *
 * @returns `undefined` if it is too large.
 * @throws If the connection is lost: then nothing is stored.
 */
async function read(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size <= MAX_BATCH) chunks.push(chunk);
  }
  return size > MAX_BATCH ? undefined : Buffer.concat(chunks);
}

function respond(
  response: ServerResponse,
  status: number,
  text: string,
): void {
  response.statusCode = status;
  response.end(`${text}\n`);
}
