/**
 * {@linkcode PostgresStore}: a store in PostgreSQL, for as many receivers as one likes.
 *
 * @example Usage
 * ```ts ignore
 * import { receive } from "@stream-buffer/stream-buffer/receiver";
 * import { PostgresStore } from "@stream-buffer/stream-buffer/receiver/postgres";
 *
 * await using store = new PostgresStore("postgres://app:secret@db.example.com/app");
 * await Deno.serve(receive({ store })).finished;
 * ```
 *
 * @module
 */
import pg from "pg";
import {
  check,
  checkDuration,
  checkInteger,
  MAX_DURATION,
  messageOf,
} from "../internal/checks.ts";
import { handled } from "../internal/promises.ts";
import { streamOf, verify } from "./bytes.ts";
import { oldest } from "./options.ts";
import { codeOf, stateOf, toStoreError } from "./postgres_errors.ts";
import { type Queries, queriesOf, VERSION } from "./postgres_schema.ts";
import {
  type AddResult,
  type Batch,
  type OnBatch,
  type Pruned,
  type Store,
  StoreError,
} from "./store.ts";
import { Thrown } from "./thrown.ts";

const ACTION = "Cannot create PostgresStore";
/**
 * How much later than the server the client gives up, in milliseconds. By then the
 * connection is dead.
 */
const TIMEOUT_MARGIN = 1_000;
/**
 * The advisory lock of those who create the tables: "SBpg". No other may have it, but if
 * one does, all that happens is that one waits for the other.
 */
const CREATE_LOCK = 0x53427067;
/**
 * Only the transaction that set the savepoint can release it: if it has failed, or was
 * ended by `onBatch`, then `COMMIT` fails, which otherwise would seem to succeed.
 */
const BEGIN = "begin; savepoint stream_buffer";
const COMMIT = "release savepoint stream_buffer; commit";

/** A result, as far as it is used. */
export interface PostgresResult {
  /** The rows, by the names of the columns. */
  readonly rows: Record<string, unknown>[];
  /** How many rows were read or changed; `null` for statements that do neither. */
  readonly rowCount: number | null;
}

/** Makes changes in the transaction that stores a batch. */
export interface PostgresTransaction {
  /**
   * Runs a statement, after those before it.
   *
   * If it fails, the batch cannot be stored any more, even if the error is caught, as in
   * any transaction of PostgreSQL. To continue after an error, set a savepoint first.
   *
   * @param sql The statement, with `$1`, `$2` and so on for the values.
   * @param values The values, in that order.
   * @returns Its result. Columns are converted by {@link https://node-postgres.com | pg}:
   *   a `bigint` is a string.
   * @throws {TypeError} If the transaction has ended.
   * @throws {StoreError} If the database cannot be reached, or its disk is full.
   * @throws {Error} Any other error that the server reports, as pg throws it.
   */
  query(sql: string, values?: unknown[]): Promise<PostgresResult>;
}

/** Options of a {@linkcode PostgresStore}. */
export interface PostgresStoreOptions {
  /**
   * How many connections it makes, at most. Each adds one batch at a time; more batches
   * wait for one of them.
   *
   * @default {10}
   */
  maxConnections?: number;
  /**
   * The schema of its tables and functions. It is created if it does not exist. A name
   * of at most 63 letters, digits and underscores.
   *
   * @default {"stream_buffer"}
   */
  schema?: string;
  /**
   * How long a connection and each statement may take, and `onBatch` between two
   * statements, in milliseconds. Then the error is `"busy"`.
   *
   * @default {10_000}
   */
  timeout?: number;
}

/** A connection, as far as it is used. */
interface Client {
  query(sql: string, values?: unknown[]): Promise<PostgresResult>;
  on(event: "error", listener: (error: unknown) => void): void;
  off(event: "error", listener: (error: unknown) => void): void;
  /** Gives it back, or closes it. */
  release(isBroken: boolean): void;
}

/** Connections, as far as they are used. */
interface Pool {
  connect(): Promise<Client>;
  query(sql: string, values?: unknown[]): Promise<PostgresResult>;
  on(event: "error", listener: () => void): void;
  end(): Promise<void>;
}
const { Pool } = pg as { Pool: new (options: object) => Pool };

