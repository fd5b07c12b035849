/** What the page has written, kept apart from the library, to check it. */
import { sha256 } from "js-sha256";

/**
 * Hashes what was written, in its order, less what was diverted. A record is kept
 * until it is settled, because only then is it known which of both became of it.
 */
export class Ledger {
  readonly #hash = sha256.create();
  /** Those that are not settled begin at #first. */
  #records: Uint8Array[] = [];
  #first = 0;
  /** Where in the stream something was diverted. */
  readonly #diverted: { start: number; end: number }[] = [];
  /** How many bytes of the stream are settled. */
  position = 0;
  /** Bytes and records that were hashed: all that are settled and were not diverted. */
  bytes = 0;
  records = 0;

  /** Adds a record at the end. */
  add(record: Uint8Array): void {
    this.#records.push(record);
  }

  /** Removes a record that was not accepted. */
  remove(record: Uint8Array): void {
    const index = this.#records.lastIndexOf(record);
    if (index >= this.#first) this.#records.splice(index, 1);
  }

  /** Leaves out a part of the stream, which is not settled yet. */
  divert(start: number, end: number): void {
    this.#diverted.push({ start, end });
  }

  /** Settles everything up to a position in the stream. */
  settle(end: number): void {
    while (this.position < end && this.#first < this.#records.length) {
      const record = this.#records[this.#first++]!;
      if (!this.#isDiverted(this.position)) {
        this.#hash.update(record);
        this.bytes += record.length;
        this.records++;
      }
      this.position += record.length;
    }
    if (this.#first > 1_000 && this.#first * 2 > this.#records.length) {
      this.#records = this.#records.slice(this.#first);
      this.#first = 0;
    }
  }

  /** The SHA-256 of what was hashed. Nothing can be added to it afterwards. */
  digest(): string {
    return this.#hash.hex();
  }

  #isDiverted(position: number): boolean {
    return this.#diverted.some(({ start, end }) =>
      start <= position && position < end
    );
  }
}
