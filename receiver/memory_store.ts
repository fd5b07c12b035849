/** A store in memory: for tests, and for what need not survive the process. */
import { equals, streamOf } from "./bytes.ts";
import { oldest } from "./options.ts";
import { Ranges } from "./ranges.ts";
import type { AddResult, Batch, OnBatch, Pruned, Store } from "./store.ts";

const NO_HEADERS: Headers = new Headers();

/**
 * Keeps batches in memory, as long as the process lives.
 *
 * - **Nothing is dropped** but by {@linkcode MemoryStore.prune}: it grows with what it
 *   is given.
 * - **In order**: {@linkcode MemoryStore.read} sorts batches by their sequence numbers,
 *   whatever the order of their arrival.
 *
 * @example Usage
 * ```ts
 * import { MemoryStore, receive } from "@stream-buffer/stream-buffer/receiver";
 *
 * const store = new MemoryStore();
 * const handler = receive({ store });
 * await handler(
 *   new Request("http://localhost/", {
 *     method: "POST",
 *     headers: { "Idempotency-Key": '"example-0"' },
 *     body: "hello\n",
 *   }),
 * );
 *
 * const text = await new Response(store.read("example")).text();
 * console.assert(text === "hello\n");
 * ```
 */
export class MemoryStore implements Store<undefined> {
  /** Batches by id and sequence number. Those with the same number differ in their keys. */
  readonly #streams = new Map<string, Map<number, Batch[]>>();
  /** What has been forgotten, by all of the key but the sequence number. */
  readonly #pruned = new Map<string, Ranges>();

  /**
   * Stores a batch, if its key is not known.
   *
   * @param batch The batch. The store keeps its bytes.
   * @param onBatch Called before it is stored; there is no transaction.
   * @returns What was done.
   */
  async add(batch: Batch, onBatch?: OnBatch<undefined>): Promise<AddResult> {
    if (this.#find(batch) === undefined && onBatch !== undefined) {
      await onBatch(batch, undefined);
    }
    // Once more: it may have been added meanwhile.
    const found = this.#find(batch);
    if (found !== undefined) return found;
    const same = this.#keep(batch);
    const overlaps = same.some(({ epoch }) => epoch !== batch.epoch);
    return overlaps ? "overlap" : "stored";
  }

  /** What is to be said of a batch whose key is known. */
  #find(batch: Batch): AddResult | undefined {
    const { id, sequence, key, digest } = batch;
    const same = this.#streams.get(id)?.get(sequence);
    const found = same?.find((other) => other.key === key);
    if (found) return equals(found.digest, digest) ? "known" : "conflict";
    const isPruned = this.#pruned.get(seriesOf(batch))?.has(sequence);
    return isPruned ? "known" : undefined;
  }

  /** Returns all that have its number. */
  #keep(batch: Batch): Batch[] {
    let stream = this.#streams.get(batch.id);
    if (stream === undefined) this.#streams.set(batch.id, stream = new Map());
    let same = stream.get(batch.sequence);
    // The headers are the request's, and would keep it alive.
    const kept = { ...batch, headers: NO_HEADERS };
    if (same === undefined) stream.set(batch.sequence, same = [kept]);
    else same.push(kept);
    return same;
  }

  /**
   * The bytes that are stored of a stream, in order.
   *
   * @param id The stream.
   * @returns Its bytes; none if it is not known.
   */
  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    const batches = [...this.#streams.get(id)?.values() ?? []].flat();
    return streamOf(batches.sort(inOrder).map(({ bytes }) => bytes));
  }

  /**
   * Forgets the batches that arrived longer ago than `age`. Their keys stay known.
   *
   * @param age How long ago, in milliseconds.
   * @returns How much was forgotten.
   * @throws {RangeError} If `age` is negative, or not a number.
   */
  prune(age: number): Promise<Pruned> {
    return new Promise((resolve) => resolve(this.#prune(age)));
  }

  #prune(age: number): Pruned {
    const limit = oldest("Cannot prune the MemoryStore", age);
    const pruned = { batches: 0, bytes: 0 };
    for (const [id, stream] of this.#streams) {
      for (const [sequence, batches] of stream) {
        const left = batches.filter((batch) => {
          if (batch.received >= limit) return true;
          this.#forget(batch);
          pruned.batches++;
          pruned.bytes += batch.bytes.length;
          return false;
        });
        if (left.length > 0) stream.set(sequence, left);
        else stream.delete(sequence);
      }
      if (stream.size === 0) this.#streams.delete(id);
    }
    return pruned;
  }

  #forget(batch: Batch): void {
    const series = seriesOf(batch);
    let ranges = this.#pruned.get(series);
    if (ranges === undefined) this.#pruned.set(series, ranges = new Ranges());
    ranges.add(batch.sequence);
  }
}

/** Names what a batch has in common with all others of its stream, epoch and part. */
function seriesOf({ id, epoch, part }: Batch): string {
  return JSON.stringify([id, epoch, part]);
}

/** The order of a stream. */
function inOrder(a: Batch, b: Batch): number {
  return a.sequence - b.sequence ||
    (a.epoch < b.epoch ? -1 : +(a.epoch > b.epoch)) ||
    a.from - b.from;
}
