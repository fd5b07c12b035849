/** {@linkcode follow}: puts what is appended to a file into a {@linkcode Spool}. */
import type { BigIntStats } from "node:fs";
import {
  check,
  checkCapacity,
  checkDuration,
  countOf,
  messageOf,
  show,
} from "../internal/checks.ts";
import { notify } from "../internal/promises.ts";
import { sleep } from "../internal/timers.ts";
import type { FileRecord } from "./database.ts";
import { absolutePath, type Modules } from "./platform.ts";
import { internalsOf, type SpoolInternals } from "./internals.ts";
import type { Spool } from "./spool.ts";

const ACTION = "Cannot follow";
const DEFAULT_CAPACITY = 256 * 1024;
const DEFAULT_POLL_INTERVAL = 100;
const DEFAULT_QUIET_TIME = 3_000;
/** How long to wait before bytes that could not be committed are read again, in ms. */
const RETRY_DELAY = 1_000;
const NEWLINE = 10;
/**
 * How many bytes at the beginning of a file, and how many before the position in it,
 * tell it from another: a log line with its time is shorter.
 */
const SAMPLE_SIZE = 1_024;
/** How many records it takes at least to look for those that are not needed any more. */
const MIN_RECORDS = 100;
/** How often to list the folder anew if files are renamed at that moment. */
const MAX_LISTINGS = 5;
/** Rotated files that have been compressed, whose lines cannot be read. */
const COMPRESSED = /\.(gz|bz2|xz|zst|lz4|zip|Z)$/;

/** What the names of the files of a spool may have at their ends. */
const SPOOL_SUFFIX = /-(owner|reserve|wal|shm|journal)$/;

/** Options of {@linkcode follow}. */
export interface FollowOptions {
  /**
   * Ends it. A line that has not ended yet is left for the next time.
   *
   * @default {undefined}
   */
  signal?: AbortSignal;
  /**
   * How many bytes are committed at once, at most. A longer line is committed, and
   * may be sent, in pieces.
   *
   * @default {262_144}
   */
  capacity?: number;
  /**
   * How often to look for what is new, in milliseconds. A file that is replaced twice
   * within that time is found by its name.
   *
   * @default {100}
   */
  pollInterval?: number;
  /**
   * For how long a file that was replaced must not have changed before it is left, in
   * milliseconds: programs write to it until they open the new one.
   *
   * @default {3_000}
   */
  quietTime?: number;
  /**
   * Called when the file is missing or cannot be read, once until that changes; when
   * bytes of it were destroyed before they were read; and when bytes cannot be
   * committed. Except for what was destroyed, nothing is lost: it waits.
   */
  onError?: (error: Error) => void;
}

/* -----------------------------------------------------------------------------
 * How it works
 *
 * WHERE IT IS. Each file has a record in the spool, with the position up to which it
 * was read. It is committed in one transaction with the bytes before that position, so
 * that no kill can separate them.
 *
 * WHICH FILE IT IS. A name says nothing: a rotation renames the file, and the next one
 * gets its name. Nor does an inode: it is used again once its file has been deleted,
 * and a file that was truncated keeps it. So a record has the inode and two samples,
 * as digests: of the beginning of the file, and of what comes before the position.
 * Both are of bytes that have been committed, and so must not change any more. If they
 * have, the file was truncated, however long it is now. The second sample is read, and
 * compared, each time together with what follows it.
 *
 * WHAT IS READ WHEN. #logs has the files that have something to read, the oldest
 * first. #look finds them, every `pollInterval`, even while the reader waits for
 * room in the spool: what happens to files does not wait for that. Of each file only
 * whole lines are committed. It is left when it has been replaced, has been read to
 * its end, and has not changed for `quietTime`; a last line without a newline gets one
 * then, because what comes next does not continue it.
 *
 * A truncated file is left at once, and read again from its beginning as another one.
 *
 * WHAT WAS MISSED. After a restart, the file that was being read may have been renamed,
 * and others after it. It is recognised by its inode and samples among the files in
 * the folder. The others are those there whose names begin with that of the file, and
 * that have no record. For that, all that are there when a file is followed for the
 * first time get a record, although they are never read. What has the samples of a
 * file that was truncated is the copy that was made of it before, and is not read; nor
 * is what has the beginning of another file, and nothing else.
 * -------------------------------------------------------------------------- */

