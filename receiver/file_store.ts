/**
 * A store in a file, which has the bytes of all batches, one after another, and nothing
 * else. Beside it is a database, `FILE-keys`, with the key of each batch and where its
 * bytes are.
 *
 * WHAT IS THERE AFTER A CRASH. Bytes are written first, and then their keys, in one
 * transaction. Only that makes them part of the store: what the file has behind them is
 * cut off when it is opened, or overwritten.
 *
 * ```text
 *  base (0, before anything is forgotten)       #end
 *   |---- batch ----|---- batch ----|-- batch ---|-- bytes without a key --
 * ```
 *
 * WHAT IS THERE AFTER A POWER CUT. Bytes and keys are synced at the same time, which
 * halves the wait; a batch is acknowledged when both are. So a power cut may take bytes
 * and leave their keys. Therefore the database says up to which batch all bytes are
 * surely synced. The next opening checks those behind it, and forgets the first one that
 * has lost bytes, and what follows: none of that was acknowledged, unless nothing is
 * synced (`durability: "process"`).
 *
 * FORGETTING. A file cannot lose its beginning. So what is kept is copied to `FILE-new`,
 * which takes the place of the file: the database says so first, and until it says that
 * this is done, whoever opens the store does it. Positions count from the beginning of
 * the stream of all batches, so that those of the rows remain.
 *
 * What the database says of the file itself is synced whatever the durability.
 */
import type * as crypto from "node:crypto";
import { countOf } from "../internal/checks.ts";
import {
  builtin,
  isReadable,
  loadModules,
  type Modules,
  nextTurn,
  realPath,
} from "../internal/node/platform.ts";
import { handled } from "../internal/promises.ts";
import {
  BatchDatabase,
  formatOf,
  isNew,
  type Row,
  toStoreError,
} from "./batch_database.ts";
import { equals, streamOf, verify } from "./bytes.ts";
import { Groups, type Job } from "./group.ts";
import { Mutex } from "./mutex.ts";
import { checkDurability, oldest } from "./options.ts";
import {
  type AddResult,
  type Batch,
  type OnBatch,
  type Pruned,
  type Store,
  StoreError,
  type StoreErrorCode,
} from "./store.ts";

const ACTION = "Cannot open the store";

/** "SBrf", in the header of the database. */
const FORMAT = formatOf("FileStore", 0x53427266, [
  `create table file (          -- has one row
    base integer not null,      -- position of the first byte that the file has
    inode text not null,        -- which file it is; empty before there is one
    swapping integer not null,  -- what FILE-new is: see the constants
    synced integer              -- number of the last batch whose bytes are surely
                                -- synced; null if all are
  )`,
  "insert into file values (0, '', 0, null)",
  "create index batch_id on batch (id)",
]);

// What the database says of FILE-new.
/** Nothing: if there is one, it is not ours, and is not changed. */
const NO_COPY = 0;
/** It takes the place of the file, unless it already has. */
const DECIDED = 1;
/** It is a copy that was not finished. */
const UNFINISHED = 2;

/** How much is copied at once, in bytes. */
const CHUNK = 1024 * 1024;
/**
 * How much a power cut may take if nothing is synced, in bytes: what has to be read
 * when the file is opened after a crash.
 */
const MAX_UNSYNCED = 64 * 1024 * 1024;

/** Options of a {@linkcode FileStore}. */
export interface FileStoreOptions {
  /**
   * What a batch survives once it is stored: `"power"` syncs the disk, `"process"` does
   * not, so that a power cut or a crash of the system may lose the latest batches, although
   * their senders count them as delivered.
   *
   * @default {"power"}
   */
  durability?: "power" | "process";
}

/** The row of the table `file`. */
interface FileRow {
  readonly base: number;
  readonly inode: string;
  readonly swapping: number;
  readonly synced: number | null;
}

