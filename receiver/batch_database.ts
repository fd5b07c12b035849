/**
 * The database of a store in files: the keys of all batches, and either their bytes, or
 * where in another file they are.
 *
 * A row of `batch` is one batch. When it is forgotten, its number becomes part of a row
 * of `pruned`, which is a range of numbers: that of a stream that has been pruned for
 * years is one row, unless some numbers of it never arrived.
 *
 * The high-water mark of a stream would not do in place of the ranges. Sends may overlap,
 * and then a batch arrives after one with a higher number: it is not a repeat.
 */
import {
  type FileFormat,
  LockedDatabase,
  MAX_WAL,
  PAGE_SIZE,
} from "../internal/node/database.ts";
import { toFileError } from "../internal/node/file_errors.ts";
import { OwnerFile } from "../internal/node/owner_file.ts";
import { type Modules, nextTurn } from "../internal/node/platform.ts";
import { equals } from "./bytes.ts";
import {
  type AddResult,
  type Batch,
  type Pruned,
  StoreError,
} from "./store.ts";

const TABLES = [
  `create table batch (
    number integer primary key autoincrement, -- in the order of arrival
    id text not null,
    sequence integer not null,
    epoch text not null,         -- empty if there is none
    part_from integer not null,  -- 0 if it is no part
    part text not null,          -- empty if it is no part
    at integer not null,         -- when it arrived, in ms since 1970
    digest blob not null,        -- SHA-256 of the bytes
    size integer not null,       -- how many there are
    bytes blob,                  -- null if they are in another file,
    position integer             -- which has them there
  )`,
  `create unique index batch_key on batch (id, sequence, epoch, part_from, part)`,
  `create index batch_at on batch (at)`,
  `create table pruned (         -- numbers of batches that were stored, and forgotten
    id text not null,
    epoch text not null,
    part text not null,
    first integer not null,
    last integer not null,       -- at least the first one
    primary key (id, epoch, part, first)
  ) without rowid`,
];

/** How much one transaction forgets, at most: it takes some milliseconds. */
const ROWS_PER_STEP = 256;
/** The same, in bytes. */
const BYTES_PER_STEP = 4 * 1024 * 1024;

/** Which of the batches of a stream comes first. */
const ORDER = "sequence, epoch, part_from, part";

/** A batch that is stored. */
export interface Row {
  readonly number: number;
  readonly sequence: number;
  readonly epoch: string;
  readonly part_from: number;
  readonly part: string;
  readonly digest: Uint8Array;
  readonly size: number;
  readonly bytes: Uint8Array<ArrayBuffer> | null;
  readonly position: number | null;
}

/** How a kind of store is recognised, and begins. */
export function formatOf(
  user: string,
  applicationId: number,
  tables: readonly string[] = [],
): FileFormat {
  return {
    noun: "store",
    ...{ user, applicationId, version: 1, Error: StoreError },
    create(db) {
      for (const table of [...TABLES, ...tables]) db.run(table);
    },
  };
}

/** The database. Every method that changes something is to be called in `change`. */
export class BatchDatabase {
  /** For what this class has no method for. */
  readonly db: LockedDatabase;
  readonly #owner: OwnerFile;
  readonly #isPower: boolean;
  #isChanging = false;

