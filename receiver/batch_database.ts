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
 *
 * A FULL DISK. Deleting takes room: each change is first appended to the WAL, and a
 * checkpoint, which empties that, may have to extend the database. So room for this is
 * kept in a file of its own (`Reserve`), and nothing is added unless it is there.
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
import { Reserve } from "../internal/node/reserve.ts";
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

/** What the reserve has at least, in bytes: what the WAL may have, and a group. */
const MIN_RESERVE = 2 * MAX_WAL;

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

/** What is read of a batch that is forgotten. */
type ForgottenRow =
  & Pick<Row, "number" | "sequence" | "epoch" | "part" | "size">
  & { readonly id: string };

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

/**
 * The database. Every method that changes something is to be called in `add` or in
 * `change`.
 */
export class BatchDatabase {
  /** For what this class has no method for. */
  readonly db: LockedDatabase;
  readonly #owner: OwnerFile;
  readonly #reserve: Reserve;
  readonly #isPower: boolean;
  #isChanging = false;
  #isClosing = false;
  /** How large the reserve has to be, in bytes: enough for the largest group. */
  #reserveSize = MIN_RESERVE;

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
    try {
      this.#reserve = new Reserve(modules, path);
      // LockedDatabase makes checkpoints by the size of what it is given. With many streams,
      // each batch changes pages of its own, and the WAL would grow to a hundred times that.
      this.db.get(`pragma wal_autocheckpoint = ${MAX_WAL / PAGE_SIZE}`);
    } catch (error) {
      this.db.close();
      throw toStoreError(`Cannot open the store ${path}`, error);
    }
    this.db.emptyWal();
    try {
      this.#owner.write({});
    } catch {
      // The disk is full. Then the error of whoever finds it locked names no process.
    }
  }

  /**
   * Runs `work` as one transaction that adds something, if there is room to delete it
   * later. It is synced if the store is to survive a power cut.
   *
   * @param action What cannot be done, for the message.
   * @param size About how many bytes are written.
   * @param isSynced Whether it is synced, if not as above.
   * @throws {StoreError} If that fails. Then nothing has changed.
   * @throws {TypeError} If another one is under way, which called this.
   */
  add(
    action: string,
    size: number,
    work: () => void,
    isSynced: boolean = this.#isPower,
  ): void {
    this.#attempt(action, () => {
      this.#reserveSize = Math.max(this.#reserveSize, MAX_WAL + size);
      this.#reserve.ensure(this.#reserveSize);
      // The latest checkpoint has failed. What follows must not make it larger.
      if (this.db.walSize >= MAX_WAL) this.db.checkpoint();
      this.db.transaction(isSynced, size, work);
    });
  }

  /**
   * Runs `work` as one transaction that makes room, or is needed for that: if the disk is
   * full, the reserve is released for it.
   *
   * @param action What cannot be done, for the message.
   * @param isSynced Whether it is synced. What is forgotten need not be: if a power cut
   *   undoes that, it is known as it was before.
   * @throws As `add` does.
   */
  change(action: string, work: () => void, isSynced: boolean = false): void {
    this.#attempt(
      action,
      () => this.db.transaction(isSynced, 0, work),
      () => this.#reserve.release(),
    );
  }

  #attempt(action: string, work: () => void, makeRoom?: () => void): void {
    this.throwIfClosed(action);
    const what = `${action} the store ${this.db.path}`;
    if (this.#isChanging) {
      throw new TypeError(`${what}: a transaction of it is under way`);
    }
    this.#isChanging = true;
    try {
      this.db.attempt(what, work, makeRoom);
    } finally {
      this.#isChanging = false;
    }
  }

  /** Throws if it has been closed. */
  throwIfClosed(action: string): void {
    if (this.db.isClosed) throw this.#closedError(action);
  }

  /** Throws if it has been closed, or soon will be. */
  throwIfClosing(action: string): void {
    if (this.#isClosing) throw this.#closedError(action);
  }

  #closedError(action: string): StoreError {
    return new StoreError(
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
    for (let count = ROWS_PER_STEP;;) {
      let rows: ForgottenRow[] = [];
      try {
        this.change("Cannot prune", () => {
          rows = this.#takeRows(condition, value, count);
          for (const row of rows) this.#forgetRow(row);
        });
      } catch (error) {
        // The rows may be in as many pages, which are added to the WAL first.
        if (!isFull(error) || count === 1) throw error;
        count = Math.ceil(count / 4);
        continue;
      }
      if (rows.length === 0) break;
      // Not above: on a full disk that may be done twice.
      pruned.batches += rows.length;
      for (const { size } of rows) pruned.bytes += size;
      await nextTurn();
    }
    try {
      await this.#shrink();
    } catch (error) {
      throw toStoreError(`Cannot prune the store ${this.db.path}`, error);
    }
    return pruned;
  }

  /** Some of the rows, but no more bytes than one step should free. */
  #takeRows(condition: string, value: number, count: number): ForgottenRow[] {
    const rows = this.db.all(
      `select number, id, sequence, epoch, part, size from batch where ${condition} limit ?`,
      ...[value, count],
    ) as ForgottenRow[];
    let bytes = 0;
    const end = rows.findIndex(({ size }, index) => {
      bytes += size;
      return index > 0 && bytes > BYTES_PER_STEP;
    });
    return rows.slice(0, end === -1 ? rows.length : end);
  }

  #forgetRow(row: ForgottenRow): void {
    this.#remember(row);
    this.db.run("delete from batch where number = ?", row.number);
  }

  /** Adds a number to those that are known. */
  #remember({ id, epoch, part, sequence }: ForgottenRow): void {
    const series = [id, epoch, part] as const;
    const before = this.#rangeBefore(...series, sequence);
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
   * Gives disk space back, if more than half of the file is unused, or there is none for
   * the reserve. What is less will soon be used again.
   */
  async #shrink(): Promise<void> {
    while (!this.db.isClosed) {
      const { page_count: pages } = this.db.get("pragma page_count");
      const unused = this.db.unusedPages;
      const isMuch = unused * PAGE_SIZE >= BYTES_PER_STEP && unused > pages / 2;
      if (this.#hasReserve() && !isMuch || unused === 0) return;
      this.#attempt(
        "Cannot give back disk space of",
        () => this.db.freePages(BYTES_PER_STEP),
        () => this.#reserve.release(),
      );
      if (this.db.unusedPages === unused) return; // a reader prevents the checkpoint
      await nextTurn();
    }
  }

  /** Whether there is room for what comes next; makes it, if possible. */
  #hasReserve(): boolean {
    const ensure = () => this.#reserve.ensure(this.#reserveSize);
    try {
      try {
        ensure();
      } catch {
        // The WAL has grown when the reserve was released, and does not get shorter.
        this.db.get("pragma wal_checkpoint(truncate)");
        ensure();
      }
      return true;
    } catch {
      return false;
    }
  }

  /**
   * Lets nothing more begin. What has begun is still to be done, and if more could be
   * added meanwhile, that might never end.
   */
  beginClosing(): void {
    this.#isClosing = true;
  }

  /** Closes it. Called again, it does nothing. */
  close(): void {
    if (this.db.isClosed) return;
    this.#isClosing = true;
    this.#owner.remove(); // while it is still locked
    this.db.close();
  }
}

function isFull(error: unknown): boolean {
  return error instanceof StoreError && error.code === "full";
}

/** Whether a batch must be inserted. */
export function isNew(result: AddResult): boolean {
  return result === "stored" || result === "overlap";
}

/** The error that `thrown` is to a user of a store. */
export function toStoreError(action: string, thrown: unknown): StoreError {
  return toFileError(StoreError, action, thrown);
}