/**
 * Appends batches to a file, which other programs may read: `tail -f`, `grep`, `cp`.
 * Beside it is a database with the keys, which needs `node:sqlite`: Deno 2.8, Node 22.13
 * and Bun 1.4.5 or newer have it.
 *
 * - **The file has whole batches, each once**, in the order of their arrival. That is the
 *   order of their stream, unless sends overlap (`concurrency`, `sendNow`).
 * - **A batch is stored when bytes and key are synced.** Batches that arrive at the same
 *   time share that. What a crash has left without a key is cut off.
 * - **Every byte is checked** against its digest when {@linkcode FileStore.read} reads it.
 * - **One process at a time.** The error of a second one says who has it.
 * - **A full disk stops it from adding.** {@linkcode FileStore.prune} needs room for a copy
 *   of what is kept, and for the keys: 8 MiB for these are reserved by a file beside it.
 * - **A file that is not a store is not changed.**
 *
 * `onBatch` is called before its batch is written, and may return a promise. There is no
 * transaction: what it does may happen again.
 *
 * @example Usage
 * ```ts
 * import { FileStore, receive } from "@stream-buffer/stream-buffer/receiver";
 *
 * const path = `${Deno.makeTempDirSync()}/received.log`;
 * await using store = new FileStore(path);
 * const handler = receive({ store });
 *
 * await handler(
 *   new Request("http://localhost/", {
 *     method: "POST",
 *     headers: { "Idempotency-Key": '"example-0"' },
 *     body: "hello\n",
 *   }),
 * );
 * console.assert(Deno.readTextFileSync(path) === "hello\n");
 * ```
 */
export class FileStore implements Store<undefined>, AsyncDisposable {
  readonly #modules: Modules;
  readonly #path: string;
  readonly #isPower: boolean;
  readonly #database: BatchDatabase;
  readonly #groups: Groups<Batch, AddResult>;
  /** Held by what writes to the file. */
  readonly #writing = new Mutex();
  readonly #pruning = new Mutex();
  #descriptor: number;
  /** Position of the first byte that the file has. */
  #base: number;
  /** Position after the last batch. */
  #end: number;
  /** Whether the database says that not all bytes are synced. */
  #isMarked: boolean;
  /** Position up to which they surely are. */
  #syncedEnd: number;

