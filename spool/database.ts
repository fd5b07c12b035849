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
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { randomUuid } from "../internal/random.ts";
import { DAMAGED_ADVICE, SpoolError, toSpoolError } from "./errors.ts";
import {
  isReadable,
  type Modules,
  processId,
} from "../internal/node/platform.ts";
import {
  describeOwner,
  OwnerFile,
  type Published,
  Reserve,
} from "./side_files.ts";

/** What the header of the database says it is: "SBuf". */
const APPLICATION_ID = 0x53427566;
/** The version of the tables. A change that older code does not understand raises it. */
const VERSION = 1;
/** What a file of SQLite begins with (https://www.sqlite.org/fileformat2.html). */
const MAGIC = "SQLite format 3\0";
/** What a rollback journal begins with, as long as its transaction is under way. */
const JOURNAL_MAGIC = 0xd9d505f920a163d7n;
/**
 * The size of a page, in bytes. Commits of 256 KiB take longer with pages of 4 KiB; with
 * pages of 64 KiB each small commit writes that much (`deno task bench spool_commit`).
 */
const PAGE_SIZE = 16 * 1024;
/** How large the WAL may grow before a checkpoint, in bytes. */
const MAX_WAL = 4 * 1024 * 1024;
/** About what a transaction adds to the WAL besides the bytes of its row. */
const TRANSACTION_SIZE = 4 * PAGE_SIZE;
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
/**
 * How many pages a step of shrinking frees. It takes some milliseconds: SQLite seeks
 * each page in the list of all unused ones. `vacuum` would be faster, but Deno forbids
 * it to a program that is not allowed to read and write every file.
 */
const PAGES_PER_STEP = 256;
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

