/** `--store`: where `receive` keeps what it is sent. */
import { stat } from "node:fs/promises";
import {
  FileStore,
  type Pruned,
  SqliteStore,
  type Store,
  StoreError,
} from "../receiver/mod.ts";
import { AccessError, tryTo } from "./errors.ts";
import { absolutePath } from "./files.ts";
import { requestFiles } from "./permissions.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** A store that can do what the command has options for. */
export interface CommandStore extends Store, AsyncDisposable {
  /** Forgets what is older than `age` ms. */
  prune(age: number): Promise<Pruned>;
}

const SQLITE = /\.(db|sqlite3?)$/i;

/** What is written beside the file, by the end of its name. */
const BESIDE = {
  sqlite: ["-owner"],
  file: ["-keys", "-keys-owner", "-new"],
};

/**
 * Opens a store.
 *
 * @param location The value of `--store`.
 * @param mayCreate Whether to create it if it does not exist.
 * @throws {AccessError} If that is not possible.
 */
export async function openStore(
  location: string,
  mayCreate: boolean,
): Promise<CommandStore> {
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
