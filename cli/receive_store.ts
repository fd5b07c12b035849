/** `--store`: where `receive` keeps what it is sent. */
import { stat } from "node:fs/promises";
import {
  FileStore,
  type Pruned,
  SqliteStore,
  type Store,
  StoreError,
} from "../receiver/mod.ts";
import { AccessError, tryTo, UsageError } from "./errors.ts";
import { absolutePath } from "./files.ts";
import { requestFiles, requestHost } from "./permissions.ts";
import { IS_DENO, mayReadEnv } from "./platform.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** A store that can do what the command has options for. */
export interface CommandStore extends Store, AsyncDisposable {
  /** Forgets what is older than `age` ms. */
  prune(age: number): Promise<Pruned>;
}

const SQLITE = /\.(db|sqlite3?)$/i;

/** What is written beside the file, by the end of its name. */
const BESIDE = {
  sqlite: ["-owner", "-reserve"],
  file: ["-keys", "-keys-owner", "-keys-reserve", "-new"],
};

/**
 * Opens a store.
 *
 * @param location The value of `--store`.
 * @param mayCreate Whether to create a file that does not exist.
 * @throws {AccessError} If that is not possible.
 * @throws {UsageError} If the value is invalid.
 */
export async function openStore(
  location: string,
  mayCreate: boolean,
): Promise<CommandStore> {
  if (isPostgres(location)) return await openPostgres(location);
  // It may have a password in it, which a message about a file would show.
  if (/^\w[\w+.-]+:\/\//.test(location)) throw invalidStore();
  const isSqlite = SQLITE.test(location);
  const path = absolutePath(location);
  const files = ["", ...BESIDE[isSqlite ? "sqlite" : "file"]]
    .map((end) => path + end);
  await requestFiles(`the store ${location}`, files);
  if (!mayCreate) {
    await tryTo(`open the store ${location}`, () => stat(location));
  }
  try {
    return isSqlite ? new SqliteStore(location) : new FileStore(location);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw new AccessError(inTermsOfTheCommand(error.message));
  }
}

/** What messages call a store: its URL has a password in it. */
export function nameOf(location: string): string {
  return isPostgres(location) ? "PostgreSQL" : location;
}

function isPostgres(location: string): boolean {
  return /^postgres(ql)?:/i.test(location);
}

/** It connects later: a database that is down is waited for. */
async function openPostgres(location: string): Promise<CommandStore> {
  const url = URL.parse(location);
  if (url === null || url.hostname === "") {
    throw invalidStore();
  }
  const { hostname, port } = url;
  await requestHost("connect to", `${hostname}:${port || 5432}`);
  if (!mayReadEnv("PGPASSWORD")) {
    throw new AccessError(
      "cannot use PostgreSQL: its client reads the environment; add --ignore-env, or --allow-env",
    );
  }
  const { PostgresStore } = await importPostgres();
  return new PostgresStore(url);
}

function invalidStore(): UsageError {
  return new UsageError(
    "--store must be a file, or like postgres://USER:PASSWORD@HOST:PORT/NAME, percent-encoded",
  );
}

async function importPostgres() {
  try {
    return await import("../receiver/postgres.ts");
  } catch (error) {
    const reason = IS_DENO
      ? `its client cannot be loaded: ${(error as Error).message}`
      : "install its client, the npm package pg";
    throw new AccessError(`cannot use PostgreSQL: ${reason}`);
  }
}