/**
 * Keeps batches in PostgreSQL, 14 or newer: the store for several receivers, on any
 * number of machines, behind a load balancer. It connects through
 * {@link https://node-postgres.com | pg}.
 *
 * - **Exactly once, at any number of receivers.** The same batch, at the same time at
 *   two of them, is stored once; both respond that it is stored.
 * - **Key and bytes are stored in one transaction**, with what `onBatch` does in it. A
 *   transaction waits for the disk, even if `synchronous_commit` is off by default.
 * - **In order**: {@linkcode PostgresStore.read} sorts by sequence number, whatever the
 *   order of arrival.
 * - **Every byte is checked** against its digest when it is read.
 * - **A database that is down is waited for**, by the senders: nothing is connected
 *   before the first batch, each fails with `"busy"` meanwhile, and the first one after
 *   that makes new connections. If one is lost during a commit, the next attempt finds
 *   out what came of it.
 * - **Nothing hangs**: see {@linkcode PostgresStoreOptions.timeout}.
 * - **What is not a store is not changed.** Tables that others, or a later version of this
 *   library, have made are recognised.
 *
 * The first of the receivers creates the tables, so its user has to be allowed to. Behind
 * PgBouncer, let it pool sessions, as timeouts are set once for each connection.
 *
 * On Deno it needs network permission for the server, and `--ignore-env` or `--allow-env`,
 * as pg looks for `PGPASSWORD` and others.
 *
 * @example Rows of a table of your own, each exactly once
 * ```ts ignore
 * import { receive } from "@stream-buffer/stream-buffer/receiver";
 * import { PostgresStore } from "@stream-buffer/stream-buffer/receiver/postgres";
 *
 * await using store = new PostgresStore("postgres://app:secret@db.example.com/app");
 * const handler = receive({
 *   store,
 *   async onBatch({ bytes }, transaction) {
 *     const lines = new TextDecoder().decode(bytes).trimEnd().split("\n");
 *     await transaction.query(
 *       "insert into line (text) select unnest($1::text[])",
 *       [lines],
 *     );
 *   },
 * });
 * await Deno.serve(handler).finished;
 * ```
 *
 * @example A stream, in SQL
 * ```sql
 * select convert_from(bytes, 'UTF8') from stream_buffer.batch
 * where id = 'example' order by sequence, epoch, part_from;
 * ```
 */
