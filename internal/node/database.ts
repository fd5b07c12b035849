/**
 * A file of SQLite that one connection has locked as long as it is open, in WAL mode.
 *
 * No other connection ever writes to it, and none of what SQLite does for several of
 * them is needed. It recognises whatever is not its own before anything is written.
 *
 * WHAT IS SYNCED. A transaction says whether it has to survive a power cut once it is
 * made: then the WAL is synced after it. The rest survives the process, but a power cut
 * may undo the latest of it, back to the latest sync or checkpoint
 * (https://www.sqlite.org/pragma.html#pragma_synchronous: FULL and NORMAL in WAL mode).
 * SQLite syncs before and after a checkpoint in either case, so that the file is whole.
 */
import type { DatabaseSync, StatementSync } from "node:sqlite";
import {
  DAMAGED_ADVICE,
  type FileErrorClass,
  type FileErrorCode,
  toFileError,
} from "./file_errors.ts";
import { describeOwner, type OwnerFile } from "./owner_file.ts";
import { isReadable, type Modules, processId } from "./platform.ts";

/** What a file of SQLite begins with (https://www.sqlite.org/fileformat2.html). */
const MAGIC = "SQLite format 3\0";
/** What a rollback journal begins with, as long as its transaction is under way. */
const JOURNAL_MAGIC = 0xd9d505f920a163d7n;
/**
 * The size of a page, in bytes. Commits of 256 KiB take longer with pages of 4 KiB; with
 * pages of 64 KiB each small commit writes that much (`deno task bench spool_commit`).
 */
export const PAGE_SIZE: number = 16 * 1024;
/** How large the WAL may grow before a checkpoint, in bytes. */
export const MAX_WAL: number = 4 * 1024 * 1024;
/** About what a transaction adds to the WAL besides the bytes of its row. */
const TRANSACTION_SIZE = 4 * PAGE_SIZE;
/**
 * How many pages a step of shrinking frees. It takes some milliseconds: SQLite seeks
 * each page in the list of all unused ones. `vacuum` would be faster, but Deno forbids
 * it to a program that is not allowed to read and write every file.
 */
const PAGES_PER_STEP = 256;

/** The files that are open in this process. */
const OPEN_FILES = new Set<string>();

/** What a column may be given. */
export type Value = string | number | null | Uint8Array;

/** A kind of file. */
export interface FileFormat {
  /** What messages call it: "spool". */
  readonly noun: string;
  /** What messages call whoever has it open: "Spool". */
  readonly user: string;
  /** What the header says that it is (`pragma application_id`). */
  readonly applicationId: number;
  /** The version of the tables. A change that older code does not understand raises it. */
  readonly version: number;
  /** Creates the tables of a new file, in the transaction under way. */
  readonly create: (database: LockedDatabase, modules: Modules) => void;
  /** Its errors. */
  readonly Error: FileErrorClass;
}

/** A file of SQLite, as above. */
export class LockedDatabase {
  readonly #modules: Modules;
  /** Where it is. */
  readonly path: string;
  readonly #format: FileFormat;
  readonly #owner: OwnerFile<object>;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
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
   * @param format What it has to be.
   * @param owner Tells who has it open.
   * @param create Whether to create it if it does not exist.
   * @throws An error of the format, if that is not possible.
   */
  constructor(
    modules: Modules,
    path: string,
    format: FileFormat,
    owner: OwnerFile<object>,
    create: boolean,
  ) {
    this.#modules = modules;
    this.path = path;
    this.#format = format;
    this.#owner = owner;
    let db: DatabaseSync | undefined;
    try {
      this.#inspect(create);
      db = this.#db = new modules.sqlite.DatabaseSync(path);
      this.#prepare();
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

  /** Throws unless these are of the format, in a version that is understood. */
  #identify(applicationId: number, version: number): void {
    const known = this.#format;
    if (applicationId !== known.applicationId) throw this.#foreign();
    if (version <= known.version) return;
    throw this.#refusal(
      `it was made by a later version of this library (format ${version}; this one knows up to ${known.version}); use that version`,
      "newer",
    );
  }

