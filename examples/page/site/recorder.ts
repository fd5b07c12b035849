/// <reference lib="dom" />
/** The stream of this page: a StreamBuffer, and what is to be seen of it. */
import {
  type BatchContext,
  FetchSender,
  FlushError,
  flushOnHide,
  SendError,
  StreamBuffer,
  type StreamBufferStats,
} from "@stream-buffer/stream-buffer";
import { Ledger } from "./ledger.ts";

/** What a page may have in flight when it is left, shared between two stores. */
export const CAPACITY = 32 * 1024;
export const MAX_QUEUED_BYTES = 64 * 1024;
const CONCURRENCY = 1;
/** What the buffer can hold at most, in bytes. */
export const MEMORY_LIMIT = (1 + CONCURRENCY) * CAPACITY + MAX_QUEUED_BYTES;
/** Short, so that a visitor sees it pass; in ms. */
export const TIMEOUT = 3_000;
/** Of `close`, in ms. */
export const CLOSE_TIMEOUT = 10_000;
/** How many of the latest attempts are kept. */
const MAX_ATTEMPTS = 5_000;

/** The outcome of an attempt without a response. A browser does not say more. */
export const LOST = "connection lost";

/** One request, as the page sees it. Times are by `performance.now()`. */
export interface Attempt {
  readonly sequence: number;
  /** 1 for the first one of a batch. */
  readonly number: number;
  readonly bytes: number;
  readonly start: number;
  end?: number;
  /** A status, `"2xx"`, `"timeout"`, `LOST` or `"aborted"`; `undefined` while in flight. */
  outcome?: string;
  isDelivered?: boolean;
  /** After how many ms the next attempt follows, if one does. */
  retryIn?: number;
}

/** How a stream has ended. */
export interface Ending {
  /** Why it could not deliver everything. */
  readonly error?: string;
  /** What `takeUnsent()` returned, in bytes. */
  readonly unsent: number;
}

const ENCODER = new TextEncoder();

/** Writes records, and observes the requests that deliver them. */
export class Recorder {
  readonly id: string;
  readonly ledger = new Ledger();
  readonly attempts: Attempt[] = [];
  readonly #out: StreamBuffer;
  readonly #hidden = new AbortController();
  /** By sequence number. There are two when the page was hidden. */
  readonly #inFlight = new Map<number, Attempt>();
  /** Records that were written, less those that were rejected. */
  records = 0;
  rejectedRecords = 0;
  attemptCount = 0;
  failureCount = 0;
  divertedBatches = 0;
  /** Since when a writer that awaits its writes is waiting. */
  waitingSince: number | undefined;
  /** How long it has waited before, in ms. */
  #waited = 0;

  /** The sizes of the batches that are in flight, or wait to be retried. */
  readonly batches = new Map<number, number>();