/** The files that this module has open. */
const OPEN_FILES = new Set<string>();

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
  readonly #db: DatabaseSync;
  readonly #owner: OwnerFile;
  readonly #reserve: Reserve;
  readonly #statements = new Map<string, StatementSync>();
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
  /** About how large the WAL is, in bytes. */
  #walSize = 0;
  #isSynced: boolean | undefined;
  /** Node 22.13 has no `isOpen`. */
  #isClosed = false;
  /** Which file it is, whatever its name. */
  readonly #identity: string;

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
    let db: DatabaseSync | undefined;
    try {
      this.#inspect(create);
      db = this.#db = new modules.sqlite.DatabaseSync(path);
      this.#prepare();
      this.#reserve = new Reserve(modules, path);
      this.#load();
      this.#emptyWal();
      this.#announce();
      this.#identity = identify(modules.fs.statSync(path));
      OPEN_FILES.add(this.#identity);
    } catch (error) {
      db?.close();
      throw this.#explain(error);
    }
  }

  // -- Opening --

  /**
   * Looks at the file before SQLite does, which may begin by changing it: it repairs
   * what a crash has left, no matter whose file it is.
   */
  #inspect(create: boolean): void {
    const { fs, path: { dirname } } = this.#modules;
    const info = fs.statSync(this.path, { throwIfNoEntry: false });
    if (info === undefined) {
      if (!create) throw this.#refusal("there is no such file", "io");
      const folder = dirname(this.path);
      if (isReadable(folder) && !isFolder(fs, folder)) {
        throw this.#refusal(`there is no folder ${folder}`, "io");
      }
    } else if (!info.isFile()) {
      const kind = info.isDirectory() ? "a folder" : "not a regular file";
      throw this.#refusal(`it is ${kind}`, "io");
    }
    const wal = this.#sizeOf("-wal");
    if (!info?.size && wal) {
      // SQLite would delete it.
      const state = info ? "empty" : "missing";
      throw this.#refusal(
        `it is ${state}, but ${this.path}-wal is not${DAMAGED_ADVICE}`,
        "damaged",
      );
    }
    if (info === undefined) return;
    // SQLite itself finds out whether this process has it open. Reading it here would
    // drop the lock. A thread of this process is known by the side file only.
    const isOwn = this.#owner.read()?.pid === processId();
    if (isOwn || OPEN_FILES.has(identify(info))) return;
    const header = new DataView(new ArrayBuffer(100));
    // Opened for writing as well, because SQLite does not say what prevents that.
    const descriptor = fs.openSync(this.path, "r+");
    try {
      fs.readSync(descriptor, header, 0, 100, 0);
    } finally {
      fs.closeSync(descriptor);
    }
    if (info.size === 0 || this.#isHalfCreated()) return;
    const magic = String.fromCharCode(...new Uint8Array(header.buffer, 0, 16));
    if (magic !== MAGIC) {
      // Without the permission to know whether it is half created, SQLite finds out. It
      // changes nothing in a file that is not a database.
      if (isReadable(`${this.path}-journal`)) throw this.#foreign();
      return;
    }
    const applicationId = header.getUint32(68);
    // A process that was killed at once leaves an empty database, of one page.
    if (applicationId === 0 && info.size === PAGE_SIZE) return;
    this.#identify(applicationId, header.getUint32(60));
    const whole = header.getUint16(16) * header.getUint32(28);
    // After a crash during a checkpoint, some pages are in the WAL alone.
    if (wal !== undefined && info.size + wal < whole) {
      throw this.#refusal(
        `it is damaged: ${info.size} bytes are left of ${whole}${DAMAGED_ADVICE}`,
        "damaged",
      );
    }
  }

  /**
   * Whether the process that was creating the file ended, or the power failed, before
   * that was done. The journal of the transaction says so: there was one page before,
   * at most, and so no table. Whatever the file holds, SQLite undoes it.
   */
  #isHalfCreated(): boolean {
    if (!this.#sizeOf("-journal")) return false;
    const { fs } = this.#modules;
    const header = new DataView(new ArrayBuffer(20));
    const descriptor = fs.openSync(`${this.path}-journal`, "r");
    try {
      fs.readSync(descriptor, header, 0, 20, 0);
    } finally {
      fs.closeSync(descriptor);
    }
    return header.getBigUint64(0) === JOURNAL_MAGIC &&
      header.getUint32(16) <= 1;
  }

  /**
   * The size of a file of SQLite, in bytes: 0 if there is none, and `undefined` without
   * the permission to know that.
   */
  #sizeOf(suffix: "-wal" | "-journal"): number | undefined {
    const path = `${this.path}${suffix}`;
    if (!isReadable(path)) return undefined;
    const { fs } = this.#modules;
    return fs.statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** Throws unless these are of a spool that this version understands. */
  #identify(applicationId: number, version: number): void {
    if (applicationId !== APPLICATION_ID) throw this.#foreign();
    if (version <= VERSION) return;
    throw this.#refusal(
      `it was made by a later version of this library (format ${version}; this one knows up to ${VERSION}); use that version`,
      "newer",
    );
  }

  /** Whether there is no table in the file, or none once SQLite has looked at it. */
  #isNew(): boolean {
    const { size } = this.#modules.fs.statSync(this.path);
    return size <= PAGE_SIZE || this.#isHalfCreated();
  }

  /** Locks the file, makes sure that it is a spool, and sets it up. */
  #prepare(): void {
    const db = this.#db;
    // The lock is taken by `begin exclusive`, and from then on kept: no other connection
    // ever writes, and none of what SQLite does for several of them is needed. None of
    // it is done by exec(), whose errors have no code on Deno.
    this.#run("pragma locking_mode = exclusive");
    if (this.#isNew()) {
      // The first two things to be set, and the second one is written at once.
      this.#run(`pragma page_size = ${PAGE_SIZE}`);
      this.#run("pragma auto_vacuum = incremental");
    }
    this.#run("begin exclusive");
    const { application_id } = this.#get("pragma application_id");
    const { user_version } = this.#get("pragma user_version");
    const { tables } = this.#get(
      "select count(*) as tables from sqlite_master",
    );
    if (tables === 0 && application_id === 0) this.#create();
    else this.#identify(application_id, user_version);
    this.#run("commit");
    const { journal_mode } = this.#get("pragma journal_mode = wal");
    if (journal_mode !== "wal") {
      throw new Error(`its journal mode is ${journal_mode}, and must be wal`);
    }
    db.exec(`
      pragma wal_autocheckpoint = 0;
      pragma temp_store = memory;
      pragma journal_size_limit = ${2 * MAX_WAL};
      pragma fullfsync = 1;
      pragma checkpoint_fullfsync = 1;
    `);
  }

  /** Creates the tables, in the transaction under way. */
  #create(): void {
    this.#run(`pragma application_id = ${APPLICATION_ID}`);
    this.#run(`pragma user_version = ${VERSION}`);
    for (const table of TABLES) this.#run(table);
    this.#run(
      "insert into spool values ('', 0, 0, null, null, 0, 0, 0, null, 0)",
    );
    this.#saveState({
      ...{ id: randomUuid(), settled: 0, sequence: 0 },
      ...NO_CUTS,
      ...{ delivered: 0, diverted: 0, lost: 0, follows: null },
    });
  }

  /** Reads everything that is kept in memory. */
  #load(): void {
    const row = this.#get("select * from spool");
    const first = this.#get(
      "select offset, number, at from batch order by offset limit 1",
    );
    const last = this.#get(
      "select offset, number, length(bytes) as size from batch order by offset desc limit 1",
    );
    const { crc, ...state } = row ?? {};
    const { settled } = state;
    const end = last === undefined ? settled : last.offset + last.size;
    if (
      crc !== this.#checksumOf(state) ||
      (first !== undefined && first.offset !== settled) ||
      endsOf(state).some((cutEnd) => !(settled < cutEnd && cutEnd <= end))
    ) {
      throw this.#refusal(
        `it is damaged: its parts are inconsistent${DAMAGED_ADVICE}`,
        "damaged",
      );
    }
    this.#state = state;
    this.#end = end;
    this.#first = first;
    this.#nextNumber = last === undefined ? 0 : last.number + 1;
  }

  /** Empties the WAL that a killed process has left: the next one may be killed, too. */
  #emptyWal(): void {
    try {
      this.#checkpoint();
    } catch {
      this.#walSize = MAX_WAL; // the next transaction tries again
    }
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

  get #openAction(): string {
    return `Cannot open the spool ${this.path}`;
  }

  #refusal(reason: string, code: SpoolError["code"]): SpoolError {
    return new SpoolError(`${this.#openAction}: ${reason}`, { code });
  }

  #foreign(): SpoolError {
    return this.#refusal(
      "it is not a spool, and was not changed; choose another path",
      "foreign",
    );
  }

  /** The error of a failure to open the file, with who has it open, if it is that. */
  #explain(thrown: unknown): SpoolError {
    const error = toSpoolError(this.#openAction, thrown);
    if (error.code !== "in-use") return error;
    const owner = describeOwner(this.#owner.read());
    return new SpoolError(
      `${this.#openAction}: ${owner}; only one Spool at a time can use it`,
      { code: "in-use", cause: error.cause },
    );
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
    this.#attempt(action, () => {
      this.#makeRoom(size);
      this.#transaction(this.#isPower, size, () => {
        this.#run(
          // One that seemed to fail may have been added all the same.
          "insert or replace into batch values (?, ?, ?, ?, ?)",
          ...[offset, number, at, crc, bytes],
        );
        if (file !== undefined) this.#saveFile(file);
      });
    }, () => {
      // It may be the file itself that has no room for the reserve.
      if (this.settled === this.#end) this.#freePages(0);
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
    if (this.#walSize >= MAX_WAL) this.#checkpoint();
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
        this.#transaction(true, 0, () => state = this.#saveState(cuts));
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
      this.#transaction(isSynced, 0, () => {
        this.#run("delete from batch where offset < ?", end);
        state = this.#saveState({
          ...{ settled: end, sequence: sequence + 1, ...next },
          [outcome]: this.#state[outcome] + end - settled,
        });
        first = this.#get(
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
    const next = this.#get(
      "select offset from batch where offset > ? and offset <= ? order by offset desc limit 1",
      ...[position, limit],
    ) ?? this.#get(
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
    this.#run(
      "update spool set id = ?, settled = ?, sequence = ?, cut_epoch = ?, cut_ends = ?, delivered = ?, diverted = ?, lost = ?, follows = ?, crc = ?",
      ...valuesOf(state),
      this.#checksumOf(state),
    );
    return state;
  }

  /**
   * Makes a transaction that makes room, or is needed for that. If the disk is full,
   * the reserve is released for it.
   */
  #withReserve<T>(aim: string, work: () => T): T {
    const action = `Cannot ${aim} in the spool ${this.path}`;
    return this.#attempt(action, work, () => this.#reserve.release());
  }

  /**
   * Makes a transaction. If the disk is full, it is made once more after a checkpoint:
   * the WAL is then written from its beginning, in the room that it has.
   */
  #attempt<T>(action: string, work: () => T, makeRoom?: () => void): T {
    try {
      return work();
    } catch (thrown) {
      const error = toSpoolError(action, thrown);
      // Not every system reports a full disk as such.
      const mayBeFull = error.code === "full" || error.code === "io";
      // After the end, the reserve is that of whoever has opened the file since.
      if (!mayBeFull || this.#isClosed) throw error;
    }
    try {
      makeRoom?.();
      this.#checkpoint();
      return work();
    } catch (error) {
      throw toSpoolError(action, error);
    }
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
    const { freelist_count: pages } = this.#get("pragma freelist_count");
    // Without a reserve nothing is added, and there may be no room for one before.
    const isUrgent = waiting === 0 && !this.#reserve.isThere;
    const maxPages = isUrgent ? 0 : maxUnused / PAGE_SIZE;
    if (pages <= maxPages) return false;
    this.#withReserve("give back disk space", () => this.#freePages(waiting));
    const { freelist_count: left } = this.#get("pragma freelist_count");
    return maxPages < left && left < pages;
  }

  /** @param size How many bytes it may have to move. */
  #freePages(size: number): void {
    this.#transaction(false, size, () => {
      // Not exec(), which frees a single page.
      this.#all(`pragma incremental_vacuum(${PAGES_PER_STEP})`);
    });
    // Only now does the file become shorter.
    this.#checkpoint();
  }

  // -- A file that is followed --

  /** The path of the file that is followed, if there is one. */
  get follows(): string | undefined {
    return this.#state.follows ?? undefined;
  }

  /** What is known of the files that were at that path, in the order of reading. */
  get files(): FileRecord[] {
    return this.#all("select * from file order by id") as FileRecord[];
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
      this.#transaction(this.#isPower, 0, () => {
        for (const file of files) this.#saveFile(file);
        for (const { id } of forgotten) {
          this.#run("delete from file where id = ?", id);
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
    this.#run(
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
    if (this.#isClosed) return;
    try {
      if (this.settled === this.#end) {
        while (this.shrink(0));
        this.#reserve.release();
      }
    } catch {
      // What waits is committed. The next opening does it.
    }
    this.#isClosed = true;
    OPEN_FILES.delete(this.#identity);
    this.#statements.clear();
    // While it is still locked: afterwards it is that of whoever opens the file next.
    this.#owner.remove();
    this.#db.close();
  }

  // -- SQLite --

  /**
   * Runs a transaction. If anything fails, none of it has happened.
   *
   * @param isSynced Whether it survives a power cut once this returns.
   * @param size About how many bytes it writes.
   */
  #transaction(isSynced: boolean, size: number, work: () => void): void {
    if (this.#isSynced !== isSynced) {
      this.#db.exec(`pragma synchronous = ${isSynced ? "full" : "normal"}`);
      this.#isSynced = isSynced;
    }
    this.#run("begin immediate");
    try {
      work();
      this.#run("commit");
    } catch (error) {
      try {
        this.#run("rollback");
      } catch {
        // After some errors SQLite has done that itself.
      }
      throw error;
    }
    this.#walSize += size + TRANSACTION_SIZE;
    if (this.#walSize < MAX_WAL) return;
    try {
      this.#checkpoint();
    } catch {
      // The transaction is made. The next one that adds something retries this.
    }
  }

  /** Moves everything from the WAL to the database, so that the WAL begins anew. */
  #checkpoint(): void {
    this.#get("pragma wal_checkpoint(passive)");
    this.#walSize = 0;
  }

  /** The rows of a part of the stream. */
  #rows(offset: number, end: number): Iterable<Row> {
    return this.#prepared(
      "select * from batch where offset >= ? and offset < ? order by offset",
    ).iterate(offset, end) as unknown as Iterable<Row>;
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

  #checksumOf(state: State): number {
    return this.#modules.zlib.crc32(JSON.stringify(valuesOf(state)));
  }

  #damaged(position: number): SpoolError {
    return new SpoolError(
      `The spool ${this.path} is damaged: the bytes at offset ${position} are not those that were added; readSpool, with onDamage, reads the rest`,
      { code: "damaged" },
    );
  }

  // The columns are those of the statement, which the type cannot know.
  // deno-lint-ignore no-explicit-any
  #get(sql: string, ...values: Value[]): any {
    return this.#prepared(sql).get(...values);
  }

  #all(sql: string): unknown[] {
    return this.#prepared(sql).all();
  }

  #run(sql: string, ...values: Value[]): void {
    this.#prepared(sql).run(...values);
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
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

/** Where the cuts that are recorded end. */
function endsOf({ cut_ends }: Pick<State, "cut_ends">): number[] {
  return cut_ends?.split(",").map(Number) ?? [];
}

/** What a column may be given. */
type Value = string | number | null | Uint8Array;

function identify({ dev, ino }: { dev: number; ino: number }): string {
  return `${dev} ${ino}`;
}

function isFolder(fs: Modules["fs"], path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}