  /** Whether there is no table in the file, or none once SQLite has looked at it. */
  #isNew(): boolean {
    const { size } = this.#modules.fs.statSync(this.path);
    return size <= PAGE_SIZE || this.#isHalfCreated();
  }

  /** Locks the file, makes sure that it is of the format, and sets it up. */
  #prepare(): void {
    const db = this.#db;
    // The lock is taken by `begin exclusive`, and from then on kept: no other connection
    // ever writes, and none of what SQLite does for several of them is needed. None of
    // it is done by exec(), whose errors have no code on Deno.
    this.run("pragma locking_mode = exclusive");
    if (this.#isNew()) {
      // The first two things to be set, and the second one is written at once.
      this.run(`pragma page_size = ${PAGE_SIZE}`);
      this.run("pragma auto_vacuum = incremental");
    }
    this.run("begin exclusive");
    const { application_id } = this.get("pragma application_id");
    const { user_version } = this.get("pragma user_version");
    const { tables } = this.get(
      "select count(*) as tables from sqlite_master",
    );
    if (tables === 0 && application_id === 0) this.#create();
    else this.#identify(application_id, user_version);
    this.run("commit");
    const { journal_mode } = this.get("pragma journal_mode = wal");
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
    const { applicationId, version, create } = this.#format;
    this.run(`pragma application_id = ${applicationId}`);
    this.run(`pragma user_version = ${version}`);
    create(this, this.#modules);
  }

  get #openAction(): string {
    return `Cannot open the ${this.#format.noun} ${this.path}`;
  }

  #refusal(reason: string, code: FileErrorCode): Error {
    return new this.#format.Error(`${this.#openAction}: ${reason}`, { code });
  }

  #foreign(): Error {
    return this.#refusal(
      `it is not a ${this.#format.noun}, and was not changed; choose another path`,
      "foreign",
    );
  }

  /** The error of a failure to open the file, with who has it open, if it is that. */
  #explain(thrown: unknown): Error {
    const { Error, user } = this.#format;
    const error = toFileError(Error, this.#openAction, thrown);
    if (error.code !== "in-use") return error;
    const owner = describeOwner(this.#owner.read());
    return new Error(
      `${this.#openAction}: ${owner}; only one ${user} at a time can use it`,
      { code: "in-use", cause: error.cause },
    );
  }

  // -- Using it --

  /** Whether it has been closed. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** About how large the WAL is, in bytes. */
  get walSize(): number {
    return this.#walSize;
  }

  /**
   * Empties the WAL that a killed process has left: the next one may be killed, too. To
   * be called once what the file holds has been found good.
   */
  emptyWal(): void {
    try {
      this.checkpoint();
    } catch {
      this.#walSize = MAX_WAL; // the next transaction tries again
    }
  }

  /**
   * Makes a transaction. If the disk is full, it is made once more after a checkpoint:
   * the WAL is then written from its beginning, in the room that it has.
   *
   * @param action What cannot be done, for the message.
   * @param work Makes it.
   * @param makeRoom Called before it is made once more.
   * @throws An error of the format, if that fails.
   */
  attempt<T>(action: string, work: () => T, makeRoom?: () => void): T {
    try {
      return work();
    } catch (thrown) {
      const error = toFileError(this.#format.Error, action, thrown);
      // Not every system reports a full disk as such.
      const mayBeFull = error.code === "full" || error.code === "io";
      // After the end, the reserve is that of whoever has opened the file since.
      if (!mayBeFull || this.#isClosed) throw error;
    }
    try {
      makeRoom?.();
      this.checkpoint();
      return work();
    } catch (error) {
      throw toFileError(this.#format.Error, action, error);
    }
  }

  /** Whether a transaction is under way. SQLite itself ends it after some errors. */
  get isInTransaction(): boolean {
    try {
      this.run("begin");
    } catch {
      return true;
    }
    this.run("rollback");
    return false;
  }

  /** How many pages are not used. */
  get unusedPages(): number {
    return this.get("pragma freelist_count").freelist_count;
  }

  /**
   * Gives some unused pages back, so that the file becomes shorter.
   *
   * @param size How many bytes it may have to move.
   */
  freePages(size: number): void {
    this.transaction(false, size, () => {
      // Not exec(), which frees a single page.
      this.all(`pragma incremental_vacuum(${PAGES_PER_STEP})`);
    });
    // Only now does the file become shorter.
    this.checkpoint();
  }

  /** Closes the file. Called again, it does nothing. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    OPEN_FILES.delete(this.#identity);
    this.#statements.clear();
    this.#db.close();
  }

  // -- SQLite --

  /**
   * Runs a transaction. If anything fails, none of it has happened.
   *
   * @param isSynced Whether it survives a power cut once this returns.
   * @param size About how many bytes it writes.
   */
  transaction(isSynced: boolean, size: number, work: () => void): void {
    if (this.#isSynced !== isSynced) {
      this.#db.exec(`pragma synchronous = ${isSynced ? "full" : "normal"}`);
      this.#isSynced = isSynced;
    }
    this.run("begin immediate");
    try {
      work();
      this.run("commit");
    } catch (error) {
      try {
        this.run("rollback");
      } catch {
        // After some errors SQLite has done that itself.
      }
      throw error;
    }
    this.#walSize += size + TRANSACTION_SIZE;
    if (this.#walSize < MAX_WAL) return;
    try {
      this.checkpoint();
    } catch {
      // The transaction is made. The next one that adds something retries this.
    }
  }

  /** Moves everything from the WAL to the database, so that the WAL begins anew. */
  checkpoint(): void {
    this.get("pragma wal_checkpoint(passive)");
    this.#walSize = 0;
  }

  /** The first row; `undefined` if there is none. */
  // The columns are those of the statement, which the type cannot know.
  // deno-lint-ignore no-explicit-any
  get(sql: string, ...values: Value[]): any {
    return this.#prepared(sql).get(...values);
  }

  /** All rows. */
  all(sql: string, ...values: Value[]): unknown[] {
    return this.#prepared(sql).all(...values);
  }

  /** The rows, one by one. Until the last one, no checkpoint is complete. */
  iterate(sql: string, ...values: Value[]): Iterable<unknown> {
    return this.#prepared(sql).iterate(...values);
  }

  /** Runs a statement that yields no rows. */
  run(sql: string, ...values: Value[]): void {
    this.#prepared(sql).run(...values);
  }

  /** A statement that is not kept: all others are. */
  prepare(sql: string): StatementSync {
    return this.#db.prepare(sql);
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

function identify({ dev, ino }: { dev: number; ino: number }): string {
  return `${dev} ${ino}`;
}

function isFolder(fs: Modules["fs"], path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}
