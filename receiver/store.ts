/** What a store is, and its errors. */

/** One batch, as a {@linkcode Store} and `onBatch` are given it. */
export interface Batch {
  /** Its whole key: the value of `Idempotency-Key`, without the quotes. */
  readonly key: string;
  /**
   * The stream that it is of: the first part of the key. If the key is not that of a
   * batch, and {@linkcode ReceiveOptions.requireKey} allows that, it is the whole key.
   */
  readonly id: string;
  /** The opening of the spool that made the key; empty if it does not come from a spool. */
  readonly epoch: string;
  /** The number of the batch in its stream: 0, 1, 2, …. */
  readonly sequence: number;
  /**
   * Which part of the batch it is, as `FROM-TO`, in bytes; empty if it is all of it. If
   * the key is not that of a batch, it is `0-0`.
   */
  readonly part: string;
  /** Where the part begins in its batch, in bytes; 0 if it is all of it. */
  readonly from: number;
  /** The bytes, without any `Content-Encoding`. They must not be changed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The SHA-256 digest of the bytes. */
  readonly digest: Uint8Array<ArrayBuffer>;
  /** The headers of the request. They are not stored. */
  readonly headers: Headers;
  /** When it arrived, in milliseconds since 1970. */
  readonly received: number;
}

/**
 * What a store has done with a batch:
 *
 * - `"stored"`: it is stored;
 * - `"overlap"`: it is stored, and so is a batch with another epoch and the same
 *   sequence number, as happens when a spool file was copied or restored;
 * - `"known"`: a batch with this key was stored before, with these bytes as far as the
 *   store still knows;
 * - `"conflict"`: a batch with this key was stored before, with other bytes.
 */
export type AddResult = "stored" | "overlap" | "known" | "conflict";

/**
 * Called with each batch that is stored, within the transaction that stores it.
 *
 * If it throws, or its promise rejects, the batch is not stored. What it does outside
 * of the transaction may happen again for the same batch.
 *
 * @param batch The batch.
 * @param transaction Makes changes in the same transaction, in stores that can.
 */
export type OnBatch<Transaction> = (
  batch: Batch,
  transaction: Transaction,
) => void | Promise<void>;

/**
 * Keeps batches, and recognises those that it has.
 *
 * {@linkcode receive} never adds two batches with the same key at the same time. Other
 * receivers of the same store may.
 */
export interface Store<Transaction = unknown> {
  /**
   * Stores a batch and its key, and calls `onBatch`, in one transaction; or does nothing
   * if it has the key. Once the promise is fulfilled, both must survive what the store
   * is to survive. If it rejects, neither may be there; if that is not known, as when the
   * connection to a database is lost, the next attempt finds out.
   */
  add(batch: Batch, onBatch?: OnBatch<Transaction>): Promise<AddResult>;
  /**
   * The bytes that are stored of a stream, in order. Those of a batch that has not
   * arrived, or was forgotten, are left out.
   */
  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** How much was forgotten. */
export interface Pruned {
  /** How many batches. */
  readonly batches: number;
  /** How many bytes they had. */
  readonly bytes: number;
}

/**
 * What is wrong with a store:
 *
 * - `"in-use"`: another process, or another store of this one, has the file open;
 * - `"foreign"`: the file or the tables are not those of a store;
 * - `"newer"`: they were made by a later version of this library;
 * - `"damaged"`: a part is missing, or differs from what was written;
 * - `"full"`: there is no room left on the disk;
 * - `"busy"`: a database cannot be reached now, or takes too long;
 * - `"closed"`: the store has been closed;
 * - `"overlap"`: two epochs of a stream have a batch with the same number. It is only
 *   reported: both are stored;
 * - `"io"`: it cannot be opened, read or written for another reason.
 */
export type StoreErrorCode =
  | "in-use"
  | "foreign"
  | "newer"
  | "damaged"
  | "full"
  | "busy"
  | "closed"
  | "overlap"
  | "io";

/** Options of a {@linkcode StoreError}. */
export interface StoreErrorOptions extends ErrorOptions {
  /** What is wrong. */
  code: StoreErrorCode;
}

/**
 * A store cannot be opened, read or written. Thrown by a store of your own, `"full"`
 * makes {@linkcode receive} respond with 507, `"busy"` and `"closed"` with 503, and
 * others with 500, so that senders retry.
 */
export class StoreError extends Error {
  /** The name of the error. */
  override readonly name = "StoreError";
  /** What is wrong with the store. */
  readonly code: StoreErrorCode;

  /**
   * Constructs a new instance.
   *
   * @param message What was attempted, why it failed, and what to do about it.
   * @param options The details.
   */
  constructor(message: string, options: StoreErrorOptions) {
    const { code, ...rest } = options;
    super(message, rest);
    this.code = code;
  }
}

/**
 * Thrown by `onBatch`, refuses a batch for good: it is not stored, and the response is a
 * 422 with the message, after which a sender makes no more attempts. Any other error is
 * taken for the receiver's own, and the response is a 500, which senders retry.
 *
 * @example Refusing what is not JSON
 * ```ts
 * import {
 *   BatchRefusedError,
 *   MemoryStore,
 *   receive,
 * } from "@stream-buffer/stream-buffer/receiver";
 *
 * const handler = receive({
 *   store: new MemoryStore(),
 *   onBatch({ bytes }) {
 *     try {
 *       for (const line of new TextDecoder().decode(bytes).trim().split("\n")) {
 *         JSON.parse(line);
 *       }
 *     } catch (error) {
 *       throw new BatchRefusedError("a line is not JSON", { cause: error });
 *     }
 *   },
 * });
 *
 * const response = await handler(
 *   new Request("http://localhost/", {
 *     method: "POST",
 *     headers: { "Idempotency-Key": '"example-0"' },
 *     body: "not JSON\n",
 *   }),
 * );
 * console.assert(response.status === 422);
 * ```
 */
export class BatchRefusedError extends Error {
  /** The name of the error. */
  override readonly name = "BatchRefusedError";
}