/** A file that has something to read, or may have. */
interface Log {
  /** The open file. Two logs share it if it was truncated. */
  readonly descriptor: number;
  readonly inode: string;
  /** How many of its bytes have been committed, or are about to be. */
  position: number;
  /** The first of them, at most `SAMPLE_SIZE`. */
  head: Uint8Array<ArrayBuffer>;
  /** The last of them, at most `SAMPLE_SIZE`. */
  tail: Uint8Array<ArrayBuffer>;
  /** Its record, once something of it has been committed. */
  record: FileRecord | undefined;
  /** The largest size that it has been seen to have, in bytes. */
  size: number;
  /** When it was last seen to change, by `performance.now()`. */
  changed: number;
  /** What was committed last does not end with a newline. */
  isInLine: boolean;
  /** It is no longer at the path. */
  isReplaced: boolean;
  /** What had not been read of it is gone. */
  isTruncated: boolean;
}

/**
 * Follows a file that grows: commits each line that is appended to it to a spool, and
 * continues where the last process stopped, until `signal` is aborted.
 *
 * - **Each line that it could read is committed once**, whatever happens to the
 *   process: where it is in the file is committed with the line.
 * - **Rotation by renaming** is followed, also if it happens while no process does
 *   that: the files in the same folder are searched, by what is in them. Compressed
 *   files are not read.
 * - **Truncation**, as by logrotate's `copytruncate`, is noticed. What it destroys
 *   before it was read is reported to `onError`, and counted in `stats.bytesLost`
 *   as far as its size was seen.
 * - **A file that is missing, or cannot be read**, is waited for.
 *
 * The spool takes no other writer, not even later: one spool is for one path.
 *
 * @example Usage
 * ```ts
 * import { FetchSender, follow, Spool } from "@stream-buffer/stream-buffer/spool";
 * import { assertEquals } from "@std/assert";
 *
 * const controller = new AbortController();
 * let received = "";
 * await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
 *   received += await request.text();
 *   controller.abort();
 *   return new Response();
 * });
 * const folder = Deno.makeTempDirSync();
 * Deno.writeTextFileSync(`${folder}/app.log`, "line 1\nline 2\n");
 * const url = `http://localhost:${server.addr.port}/ingest`;
 * {
 *   await using spool = new Spool(`${folder}/app.spool`, new FetchSender(url));
 *   await follow(`${folder}/app.log`, spool, { signal: controller.signal });
 * }
 * assertEquals(received, "line 1\nline 2\n");
 * ```
 *
 * @param path The file, which need not exist yet.
 * @param spool Where to. It may have followed the same path before, but nothing else.
 * @param options Options; times in milliseconds.
 * @returns A promise that resolves when `signal` is aborted: everything that was read
 *   is committed then.
 * @throws {TypeError} If an option has the wrong type, or the spool is closed, follows
 *   another path, or is used by a `StreamBuffer`.
 * @throws {RangeError} If an option is out of range.
 */
export async function follow(
  path: string | URL,
  spool: Spool,
  options: FollowOptions = {},
): Promise<void> {
  const {
    signal = new AbortController().signal,
    capacity = DEFAULT_CAPACITY,
    pollInterval = DEFAULT_POLL_INTERVAL,
    quietTime = DEFAULT_QUIET_TIME,
    onError,
  } = options;
  const internals = internalsOf.get(spool);
  if (internals === undefined) {
    throw new TypeError(
      `${ACTION}: spool must be a Spool, received ${show(spool)}`,
    );
  }
  internals.throwIfClosed();
  if (!(signal instanceof AbortSignal)) {
    throw new TypeError(
      `${ACTION}: signal must be an AbortSignal, received ${show(signal)}`,
    );
  }
  checkCapacity(ACTION, { capacity }, 1);
  checkDuration(ACTION, { pollInterval }, 1);
  checkDuration(ACTION, { quietTime }, 0);
  check(ACTION, { onError }, "a function", "function");
  const file = absolutePath(ACTION, path, internals.modules);
  const follower = new Follower(file, internals, {
    ...{ signal, capacity, pollInterval, quietTime },
    onError: onError ?? (() => {}),
  });
  internals.claim();
  await follower.run();
}

