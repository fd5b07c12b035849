/** A store in an SQLite database. */
import type { StatementSync } from "node:sqlite";
import { property, show } from "../internal/checks.ts";
import type { LockedDatabase } from "../internal/node/database.ts";
import { codeOf } from "../internal/node/file_errors.ts";
import { loadModules, realPath } from "../internal/node/platform.ts";
import {
  BatchDatabase,
  formatOf,
  isNew,
  type Row,
  toStoreError,
} from "./batch_database.ts";
import { streamOf, verify } from "./bytes.ts";
import { Groups, type Job } from "./group.ts";
import { checkDurability, oldest } from "./options.ts";
import {
  type AddResult,
  type Batch,
  type OnBatch,
  type Pruned,
  type Store,
  StoreError,
} from "./store.ts";
import { Thrown } from "./thrown.ts";

const ACTION = "Cannot open the store";

/** "SBrs", in the header of the file. */
const FORMAT = formatOf("SqliteStore", 0x53427273);

/** What a column of SQLite may be given, and holds. */
export type SqliteValue = string | number | bigint | null | Uint8Array;

/** Makes changes in the transaction that stores a batch, or in one of its own. */
export interface SqliteTransaction {
  /**
   * Runs a statement that yields no rows.
   *
   * @param sql One statement, with a `?` for each value.
   * @param values The values, in that order.
   * @throws {TypeError} If the transaction has ended, or the statement would end it.
   * @throws {Error} Whatever SQLite throws.
   */
  run(sql: string, ...values: SqliteValue[]): void;
  /**
   * Runs a query, and returns its rows.
   *
   * @param sql One statement, with a `?` for each value.
   * @param values The values, in that order.
   * @throws As `run` does.
   */
  all(sql: string, ...values: SqliteValue[]): Record<string, SqliteValue>[];
}

/** Options of a {@linkcode SqliteStore}. */
export interface SqliteStoreOptions {
  /**
   * What a batch survives once it is stored: `"power"` syncs the disk, `"process"` does
   * not, so that a power cut or a crash of the system may lose the latest batches, although
   * their senders count them as delivered.
   *
   * @default {"power"}
   */
  durability?: "power" | "process";
}

/** What is added, and whose `onBatch` sees it. */
interface Item {
  readonly batch: Batch;
  readonly onBatch: OnBatch<SqliteTransaction> | undefined;
}

/**
 * Keeps batches in an SQLite database, by `node:sqlite`: the store for one receiver on
 * one machine. It works in Deno 2.8, Node 22.13 and Bun 1.4.5 or newer.
 *
 * - **Key and bytes are stored in one transaction**, which is synced before `add` is
 *   fulfilled. Batches that arrive at the same time share one.
 * - **In order**: {@linkcode SqliteStore.read} sorts by sequence number, whatever the
 *   order of arrival.
 * - **Every byte is checked** against its digest when it is read.
 * - **One process at a time.** The file is locked while it is open; the error of a second
 *   one says who has it. A process that is killed leaves no lock.
 * - **A full disk stops it from adding, not from forgetting**: 8 MiB for
 *   {@linkcode SqliteStore.prune} are reserved by a file beside it, `FILE-reserve`.
 * - **A file that is not a store is not changed.**
 *
 * `onBatch` is given a {@linkcode SqliteTransaction}, and must not return a promise: the
 * transaction ends when it returns.
 *
 * @example Usage
 * ```ts
 * import { receive, SqliteStore } from "@stream-buffer/stream-buffer/receiver";
 *
 * const path = `${Deno.makeTempDirSync()}/received.db`;
 * await using store = new SqliteStore(path);
 * const handler = receive({ store });
 *
 * await handler(
 *   new Request("http://localhost/", {
 *     method: "POST",
 *     headers: { "Idempotency-Key": '"example-0"' },
 *     body: "hello\n",
 *   }),
 * );
 * const text = await new Response(store.read("example")).text();
 * console.assert(text === "hello\n");
 * ```
 *
 * @example Rows of a table of your own, each exactly once
 * ```ts
 * import { receive, SqliteStore } from "@stream-buffer/stream-buffer/receiver";
 *
 * const path = `${Deno.makeTempDirSync()}/received.db`;
 * await using store = new SqliteStore(path);
 * store.transaction((db) => db.run("create table if not exists line (text)"));
 *
 * const handler = receive({
 *   store,
 *   onBatch({ bytes }, db) {
 *     const lines = new TextDecoder().decode(bytes).trimEnd().split("\n");
 *     for (const line of lines) db.run("insert into line values (?)", line);
 *   },
 * });
 *
 * for (let attempt = 1; attempt <= 2; attempt++) {
 *   await handler(
 *     new Request("http://localhost/", {
 *       method: "POST",
 *       headers: { "Idempotency-Key": '"example-0"' },
 *       body: "one\ntwo\n",
 *     }),
 *   );
 * }
 * const rows = store.transaction((db) => db.all("select text from line"));
 * console.assert(rows.length === 2);
 * ```
 */
