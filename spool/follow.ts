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
import { absolutePath, type Modules } from "../internal/node/platform.ts";
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
/** Rotated files that have been compressed, whose lines cannot be read. */
const COMPRESSED = /\.(gz|bz2|xz|zst|lz4|zip|Z)$/;

/** How every SQLite database begins (https://www.sqlite.org/fileformat.html, 1.3). */
const DATABASE_HEADER = new TextEncoder().encode("SQLite format 3\0");
/** How the names of the files beside a spool end. */
const SPOOL_SUFFIX = /-(owner|reserve|wal|shm|journal)$/;

/** Options of {@linkcode follow}. */
export interface FollowOptions {
  /**
   * Ends it. A line without its newline is left for the next time.
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
   * How often to look for what is new, in milliseconds. A file that comes and is
   * renamed within that time is found by its new name.
   *
   * @default {100}
   */
  pollInterval?: number;
  /**
   * How long a replaced file must have been unchanged before it is left, in
   * milliseconds: programs write to it until they open the new one.
   *
   * @default {3_000}
   */
  quietTime?: number;
  /**
   * Called when the file is missing or cannot be read, once until that changes; when
   * bytes of it were destroyed before they were read; and when bytes cannot be
   * committed. Nothing is lost but what was destroyed: the rest waits. What it throws
   * is ignored.
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
 * Both are of bytes that have been committed, and so must never change. If they have,
 * the file was truncated, however long it is now. The second sample is read and
 * compared each time, together with what follows it.
 *
 * WHAT IS READ WHEN. #logs has the files that have something to read, the oldest
 * first. #look finds them, every `pollInterval`, even while the reader waits for
 * room in the spool: what happens to files does not wait for that. Of each file only
 * whole lines are committed. It is left when it has been replaced, has been read to
 * its end, and has not changed for `quietTime`; a last line without a newline gets one
 * then, because what comes next does not continue it.
 *
 * A truncated file is read again from its beginning, as if it were another one.
 *
 * WHAT WAS MISSED. A file can be renamed, and the next one as well, between two looks:
 * within `pollInterval`, or while no process followed it. Then there are older files in
 * the folder, with names that begin with that of the file, that nobody has seen. What
 * they are depends on whether the file at the path is still the same:
 *
 *   it is another one   it was rotated by renaming, so each of them has been at the
 *                       path, and is read
 *   it is the same      nothing that was at the path has been renamed: they are copies,
 *                       as `copytruncate` makes them, and are passed over
 *
 * So each older file that was seen has a record, even if it was passed over, as are
 * all that are there when a file is followed for the first time. And a look during
 * which names change decides nothing.
 *
 * After a restart, the file that was being read is sought in the folder by its inode.
 * If its content is not what was read, the file was truncated, or it was removed and
 * its inode reused. The time of its creation tells which.
 * -------------------------------------------------------------------------- */

/** A file that has something to read, or may have. */
interface Log {
  readonly descriptor: number;
  readonly inode: string;
  readonly born: string;
  /** When it was changed last before it was opened, in ms since 1970. */
  readonly time: number;
  /** How many of its bytes have been committed, or are about to be. */
  position: number;
  /** The first of them, at most `SAMPLE_SIZE`. */
  head: Uint8Array<ArrayBuffer>;
  /** The last of them, at most `SAMPLE_SIZE`. */
  tail: Uint8Array<ArrayBuffer>;
  /** Its record, once something of it has been committed. */
  record: FileRecord | undefined;
  /** The size that it was last seen to have, in bytes. */
  size: number;
  /** When it was last seen to change, by `performance.now()`. */
  changed: number;
  /** What was committed last does not end with a newline. */
  isInLine: boolean;
  /** It is no longer at the path. */
  isReplaced: boolean;
  /** What was read of it is gone, so that the position means nothing. */
  isTruncated: boolean;
  /** How many bytes are known to have been destroyed before they were read. */
  lost: number;
}

/** What is where, at one moment. */
interface Folder {
  /** The inode at the path; `undefined` if nothing is there that can be looked at. */
  readonly current: string | undefined;
  /** The older files, by name; `undefined` if the folder cannot be listed. */
  readonly older: ReadonlyMap<string, OlderFile> | undefined;
}

/** An older file, as it is listed. */
interface OlderFile extends Identity {
  /** In bytes. */
  readonly size: number;
}

/** Tells a file from another that had its inode before. */
interface Identity {
  readonly inode: string;
  /** When it was created, in ns since 1970; "0" where that is not known. */
  readonly born: string;
}

/**
 * Follows a file that grows: commits each line that is appended to it to a spool, and
 * continues where the last process stopped, until `signal` is aborted.
 *
 * - **Each line that it could read is committed once**, whatever happens to the
 *   process: the position in the file is committed with the line.
 * - **Rotation by renaming** is followed, even if it happens while no process
 *   follows: the renamed files are sought in the same folder, and recognised by what
 *   is in them. Compressed files are not read.
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
 * @param spool Takes the lines. It may have followed the same path before, but must
 *   never have been used for anything else.
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
  /** What is known of files that may still be found, in the order of reading. */
  readonly #records: Map<number, FileRecord>;
  /** The id of the next record. One whose bytes wait to be committed has its own. */
  #nextId: number;
  /** The inode at the path, as of the latest look that decided anything. */
  #current: string | undefined;
  /** Older files that need not be opened again, by `knownAs`. */
  readonly #known = new Set<string>();
  /** Older files that are to be read, and could not be opened yet, by `keyOf`. */
  readonly #unreadable = new Set<string>();
  /** The record of a file that is gone, and whose last piece of a line was committed. */
  #unended: FileRecord | undefined;
  /** The records of files that can no longer be found. */
  #gone: FileRecord[] = [];
  /** Whether it is known what became of the file where the last process stopped. */
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
      this.#close(this.#logs);
    }
  }

  /**
   * Retries something until it succeeds, or the signal is aborted. A disk that is full
   * may have room again, and one that has failed may be back.
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
        // The spool has been closed: waiting would be in vain.
        if (error instanceof TypeError) throw error;
        this.#report(error as Error);
        await pause(RETRY_DELAY, signal);
      }
    }
  }

  // -- Finding files --

  /** Looks at what is at the path, and at the files that are being read. */
  #look(): void {
    try {
      const folder = this.#lookAtFolder();
      this.#isResumed ||= this.#resume(folder);
      if (!this.#isResumed) return;
      const { current } = folder;
      for (const log of this.#logs) {
        // If nothing is at the path, nothing has replaced it yet.
        if (current !== undefined) log.isReplaced = log.inode !== current;
        this.#inspect(log);
      }
      if (current !== undefined) this.#takeIn(folder);
      // Throws, and says why.
      else if (this.#logs.length === 0) this.#close([this.#open(this.#name)]);
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
   * Finds the file where the last process stopped.
   *
   * @returns Whether that is decided. While names are changing, it is not.
   * @throws If it may be the file at the path, and that cannot be opened.
   */
  #resume(folder: Folder): boolean {
    if (this.#spool.database.follows === undefined) {
      const older = this.#openOlder(folder);
      const log = this.#tryToOpen(this.#name);
      try {
        this.#passOver(older, this.#path);
        // So that it is known at a restart whether it is still the same.
        if (log && isBorn(log, log)) this.#save(this.#recordOf(log));
      } finally {
        this.#close(log ? [...older, log] : older);
      }
      this.#current = folder.current;
      return true;
    }
    const last = [...this.#records.values()]
      .findLast(isBeingRead);
    if (last === undefined) return true;
    const name = this.#nameOf(last.inode, folder);
    const log = name === this.#name
      ? this.#open(name)
      : name && this.#tryToOpen(name);
    const isSameFile = log && (log.record === last || isBorn(log, last));
    if (!isSameFile) {
      if (log) this.#close([log]);
      if (!isEqual(folder, this.#lookAtFolder())) return false;
      if (last.state === "in line") this.#unended = last;
      else this.#save({ ...last, state: "left" });
      this.#report(
        new Error(
          `The file that was at ${this.#path} is no longer in its folder; any lines that had not been read from it are lost`,
        ),
      );
      return true;
    }
    this.#current = last.inode;
    this.#logs.push(log);
    if (log.record !== last) {
      log.record = last;
      log.isInLine = last.state === "in line";
      log.isTruncated = true;
      this.#report(
        new Error(
          `${this.#path} was truncated while it was not followed; any lines that had not been read by then are lost`,
        ),
      );
    }
    return true;
  }

  /** Opens what is new in the folder, or passes it over. */
  #takeIn(folder: Folder): void {
    const { current } = folder;
    const isRotated = current !== this.#current;
    const isOpen = this.#logs.some(({ isReplaced }) => !isReplaced);
    if (isOpen && !isRotated && this.#newIn(folder).length === 0) return;
    const opened = this.#openOlder(folder);
    try {
      if (!isOpen) opened.push(this.#open(this.#name));
      // What was renamed meanwhile may have been missed. Then the next look decides.
      if (!isEqual(folder, this.#lookAtFolder())) return;
      const isMissed = (log: Log) =>
        isRotated || this.#unreadable.has(keyOf(log));
      const isCurrent = ({ inode }: Log) => inode === current;
      const unread = opened.filter((log) =>
        isCurrent(log) ||
        (log.record === undefined
          ? isMissed(log) && !this.#isDatabase(log)
          : hasGrown(log))
      );
      this.#passOver(opened.filter((log) => !unread.includes(log)));
      unread.sort((a, b) => a.time - b.time);
      for (const log of unread) log.isReplaced = !isCurrent(log);
      this.#logs.push(...unread);
      // What is at the path comes last, even if it has got its name back.
      const at = this.#logs.findIndex(({ isReplaced }) => !isReplaced);
      this.#logs.push(...this.#logs.splice(at, 1));
      if (isRotated) {
        for (const [, file] of this.#newIn(folder)) {
          this.#unreadable.add(keyOf(file));
        }
      }
      this.#current = current;
      this.#findGone(folder);
    } finally {
      this.#close(opened.filter((log) => !this.#logs.includes(log)));
    }
  }

  /** The older files that are neither known nor open. */
  #newIn({ older = new Map() }: Folder): [name: string, file: OlderFile][] {
    return [...older].filter(([, file]) =>
      !this.#known.has(knownAs(file)) &&
      !this.#logs.some(({ inode }) => inode === file.inode)
    );
  }

  /** Opens those of the older files that are new and can be opened. */
  #openOlder(folder: Folder): Log[] {
    return this.#newIn(folder).flatMap(([name]) => this.#tryToOpen(name) ?? []);
  }

  /**
   * Makes records of files that are not read, unless they have one.
   *
   * @param follows The path, if it is followed from now on.
   */
  #passOver(logs: readonly Log[], follows?: string): void {
    const records = logs
      // An empty one may yet become a file of its own.
      .filter(({ record, size }) => record === undefined && size > 0)
      .map((log) => this.#recordOfAll(log));
    if (records.length > 0 || follows !== undefined) {
      this.#spool.database.saveFiles(records, { follows });
    }
    for (const record of records) this.#records.set(record.id, record);
    for (const log of logs) this.#known.add(knownAs(log));
  }

  /** Finds the records of files that can no longer be found. */
  #findGone({ current, older }: Folder): void {
    if (older === undefined) return;
    const files = [...older.values()];
    keepOnly(this.#known, files.map(knownAs));
    keepOnly(this.#unreadable, files.map(keyOf));
    const inodes = new Set(
      [...files, ...this.#logs].map(({ inode }) => inode),
    ).add(current!);
    const records = [...this.#records.values()];
    this.#gone = records.filter((record) =>
      !isBeingRead(record) &&
      (!inodes.has(record.inode) ||
        records.some(({ inode, id }) =>
          inode === record.inode && id > record.id
        ))
    );
  }

  /** What is in the folder, as far as it can be looked at. */
  #lookAtFolder(): Folder {
    const current = this.#identify(this.#name)?.inode;
    const names = this.#listFolder((name) => this.#isOlder(name));
    const inodes = new Set([current]);
    const older = names?.flatMap((name) => {
      const file = this.#identify(name);
      // Names may be links to the same file, and what is at the path a link to one.
      if (file === undefined || inodes.has(file.inode)) return [];
      inodes.add(file.inode);
      return [[name, file]] as const;
    });
    return { current, older: older && new Map(older) };
  }

  /** The name of the file with an inode, whatever that name is. */
  #nameOf(inode: string, { current, older }: Folder): string | undefined {
    if (current === inode) return this.#name;
    const names = older?.keys() ?? [];
    const all = this.#listFolder(() => true) ?? [];
    return [...names, ...all]
      .find((name) => this.#identify(name)?.inode === inode);
  }

  /** Whether a name is that of an older file, as programs for rotation choose it. */
  #isOlder(name: string): boolean {
    return name.startsWith(this.#name) &&
      /^[-._~]/.test(name.slice(this.#name.length)) && !COMPRESSED.test(name);
  }

  /**
   * The names in the folder; `undefined` if it cannot be listed, which may be
   * forbidden although the file can be read. Without the files of any spool that is
   * open: opening it here would drop its lock (internal/node/owner_file.ts).
   */
  #listFolder(filter: (name: string) => boolean): string[] | undefined {
    let names: string[];
    try {
      names = this.#fs.readdirSync(this.#folder);
    } catch {
      return undefined;
    }
    const isOfSpool = (name: string) => {
      const spool = name.replace(SPOOL_SUFFIX, "");
      // One that is closed leaves its reserve if something waits in it.
      return names.includes(`${spool}-owner`) ||
        spool !== name && spool !== this.#name && names.includes(spool);
    };
    return names.filter((name) => filter(name) && !isOfSpool(name));
  }

  /** Which file has a name; `undefined` if there is no regular file. */
  #identify(name: string): OlderFile | undefined {
    try {
      const path = this.#spool.modules.path.join(this.#folder, name);
      const info = this.#fs.statSync(path, { bigint: true });
      if (!info.isFile()) return undefined;
      return { ...identityOf(info), size: Number(info.size) };
    } catch {
      return undefined; // it may have been removed
    }
  }

  #tryToOpen(name: string): Log | undefined {
    try {
      return this.#open(name);
    } catch {
      return undefined; // it may have been removed
    }
  }

  /** Opens a file, at the position up to which it has been read. */
  #open(name: string): Log {
    const path = this.#spool.modules.path.join(this.#folder, name);
    // First: opening a pipe would wait for its other end.
    if (!this.#fs.statSync(path).isFile()) {
      throw new Error("it is not a regular file");
    }
    const descriptor = this.#fs.openSync(path, "r");
    const info = this.#fs.fstatSync(descriptor, { bigint: true });
    const log: Log = {
      ...{ descriptor, ...identityOf(info), time: Number(info.mtimeMs) },
      ...{ position: 0, head: new Uint8Array(), tail: new Uint8Array() },
      ...{ record: undefined, size: Number(info.size) },
      ...{ changed: performance.now(), isInLine: false },
      ...{ isReplaced: false, isTruncated: false, lost: 0 },
    };
    // What is at the path is read, even if it was passed over when it was elsewhere.
    const record = [...this.#records.values()].findLast((record) =>
      this.#isFileOf(record, log) &&
      (record.state !== "passed over" || name !== this.#name)
    );
    if (record === undefined) return log;
    const { position } = record;
    const [head, tail] = this.#samples(log, position);
    const isInLine = record.state === "in line";
    return { ...log, record, position, head, tail, isInLine };
  }

  #close(logs: readonly Log[]): void {
    for (const { descriptor } of logs) this.#fs.closeSync(descriptor);
  }

  /** Whether it is the file of a record: what was read of that is in it. */
  #isFileOf(record: FileRecord, log: Log): boolean {
    const { inode, position, head_crc, tail_crc } = record;
    if (inode !== log.inode || log.size < position) return false;
    if (position === 0) return isBorn(log, record);
    const { crc32 } = this.#spool.modules.zlib;
    const [head, tail] = this.#samples(log, position);
    return crc32(head) === head_crc && crc32(tail) === tail_crc;
  }

  /** Whether it is a database: a spool that nobody has open may have such a name. */
  #isDatabase(log: Log): boolean {
    const bytes = this.#read(log, 0, DATABASE_HEADER.length);
    return startsWith(bytes, DATABASE_HEADER);
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
      if (this.#unended !== undefined) await this.#endLine(this.#unended);
      const log = this.#logs[0];
      if (log === undefined) isMore = false;
      else if (log.isTruncated) await this.#begin(log);
      else {
        const bytes = this.#next(log);
        if (bytes !== undefined) isMore = await this.#commit(log, bytes);
      }
    });
    return isMore;
  }

  /** Ends the line that a file which is gone has left: what comes next is another one. */
  async #endLine(unended: FileRecord): Promise<void> {
    const record: FileRecord = { ...unended, state: "left" };
    await this.#spool.append(
      Uint8Array.of(NEWLINE),
      record,
      this.#options.signal,
    );
    this.#records.set(record.id, record);
    this.#unended = undefined;
  }

  /**
   * What follows the position; `undefined` if what comes before it is not what was
   * read, since the file has been truncated.
   */
  #next(log: Log): Uint8Array<ArrayBuffer> | undefined {
    const { position, tail } = log;
    // Both by one read, so that they belong together.
    const bytes = this.#read(
      log,
      position - tail.length,
      Math.min(this.#sizeOf(log), position + this.#options.capacity),
    );
    // Where nothing has been read, only the size tells. It is taken after what was
    // read: if the file was truncated before that, this is noticed here, and not by
    // the next look, which would have the new lines read twice.
    if (this.#sizeOf(log) >= log.size && startsWith(bytes, tail)) {
      return bytes.subarray(tail.length);
    }
    this.#inspect(log);
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
   * @param added 1 if the last one is a newline that the file does not have. Then the
   *   file is left in the same transaction: a restart could not tell otherwise that its
   *   last line has ended.
   */
  async #append(
    log: Log,
    bytes: Uint8Array<ArrayBuffer>,
    added: 0 | 1,
  ): Promise<void> {
    const ofFile = bytes.subarray(0, bytes.length - added);
    // At once: if the file is truncated while this waits for room, #inspect must know
    // that these bytes have been read.
    log.position += ofFile.length;
    log.head = concat(log.head, ofFile.subarray(0, SAMPLE_SIZE))
      .slice(0, SAMPLE_SIZE);
    log.tail = concat(log.tail, ofFile.subarray(-SAMPLE_SIZE))
      .slice(-SAMPLE_SIZE);
    log.isInLine = bytes.at(-1) !== NEWLINE;
    const record: FileRecord = {
      ...this.#recordOf(log),
      state: added === 1 ? "left" : log.isInLine ? "in line" : "reading",
    };
    // They cannot be read again if the file is truncated.
    await this.#persist(async () => {
      await this.#spool.append(bytes, record, this.#options.signal);
      this.#records.set(record.id, record);
      log.record = record;
      if (added === 1) this.#remove(log);
    });
  }

  /** Notices that a file has changed, or was truncated. */
  #inspect(log: Log): void {
    const { isTruncated, tail, position } = log;
    const isSame = isTruncated ||
      startsWith(this.#read(log, position - tail.length, position), tail);
    // After the read: a size from before a truncation would tell of it once more.
    const size = this.#sizeOf(log);
    const isDestroyed = size < log.size || !isSame;
    if (isDestroyed) {
      log.lost += Math.max(log.size - (isTruncated ? 0 : position), 0);
      log.isTruncated = true;
    }
    if (isDestroyed || size > log.size) log.changed = performance.now();
    log.size = size;
  }

  /** Starts over with a file that has been truncated. */
  async #begin(log: Log): Promise<void> {
    if (log.isInLine) {
      const record: FileRecord = { ...log.record!, state: "reading" };
      await this.#spool.append(
        Uint8Array.of(NEWLINE),
        record,
        this.#options.signal,
      );
      log.record = record;
      log.isInLine = false;
    }
    const { lost } = log;
    const none = { head: new Uint8Array(), tail: new Uint8Array() };
    const record = this.#recordOf({ ...log, position: 0, ...none });
    this.#save(record, lost);
    Object.assign(log, { position: 0, ...none, record, isTruncated: false });
    log.lost -= lost;
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

  /** Leaves a file that has been read to its end. */
  #leave(log: Log): void {
    // An empty one has no record.
    if (log.record !== undefined) {
      this.#save({ ...this.#recordOf(log), state: "left" });
    }
    this.#remove(log);
  }

  #remove(log: Log): void {
    this.#logs.splice(this.#logs.indexOf(log), 1);
    this.#close([log]);
  }

  #sizeOf({ descriptor }: Log): number {
    return this.#fs.fstatSync(descriptor).size;
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
  #recordOf({ record, inode, born, position, head, tail }: Log): FileRecord {
    const { crc32 } = this.#spool.modules.zlib;
    // A file that was left may have grown after all. It has its turn again.
    const id = record && isBeingRead(record) ? record.id : this.#nextId++;
    const [head_crc, tail_crc] = [crc32(head), crc32(tail)];
    return { id, inode, born, position, head_crc, tail_crc, state: "reading" };
  }

  /** The record of a file that is passed over. */
  #recordOfAll(log: Log): FileRecord {
    const { size } = log;
    const [head, tail] = this.#samples(log, size);
    return {
      ...this.#recordOf({ ...log, position: size, head, tail }),
      state: "passed over",
    };
  }

  #save(record: FileRecord, lost = 0): void {
    this.#spool.database.saveFiles([record], { lost });
    this.#records.set(record.id, record);
  }

  /** Forgets the records of files that can no longer be found. */
  #forgetGone(): void {
    if (this.#gone.length === 0) return;
    this.#spool.database.saveFiles([], { forgotten: this.#gone });
    for (const { id } of this.#gone) this.#records.delete(id);
    this.#gone = [];
  }

  #report(error: Error): void {
    notify(this.#options.onError, error);
  }
}