  /**
   * Opens the file, and creates it if it does not exist.
   *
   * @param path Where it is, or is to be. There are others beside it, whose names begin
   *   with this one. Deno needs permission for it, `FILE-new`, `FILE-keys`,
   *   `FILE-keys-owner` and `FILE-keys-reserve`, and to read its folder, whose names are
   *   not synced otherwise.
   * @param options What to change.
   * @throws {TypeError} If this platform has no `node:sqlite`.
   * @throws {StoreError} If it cannot be opened, is in use, or is not a store.
   */
  constructor(path: string | URL, options: FileStoreOptions = {}) {
    const { durability = "power" } = options;
    checkDurability(ACTION, { durability });
    this.#modules = loadModules(ACTION);
    this.#path = realPath(ACTION, path, this.#modules);
    this.#isPower = durability === "power";
    const keys = `${this.#path}-keys`;
    this.#throwIfForeign(keys);
    const { db } = this.#database = new BatchDatabase(
      this.#modules,
      keys,
      FORMAT,
      durability,
    );
    try {
      const row: FileRow = db.get("select * from file");
      this.#base = row.base;
      this.#end = this.#endOf(this.#lastRow());
      this.#finishSwap(row);
      this.#descriptor = this.#open(row);
      this.#isMarked = !this.#isPower && row.synced !== null;
      this.#syncedEnd = this.#isMarked ? this.#base : this.#end;
    } catch (error) {
      this.#database.close();
      throw toStoreError(`${ACTION} ${this.#path}`, error);
    }
    this.#groups = new Groups(
      ({ bytes }) => bytes.length,
      (jobs) => this.#writing.run(() => this.#addAll(jobs)),
    );
  }

  // -- Opening --

  #refusal(reason: string, code: StoreErrorCode): StoreError {
    return new StoreError(`${ACTION} ${this.#path}: ${reason}`, { code });
  }

  /** Throws if there is something at the path that is not a file of a store. */
  #throwIfForeign(keys: string): void {
    const { fs } = this.#modules;
    const info = fs.statSync(this.#path, { throwIfNoEntry: false });
    if (info === undefined) return;
    if (!info.isFile()) {
      const kind = info.isDirectory() ? "a folder" : "not a regular file";
      throw this.#refusal(`it is ${kind}`, "io");
    }
    const hasKeys = fs.statSync(keys, { throwIfNoEntry: false })?.size;
    if (info.size > 0 && !hasKeys) {
      throw this.#refusal(
        `it has ${
          countOf(info.size)
        } and no keys beside it, in ${keys}; choose another path`,
        "foreign",
      );
    }
  }

  /** The batch that arrived last. */
  #lastRow(): Row | undefined {
    return this.#database.db.get(
      "select * from batch order by number desc limit 1",
    );
  }

  /** The last one that has bytes in the file. */
  #lastWithBytes(): Row | undefined {
    return this.#database.db.get(
      "select * from batch where position >= ? and size > 0 order by number desc limit 1",
      this.#base,
    );
  }

  /** The number of the last one; 0 if there is none. */
  #lastNumber(): number {
    return this.#lastRow()?.number ?? 0;
  }

  /** Position after that batch, if it is the last one. */
  #endOf(last: Row | undefined): number {
    return Math.max(this.#base, last ? last.position! + last.size : 0);
  }

  /** Does what remains of a swap that was interrupted. */
  #finishSwap({ swapping }: FileRow): void {
    if (swapping === NO_COPY) return;
    const { fs } = this.#modules;
    const copy = `${this.#path}-new`;
    if (swapping === UNFINISHED) fs.rmSync(copy, { force: true });
    else if (fs.existsSync(copy)) fs.renameSync(copy, this.#path);
    this.#endSwap();
  }

  /**
   * Makes the database say that there is no copy; not before that survives a power cut.
   * Until then the next opening would do its part once more.
   */
  #endSwap(): void {
    if (this.#syncFolder()) this.#set("swapping = ?", NO_COPY);
  }

  /** Makes names of files survive a power cut, and returns whether that was possible. */
  #syncFolder(): boolean {
    const { fs, path } = this.#modules;
    const folder = path.dirname(this.#path);
    if (!isReadable(folder)) return false;
    try {
      const descriptor = fs.openSync(folder, "r");
      try {
        fs.fsyncSync(descriptor);
      } finally {
        fs.closeSync(descriptor);
      }
      return true;
    } catch {
      return false; // as on Windows
    }
  }

  /** Changes the row of the table `file`. */
  #set(assignment: string, ...values: (string | number)[]): void {
    const { db } = this.#database;
    this.#database.change("Cannot change", () => {
      db.run(`update file set ${assignment}`, ...values);
    }, true);
  }

  /** Makes the database say up to which batch all bytes are synced; `null` for all. */
  #setSynced(number: number | null): void {
    // Like what is added, it must leave the room that is for what is deleted.
    this.#database.add(
      "Cannot change",
      0,
      () => this.#saveSynced(number),
      true,
    );
  }

  /** The same, in the transaction under way. */
  #saveSynced(number: number | null): void {
    this.#database.db.run("update file set synced = ?", number);
  }

  /** Opens the file itself, and cuts off what has no key. */
  #open({ inode, synced }: FileRow): number {
    const { fs } = this.#modules;
    if (this.#end > this.#base && !fs.existsSync(this.#path)) {
      throw this.#damage(`it is missing, but ${this.#path}-keys is not`);
    }
    const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
    const descriptor = fs.openSync(this.#path, flags, 0o644);
    try {
      const info = fs.fstatSync(descriptor);
      const isOwn = isFile(inode, info);
      if (synced !== null && (isOwn || this.#isCopy(synced, descriptor))) {
        this.#forgetLost(synced, descriptor);
      }
      const size = this.#end - this.#base;
      if (info.size < size) {
        throw this.#damage(
          `it has ${countOf(info.size)}, and should have ${size}`,
        );
      }
      const last = this.#lastWithBytes();
      if (last === undefined) {
        // Then nothing in it says whose it is.
        if (info.size > 0 && !isOwn) {
          throw this.#refusal(
            `it has ${
              countOf(info.size)
            }, of which ${this.#path}-keys has no key; move it away, or choose another path`,
            "foreign",
          );
        }
      } else if (!this.#hasBytesOf(last, descriptor)) {
        throw this.#damage(
          `its bytes are not those whose keys ${this.#path}-keys has`,
        );
      }
      fs.ftruncateSync(descriptor, size);
      if (this.#isPower ? !isOwn || synced !== null : !isOwn) {
        this.#takeOver(descriptor);
      }
      return descriptor;
    } catch (error) {
      fs.closeSync(descriptor);
      throw error;
    }
  }

  #damage(reason: string): StoreError {
    return this.#refusal(
      `${reason}; put back the file that belongs to the keys, or move both away to start over`,
      "damaged",
    );
  }

  /**
   * Whether this must be a copy of the file that the keys are of: it has the last batch
   * that is surely synced, or else the first one behind that.
   */
  #isCopy(synced: number, descriptor: number): boolean {
    const { db } = this.#database;
    const row: Row | undefined = db.get(
      "select * from batch where number <= ? and position >= ? and size > 0 order by number desc limit 1",
      ...[synced, this.#base],
    ) ?? db.get(
      "select * from batch where number > ? and position >= ? and size > 0 order by number limit 1",
      ...[synced, this.#base],
    );
    return row !== undefined && this.#hasBytesOf(row, descriptor);
  }

  /** Forgets the batches whose bytes a power cut has taken. */
  #forgetLost(synced: number, descriptor: number): void {
    const { db } = this.#database;
    let lost: number | undefined;
    for (
      const row of db.iterate(
        "select * from batch where number > ? and position >= ? order by number",
        ...[synced, this.#base],
      ) as Iterable<Row>
    ) {
      if (this.#hasBytesOf(row, descriptor)) continue;
      lost = row.number;
      break;
    }
    if (lost === undefined) return;
    this.#database.change("Cannot change", () => {
      db.run("delete from batch where number >= ?", lost);
    });
    this.#end = this.#endOf(this.#lastRow());
  }

  /** Makes the database say which file this is; if all is to be synced, that it is. */
  #takeOver(descriptor: number): void {
    const { fs } = this.#modules;
    fs.fdatasyncSync(descriptor);
    this.#syncFolder();
    const synced = this.#isPower ? ", synced = null" : "";
    const inode = identify(fs.fstatSync(descriptor));
    this.#set(`inode = ?${synced}`, inode);
  }

  /** Whether the file has the bytes of a batch where it should. */
  #hasBytesOf(row: Row, descriptor: number): boolean {
    const { createHash } = builtin("node:crypto") as typeof crypto;
    const bytes = this.#readSync(row, descriptor);
    return equals(createHash("sha256").update(bytes).digest(), row.digest);
  }

  #readSync(
    { position, size }: Pick<Row, "position" | "size">,
    descriptor: number,
  ): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(size);
    let done = 0;
    while (done < size) {
      const start = position! - this.#base + done;
      const { fs } = this.#modules;
      const read = fs.readSync(descriptor, bytes, done, size - done, start);
      if (read === 0) return bytes.subarray(0, done);
      done += read;
    }
    return bytes;
  }

  // -- Adding --

  /**
   * Stores a batch, if its key is not known.
   *
   * @param batch The batch.
   * @param onBatch Called before it is written, if it is new.
   * @returns What was done.
   * @throws {StoreError} If it cannot be stored.
   */
  async add(batch: Batch, onBatch?: OnBatch<undefined>): Promise<AddResult> {
    this.#database.throwIfClosing("Cannot add to");
    // Before it is of a group: the others should not wait for it.
    if (onBatch !== undefined) {
      // Keys may be there whose bytes are still being synced, and go if that fails.
      const result = await this.#writing.run(() => this.#outcomeOf(batch));
      if (isNew(result)) await onBatch(batch, undefined);
    }
    return await this.#groups.add(batch);
  }

  #outcomeOf(batch: Batch): AddResult {
    this.#database.throwIfClosed("Cannot add to");
    try {
      return this.#database.outcomeOf(batch);
    } catch (error) {
      throw toStoreError(`Cannot add to the store ${this.#path}`, error);
    }
  }

  async #addAll(jobs: readonly Job<Batch, AddResult>[]): Promise<void> {
    const added: { job: Job<Batch, AddResult>; result: AddResult }[] = [];
    const later: Job<Batch, AddResult>[] = [];
    const places = new Set<string>();
    for (const job of jobs) {
      const { input: batch, resolve } = job;
      const place = `${batch.sequence} ${batch.id}`;
      if (places.has(place)) {
        // What comes of it is clear once the other is stored: the key may be the same.
        later.push(job);
        continue;
      }
      const result = this.#outcomeOf(batch);
      if (!isNew(result)) resolve(result);
      else {
        places.add(place);
        added.push({ job, result });
      }
    }
    if (added.length === 0) return;
    await this.#append(added.map(({ job }) => job.input));
    for (const { job, result } of added) job.resolve(result);
    if (this.#end - this.#syncedEnd > MAX_UNSYNCED) await this.#syncLater();
    // Not before: if any of that fails, these are rejected as well.
    for (const { input, resolve, reject } of later) {
      this.#groups.add(input).then(resolve, reject);
    }
  }

  /** Syncs what no `add` has waited for. */
  async #syncLater(): Promise<void> {
    await this.#sync(this.#descriptor);
    this.#setSynced(this.#lastNumber());
    this.#syncedEnd = this.#end;
  }

  /** Writes batches, and makes them part of the store. */
  async #append(batches: readonly Batch[]): Promise<void> {
    const action = `Cannot add to the store ${this.#path}`;
    let before: number;
    try {
      before = this.#lastNumber();
    } catch (error) {
      throw toStoreError(action, error);
    }
    let end = this.#end;
    try {
      if (!this.#isPower && !this.#isMarked) this.#mark();
      for (const { bytes } of batches) end = await this.#write(bytes, end);
      // Another thread syncs the bytes, while this one syncs the keys.
      const syncing = this.#isPower
        ? handled(this.#sync(this.#descriptor))
        : undefined;
      this.#database.add("Cannot add to", 0, () => {
        if (this.#isPower) this.#saveSynced(before);
        let position = this.#end;
        for (const batch of batches) {
          this.#database.insert(batch, position);
          position += batch.bytes.length;
        }
      });
      await syncing;
      this.#end = end;
      if (this.#isPower) {
        this.#syncedEnd = end;
        this.#isMarked = true;
      }
    } catch (error) {
      this.#removeAfter(before);
      throw toStoreError(action, error);
    }
  }

  /**
   * Removes what could not be stored.
   *
   * @param before The number of the last batch before it.
   */
  #removeAfter(before: number): void {
    const { db } = this.#database;
    try {
      // A commit may be made although it failed; or the bytes could not be synced.
      if (this.#lastNumber() > before) {
        this.#database.change("Cannot change", () => {
          db.run("delete from batch where number > ?", before);
        });
      }
    } catch {
      // These keys would be found. The next opening looks for their bytes.
      this.#closeNow();
      return;
    }
    try {
      const { fs } = this.#modules;
      fs.ftruncateSync(this.#descriptor, this.#end - this.#base);
    } catch {
      // The next one overwrites it, and the next opening cuts it off.
    }
  }

  /** Makes the database say that from here on, bytes may not be synced. */
  #mark(): void {
    this.#setSynced(this.#lastNumber());
    this.#isMarked = true;
  }

  /** Writes bytes at a position, and returns the one behind them. */
  #write(bytes: Uint8Array, position: number): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const { fs } = this.#modules;
    const write = (done: number) => {
      if (done === bytes.length) return resolve(position + done);
      const start = position - this.#base + done;
      fs.write(
        this.#descriptor,
        ...[bytes, done, bytes.length - done, start] as const,
        (error, count) => error ? reject(error) : write(done + count),
      );
    };
    write(0);
    return promise;
  }

  #sync(descriptor: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const { fs } = this.#modules;
      fs.fdatasync(descriptor, (error) => error ? reject(error) : resolve());
    });
  }

  // -- Reading --

  /**
   * The bytes that are stored of a stream, in the order of their arrival.
   *
   * @param id The stream.
   * @returns Its bytes; none if it is not known. The stream fails with a `StoreError` if
   *   a batch is not what was stored, or the store is closed.
   */
  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this.#read(id));
  }

  async *#read(id: string): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const action = `Cannot read from the store ${this.#path}`;
    for (let number = 0;;) {
      const found = this.#nextRow(id, number);
      if (found === undefined) return;
      const { row, bytes } = found;
      await verify(bytes, { action, id, ...row });
      yield bytes;
      ({ number } = row);
    }
  }

  #nextRow(
    id: string,
    number: number,
  ): { row: Row; bytes: Uint8Array<ArrayBuffer> } | undefined {
    this.#database.throwIfClosed("Cannot read from");
    try {
      // Those before the base are about to be forgotten.
      const row: Row | undefined = this.#database.db.get(
        "select * from batch where id = ? and number > ? and position >= ? order by number limit 1",
        ...[id, number, this.#base],
      );
      if (row === undefined) return undefined;
      return { row, bytes: this.#readSync(row, this.#descriptor) };
    } catch (error) {
      throw toStoreError(`Cannot read from the store ${this.#path}`, error);
    }
  }

  // -- Forgetting --

  /**
   * Forgets batches from the beginning of the file, up to the first one that arrived
   * less than `age` ago. Their keys stay known: if one comes again, it is not stored
   * again. What is kept is copied to a new file, so call it when most of it can go. A
   * program that has the old file open keeps reading that.
   *
   * @param age How long ago, in milliseconds.
   * @returns How much was forgotten.
   * @throws {RangeError} If `age` is negative, or not a number.
   * @throws {StoreError} If that fails.
   */
  async prune(age: number): Promise<Pruned> {
    const limit = oldest("Cannot prune the FileStore", age);
    const number = await this.#pruning.run(() => this.#cutOff(limit));
    return await this.#database.forget("number < ?", number);
  }

  /** Cuts off what is to be forgotten, and returns the number of the first batch left. */
  async #cutOff(limit: number): Promise<number> {
    try {
      const { number, base } = await this.#writing.run(() =>
        this.#firstKept(limit)
      );
      if (base > this.#base) await this.#cutOffBeginning(base);
      return number;
    } catch (error) {
      throw toStoreError(`Cannot prune the store ${this.#path}`, error);
    }
  }

  /**
   * The number and the position of the first batch that is kept, or would be. What is
   * being written must not be half of it: there are keys before the end has moved.
   */
  #firstKept(limit: number): { number: number; base: number } {
    this.#database.throwIfClosing("Cannot prune");
    const kept: Row | undefined = this.#database.db.get(
      "select * from batch where at >= ? order by number limit 1",
      limit,
    );
    return {
      number: kept?.number ?? this.#lastNumber() + 1,
      base: kept?.position ?? this.#end,
    };
  }

  /** Makes a file that begins at `base`, and puts it in the place of this one. */
  async #cutOffBeginning(base: number): Promise<void> {
    const { fs } = this.#modules;
    const copy = `${this.#path}-new`;
    this.#throwIfTaken(copy);
    this.#set("swapping = ?", UNFINISHED);
    const mode = fs.fstatSync(this.#descriptor).mode & 0o777;
    fs.rmSync(copy, { force: true });
    const descriptor = fs.openSync(copy, "wx+", mode);
    let isInPlace = false;
    try {
      fs.fchmodSync(descriptor, mode); // whatever the umask
      let position = base;
      do {
        while (this.#end - position > CHUNK) {
          position = this.#copyChunk(position, descriptor, base);
          await nextTurn();
          this.#database.throwIfClosing("Cannot prune");
        }
        // Meanwhile, more may be added.
        await this.#sync(descriptor);
        this.#database.throwIfClosing("Cannot prune");
      } while (this.#end - position > CHUNK);
      await this.#writing.run(() => {
        // From here on in one turn, so that nobody reads in between.
        while (position < this.#end) {
          position = this.#copyChunk(position, descriptor, base);
        }
        fs.fsyncSync(descriptor);
        this.#syncFolder();
        const inode = identify(fs.fstatSync(descriptor));
        try {
          this.#set("base = ?, inode = ?, swapping = ?", base, inode, DECIDED);
          fs.renameSync(copy, this.#path);
        } catch (error) {
          // Only an opening can do the rest. A commit may be made although it failed, and
          // whatever waits to write must not do so any more.
          if (this.#mayBeDecided()) this.#closeNow();
          throw error;
        }
        const old = this.#descriptor;
        this.#descriptor = descriptor;
        this.#base = base;
        isInPlace = true;
        fs.closeSync(old);
        this.#endSwap();
      });
    } catch (error) {
      if (!isInPlace) {
        fs.closeSync(descriptor);
        if (!this.#database.db.isClosed) fs.rmSync(copy, { force: true });
      }
      throw error;
    }
  }

  /** What the database says of FILE-new. */
  get #copyState(): number {
    return this.#database.db.get("select swapping from file").swapping;
  }

  /** Whether the copy takes the place of the file, unless it is known that it does not. */
  #mayBeDecided(): boolean {
    try {
      return this.#copyState === DECIDED;
    } catch {
      return true;
    }
  }

  /** Throws if there is a file at the path of the copy that is not ours. */
  #throwIfTaken(copy: string): void {
    const isOwn = this.#copyState !== NO_COPY;
    if (isOwn || !this.#modules.fs.existsSync(copy)) return;
    throw new StoreError(
      `Cannot prune the store ${this.#path}: ${copy} exists, and is needed for the copy; move it away`,
      { code: "foreign" },
    );
  }

  /** Copies some bytes from a position on, and returns the one behind them. */
  #copyChunk(position: number, descriptor: number, base: number): number {
    const { fs } = this.#modules;
    const size = Math.min(this.#end - position, CHUNK);
    const bytes = this.#readSync({ position, size }, this.#descriptor);
    if (bytes.length < size) throw new Error("the file has become shorter");
    for (let done = 0; done < size;) {
      const start = position - base + done;
      done += fs.writeSync(descriptor, bytes, done, size - done, start);
    }
    return position + size;
  }

  // -- The end --

  /** Stores what has been added, and closes the file. Called again, it does nothing. */
  async close(): Promise<void> {
    this.#database.beginClosing();
    // Its FILE-new must not be in the way of the next store.
    await this.#pruning.run(() => {});
    await this.#groups.idle();
    await this.#writing.run(() => {
      if (this.#database.db.isClosed) return;
      try {
        if (this.#isMarked) this.#unmark();
      } catch {
        // The next opening looks for what is lost.
      }
      this.#closeNow();
    });
  }

  #closeNow(): void {
    this.#modules.fs.closeSync(this.#descriptor);
    this.#database.close();
  }

  #unmark(): void {
    this.#modules.fs.fdatasyncSync(this.#descriptor);
    this.#setSynced(null);
  }

  /** Closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Names a file of this folder; empty where that is not possible, as on Windows. */
function identify({ ino }: { ino: number }): string {
  return ino ? `${ino}` : "";
}

function isFile(inode: string, info: { ino: number }): boolean {
  return inode !== "" && inode === identify(info);
}