export class SqliteStore implements Store<SqliteTransaction>, AsyncDisposable {
  readonly #database: BatchDatabase;
  readonly #groups: Groups<Item, AddResult>;

  /**
   * Opens the file, and creates it if it does not exist.
   *
   * @param path Where it is, or is to be. There are others beside it, whose names begin
   *   with this one. Deno needs permission for it, `FILE-owner` and `FILE-reserve`.
   * @param options What to change.
   * @throws {TypeError} If this platform has no `node:sqlite`.
   * @throws {StoreError} If it cannot be opened, is in use, or is not a store.
   */
  constructor(path: string | URL, options: SqliteStoreOptions = {}) {
    const { durability = "power" } = options;
    checkDurability(ACTION, { durability });
    const modules = loadModules(ACTION);
    const file = realPath(ACTION, path, modules);
    this.#database = new BatchDatabase(modules, file, FORMAT, durability);
    this.#groups = new Groups(
      ({ batch }) => batch.bytes.length,
      (jobs) => this.#addAll(jobs),
    );
  }

  /**
   * Stores a batch, if its key is not known.
   *
   * @param batch The batch.
   * @param onBatch Called within the transaction, if it is new.
   * @returns What was done.
   * @throws {StoreError} If it cannot be stored.
   */
  async add(
    batch: Batch,
    onBatch?: OnBatch<SqliteTransaction>,
  ): Promise<AddResult> {
    this.#database.throwIfClosing("Cannot add to");
    return await this.#groups.add({ batch, onBatch });
  }

  #addAll(jobs: readonly Job<Item, AddResult>[]): void {
    try {
      this.#addTogether(jobs);
    } catch (error) {
      if (error instanceof StoreError && error.code === "full") {
        return this.#settleKnown(jobs, error);
      }
      const hasForeignCode = jobs.some(({ input }) => input.onBatch);
      if (jobs.length === 1 || !hasForeignCode) throw error;
      // One of them may have rolled back the transaction of all.
      for (const job of jobs) this.#addAlone(job);
    }
  }

  /** Settles jobs for which there was no room: those that are known need none. */
  #settleKnown(jobs: readonly Job<Item, AddResult>[], error: StoreError): void {
    try {
      for (const { input, resolve, reject } of jobs) {
        const result = this.#database.outcomeOf(input.batch);
        if (isNew(result)) reject(error);
        else resolve(result);
      }
    } catch {
      throw error; // that it cannot be read either is no news
    }
  }

  #addAlone(job: Job<Item, AddResult>): void {
    try {
      this.#addTogether([job]);
    } catch (error) {
      job.reject(error);
    }
  }

  /** Adds batches in one transaction. */
  #addTogether(jobs: readonly Job<Item, AddResult>[]): void {
    let size = 0;
    for (const { input } of jobs) size += input.batch.bytes.length;
    let results: (AddResult | Thrown)[];
    this.#database.add("Cannot add to", size, () => {
      results = jobs.map(({ input }) => this.#addOne(input));
    });
    jobs.forEach(({ resolve, reject }, index) => {
      const result = results[index]!;
      if (result instanceof Thrown) reject(result.error);
      else resolve(result);
    });
  }

  /** Adds one of several, in the transaction under way. */
  #addOne({ batch, onBatch }: Item): AddResult | Thrown {
    const result = this.#database.outcomeOf(batch);
    if (!isNew(result)) return result;
    if (onBatch !== undefined) {
      const called = this.#call((transaction) => onBatch(batch, transaction));
      if (called instanceof Thrown) return called;
    }
    this.#database.insert(batch);
    return result;
  }

  /**
   * Runs statements of your own in one transaction: to create the tables that `onBatch`
   * writes to, and to query them, as no other connection can while the store is open.
   *
   * @param work Runs them. It must not return a promise.
   * @returns What it returns.
   * @throws {StoreError} If the transaction cannot be made.
   * @throws Whatever `work` throws. Then nothing has changed.
   */
  transaction<T>(work: (transaction: SqliteTransaction) => T): T {
    let result: T | Thrown;
    this.#database.add("Cannot change", 0, () => {
      result = this.#call(work);
    });
    if (result! instanceof Thrown) throw result.error;
    return result!;
  }

  /** Calls the user's code. If it fails, what it has changed is rolled back. */
  #call<T>(work: (transaction: SqliteTransaction) => T): T | Thrown {
    const { db } = this.#database;
    const transaction = new Transaction(db);
    db.run("savepoint batch");
    try {
      const result = work(transaction);
      if (typeof property(result, "then") === "function") {
        if (result instanceof Promise) result.catch(() => {});
        throw new TypeError(
          "Cannot wait for a promise in a transaction of a SqliteStore: it ends when the function returns",
        );
      }
      transaction.throwIfRolledBack();
      db.run("release batch");
      return result;
    } catch (error) {
      transaction.throwIfRolledBack();
      db.run("rollback to batch");
      db.run("release batch");
      // A full disk is not the fault of that code.
      return new Thrown(
        codeOf(error) === "full"
          ? toStoreError(`Cannot add to the store ${db.path}`, error)
          : error,
      );
    } finally {
      transaction.end();
    }
  }

  /**
   * The bytes that are stored of a stream, in order.
   *
   * @param id The stream.
   * @returns Its bytes; none if it is not known. The stream fails with a `StoreError` if
   *   a batch is not what was stored, or the store is closed.
   */
  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this.#read(id));
  }

  async *#read(id: string): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const action = `Cannot read from the store ${this.#database.db.path}`;
    let last: Row | undefined;
    for (;;) {
      const row = this.#next(action, id, last);
      if (row === undefined) return;
      const bytes = row.bytes ?? new Uint8Array();
      await verify(bytes, { action, id, ...row });
      yield bytes;
      last = { ...row, bytes: null };
    }
  }

  #next(action: string, id: string, last: Row | undefined): Row | undefined {
    this.#database.throwIfClosed("Cannot read from");
    try {
      return this.#database.next(id, last);
    } catch (error) {
      throw toStoreError(action, error);
    }
  }

  /**
   * Forgets the batches that arrived longer ago than `age`. Their keys stay known: if
   * one comes again, it is not stored again. The file becomes shorter when more than
   * half of it is unused.
   *
   * @param age How long ago, in milliseconds.
   * @returns How much was forgotten.
   * @throws {RangeError} If `age` is negative, or not a number.
   * @throws {StoreError} If that fails.
   */
  async prune(age: number): Promise<Pruned> {
    const limit = oldest("Cannot prune the SqliteStore", age);
    this.#database.throwIfClosing("Cannot prune");
    return await this.#database.forget("at < ?", limit);
  }

  /** Stores what has been added, and closes the file. Called again, it does nothing. */
  async close(): Promise<void> {
    this.#database.beginClosing();
    await this.#groups.idle();
    this.#database.close();
  }

  /** Closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A transaction, as the user's code sees it. */
