/** The handler of requests. */
import { check, checkCapacity, checkDuration } from "../internal/checks.ts";
import { handled, notify, until, within } from "../internal/promises.ts";
import { randomUuid } from "../internal/random.ts";
import { readBody } from "./body.ts";
import { digestOf } from "./bytes.ts";
import { aloneKey, type Key, MAX_KEY, parseKey, parseString } from "./key.ts";
import { Refusal } from "./refusal.ts";
import { Claim, Room } from "./room.ts";
import {
  type AddResult,
  type Batch,
  BatchRefusedError,
  type OnBatch,
  type Store,
  StoreError,
} from "./store.ts";

const ACTION = "Cannot create receiver";

/** Options of {@linkcode receive}. */
export interface ReceiveOptions<Transaction> {
  /** Where batches are kept. */
  store: Store<Transaction>;
  /**
   * How many bytes a batch may have, and the body of its request, which may be
   * compressed. A larger one is refused with 413.
   *
   * @default {16_777_216}
   */
  maxBytes?: number;
  /**
   * How many bytes all requests together may hold in memory, besides those of one batch
   * and its body. Requests that find no room wait, in the order of their arrival but those
   * that hold some first, until their `bodyTimeout`; then the response is a 503.
   *
   * @default {67_108_864}
   */
  maxPendingBytes?: number;
  /**
   * How long the body of a request may take, in milliseconds. Then the response is
   * a 408. It need not be longer than the `timeout` of the senders, which is 30 s.
   *
   * @default {30_000}
   */
  bodyTimeout?: number;
  /**
   * How long a batch may take to be stored, in milliseconds. Then the response is a 503,
   * while the store goes on. The next attempt waits for it, and finds out what came of it.
   *
   * @default {20_000}
   */
  storeTimeout?: number;
  /**
   * Whether a request must have a key of the form that the senders of this library use.
   * One that has none, or another, is refused with 400.
   *
   * If `false`, a request with any other key is a stream of its own, with the key as its
   * id, and stored once. One without a key is stored each time that it arrives, under a
   * random id.
   *
   * @default {true}
   */
  requireKey?: boolean;
  /** Called with each batch, within the transaction that stores it. */
  onBatch?: OnBatch<Transaction>;
  /**
   * Called with each error that is not the client's: one of the store or of `onBatch`,
   * for which the response is a 500, 503 or 507; and an epoch that overlaps with another
   * one, although its batch is stored.
   *
   * @default {console.error}
   */
  onError?: (error: unknown, request: Request) => void;
}

/**
 * Makes a handler that stores each batch exactly once: the server's half of what
 * senders with an `Idempotency-Key` promise. It is for `Deno.serve`, `Bun.serve`, and
 * whatever else takes a function from `Request` to `Response`.
 *
 * - **A 204 is a promise**: the batch and its key are stored, and survive what the store
 *   survives. A repeat gets the same response, and is not stored again.
 * - **All or nothing.** Nothing is stored of a body that is cut off, garbled or too large.
 *   The same key with other bytes is refused with 422.
 * - **What may succeed later is retried**: senders make another attempt after a 503 (a
 *   batch in progress, a database that is down), a 507 (a full disk) and a 500 (an error
 *   of the receiver).
 * - **Bounded**: in the size of a batch, the memory of all requests, and the time that
 *   each may take.
 *
 * | status | when |
 * | --- | --- |
 * | 204 | the batch is stored, or was before |
 * | 400 | no key, or one of another form; a body that is garbled |
 * | 405 | a method other than POST and PUT |
 * | 408 | the body took longer than `bodyTimeout`, or was cut off, as when the server is shut down |
 * | 411 | no `Content-Length`, over HTTP/2 on Deno, which does not tell whether the body was cut off |
 * | 413 | the body, or the batch, has more than `maxBytes` |
 * | 415 | a `Content-Encoding` that cannot be decoded: see `Accept-Encoding` |
 * | 422 | the key was used for other bytes, or `onBatch` threw a {@linkcode BatchRefusedError} |
 * | 500 | the store or `onBatch` failed; `onError` is called |
 * | 503 | there is no room at the moment, or the store takes too long |
 * | 507 | the disk is full |
 *
 * It does not authenticate: check who may send in a handler around it, as
 * `docs/receiver.md` shows.
 *
 * @example Usage
 * ```ts ignore
 * import { receive, SqliteStore } from "@stream-buffer/stream-buffer/receiver";
 *
 * const store = new SqliteStore("received.db");
 * Deno.serve(receive({ store }));
 * ```
 *
 * @param options The store, and what to change.
 * @returns The handler. It never rejects.
 * @throws {TypeError} If an option has the wrong type.
 * @throws {RangeError} If a number is out of range.
 */
export function receive<Transaction>(
  options: ReceiveOptions<Transaction>,
): (request: Request) => Promise<Response> {
  const receiver = new Receiver(options);
  return (request) => receiver.handle(request);
}

class Receiver<Transaction> {
  readonly #store: Store<Transaction>;
  readonly #maxBytes: number;
  readonly #bodyTimeout: number;
  readonly #storeTimeout: number;
  readonly #requireKey: boolean;
  readonly #onBatch: OnBatch<Transaction> | undefined;
  readonly #onError: (error: unknown, request: Request) => void;
  readonly #room: Room;
  /** For each key that the store is busy with, a promise that is fulfilled afterwards. */
  readonly #adding = new Map<string, Promise<void>>();