  /**
   * Opens it, creates it if it does not exist, and locks it.
   *
   * @param path Its absolute path.
   * @param durability What a change survives.
   * @throws {StoreError} If that is not possible.
   */
  constructor(
    modules: Modules,
    path: string,
    format: FileFormat,
    durability: "power" | "process",
  ) {
    this.#isPower = durability === "power";
    this.#owner = new OwnerFile(modules, path);
    this.db = new LockedDatabase(modules, path, format, this.#owner, true);
    this.db.emptyWal();
    // LockedDatabase makes checkpoints by the size of what it is given. With many streams,
    // each batch changes pages of its own, and the WAL would grow to a hundred times that.
    this.db.get(`pragma wal_autocheckpoint = ${MAX_WAL / PAGE_SIZE}`);
    try {
      this.#owner.write({});
    } catch {
      // The disk is full. Then whoever finds it locked is told no process id.
    }
  }

  /**
   * Runs `work` as one transaction, which is synced if the store is to survive a power
   * cut. If the disk is full, that is tried once more after a checkpoint.
   *
   * @param action What cannot be done, for the message.
   * @param size About how many bytes are written.
   * @param isSynced Whether it is synced, if not that.
   * @throws {StoreError} If that fails. Then nothing has changed.
   * @throws {TypeError} If another one is under way, which called this.
   */
  change(
    action: string,
    size: number,
    work: () => void,
    isSynced: boolean = this.#isPower,
  ): void {
    this.throwIfClosed(action);
    const what = `${action} the store ${this.db.path}`;
    if (this.#isChanging) {
      throw new TypeError(`${what}: a transaction of it is under way`);
    }
    this.#isChanging = true;
    try {
      this.db.attempt(
        what,
        () => this.db.transaction(isSynced, size, work),
      );
    } finally {
      this.#isChanging = false;
    }
  }

  /** Throws if it has been closed. */
  throwIfClosed(action: string): void {
    if (!this.db.isClosed) return;
    throw new StoreError(
      `${action} the store ${this.db.path}: it has been closed`,
      { code: "closed" },
    );
  }

  /** What comes of adding a batch: the first two mean that it must be inserted. */
  outcomeOf({ id, epoch, sequence, part, digest }: Batch): AddResult {
    const rows = this.db.all(
      "select epoch, part, digest from batch where id = ? and sequence = ?",
      ...[id, sequence],
    ) as Row[];
    const same = rows.find((row) => row.epoch === epoch && row.part === part);
    if (same) return equals(same.digest, digest) ? "known" : "conflict";
    const range = this.#rangeBefore(id, epoch, part, sequence);
    if (range !== undefined && range.last >= sequence) return "known";
    return rows.some((row) => row.epoch !== epoch) ? "overlap" : "stored";
  }

  /**
   * Inserts a batch.
   *
   * @param position Where its bytes are in another file, if they are.
   */
  insert(batch: Batch, position?: number): void {
    const { id, sequence, epoch, from, part, received, digest, bytes } = batch;
    this.db.run(
      "insert into batch values (null, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      ...[id, sequence, epoch, from, part, received, digest, bytes.length],
      ...[position === undefined ? bytes : null, position ?? null],
    );
  }

  /**
   * The next batch of a stream, in the order of the stream.
   *
   * @param last The one before it; `undefined` for the first one.
   */
  next(id: string, last: Row | undefined): Row | undefined {
    if (last === undefined) {
      return this.db.get(
        `select * from batch where id = ? order by ${ORDER} limit 1`,
        id,
      );
    }
    const { sequence, epoch, part_from, part } = last;
    return this.db.get(
      `select * from batch where id = ? and (${ORDER}) > (?, ?, ?, ?) order by ${ORDER} limit 1`,
      ...[id, sequence, epoch, part_from, part],
    );
  }

  /**
   * Forgets batches, in small steps, so that others are stored meanwhile.
   *
   * @param condition Which: an expression with one `?`.
   * @param value What that stands for.
   */
  async forget(
    condition: "at < ?" | "number < ?",
    value: number,
  ): Promise<Pruned> {
    const pruned = { batches: 0, bytes: 0 };
    for (let isDone = false; !isDone;) {
      this.change("Cannot prune", 0, () => {
        const rows = this.#takeRows(condition, value);
        for (const row of rows) {
          this.#remember(row);
          this.db.run("delete from batch where number = ?", row.number);
          pruned.batches++;
          pruned.bytes += row.size;
        }
        isDone = rows.length === 0;
      });
      await nextTurn();
    }
    await this.#shrink();
    return pruned;
  }

  /** Some of the rows, but no more bytes than one step should free. */
  #takeRows(condition: string, value: number): (Row & { id: string })[] {
    const rows = this.db.all(
      `select number, id, sequence, epoch, part, size from batch where ${condition} limit ${ROWS_PER_STEP}`,
      value,
    ) as (Row & { id: string })[];
    let bytes = 0;
    const end = rows.findIndex(({ size }, index) => {
      bytes += size;
      return index > 0 && bytes > BYTES_PER_STEP;
    });
    return rows.slice(0, end === -1 ? rows.length : end);
  }

  /** Adds a number to those that are known. */
  #remember({ id, epoch, part, sequence }: Row & { id: string }): void {
    const series = [id, epoch, part] as const;
    const before = this.#rangeBefore(...series, sequence);
    if (before !== undefined && before.last >= sequence) return;
    const after = this.db.get(
      "select last from pruned where id = ? and epoch = ? and part = ? and first = ?",
      ...[...series, sequence + 1],
    ) as { readonly last: number } | undefined;
    const first = before?.last === sequence - 1 ? before.first : sequence;
    if (after !== undefined) {
      this.db.run(
        "delete from pruned where id = ? and epoch = ? and part = ? and first = ?",
        ...[...series, sequence + 1],
      );
    }
    this.db.run(
      "insert or replace into pruned values (?, ?, ?, ?, ?)",
      ...[...series, first, after?.last ?? sequence],
    );
  }

  /** The range with this number, or else the one before it. */
  #rangeBefore(
    id: string,
    epoch: string,
    part: string,
    sequence: number,
  ): { readonly first: number; readonly last: number } | undefined {
    return this.db.get(
      "select first, last from pruned where id = ? and epoch = ? and part = ? and first <= ? order by first desc limit 1",
      ...[id, epoch, part, sequence],
    );
  }

  /**
   * Gives disk space back, if more than half of the file is unused. What is less will
   * soon be used again.
   */
  async #shrink(): Promise<void> {
    while (!this.db.isClosed) {
      const { page_count: pages } = this.db.get("pragma page_count");
      const unused = this.db.unusedPages;
      if (unused * PAGE_SIZE < BYTES_PER_STEP || unused <= pages / 2) return;
      this.db.attempt(
        `Cannot give back disk space of the store ${this.db.path}`,
        () => this.db.freePages(BYTES_PER_STEP),
      );
      if (this.db.unusedPages === unused) return; // a reader prevents the checkpoint
      await nextTurn();
    }
  }

  /** Closes it. Called again, it does nothing. */
  close(): void {
    if (this.db.isClosed) return;
    this.#owner.remove(); // while it is still locked
    this.db.close();
  }
}

/** The error that `thrown` is to a user of a store. */
export function toStoreError(action: string, thrown: unknown): StoreError {
  return toFileError(StoreError, action, thrown);
}