export class PostgresStore
  implements Store<PostgresTransaction>, AsyncDisposable {
  readonly #pool: Pool;
  readonly #queries: Queries;
  readonly #schema: string;
  /** Without user, password and parameters. */
  readonly #place: string;
  /** What is under way. */
  readonly #running = new Set<Promise<unknown>>();
  /** Fulfilled once the tables are there; `undefined` before that was tried, or if it failed. */
  #prepared: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Constructs a new instance. It connects when it is used.
   *
   * @param url Where the database is, as `postgres://USER:PASSWORD@HOST:PORT/DATABASE`,
   *   with the parameters that pg takes, such as `sslmode`.
   * @param options What to change.
   * @throws {TypeError} If the URL is not that of a PostgreSQL, or an option has the
   *   wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(url: string | URL, options: PostgresStoreOptions = {}) {
    const { hostname, port, pathname, href } = parse(url);
    const {
      maxConnections = 10,
      schema = "stream_buffer",
      timeout = 10_000,
    } = options;
    checkInteger(ACTION, { maxConnections }, 1, 10_000);
    check(
      ACTION,
      { schema },
      "a name of at most 63 letters, digits and underscores",
      "string",
      (name) => /^[A-Za-z_]\w{0,62}$/.test(name),
    );
    checkDuration(ACTION, { timeout }, 1);
    this.#schema = schema;
    this.#place = `${hostname}${port && `:${port}`}${pathname}`;
    this.#queries = queriesOf(schema);
    this.#pool = new Pool({
      connectionString: href,
      max: maxConnections,
      connectionTimeoutMillis: timeout,
      query_timeout: Math.min(timeout + TIMEOUT_MARGIN, MAX_DURATION),
      keepAlive: true,
      allowExitOnIdle: true,
      onConnect: (client: Client) =>
        client.query(`
          set statement_timeout = ${timeout};
          set idle_in_transaction_session_timeout = ${timeout};
          set default_transaction_isolation = 'read committed'`),
    });
    // A connection that is lost while nobody uses it: the next one is a new one.
    this.#pool.on("error", () => {});
  }

  /**
   * Stores a batch, if its key is not known.
   *
   * @param batch The batch.
   * @param onBatch Called within the transaction, if it is new.
   * @returns What was done.
   * @throws {StoreError} If it cannot be stored, or that is not known: with the code
   *   `"busy"`, the next attempt finds out.
   */
  add(
    batch: Batch,
    onBatch?: OnBatch<PostgresTransaction>,
  ): Promise<AddResult> {
    return this.#use(
      "Cannot add to",
      () =>
        onBatch === undefined
          ? this.#insert(this.#pool, batch)
          : this.#transact((client, lost) =>
            this.#addWith(client, lost, batch, onBatch)
          ),
    );
  }

  async #insert(on: Pool | Client, batch: Batch): Promise<AddResult> {
    const { id, epoch, sequence, part, from, received, digest, bytes } = batch;
    const { rows } = await on.query(
      this.#queries.add,
      [id, epoch, sequence, part, from, received, digest, bytes],
    );
    return rows[0]!.result as AddResult;
  }

  async #addWith(
    client: Client,
    lost: Promise<never>,
    batch: Batch,
    onBatch: OnBatch<PostgresTransaction>,
  ): Promise<AddResult> {
    const result = await this.#insert(client, batch);
    if (result === "known" || result === "conflict") return result;
    const transaction = new Transaction(client, this.#at("Cannot query"));
    const call = async () => {
      try {
        await onBatch(batch, transaction);
      } catch (error) {
        throw new Thrown(error);
      }
    };
    try {
      // It may never end. The server closes the connection then, and this is to end.
      await Promise.race([call(), lost]);
    } finally {
      await transaction.end();
    }
    return result;
  }

  /**
   * The bytes that are stored of a stream, in order. It reads some of them at a time, and
   * has no connection in between; batches that are added meanwhile are in it if they
   * come after what has been read.
   *
   * @param id The stream.
   * @returns Its bytes; none if it is not known. It is errored with a
   *   {@linkcode StoreError} if they cannot be read, or are not what was stored.
   */
  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this.#read(id));
  }

  async *#read(id: string): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const action = "Cannot read";
    let last: unknown[] = [-1, "", 0, ""];
    for (;;) {
      const { rows } = await this.#use(
        action,
        () => this.#pool.query(this.#queries.read, [id, ...last]),
      );
      if (rows.length === 0) return;
      for (const row of rows) {
        const bytes = new Uint8Array(row.bytes as Uint8Array);
        const digest = row.digest as Uint8Array;
        const { sequence } = row;
        await verify(bytes, { action: this.#at(action), id, sequence, digest });
        yield bytes;
      }
      const { sequence, epoch, part_from, part } = rows.at(-1)!;
      last = [sequence, epoch, part_from, part];
    }
  }

  /**
   * Forgets the batches that arrived longer ago than `age`. Their keys stay known. It does
   * so in small steps, between which others are added; any number of receivers may do it
   * at the same time.
   *
   * @param age How long ago, in milliseconds.
   * @returns How much was forgotten.
   * @throws {RangeError} If `age` is negative, or not a number.
   * @throws {StoreError} If that cannot be stored. Then some may be forgotten already.
   */
  async prune(age: number): Promise<Pruned> {
    const action = "Cannot prune";
    const limit = oldest("Cannot prune the PostgresStore", age);
    const pruned = { batches: 0, bytes: 0 };
    let since: unknown = "-infinity";
    const query = (sql: string, values: unknown[]) =>
      this.#use(action, () => this.#pool.query(sql, values));
    for (;;) {
      const { rows } = await query(this.#queries.oldest, [limit, since]);
      if (rows.length === 0) return pruned;
      for (const { id, epoch, part, sequences, latest } of rows) {
        const forgotten = await query(
          this.#queries.forget,
          [id, epoch, part, sequences],
        );
        const { batches, bytes } = forgotten.rows[0]!;
        pruned.batches += Number(batches);
        pruned.bytes += Number(bytes);
        since = latest;
      }
    }
  }

  /**
   * Waits for what is under way, and closes the connections. What is begun afterwards
   * fails with the code `"closed"`.
   *
   * @returns A promise that resolves when that has been done. It never rejects.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    // Each of them ends within a time of its own.
    await Promise.allSettled(this.#running);
    // It does not wait for the server, which may hang.
    await this.#pool.end();
  }

  /** Closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Does something in the database, once the tables are there. */
  async #use<T>(action: string, work: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined) {
      throw new StoreError(`${this.#at(action)}: it has been closed`, {
        code: "closed",
      });
    }
    const using = this.#prepare().then(work);
    this.#running.add(using);
    try {
      return await using;
    } catch (error) {
      if (error instanceof Thrown) throw error.error;
      throw toStoreError(this.#at(action), error);
    } finally {
      this.#running.delete(using);
    }
  }

  #at(action: string): string {
    return `${action} the store at ${this.#place}`;
  }

  /** Makes sure that the tables are there. */
  #prepare(): Promise<void> {
    return this.#prepared ??= this.#findTables().catch((error) => {
      this.#prepared = undefined;
      throw error;
    });
  }

  async #findTables(): Promise<void> {
    const exists = await this.#checkVersion(this.#pool);
    if (exists) return;
    await this.#transact(async (client) => {
      const { lock, hasSchema, createSchema, createTables } = this.#queries;
      await client.query(lock, [CREATE_LOCK]);
      // Another receiver may have created them meanwhile.
      await client.query("savepoint version");
      if (await this.#checkVersion(client)) return;
      await client.query("rollback to savepoint version");
      const { rows } = await client.query(hasSchema, [this.#schema]);
      if (rows.length === 0) await client.query(createSchema);
      try {
        await client.query(createTables);
      } catch (error) {
        // A table, or a function, of that name exists.
        const isForeign = ["42P07", "42723"].includes(stateOf(error)!);
        throw isForeign
          ? this.#foreign(messageOf(error), { cause: error })
          : error;
      }
    });
  }

  /** Whether there are tables, which this version can use. */
  async #checkVersion(on: Pool | Client): Promise<boolean> {
    let version: unknown;
    try {
      const { rows } = await on.query(this.#queries.version);
      version = rows[0]?.version;
    } catch (error) {
      const state = stateOf(error);
      // There is no such table, or schema.
      if (state === "42P01" || state === "3F000") return false;
      // It has no such column.
      if (state === "42703") {
        throw this.#foreign(messageOf(error), { cause: error });
      }
      throw error;
    }
    if (version === VERSION) return true;
    if (typeof version !== "number" || version < VERSION) {
      throw this.#foreign(`its version is ${version}`);
    }
    throw new StoreError(
      `${
        this.#at("Cannot use")
      }: a later version of this library has made it, with tables of version ${version}; update the library`,
      { code: "newer" },
    );
  }

  #foreign(reason: string, options?: ErrorOptions): StoreError {
    return new StoreError(
      `${
        this.#at("Cannot use")
      }: the schema ${this.#schema} is not that of a store: ${reason}; choose another schema`,
      { code: "foreign", ...options },
    );
  }

  /**
   * Does something in a transaction, which is rolled back if it fails.
   *
   * @param work Does it. The promise rejects when the connection is lost.
   */
  async #transact<T>(
    work: (client: Client, lost: Promise<never>) => Promise<T>,
  ): Promise<T> {
    const client = await this.#pool.connect();
    let isBroken = true;
    const { promise: lost, reject: lose } = Promise.withResolvers<never>();
    handled(lost);
    client.on("error", lose);
    try {
      await client.query(BEGIN);
      try {
        const result = await work(client, lost);
        await client.query(COMMIT);
        isBroken = false;
        return result;
      } catch (error) {
        // Whatever else failed may have been the connection: closing it does the same.
        if (error instanceof Thrown) {
          await client.query("rollback").then(() => isBroken = false, () => {});
        }
        throw error;
      }
    } finally {
      client.off("error", lose);
      client.release(isBroken);
    }
  }
}

