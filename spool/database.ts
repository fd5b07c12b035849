/**
 * The file of a spool: an SQLite database in WAL mode, on one connection that has it
 * locked. It holds what was committed and is not settled, and everything that has to
 * survive the process: where in the stream that is, and which bytes have been sent
 * under which key.
 *
 * ```text
 *   delivered or diverted      the cuts             waiting
 *   --------------------+----------+----------+----------------------+----->
 *                     settled       cut_ends                         #end
 * ```
 *
 * A row holds the bytes of one send, and is never changed. A CUT is what goes out as
 * one request: some rows. It is recorded, with all parts of its key, and synced, before
 * its first attempt, and it stays until its rows have been deleted. So whichever process
 * sends these bytes again does so under the same key, and no other bytes ever have this
 * key: each opening of the file draws an epoch, which is part of the keys of the cuts
 * that it makes. That holds even for a copy of the file, or one restored from a backup,
 * as long as the epochs are random. While much waits, several cuts are recorded at once.
 *
 * WHAT IS SYNCED. What records cuts, always; with "power", also what adds bytes or what
 * is known of a followed file (https://www.sqlite.org/pragma.html#pragma_synchronous: in
 * WAL mode, FULL syncs the WAL after each transaction). The rest survives the process,
 * but a power cut may undo the latest of it, back to the latest sync or checkpoint. If a
 * deletion is undone, the same bytes are sent again under the same key. SQLite syncs
 * before and after a checkpoint in either case, so that the database is whole.
 *
 * A FULL DISK. Deleting takes room: each change is first appended to the WAL, and a
 * checkpoint, which empties that, may have to extend the database. So room for this
 * is kept in a file of its own (`Reserve`), and nothing is added to the spool unless
 * it is there: a transaction that settles something can always be made.
 */
import {
  type FileFormat,
  LockedDatabase,
  MAX_WAL,
  PAGE_SIZE,
  type Value,
} from "../internal/node/database.ts";
import { DAMAGED_ADVICE } from "../internal/node/file_errors.ts";
import { OwnerFile } from "../internal/node/owner_file.ts";
import type { Modules } from "../internal/node/platform.ts";
import { Reserve } from "../internal/node/reserve.ts";
import { randomUuid } from "../internal/random.ts";
import { SpoolError, toSpoolError } from "./errors.ts";

/**
 * The room that is kept, in bytes, besides that of the largest row: for the WAL up to
 * a checkpoint, and for what the checkpoint adds to the database.
 */
const MIN_RESERVE = 2 * MAX_WAL;
/** The largest row, in bytes: SQLITE_MAX_LENGTH, less some room for the other columns. */
const MAX_ROW = 1_000_000_000 - 1_024;
/**
 * How many bytes may wait, at most, when the file is shrunk: they may have to be moved,
 * and usually they are delivered soon.
 */
const MAX_MOVED = 4 * 1024 * 1024;
/** How many cuts are recorded at once, at most, so that they share a sync. */
const MAX_CUTS = 8;

const TABLES = [
  `create table spool (          -- has one row
    id text not null,           -- of the stream
    settled integer not null,   -- position in the stream: all before it is settled
    sequence integer not null,  -- of the cut, or else of the next one
    cut_epoch text,             -- a part of the keys of the cuts; null if there are none
    cut_ends text,              -- where each of them ends, with commas between
    delivered integer not null, -- bytes, since the file was created
    diverted integer not null,
    lost integer not null,      -- bytes of a followed file, destroyed unread
    follows text,               -- the path of that file; null if there is none
    crc integer not null        -- CRC-32 of the other columns
  )`,
  `create table batch (
    offset integer primary key, -- position in the stream
    number integer not null,    -- how many rows there were before it
    at integer not null,        -- when it was committed, in ms since 1970
    crc integer not null,       -- CRC-32 of the other columns
    bytes blob not null
  )`,
  `create table file (
    id integer primary key,     -- 1, 2, 3, … in the order of reading
    inode text not null,
    born text not null,         -- when it was created, in ns since 1970; or 0
    position integer not null,  -- how many of its bytes have been read, or passed over
    head_crc integer not null,  -- CRC-32 of the first of them, and of the last
    tail_crc integer not null,
    state text not null         -- reading, the same in line, left, or passed over
  )`,
];