function identityOf({ ino, birthtimeNs }: BigIntStats): Identity {
  return { inode: `${ino}`, born: `${birthtimeNs}` };
}

function keyOf({ inode, born }: Identity): string {
  return `${inode} ${born}`;
}

/** Whether it is that very file, and not a later one with the same inode. */
function isBorn(log: Log, { inode, born }: Identity): boolean {
  return log.inode === inode && log.born === born && born !== "0";
}

/** Whether a file has not been read to its end yet. */
function isBeingRead({ state }: FileRecord): boolean {
  return state === "reading" || state === "in line";
}

/** Whether a file that was left has grown all the same. */
function hasGrown({ record, position, size }: Log): boolean {
  return record?.state !== "passed over" && position < size;
}

/** A file that has grown is not known: it may have been left too early. */
function knownAs(file: OlderFile): string {
  return `${keyOf(file)} ${file.size}`;
}

function keepOnly(set: Set<string>, keys: readonly string[]): void {
  for (const key of set) if (!keys.includes(key)) set.delete(key);
}

/** Whether the same files have the same names. */
function isEqual(a: Folder, b: Folder): boolean {
  const textOf = ({ current, older = new Map() }: Folder) =>
    JSON.stringify([
      current,
      ...[...older].map(([name, file]) => [name, keyOf(file)]),
    ]);
  return textOf(a) === textOf(b);
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