/** Of a batch that is being stored. */
class Transaction implements PostgresTransaction {
  readonly #client: Client;
  readonly #action: string;
  /**
   * Fulfilled when all queries so far have ended. The queue of pg would do the same, but
   * is deprecated.
   */
  #last: Promise<unknown> = Promise.resolve();
  #hasEnded = false;

  constructor(client: Client, action: string) {
    this.#client = client;
    this.#action = action;
  }

  query(sql: string, values?: unknown[]): Promise<PostgresResult> {
    if (this.#hasEnded) {
      return Promise.reject(
        new TypeError(
          `${this.#action}: the transaction has ended; onBatch must wait for its queries`,
        ),
      );
    }
    const result = this.#last.then(() => this.#query(sql, values));
    this.#last = result.catch(() => {});
    return result;
  }

  async #query(sql: string, values?: unknown[]): Promise<PostgresResult> {
    try {
      const { rows, rowCount } = await this.#client.query(sql, values);
      return { rows, rowCount };
    } catch (error) {
      const code = codeOf(error);
      const isOurs = code === "busy" || code === "full";
      throw isOurs ? toStoreError(this.#action, error) : error;
    }
  }

  /** Waits for what is under way; there is no more. */
  async end(): Promise<void> {
    this.#hasEnded = true;
    await this.#last;
  }
}

/** The URL of a database. No message shows it, as it may have a password. */
function parse(url: string | URL): URL {
  let parsed: URL | undefined;
  try {
    parsed = new URL(url);
  } catch {
    // As below.
  }
  // After a password with a slash in it, the host is in what is taken for the path.
  const { protocol = "", pathname = "" } = parsed ?? {};
  const isWhole = !pathname.includes("@");
  if (/^postgres(ql)?:$/.test(protocol) && isWhole) return parsed!;
  throw new TypeError(
    `${ACTION}: url must be the URL of a PostgreSQL, such as postgres://USER:PASSWORD@HOST/DATABASE, percent-encoded`,
  );
}