  constructor(options: ReceiveOptions<Transaction>) {
    const {
      store,
      maxBytes = 16 * 1024 * 1024,
      maxPendingBytes = 64 * 1024 * 1024,
      bodyTimeout = 30_000,
      storeTimeout = 20_000,
      requireKey = true,
      onBatch,
      onError = (error) => console.error(error),
    } = options;
    if (store === undefined) {
      throw new TypeError(`${ACTION}: store must be given`);
    }
    check(
      ACTION,
      { store },
      "an object with a method add",
      "object",
      ({ add }) => typeof add === "function",
    );
    checkCapacity(ACTION, { maxBytes, maxPendingBytes }, 1);
    checkDuration(ACTION, { bodyTimeout, storeTimeout }, 1);
    check(ACTION, { requireKey }, "a boolean", "boolean");
    check<unknown>(ACTION, { onBatch, onError }, "a function", "function");
    this.#store = store;
    this.#maxBytes = maxBytes;
    this.#bodyTimeout = bodyTimeout;
    this.#storeTimeout = storeTimeout;
    this.#requireKey = requireKey;
    this.#onBatch = onBatch;
    this.#onError = onError;
    this.#room = new Room(maxPendingBytes);
  }

  /** Never rejects. */
  async handle(request: Request): Promise<Response> {
    try {
      await this.#receive(request);
      return new Response(null, { status: 204 });
    } catch (error) {
      return this.#refusalFor(error, request).toResponse();
    }
  }

  async #receive(request: Request): Promise<void> {
    const { method, headers } = request;
    if (method !== "POST" && method !== "PUT") {
      throw new Refusal(405, `${method} is not allowed`, {
        headers: { Allow: "POST, PUT" },
      });
    }
    const key = this.#keyOf(headers.get("Idempotency-Key"));
    const result = await this.#take(request, key);
    if (result === "conflict") {
      throw new Refusal(422, `the key ${key.key} was used for other bytes`);
    }
  }

  /** Reads the batch of a request, and stores it. */
  async #take(request: Request, key: Key): Promise<AddResult> {
    const claim = new Claim(this.#room);
    let adding: Promise<unknown> = Promise.resolve();
    try {
      const batch = await this.#read(request, key, claim);
      return await this.#inTime(request, async (signal) => {
        for (let other; (other = this.#adding.get(key.key)) !== undefined;) {
          await until(signal, other);
        }
        return await until(signal, adding = this.#add(batch, request));
      });
    } finally {
      // Not before: after a timeout the store still has the bytes.
      handled(adding.finally(() => claim[Symbol.dispose]()));
    }
  }

  async #read(request: Request, key: Key, claim: Claim): Promise<Batch> {
    const { headers } = request;
    const bytes = await within(
      this.#bodyTimeout,
      undefined,
      (signal) =>
        readBody(request, { maxBytes: this.#maxBytes, claim, signal }),
    );
    const digest = await digestOf(bytes);
    return { ...key, bytes, digest, headers, received: Date.now() };
  }

  /** The key in the header; throws if one is required, and there is none. */
  #keyOf(header: string | null): Key {
    if (header === null) {
      if (!this.#requireKey) return aloneKey(randomUuid());
      throw new Refusal(400, "the request has no Idempotency-Key");
    }
    const text = parseString(header);
    if ((text ?? header).length <= MAX_KEY) {
      const key = text === undefined ? undefined : parseKey(text);
      if (key !== undefined) return key;
      if (!this.#requireKey) return aloneKey(text ?? header);
    }
    const form = this.#requireKey ? ', in the form "ID-SEQUENCE"' : "";
    throw new Refusal(
      400,
      `the Idempotency-Key must be a string of at most ${MAX_KEY} characters${form}`,
    );
  }

  /** Adds a batch. No other with its key is being added. */
  async #add(batch: Batch, request: Request): Promise<AddResult> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#adding.set(batch.key, promise);
    try {
      const result = await this.#store.add(batch, this.#onBatch);
      if (result === "overlap") {
        notify(this.#onError, overlapOf(batch), request);
      }
      return result;
    } catch (error) {
      // Here, so that `onError` is called even if the response has been sent.
      throw this.#refusalFor(error, request);
    } finally {
      this.#adding.delete(batch.key);
      resolve();
    }
  }

  async #inTime<T>(
    request: Request,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const ms = this.#storeTimeout;
    return await within(ms, undefined, async (signal) => {
      try {
        return await work(signal);
      } catch (error) {
        if (error !== signal.reason) throw error;
        const message =
          `Cannot store a batch: the store has not done so in ${ms} ms; the next attempt waits for it`;
        notify(
          this.#onError,
          new StoreError(message, { code: "busy" }),
          request,
        );
        throw Refusal.busy("the batch is still being stored");
      }
    });
  }

  /** The response to an error. It does not reveal the cause to clients. */
  #refusalFor(error: unknown, request: Request): Refusal {
    if (error instanceof Refusal) return error;
    if (error instanceof BatchRefusedError) {
      return new Refusal(422, error.message);
    }
    notify(this.#onError, error, request);
    switch (error instanceof StoreError ? error.code : undefined) {
      case "full":
        return new Refusal(507, "the disk is full");
      case "busy":
      case "closed":
        return Refusal.busy("the store cannot be reached");
      default:
        return new Refusal(500, "the batch could not be stored");
    }
  }
}

function overlapOf({ id, epoch, sequence }: Batch): StoreError {
  return new StoreError(
    `Batch ${sequence} of the stream ${id} was stored under two epochs, ${epoch} and another one: the spool was copied or restored, and both copies may have sent the same bytes`,
    { code: "overlap" },
  );
}