/** Follows one file, for one call of {@linkcode follow}. */
class Follower {
  readonly #path: string;
  readonly #folder: string;
  readonly #name: string;
  readonly #spool: SpoolInternals;
  readonly #fs: Modules["fs"];
  readonly #options: Required<FollowOptions>;
  readonly #logs: Log[] = [];
  /** What is known of files that someone may still come across, in the order of reading. */
  readonly #records: Map<number, FileRecord>;
  /** Of the next record. One whose bytes wait to be committed has its id already. */
  #nextId: number;
  /** The records of files that are not in the folder any more. */
  #gone: FileRecord[] = [];
  /** With more records than this, it is time to look for such files. */
  #maxRecords = MIN_RECORDS;
  /** It is known what has become of the file where the last process stopped. */
  #isResumed = false;
  /** What is wrong with the path, as it was last reported. */
  #problem = "";

  constructor(
    path: string,
    spool: SpoolInternals,
    options: Required<FollowOptions>,
  ) {
    const { dirname, basename } = spool.modules.path;
    this.#path = path;
    this.#folder = dirname(path);
    this.#name = basename(path);
    this.#spool = spool;
    this.#fs = spool.modules.fs;
    this.#options = options;
    const { files, follows = path } = spool.database;
    if (follows !== path) {
      throw new TypeError(
        `${ACTION} ${path}: the spool follows ${follows}; use another one for each file`,
      );
    }
    this.#records = new Map(files.map((record) => [record.id, record]));
    this.#nextId = Math.max(0, ...this.#records.keys()) + 1;
  }

  /** Follows until the signal is aborted. */
  async run(): Promise<void> {
    const { signal, pollInterval } = this.#options;
    let poll: ReturnType<typeof setTimeout> | undefined;
    const look = () => {
      this.#look();
      poll = setTimeout(look, pollInterval);
    };
    try {
      if (!signal.aborted) look();
      while (!signal.aborted) {
        if (!await this.#readOn()) await pause(pollInterval, signal);
      }
    } finally {
      clearTimeout(poll);
      const descriptors = this.#logs.map(({ descriptor }) => descriptor);
      for (const descriptor of new Set(descriptors)) {
        this.#fs.closeSync(descriptor);
      }
    }
  }

  /**
   * Does something until it succeeds, or the signal is aborted. A disk that is full may
   * have room again, and one that has failed may be back.
   */
  async #persist(work: () => unknown): Promise<void> {
    const { signal } = this.#options;
    while (!signal.aborted) {
      this.#spool.throwIfClosed();
      try {
        await work();
        return;
      } catch (error) {
        if (signal.aborted) return;
        // The spool has been closed: it does not help to wait.
        if (error instanceof TypeError) throw error;
        this.#report(error as Error);
        await pause(RETRY_DELAY, signal);
      }
    }
  }

  // -- Finding files --