/** How a spool is recognised, and begins. */
const FORMAT: FileFormat = {
  noun: "spool",
  user: "Spool",
  applicationId: 0x53427566, // "SBuf"
  version: 1,
  Error: SpoolError,
  create(db, modules) {
    for (const table of TABLES) db.run(table);
    const state: State = {
      ...{ id: randomUuid(), settled: 0, sequence: 0 },
      ...NO_CUTS,
      ...{ delivered: 0, diverted: 0, lost: 0, follows: null },
    };
    db.run(
      "insert into spool values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      ...[...valuesOf(state), checksumOf(modules, state)],
    );
  },
};

/** What has to survive the process besides the bytes: see the columns of its table. */
interface State {
  readonly id: string;
  readonly settled: number;
  readonly sequence: number;
  readonly cut_epoch: string | null;
  readonly cut_ends: string | null;
  readonly delivered: number;
  readonly diverted: number;
  readonly lost: number;
  readonly follows: string | null;
}

const NO_CUTS: Pick<State, "cut_epoch" | "cut_ends"> = {
  cut_epoch: null,
  cut_ends: null,
};

/** What a spool publishes about itself while it is open. */
export interface Published {
  /** The id of the stream. */
  readonly id: string;
  /** Bytes that have not been delivered. */
  readonly bytesWaiting: number;
  /** Sends that have not been delivered. */
  readonly batchesWaiting: number;
  /** When the oldest of them was committed, in ms since 1970; `null` if there is none. */
  readonly oldest: number | null;
  /** Bytes delivered since the file was created. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken since then. */
  readonly bytesDiverted: number;
  /** Bytes of a followed file known to have been destroyed unread since then. */
  readonly bytesLost: number;
}

/** Some rows that go out as one request. */
export interface Cut {
  readonly key: string;
  readonly sequence: number;
  /** Where in the stream they begin. */
  readonly offset: number;
  /** Where they end. */
  readonly end: number;
}

/** A file that is followed, or was: see the columns of its table. */
export interface FileRecord {
  readonly id: number;
  readonly inode: string;
  readonly born: string;
  readonly position: number;
  readonly head_crc: number;
  readonly tail_crc: number;
  /** "in line": it is being read, and what was committed last does not end with a newline. */
  readonly state: "reading" | "in line" | "left" | "passed over";
}

/** The bytes of one send. */
interface Row {
  readonly offset: number;
  readonly number: number;
  readonly at: number;
  readonly crc: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The file of a spool. Every method is one transaction, or none. */
export class SpoolDatabase {
  readonly #modules: Modules;
  /** Where it is. */
  readonly path: string;
  readonly #isPower: boolean;
  readonly #db: LockedDatabase;
  readonly #owner: OwnerFile<Published>;
  readonly #reserve: Reserve;
  /** A part of every key that is made by this opening, and by no other. */
  readonly #epoch = randomUuid().replaceAll("-", "").slice(16);
  #state!: State;
  #end = 0;
  /** The first row; `undefined` if there is none. */
  #first: Pick<Row, "number" | "at"> | undefined;
  /** The number of the next row. */
  #nextNumber = 0;
  /** The largest row that was added, in bytes. */
  #largestRow = 0;
  /**
   * Opens a file, and locks it.
   *
   * @param path Its absolute path.
   * @param durability What a transaction survives.
   * @param create Whether to create it if it does not exist.
   * @throws {SpoolError} If that is not possible.
   */
  constructor(
    modules: Modules,
    path: string,
    durability: "power" | "process",
    create: boolean,
  ) {
    this.#modules = modules;
    this.path = path;
    this.#isPower = durability === "power";
    this.#owner = new OwnerFile(modules, path);
    this.#db = new LockedDatabase(modules, path, FORMAT, this.#owner, create);
    try {
      this.#reserve = new Reserve(modules, path);
      this.#load();
      this.#db.emptyWal();
      this.#announce();
    } catch (error) {
      this.#db.close();
      throw toSpoolError(`Cannot open the spool ${path}`, error);
    }
  }

