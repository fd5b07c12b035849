/**
 * A PostgreSQL of a test's own, on a free port, with its data in a temporary folder.
 * Unix only.
 */
import process from "node:process";
import pg from "pg";
import { find, poll, type Program, RealServer, run } from "./real_servers.ts";

/** The oldest version that the store supports. */
const MIN_VERSION = 14;
/** Not a secret, but none of its errors may show it. */
const PASSWORD = "hunter2/ü";
/** Where Debian installs the versions, which are not on the path: the newest first. */
const FOLDERS = versions("/usr/lib/postgresql")
  .filter((version) => version >= MIN_VERSION)
  .sort((a, b) => b - a)
  .map((version) => `/usr/lib/postgresql/${version}/bin`);
const PACKAGE = "postgresql";

export const POSTGRES: Program = {
  command: "postgres",
  folders: FOLDERS,
  package: PACKAGE,
};
const INITDB: Program = {
  command: "initdb",
  folders: FOLDERS,
  package: PACKAGE,
};
/** Starts programs as another user: PostgreSQL refuses to run as root. */
const SETPRIV: Program = { command: "setpriv", package: "util-linux" };

/** A row of a result. */
export type Row = Record<string, unknown>;

/** A connection of a test. */
export interface Connection extends AsyncDisposable {
  query(sql: string, values?: unknown[]): Promise<Row[]>;
}

/** A connection of pg, as far as it is used here. */
interface Client {
  connect(): Promise<void>;
  query(sql: string, values?: unknown[]): Promise<{ rows: Row[] }>;
  end(): Promise<void>;
}
const { Client } = pg as { Client: new (options: object) => Client };

/** A running PostgreSQL, with an empty database. */
export class Postgres implements AsyncDisposable {
  readonly #server: RealServer;
  /** With a user and a password. */
  readonly url: string;

  private constructor(server: RealServer) {
    this.#server = server;
    const password = encodeURIComponent(PASSWORD);
    this.url =
      `postgres://postgres:${password}@127.0.0.1:${server.port}/postgres`;
  }

  /**
   * Creates a database, and waits until it responds to queries.
   *
   * @param durable Whether commits are synced.
   */
  static async start(durable = false): Promise<Postgres> {
    const server = await RealServer.start({
      program: isRoot() ? SETPRIV : POSTGRES,
      configure: (folder, port) => configure(folder, port, durable),
    });
    const postgres = new Postgres(server);
    await postgres.#ready();
    return postgres;
  }

  get port(): number {
    return this.#server.port;
  }

  /** Starts it again, and waits until it responds to queries. */
  async start(): Promise<void> {
    await this.#server.start();
    await this.#ready();
  }

  /** Stops it at once: the next start recovers from the log, as after a crash. */
  async crash(): Promise<void> {
    await this.#server.stop("SIGQUIT");
  }

  /** Makes a connection, which has to be disposed of before the server. */
  async connect(): Promise<Connection> {
    const client = new Client({ connectionString: this.url });
    await client.connect();
    return {
      query: async (sql, values) => (await client.query(sql, values)).rows,
      [Symbol.asyncDispose]: () => client.end(),
    };
  }

  /** Runs a query, in a connection of its own. */
  async query(sql: string, values?: unknown[]): Promise<Row[]> {
    await using connection = await this.connect();
    return await connection.query(sql, values);
  }

  /** It accepts connections before it has recovered. */
  #ready(): Promise<void> {
    return poll(
      "PostgreSQL to respond",
      () => this.query("select 1").then(() => true, () => false),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Waits for no client.
    await this.#server.stop("SIGINT");
    await this.#server[Symbol.asyncDispose]();
  }
}

/** Creates the data in a folder; returns the arguments of {@linkcode Postgres.start}. */
async function configure(
  folder: string,
  port: number,
  durable: boolean,
): Promise<string[]> {
  const [data, password] = [`${folder}/data`, `${folder}/password`];
  await Deno.mkdir(data, { mode: 0o700 });
  await Deno.writeTextFile(password, PASSWORD);
  const user = isRoot() ? postgresUser() : undefined;
  if (user !== undefined) {
    await Deno.chmod(folder, 0o755);
    await Deno.chown(data, user.uid, user.gid);
  }
  const as = user === undefined ? [] : [
    ...[`--reuid=${user.uid}`, `--regid=${user.gid}`, "--clear-groups"],
  ];
  const init = [
    ...["--pgdata", data, "--username=postgres", "--pwfile", password],
    ...["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"],
  ];
  await (user === undefined
    ? run(INITDB, init)
    : run(SETPRIV, [...as, find(INITDB)!, ...init]));
  const settings = {
    listen_addresses: "127.0.0.1",
    port,
    unix_socket_directories: "",
    fsync: durable ? "on" : "off",
    // Compiling a query takes longer than running it, with as little data as tests have.
    jit: "off",
  };
  return [
    ...user === undefined ? [] : [...as, find(POSTGRES)!],
    ...["-D", data],
    ...Object.entries(settings).map((setting) => `--${setting.join("=")}`),
  ];
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** The user that the Debian package makes. */
function postgresUser(): { uid: number; gid: number } {
  const [, uid, gid] = /^postgres:[^:]*:(\d+):(\d+):/m.exec(
    Deno.readTextFileSync("/etc/passwd"),
  )!;
  return { uid: Number(uid), gid: Number(gid) };
}

function versions(folder: string): number[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => Number(name));
  } catch {
    return []; // it is not Debian
  }
}