class Transaction implements SqliteTransaction {
  readonly #db: LockedDatabase;
  /** Often one of them is run for each record of a batch. */
  readonly #statements = new Map<string, StatementSync>();
  #hasEnded = false;
  /** What made SQLite roll back the whole transaction, if anything did. */
  #rolledBackBy: Thrown | undefined;

  constructor(db: LockedDatabase) {
    this.#db = db;
  }

  run(sql: string, ...values: SqliteValue[]): void {
    this.#call(sql, (statement) => statement.run(...values));
  }

  all(sql: string, ...values: SqliteValue[]): Record<string, SqliteValue>[] {
    return this.#call(sql, (statement) => statement.all(...values));
  }

  #call<T>(sql: string, work: (statement: StatementSync) => T): T {
    if (this.#hasEnded) {
      throw new TypeError(
        "Cannot run a statement: the transaction has ended; it ends when the function that received it returns",
      );
    }
    // Outside of a transaction, a statement would be one of its own.
    this.throwIfRolledBack();
    try {
      return work(this.#prepared(sql));
    } catch (error) {
      if (!this.#db.isInTransaction) this.#rolledBackBy = new Thrown(error);
      throw error;
    }
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      const [, , verb = ""] = START.exec(sql) ?? [];
      if (ENDING.includes(verb.toLowerCase())) {
        throw new TypeError(
          `Cannot run a statement: ${verb} is not allowed in a transaction of the store`,
        );
      }
      statement = this.#db.prepare(sql);
      checkRest(sql.slice(statement.sourceSQL.length));
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** Throws what made SQLite roll back the whole transaction, if anything did. */
  throwIfRolledBack(): void {
    if (this.#rolledBackBy !== undefined) throw this.#rolledBackBy.error;
  }

  end(): void {
    this.#hasEnded = true;
  }
}

/** SQLite ignores what follows the first statement. */
function checkRest(rest: string): void {
  if (START.exec(rest)?.[1] === rest) return;
  throw new TypeError(
    `Cannot run a statement: another one follows it, ${show(rest.trim())}`,
  );
}

/** What SQLite skips at the beginning of a statement, and the first word. */
const START = /^((?:[\s;]|--.*|\/\*[^]*?\*\/)*)(\w*)/;

/** What begins and ends transactions, or is impossible in one. */
const ENDING = [
  ...["begin", "commit", "end", "rollback", "savepoint", "release"],
  ...["attach", "detach", "vacuum", "pragma"],
];