  // -- Opening --

  /** Reads everything that is kept in memory. */
  #load(): void {
    const row = this.#db.get("select * from spool");
    const first = this.#db.get(
      "select offset, number, at from batch order by offset limit 1",
    );
    const last = this.#db.get(
      "select offset, number, length(bytes) as size from batch order by offset desc limit 1",
    );
    const { crc, ...state } = row ?? {};
    const { settled } = state;
    const end = last === undefined ? settled : last.offset + last.size;
    if (
      crc !== checksumOf(this.#modules, state) ||
      (first !== undefined && first.offset !== settled) ||
      endsOf(state).some((cutEnd) => !(settled < cutEnd && cutEnd <= end))
    ) {
      throw new SpoolError(
        `Cannot open the spool ${this.path}: it is damaged: its parts are inconsistent${DAMAGED_ADVICE}`,
        { code: "damaged" },
      );
    }
    this.#state = state;
    this.#end = end;
    this.#first = first;
    this.#nextNumber = last === undefined ? 0 : last.number + 1;
  }

  /** Writes who has the file open, even if the disk is full. */
  #announce(): void {
    try {
      this.#owner.write(this.published);
    } catch (error) {
      if (toSpoolError("", error).code !== "full") throw error;
      this.#reserve.lend();
      this.#owner.write(this.published);
    }
  }

  // -- What is in it --

  /** Where the stream ends, as a position in it. */
  get end(): number {
    return this.#end;
  }

  /** Position in the stream: everything before it is settled. */
  get settled(): number {
    return this.#state.settled;
  }

  /** The figures that others may see. */
  get published(): Published {
    const { id, settled, delivered, diverted, lost } = this.#state;
    const next = this.#nextNumber;
    return {
      id,
      bytesWaiting: this.#end - settled,
      batchesWaiting: next - (this.#first?.number ?? next),
      oldest: this.#first?.at ?? null,
      bytesDelivered: delivered,
      bytesDiverted: diverted,
      bytesLost: lost,
    };
  }

  /** Publishes them. A failure is ignored: it concerns only those who look. */
  publish(): void {
    try {
      this.#owner.write(this.published);
    } catch {
      // As above.
    }
  }

  // -- Adding --

  /**
   * Adds the bytes of one send, and what is known of the file that they are from.
   *
   * @throws {SpoolError} If that fails. Nothing has been added then.
   */
  append(bytes: Uint8Array, file?: FileRecord): void {
    const size = bytes.length;
    const action = `Cannot add ${size} bytes to the spool ${this.path}`;
    if (size > MAX_ROW) {
      throw new RangeError(`${action}: at most ${MAX_ROW} fit into one row`);
    }
    const at = Date.now();
    const [offset, number] = [this.#end, this.#nextNumber];
    const crc = this.#checksum({ offset, number, at, bytes });
    this.#db.attempt(action, () => {
      this.#makeRoom(size);
      this.#db.transaction(this.#isPower, size, () => {
        this.#db.run(
          // One that seemed to fail may have been added all the same.
          "insert or replace into batch values (?, ?, ?, ?, ?)",
          ...[offset, number, at, crc, bytes],
        );
        if (file !== undefined) this.#saveFile(file);
      });
    }, () => {
      // It may be the file itself that has no room for the reserve. Nothing waits, so what
      // is reserved already is not needed, except for this.
      if (this.settled === this.#end) {
        this.#reserve.release();
        this.#db.freePages(0);
      }
    });
    this.#end += size;
    this.#nextNumber++;
    this.#first ??= { number, at };
  }

  /** Reserves the room to delete what is added, even if that fills the disk. */
  #makeRoom(size: number): void {
    this.#largestRow = Math.max(this.#largestRow, size);
    this.#reserve.ensure(MIN_RESERVE + this.#largestRow);
    // The latest checkpoint has failed. What follows must not make it larger.
    if (this.#db.walSize >= MAX_WAL) this.#db.checkpoint();
  }

  // -- Delivering --

  /**
   * The cut to be sent next: the one that is recorded, or else a new one.
   *
   * @param maxSize Its size in bytes at most, unless one row is larger.
   * @returns `undefined` if nothing waits.
   * @throws {SpoolError} If it cannot be recorded. Then it must not be sent.
   */
  cut(maxSize: number): Cut | undefined {
    const { settled, cut_ends } = this.#state;
    if (cut_ends === null && settled < this.#end) {
      this.#withReserve("record what is sent next", () => {
        const cuts = this.#cutsFrom(settled, maxSize);
        let state: State;
        this.#db.transaction(true, 0, () => state = this.#saveState(cuts));
        this.#state = state!;
      });
    }
    const { id, sequence, cut_epoch } = this.#state;
    const [end] = endsOf(this.#state);
    if (end === undefined) return undefined;
    return {
      key: `${id}.${cut_epoch}-${sequence}`,
      sequence,
      offset: settled,
      end,
    };
  }

  /**
   * Reads the bytes of the cut: into the beginning of `buffer`, unless they are one row,
   * or an earlier process has chosen larger requests.
   *
   * @throws {SpoolError} If they are not what was added.
   */
  read(
    { offset, end }: Cut,
    buffer: Uint8Array<ArrayBuffer>,
  ): Uint8Array<ArrayBuffer> {
    const size = end - offset;
    let bytes: Uint8Array<ArrayBuffer> | undefined;
    let position = offset;
    try {
      for (const row of this.#rows(offset, end)) {
        this.#check(row, position);
        if (row.bytes.length === size) bytes = row.bytes; // it is the only one
        else {
          // A cut may be from a time when requests were larger.
          bytes ??= size <= buffer.length
            ? buffer.subarray(0, size)
            : new Uint8Array(size);
          bytes.set(row.bytes, position - offset);
        }
        position += row.bytes.length;
      }
    } catch (error) {
      throw toSpoolError(`Cannot read from the spool ${this.path}`, error);
    }
    if (bytes === undefined || position !== end) throw this.#damaged(position);
    return bytes;
  }

  /**
   * Deletes the rows of the cut, and makes the next cut if anything waits, both in one
   * transaction.
   *
   * @param outcome Who has the bytes now: the server, or `deadLetter`.
   * @param maxSize The size of the next cut, as in `cut`.
   * @throws {SpoolError} If that fails. Then the cut remains.
   */
  settle(outcome: "delivered" | "diverted", maxSize: number): void {
    this.#withReserve("delete what was delivered", () => {
      const { settled, sequence } = this.#state;
      const [end, ...rest] = endsOf(this.#state) as [number, ...number[]];
      const next = rest.length > 0
        ? { cut_ends: `${rest}` }
        : this.#cutsFrom(end, maxSize);
      // Only new cuts have to be synced. If the rest is undone, the same bytes are sent
      // again under the same key.
      const isSynced = rest.length === 0 && next.cut_ends !== null;
      let state: State;
      let first: Row | undefined;
      this.#db.transaction(isSynced, 0, () => {
        this.#db.run("delete from batch where offset < ?", end);
        state = this.#saveState({
          ...{ settled: end, sequence: sequence + 1, ...next },
          [outcome]: this.#state[outcome] + end - settled,
        });
        first = this.#db.get(
          "select number, at from batch order by offset limit 1",
        );
      });
      this.#state = state!;
      this.#first = first;
    });
  }

  /**
   * What is to be recorded of the next cuts. There are several, so that they need one
   * sync; all but the first are full, since what is added later may go with the rest.
   *
   * @param position Where in the stream they begin.
   */
  #cutsFrom(
    position: number,
    maxSize: number,
  ): Pick<State, "cut_epoch" | "cut_ends"> {
    const ends: number[] = [];
    while (
      ends.length < MAX_CUTS &&
      this.#end - position >= (ends.length === 0 ? 1 : maxSize)
    ) ends.push(position = this.#cutEnd(position, maxSize));
    if (ends.length === 0) return NO_CUTS;
    return { cut_epoch: this.#epoch, cut_ends: `${ends}` };
  }

  /** The end of as many rows as have `maxSize` bytes together, or of the first one. */
  #cutEnd(position: number, maxSize: number): number {
    const limit = position + maxSize;
    if (this.#end <= limit) return this.#end;
    // Where a row begins, the one before it ends.
    const next = this.#db.get(
      "select offset from batch where offset > ? and offset <= ? order by offset desc limit 1",
      ...[position, limit],
    ) ?? this.#db.get(
      "select offset from batch where offset > ? order by offset limit 1",
      position,
    );
    return next?.offset ?? this.#end;
  }

  /**
   * Saves what has changed, within a transaction.
   *
   * @returns What to keep in memory once that has been committed.
   */
  #saveState(changes: Partial<State>): State {
    const state = { ...this.#state, ...changes };
    this.#db.run(
      "update spool set id = ?, settled = ?, sequence = ?, cut_epoch = ?, cut_ends = ?, delivered = ?, diverted = ?, lost = ?, follows = ?, crc = ?",
      ...valuesOf(state),
      checksumOf(this.#modules, state),
    );
    return state;
  }

  /**
   * Makes a transaction that makes room, or is needed for that. If the disk is full,
   * the reserve is released for it.
   */
  #withReserve<T>(aim: string, work: () => T): T {
    const action = `Cannot ${aim} in the spool ${this.path}`;
    return this.#db.attempt(action, work, () => this.#reserve.release());
  }

  /**
   * Gives disk space back, a little at a time, once little waits. Until then, the pages
   * that were freed are used again.
   *
   * @param maxUnused How many bytes of unused pages may remain.
   * @returns Whether there is more to give back.
   * @throws {SpoolError} If that fails.
   */
  shrink(maxUnused: number): boolean {
    const waiting = this.#end - this.settled;
    if (waiting > MAX_MOVED) return false;
    const pages = this.#db.unusedPages;
    // Without a reserve nothing is added, and there may be no room for one before.
    const isUrgent = waiting === 0 && !this.#reserve.isThere;
    const maxPages = isUrgent ? 0 : maxUnused / PAGE_SIZE;
    if (pages <= maxPages) return false;
    this.#withReserve(
      "give back disk space",
      () => this.#db.freePages(waiting),
    );
    const left = this.#db.unusedPages;
    return maxPages < left && left < pages;
  }

  // -- A file that is followed --

  /** The path of the file that is followed, if there is one. */
  get follows(): string | undefined {
    return this.#state.follows ?? undefined;
  }

  /** What is known of the files that were at that path, in the order of reading. */
  get files(): FileRecord[] {
    return this.#db.all("select * from file order by id") as FileRecord[];
  }

  /**
   * Remembers what is known of files, and forgets some.
   *
   * @param changes The path, if it is followed from now on; how many bytes are known to
   *   have been destroyed unread; and files that are forgotten.
   * @throws {SpoolError} If that fails.
   */
  saveFiles(
    files: readonly FileRecord[],
    { follows, lost = 0, forgotten = [] }: {
      readonly follows?: string | undefined;
      readonly lost?: number;
      readonly forgotten?: readonly FileRecord[];
    },
  ): void {
    this.#withReserve("remember what is followed", () => {
      let state: State;
      this.#db.transaction(this.#isPower, 0, () => {
        for (const file of files) this.#saveFile(file);
        for (const { id } of forgotten) {
          this.#db.run("delete from file where id = ?", id);
        }
        state = this.#saveState({
          follows: follows ?? this.#state.follows,
          lost: this.#state.lost + lost,
        });
      });
      this.#state = state!;
    });
  }

  #saveFile(file: FileRecord): void {
    this.#db.run(
      "insert or replace into file values (?, ?, ?, ?, ?, ?, ?)",
      ...[file.id, file.inode, file.born, file.position],
      ...[file.head_crc, file.tail_crc, file.state],
    );
  }

  // -- Reading all of it, for export --

  /**
   * The bytes of every send that is not settled, in order. Nothing else may be called
   * meanwhile.
   *
   * @param onDamage Called for each row that is not what was added, and is left out;
   *   without it, it is thrown.
   */
  *waiting(
    onDamage?: (error: SpoolError) => void,
  ): Generator<Uint8Array<ArrayBuffer>> {
    const report = (error: SpoolError) => {
      if (onDamage === undefined) throw error;
      onDamage(error);
    };
    /** Where the next row has to begin; `undefined` after one whose size is unknown. */
    let position: number | undefined = this.settled;
    for (const row of this.#rows(this.settled, this.#end)) {
      if (position !== undefined && position !== row.offset) {
        report(this.#damaged(position));
      }
      if (this.#isIntact(row)) {
        position = row.offset + row.bytes.length;
        yield row.bytes;
      } else {
        position = undefined;
        report(this.#damaged(row.offset));
      }
    }
  }

  // -- The end --

  /** Gives back what is not needed, and closes the file. Called again, it does nothing. */
  close(): void {
    if (this.#db.isClosed) return;
    try {
      if (this.settled === this.#end) {
        while (this.shrink(0));
        this.#reserve.release();
      }
    } catch {
      // What waits is committed. The next opening does it.
    }
    // While it is still locked: afterwards it is that of whoever opens the file next.
    this.#owner.remove();
    this.#db.close();
  }

  /** The rows of a part of the stream. */
  #rows(offset: number, end: number): Iterable<Row> {
    return this.#db.iterate(
      "select * from batch where offset >= ? and offset < ? order by offset",
      ...[offset, end],
    ) as Iterable<Row>;
  }

  /** Throws unless a row is what was added at this position. */
  #check(row: Row, position: number): void {
    if (row.offset !== position || !this.#isIntact(row)) {
      throw this.#damaged(position);
    }
  }

  #isIntact(row: Row): boolean {
    // One bit makes text of it, which has the same checksum.
    return row.bytes instanceof Uint8Array && row.crc === this.#checksum(row);
  }

  #checksum(
    { offset, number, at, bytes }: Pick<Row, "offset" | "number" | "at"> & {
      readonly bytes: Uint8Array;
    },
  ): number {
    const { crc32 } = this.#modules.zlib;
    return crc32(bytes, crc32(`${offset} ${number} ${at}`));
  }

  #damaged(position: number): SpoolError {
    return new SpoolError(
      `The spool ${this.path} is damaged: the bytes at offset ${position} are not those that were added; readSpool, with onDamage, reads the rest`,
      { code: "damaged" },
    );
  }
}

/** The columns of the state, except the checksum, in the order of the table. */
function valuesOf(state: State): Value[] {
  const { id, settled, sequence, cut_epoch, cut_ends } = state;
  const { delivered, diverted, lost, follows } = state;
  return [
    ...[id, settled, sequence, cut_epoch, cut_ends],
    ...[delivered, diverted, lost, follows],
  ];
}

function checksumOf({ zlib }: Modules, state: State): number {
  return zlib.crc32(JSON.stringify(valuesOf(state)));
}

/** Where the cuts that are recorded end. */
function endsOf({ cut_ends }: Pick<State, "cut_ends">): number[] {
  return cut_ends?.split(",").map(Number) ?? [];
}