  /**
   * Finds the file where the last process stopped.
   *
   * @throws If the file at the path may be it, and cannot be read.
   */
  #resume(): void {
    if (this.#spool.database.follows === undefined) return this.#passOver();
    const last = [...this.#records.values()]
      .findLast(({ state }) => state === "reading");
    if (last === undefined) return;
    let isThere = false;
    for (const name of this.#listFolder(() => true) ?? [this.#name]) {
      if (this.#inodeOf(name) !== last.inode) continue;
      const isAtPath = name === this.#name;
      const log = isAtPath ? this.#open(name) : this.#tryToOpen(name);
      if (log === undefined) continue;
      if (log.record === last) return void this.#logs.push(log);
      this.#fs.closeSync(log.descriptor);
      isThere = true;
    }
    this.#save({ ...last, state: isThere ? "truncated" : "left" });
    this.#report(
      new Error(
        isThere
          ? `${this.#path} was truncated while it was not followed; any lines that had not been read by then are lost`
          : `The file that was at ${this.#path} is no longer in its folder; any lines that had not been read from it are lost`,
      ),
    );
  }

  /** Makes records of the older files that are there in the beginning. */
  #passOver(): void {
    const records: FileRecord[] = [];
    const names = this.#listFolder((name) => this.#isOlder(name)) ?? [];
    const current = this.#inodeOf(this.#name);
    for (const name of names) {
      // It may be what a link at the path points to.
      if (this.#inodeOf(name) === current) continue;
      const log = this.#tryToOpen(name);
      if (log === undefined) continue;
      records.push(this.#recordOfAll(log));
      this.#fs.closeSync(log.descriptor);
    }
    this.#spool.database.setFollows(this.#path, records);
    for (const record of records) this.#records.set(record.id, record);
  }

  /**
   * Makes records of the copies of a file that has been truncated: a copy is shorter
   * than what was read if something was appended before the truncation.
   */
  #passOverCopies(original: Log): void {
    const names = this.#listFolder((name) => this.#isOlder(name)) ?? [];
    for (const name of names) {
      const log = this.#tryToOpen(name);
      if (log === undefined) continue;
      try {
        if (log.record === undefined && this.#isCopy(log, original)) {
          this.#save(this.#recordOfAll(log));
        }
      } finally {
        this.#fs.closeSync(log.descriptor);
      }
    }
  }

  /** Looks at what is at the path, and at the files that are being read. */
  #look(): void {
    try {
      if (!this.#isResumed) this.#resume();
      this.#isResumed = true;
      const inode = this.#inodeOf(this.#name);
      for (const log of [...this.#logs]) {
        // If nothing is at the path, nothing has replaced it yet.
        if (inode !== undefined) {
          log.isReplaced = log.isTruncated || log.inode !== inode;
        }
        this.#inspect(log);
      }
      // It need not be the last one: it may have got its old name back.
      const current = this.#logs.findIndex(({ isReplaced }) => !isReplaced);
      if (current >= 0) this.#logs.push(...this.#logs.splice(current, 1));
      if (this.#logs.every(({ isReplaced }) => isReplaced)) {
        const log = this.#open(this.#name);
        this.#logs.push(log);
        try {
          this.#openOlder();
        } catch (error) {
          this.#remove(log);
          throw error;
        }
      } else if (this.#records.size > this.#maxRecords) {
        this.#openOlder();
      }
      this.#problem = "";
    } catch (error) {
      const message = `Waiting for ${this.#path}: ${messageOf(error)}`;
      if (message !== this.#problem) {
        this.#report(new Error(message, { cause: error }));
      }
      this.#problem = message;
    }
  }

  /**
   * Opens the older files that have something to read, in the order of their latest
   * changes: they were at the path before the last log, and nobody noticed. Finds out
   * as well which records nobody can come across any more.
   */
  #openOlder(): void {
    let found: Log[] = [];
    let listed: ReadonlyMap<string, string>;
    let isStable = false;
    // A file that is renamed between the listing and the opening is missed.
    for (let i = 0; i < MAX_LISTINGS && !isStable; i++) {
      this.#close(found);
      listed = this.#listOlder();
      found = this.#openListed(listed.keys());
      isStable = String([...listed]) === String([...this.#listOlder()]);
    }
    const inodes = new Set(this.#logs.map(({ inode }) => inode));
    for (const { inode } of found) inodes.add(inode);
    // One that cannot be opened has its record still, and may be a copy.
    const areCopiesKnown = [...listed!.values()].every((inode) =>
      inodes.has(inode)
    );
    for (const inode of listed!.values()) inodes.add(inode);
    const originals = new Set(found.map((log) => this.#originalOf(log)));
    try {
      const older = this.#withoutCopies(found)
        .filter(({ position, size }) => position < size)
        .map((log) => ({ ...log, isReplaced: true }));
      const times = new Map(
        older.map((log) => [log, this.#fs.fstatSync(log.descriptor).mtimeMs]),
      );
      older.sort((a, b) => times.get(a)! - times.get(b)!);
      this.#logs.splice(-1, 0, ...older);
    } finally {
      const used = new Set(this.#logs.map(({ descriptor }) => descriptor));
      this.#close(found.filter(({ descriptor }) => !used.has(descriptor)));
    }
    const records = [...this.#records.values()];
    this.#gone = records.slice(0, -1).filter((record) =>
      isStable &&
      (record.state === "truncated"
        ? areCopiesKnown && !originals.has(record)
        : !inodes.has(record.inode))
    );
    this.#maxRecords = 2 * (records.length - this.#gone.length) + MIN_RECORDS;
  }

  /** The names of the older files, and their inodes. */
  #listOlder(): Map<string, string> {
    const names = this.#listFolder((name) => this.#isOlder(name)) ?? [];
    const files = new Map<string, string>();
    for (const name of names) {
      const info = this.#stat(name);
      if (info?.isFile()) files.set(name, `${info.ino}`);
    }
    return files;
  }

  /** Opens those of these files that are not open yet, and can be. */
  #openListed(names: Iterable<string>): Log[] {
    const inodes = new Set(this.#logs.map(({ inode }) => inode));
    const found: Log[] = [];
    for (const name of names) {
      const log = this.#tryToOpen(name);
      if (log === undefined) continue;
      if (inodes.has(log.inode)) this.#close([log]);
      else found.push(log);
      inodes.add(log.inode);
    }
    return found;
  }

  #close(logs: readonly Log[]): void {
    for (const { descriptor } of logs) this.#fs.closeSync(descriptor);
  }

  /**
   * Leaves out copies of files that have been truncated, and copies of the beginning of
   * another file that is there. Makes records of the latter, which may stay longer.
   */
  #withoutCopies(found: readonly Log[]): Log[] {
    const rest = new Set(found);
    for (const log of found) {
      const others = [...this.#logs, ...rest];
      if (this.#originalOf(log) !== undefined) rest.delete(log);
      else if (
        log.record === undefined &&
        others.some((other) => this.#isBeginning(log, other))
      ) {
        this.#save(this.#recordOfAll(log));
        rest.delete(log);
      }
    }
    return [...rest];
  }

  /** Whether a name is that of an older file, as programs for rotation choose it. */
  #isOlder(name: string): boolean {
    return name.startsWith(this.#name) &&
      /^[-._~]/.test(name.slice(this.#name.length)) && !COMPRESSED.test(name);
  }

  /**
   * The names in the folder; `undefined` if it cannot be listed, which may be
   * forbidden although the file can be read. Without the files of any spool that is
   * open: opening it here would drop its lock (side_files.ts).
   */
  #listFolder(filter: (name: string) => boolean): string[] | undefined {
    let names: string[];
    try {
      names = this.#fs.readdirSync(this.#folder);
    } catch {
      return undefined;
    }
    const isOfSpool = (name: string) =>
      names.includes(`${name.replace(SPOOL_SUFFIX, "")}-owner`);
    return names.filter((name) => filter(name) && !isOfSpool(name));
  }

  #inodeOf(name: string): string | undefined {
    const info = this.#stat(name);
    return info && `${info.ino}`;
  }

  #stat(name: string): BigIntStats | undefined {
    try {
      const path = this.#spool.modules.path.join(this.#folder, name);
      return this.#fs.statSync(path, { bigint: true });
    } catch {
      return undefined; // it may have been removed
    }
  }

  #tryToOpen(name: string): Log | undefined {
    try {
      return this.#open(name);
    } catch {
      return undefined; // it may be a folder, or have been removed
    }
  }

  /** Opens a file, at the position up to which it has been read. */
  #open(name: string): Log {
    const path = this.#spool.modules.path.join(this.#folder, name);
    // First: opening a pipe would wait for its other end.
    if (!this.#fs.statSync(path).isFile()) {
      throw new Error("it is no regular file");
    }
    const descriptor = this.#fs.openSync(path, "r");
    const info = this.#fs.fstatSync(descriptor, { bigint: true });
    const log: Log = {
      ...{ descriptor, inode: `${info.ino}`, position: 0 },
      ...{ head: new Uint8Array(), tail: new Uint8Array(), record: undefined },
      ...{ size: Number(info.size), changed: performance.now() },
      ...{ isInLine: false, isReplaced: false, isTruncated: false },
    };
    const record = [...this.#records.values()].findLast((record) =>
      record.inode === log.inode && record.state !== "truncated" &&
      this.#isFileOf(record, log)
    );
    if (record === undefined) return log;
    const { position } = record;
    const [head, tail] = this.#samples(log, position);
    // What was left in a line got a newline then.
    const isInLine = record.state === "reading" && tail.at(-1) !== NEWLINE;
    return { ...log, record, position, head, tail, isInLine };
  }

  /** The file that this is a copy of, made before that was truncated. */
  #originalOf(log: Log): FileRecord | undefined {
    return [...this.#records.values()].find((record) =>
      record.state === "truncated" && record.position > 0 &&
      this.#isFileOf(record, log)
    );
  }

  /** Whether all of a file is the beginning of another one. */
  #isBeginning(log: Log, other: Log): boolean {
    const { inode, size } = log;
    if (inode === other.inode || size === 0 || size > other.size) return false;
    const [head, tail] = this.#samples(log, size);
    const [otherHead, otherTail] = this.#samples(other, size);
    return startsWith(otherHead, head) && startsWith(otherTail, tail);
  }

  /** Whether a file is a copy of another, or of the beginning of what was read of it. */
  #isCopy(log: Log, { inode, position, head, tail }: Log): boolean {
    if (log.inode === inode || log.size === 0) return false;
    const [ownHead, ownTail] = this.#samples(log, position);
    return startsWith(head, ownHead) &&
      (log.size < position || startsWith(ownTail, tail));
  }

  /** Whether what was read of the file of a record is in this file. */
  #isFileOf({ position, head_crc, tail_crc }: FileRecord, log: Log): boolean {
    if (log.size < position) return false;
    const { crc32 } = this.#spool.modules.zlib;
    const [head, tail] = this.#samples(log, position);
    return crc32(head) === head_crc && crc32(tail) === tail_crc;
  }

  /** The samples of a file that was read up to a position. */
  #samples(
    log: Log,
    position: number,
  ): [head: Uint8Array<ArrayBuffer>, tail: Uint8Array<ArrayBuffer>] {
    return [
      this.#read(log, 0, Math.min(SAMPLE_SIZE, position)),
      this.#read(log, position - SAMPLE_SIZE, position),
    ];
  }

  // -- Reading --

  /**
   * Commits the next lines, or leaves a file.
   *
   * @returns Whether there may be more to do at once.
   */
  async #readOn(): Promise<boolean> {
    let isMore = true;
    await this.#persist(async () => {
      this.#forgetGone();
      const log = this.#logs[0];
      if (log === undefined) return void (isMore = false);
      if (log.isTruncated) {
        if (log.isInLine) await this.#append(log, Uint8Array.of(NEWLINE), 1);
        return this.#leave(log);
      }
      const bytes = this.#next(log);
      if (bytes !== undefined) isMore = await this.#commit(log, bytes);
    });
    return isMore;
  }

  /**
   * What follows the position; `undefined` if what comes before it is not what was
   * read, since the file has been truncated.
   */
  #next(log: Log): Uint8Array<ArrayBuffer> | undefined {
    const { descriptor, position, tail } = log;
    const { size } = this.#fs.fstatSync(descriptor);
    // Both by one read, so that they belong together.
    const bytes = this.#read(
      log,
      position - tail.length,
      Math.min(size, position + this.#options.capacity),
    );
    if (startsWith(bytes, tail)) return bytes.subarray(tail.length);
    this.#truncated(log);
    return undefined;
  }

  /** Commits the whole lines of what was read, and leaves a file at its end. */
  async #commit(log: Log, bytes: Uint8Array<ArrayBuffer>): Promise<boolean> {
    const isPiece = bytes.length >= this.#options.capacity;
    const size = bytes.lastIndexOf(NEWLINE) + 1 ||
      (isPiece ? bytes.length : 0);
    if (size > 0) {
      await this.#append(log, bytes.subarray(0, size), 0);
      return true;
    }
    const quietTime = performance.now() - log.changed;
    if (!log.isReplaced || quietTime < this.#options.quietTime) return false;
    if (bytes.length === 0 && !log.isInLine) {
      this.#leave(log);
    } else {
      const line = new Uint8Array(bytes.length + 1);
      line.set(bytes);
      line[bytes.length] = NEWLINE;
      await this.#append(log, line, 1);
    }
    return true;
  }

  /**
   * Commits bytes of a file.
   *
   * @param added 1 if the last one is a newline that the file does not have. Then it
   *   is left, in the same transaction: its end could not be told otherwise. One that
   *   was truncated is left by itself.
   */
  async #append(
    log: Log,
    bytes: Uint8Array<ArrayBuffer>,
    added: 0 | 1,
  ): Promise<void> {
    const ofFile = bytes.subarray(0, bytes.length - added);
    const { position, head, tail } = log;
    // At once: if the file is truncated while this waits for room, #inspect sees it.
    log.position += ofFile.length;
    log.head = concat(head, ofFile.subarray(0, SAMPLE_SIZE))
      .slice(0, SAMPLE_SIZE);
    log.tail = concat(tail, ofFile.subarray(-SAMPLE_SIZE)).slice(-SAMPLE_SIZE);
    const isLeft = added === 1 && !log.isTruncated;
    const record: FileRecord = {
      ...this.#recordOf(log),
      state: isLeft ? "left" : "reading",
    };
    try {
      await this.#spool.append(bytes, record, this.#options.signal);
    } catch (error) {
      Object.assign(log, { position, head, tail });
      throw error;
    }
    this.#records.set(record.id, record);
    log.record = record;
    log.isInLine = bytes.at(-1) !== NEWLINE;
    if (isLeft) this.#remove(log);
  }

  /** Notices that a file has changed, or was truncated. */
  #inspect(log: Log): void {
    if (log.isTruncated) return;
    const { size } = this.#fs.fstatSync(log.descriptor);
    const { position, tail } = log;
    const sample = this.#read(log, position - tail.length, position);
    if (size < log.size || !startsWith(sample, tail)) {
      return this.#truncated(log);
    }
    if (size > log.size) log.changed = performance.now();
    log.size = size;
  }

  /** Takes a file that was truncated for another one from there on. */
  #truncated(log: Log): void {
    // Now, while what was read of it is known, and not only a digest of that.
    this.#passOverCopies(log);
    const { isReplaced } = log;
    log.isTruncated = log.isReplaced = true;
    const { size } = this.#fs.fstatSync(log.descriptor);
    this.#logs.splice(this.#logs.indexOf(log) + 1, 0, {
      ...log,
      ...{ position: 0, size, changed: performance.now() },
      ...{ head: new Uint8Array(), tail: new Uint8Array(), record: undefined },
      ...{ isInLine: false, isReplaced, isTruncated: false },
    });
  }

  /** Leaves a file that has been read to its end, or that was truncated. */
  #leave(log: Log): void {
    const { isTruncated, size, position } = log;
    const lost = isTruncated ? Math.max(size - position, 0) : 0;
    if (log.record !== undefined || lost > 0) {
      const record = this.#recordOf(log);
      this.#save(
        { ...record, state: isTruncated ? "truncated" : "left" },
        lost,
      );
    }
    this.#remove(log);
    if (lost > 0) {
      this.#report(
        new Error(
          `${this.#path} was truncated before ${
            countOf(lost)
          } of it had been read; they are lost`,
        ),
      );
    }
  }

  #remove(log: Log): void {
    this.#logs.splice(this.#logs.indexOf(log), 1);
    const { descriptor } = log;
    if (this.#logs.some((other) => other.descriptor === descriptor)) return;
    this.#fs.closeSync(descriptor);
  }

  /** Reads a part of a file: less than that where the file ends. */
  #read(log: Log, start: number, end: number): Uint8Array<ArrayBuffer> {
    const from = Math.max(start, 0);
    const bytes = new Uint8Array(Math.max(end - from, 0));
    let size = 0;
    while (size < bytes.length) {
      const read = this.#fs.readSync(
        log.descriptor,
        bytes,
        size,
        bytes.length - size,
        from + size,
      );
      if (read === 0) break;
      size += read;
    }
    return bytes.subarray(0, size);
  }

  // -- Records --

  /** The record of a file as it is now. */
  #recordOf({ record, inode, position, head, tail }: Log): FileRecord {
    const { crc32 } = this.#spool.modules.zlib;
    // A file that was left may have grown after all. It has its turn again.
    const id = record?.state === "reading" ? record.id : this.#nextId++;
    const [head_crc, tail_crc] = [crc32(head), crc32(tail)];
    return { id, inode, position, head_crc, tail_crc, state: "reading" };
  }

  /** The record of a file all of which is passed over. */
  #recordOfAll(log: Log): FileRecord {
    const { size } = log;
    const [head, tail] = this.#samples(log, size);
    return {
      ...this.#recordOf({ ...log, position: size, head, tail }),
      state: "left",
    };
  }

  /** Forgets files that are not in the folder any more. */
  #forgetGone(): void {
    for (const record of this.#gone) {
      this.#spool.database.forgetFile(record);
      this.#records.delete(record.id);
    }
    this.#gone = [];
  }

  #save(record: FileRecord, lost = 0): void {
    this.#spool.database.saveFile(record, lost);
    this.#records.set(record.id, record);
  }

  #report(error: Error): void {
    notify(this.#options.onError, error);
  }
}

/** Waits, or until the signal is aborted. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, signal).catch(() => {});
}

function startsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  return bytes.length >= start.length &&
    start.every((byte, i) => byte === bytes[i]);
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}
