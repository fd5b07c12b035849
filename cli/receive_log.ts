/** What `receive` says of the batches that arrive. */
import {
  type AddResult,
  type Batch,
  type Store,
  StoreError,
} from "../receiver/mod.ts";
import { count, log } from "./log.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** How long after a line the next one may be written, in ms. */
const INTERVAL = 1_000;

/** The part of a batch whose key is not that of a batch. */
const ALONE = "0-0";

/** How many batches had each outcome, and how many bytes were stored. */
type Tally = Record<AddResult | "bytes", number>;

/**
 * Writes a line for each batch; while they arrive faster than one in a second, a line
 * for all of a second.
 */
export class BatchLog implements Disposable {
  readonly #quiet: boolean;
  /** What has happened since the last line. */
  #tally = nothing();
  /** The latest batch. */
  #latest = "";
  /** Runs for a while after each line. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The failure that was reported since a batch was stored. */
  #failure: string | undefined;

  /** @param quiet Whether to write only what is wrong. */
  constructor(quiet: boolean) {
    this.#quiet = quiet;
  }

  /** A store that adds to another one, and says what came of it. */
  over(store: Store): Store {
    return {
      add: async (batch, onBatch) => {
        const result = await store.add(batch, onBatch);
        this.#add(batch, result);
        return result;
      },
      read: (id) => store.read(id),
    };
  }

  #add(batch: Batch, result: AddResult): void {
    this.#failure = undefined;
    const isWrong = result === "conflict" || result === "overlap";
    if (this.#quiet && !isWrong) return;
    this.#tally[result]++;
    if (result === "stored" || result === "overlap") {
      this.#tally.bytes += batch.bytes.length;
    }
    this.#latest = describe(batch, result);
    if (this.#timer === undefined) this.#write();
  }

  /** Says why a batch could not be stored, once until one is. */
  fail(error: unknown): void {
    // What came of it has been added, and says the same.
    if (error instanceof StoreError && error.code === "overlap") return;
    const message = inTermsOfTheCommand((error as Error).message);
    if (message === this.#failure) return;
    this.#failure = message;
    log(message);
  }

  #write(): void {
    const { stored, overlap, known, conflict } = this.#tally;
    const batches = stored + overlap + known + conflict;
    if (batches === 0) return this.#stop();
    log(batches === 1 ? this.#latest : summarize(this.#tally));
    this.#tally = nothing();
    this.#timer = setTimeout(() => this.#write(), INTERVAL);
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Writes what has not been written yet. */
  [Symbol.dispose](): void {
    this.#write();
    this.#stop();
  }
}

function nothing(): Tally {
  return { stored: 0, overlap: 0, known: 0, conflict: 0, bytes: 0 };
}

/** "stored 5 bytes of batch 7 of ID". */
function describe(
  { id, part, sequence, bytes }: Batch,
  result: AddResult,
): string {
  // With --any-key, any client chooses it: it must not control the terminal.
  const stream = id.replace(/[^ -~]/g, "?");
  const batch = part === ALONE
    ? `the request ${stream}`
    : `${part && "a part of "}batch ${sequence} of ${stream}`;
  switch (result) {
    case "stored":
      return `stored ${count(bytes.length, "byte")} of ${batch}`;
    case "overlap":
      return `stored ${
        count(bytes.length, "byte")
      } of ${batch}, which another spool has sent as well: one is a copy`;
    case "known":
      return `${batch} was stored before`;
    case "conflict":
      return `refused ${batch}: it was stored before, with other bytes`;
  }
}

/** "stored 5 bytes of 2 batches; 1 batch was stored before". */
function summarize(
  { stored, overlap, known, conflict, bytes }: Tally,
): string {
  const facts = [];
  if (stored + overlap > 0) {
    facts.push(
      `stored ${count(bytes, "byte")} of ${batches(stored + overlap)}`,
    );
  }
  if (overlap > 0) {
    facts.push(`${batches(overlap)} another spool has sent as well`);
  }
  if (known > 0) facts.push(`${batches(known)} stored before`);
  if (conflict > 0) {
    facts.push(`refused ${batches(conflict)} stored before, with other bytes`);
  }
  return facts.join("; ");
}

function batches(number: number): string {
  return number === 1 ? "1 batch" : `${number} batches`;
}