  constructor(id: string) {
    this.id = id;
    const sender = new ObservedSender(this, `/streams/${id}/records`);
    this.#out = new StreamBuffer(sender, {
      capacity: CAPACITY,
      concurrency: CONCURRENCY,
      maxQueuedBytes: MAX_QUEUED_BYTES,
      flushInterval: 500,
      closeTimeout: CLOSE_TIMEOUT,
      deadLetter: (bytes, _, { sequence, offset }) => {
        this.ledger.divert(offset, offset + bytes.length);
        this.batches.delete(sequence);
        this.divertedBatches++;
        return true;
      },
    });
    this.#sendWhenLeft();
  }

  get stats(): StreamBufferStats {
    return this.#out.stats;
  }

  /** Lets go of what is settled, and hashes what was delivered of it. */
  settle(): void {
    const { bytesDelivered, bytesDiverted } = this.stats;
    this.ledger.settle(bytesDelivered + bytesDiverted);
  }

  /** How long the writer that awaits its writes has waited altogether, in ms. */
  get waited(): number {
    const now = performance.now();
    return this.#waited + now - (this.waitingSince ?? now);
  }

  /** How many bytes are in requests now. */
  get bytesInFlight(): number {
    let bytes = 0;
    for (const attempt of this.#inFlight.values()) bytes += attempt.bytes;
    return bytes;
  }

  /**
   * Writes one record. The promise is that of `write`: it resolves when the record is
   * in the store.
   */
  async write(record: object): Promise<void> {
    const bytes = ENCODER.encode(JSON.stringify(record) + "\n");
    this.records++;
    this.ledger.add(bytes);
    try {
      await this.#out.write(bytes);
    } catch (error) {
      this.records--;
      this.rejectedRecords++;
      this.ledger.remove(bytes);
      throw error;
    }
  }

  /** Writes one record, and lets the caller see that it waits. */
  async writeAwaited(record: object): Promise<void> {
    const start = this.waitingSince = performance.now();
    try {
      await this.write(record);
    } finally {
      this.waitingSince = undefined;
      this.#waited += performance.now() - start;
    }
  }

  /** Delivers the rest, and closes the buffer. It never rejects. */
  async finish(): Promise<Ending> {
    try {
      await this.#out.close();
      return { unsent: 0 };
    } catch (error) {
      const unsent = this.#out.takeUnsent().length;
      const cause = error instanceof FlushError ? error.message : `${error}`;
      return { error: cause, unsent };
    } finally {
      this.#hidden.abort();
    }
  }

  /** What is held is sent when the page is left, and requests outlive it. */
  #sendWhenLeft(): void {
    flushOnHide(this.#out, { signal: this.#hidden.signal });
  }

  // -- Called by the sender --

  /** A batch is to be sent. */
  prepare(sequence: number, bytes: number): void {
    this.batches.set(sequence, bytes);
  }

  /** An attempt begins. */
  begin(sequence: number, number: number): void {
    const attempt = {
      ...{ sequence, number, start: performance.now() },
      bytes: this.batches.get(sequence) ?? 0,
    };
    this.attemptCount++;
    this.#inFlight.set(sequence, attempt);
    this.attempts.push(attempt);
    if (this.attempts.length > MAX_ATTEMPTS) this.attempts.shift();
  }

  /** An attempt has failed. */
  fail(sequence: number, failure: unknown, retryIn?: number): void {
    const attempt = this.#end(sequence, outcomeOf(failure));
    if (attempt === undefined) return;
    this.failureCount++;
    if (retryIn !== undefined) attempt.retryIn = retryIn;
  }

  /** An attempt has delivered its batch. */
  deliver(sequence: number): void {
    this.batches.delete(sequence);
    const attempt = this.#end(sequence, "2xx");
    if (attempt !== undefined) attempt.isDelivered = true;
  }

  #end(sequence: number, outcome: string): Attempt | undefined {
    const attempt = this.#inFlight.get(sequence);
    this.#inFlight.delete(sequence);
    if (attempt !== undefined) {
      attempt.end = performance.now();
      attempt.outcome = outcome;
    }
    return attempt;
  }
}

/** A FetchSender that reports each attempt to a recorder. */
class ObservedSender extends FetchSender {
  readonly #recorder: Recorder;

  constructor(recorder: Recorder, path: string) {
    super(new URL(path, location.href), {
      // Called for each attempt.
      headers: ({ sequence, attempt }) => {
        recorder.begin(sequence, attempt);
        return {
          "Content-Type": "application/x-ndjson",
          "Attempt": `${attempt}`,
        };
      },
      idempotencyKey: recorder.id,
      keepalive: true,
      timeout: TIMEOUT,
      // The events of a page cannot wait, so no write is to reject for a failure.
      retry: { initialDelay: 250, maxDelay: 2_000, maxElapsed: Infinity },
      onRetry: (failure, delay) => {
        const sequence = Number(failure.key?.replace(`${recorder.id}-`, ""));
        recorder.fail(sequence, failure, delay);
      },
    });
    this.#recorder = recorder;
  }

  override async send(
    bytes: Uint8Array<ArrayBuffer>,
    context: BatchContext,
  ): Promise<void> {
    const { sequence } = context;
    this.#recorder.prepare(sequence, bytes.length);
    try {
      await super.send(bytes, context);
    } catch (error) {
      this.#recorder.fail(sequence, error);
      throw error;
    }
    this.#recorder.deliver(sequence);
  }
}

function outcomeOf(failure: unknown): string {
  if (!(failure instanceof SendError)) return "aborted";
  const { status, cause } = failure;
  if (status !== undefined) return `${status}`;
  return (cause as Error | undefined)?.name === "TimeoutError"
    ? "timeout"
    : LOST;
}

/** A new id of a stream. `crypto.randomUUID` is missing on `http:` pages. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const digits = Array.from(
    bytes,
    (byte) => byte.toString(16).padStart(2, "0"),
  );
  return digits.join("");
}
