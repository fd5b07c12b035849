/** `node:sqlite` as this library sees it, whose statements can be made to fail, and are listed. */
import process from "node:process";
import { DatabaseSync, type StatementSync } from "node:sqlite";

/** An error as SQLite throws it (https://www.sqlite.org/rescode.html). */
export function sqliteError(errcode: number, message: string): Error {
  return Object.assign(new Error(message), { code: "ERR_SQLITE", errcode });
}

/** What SQLite throws when the disk is full. */
export const diskFull: Error = sqliteError(13, "database or disk is full");

/** Stands in for `node:sqlite`, for databases opened from now on, until disposed. */
export class FaultySqlite implements Disposable {
  readonly #getBuiltinModule = process.getBuiltinModule;
  /** Every statement that has been run, in order. */
  readonly log: string[] = [];
  /** Returns the error that a statement fails with, if it has to. */
  fail: (sql: string) => Error | undefined = () => undefined;
  /** The same, although the statement has been run. */
  failAfter: (sql: string) => Error | undefined = () => undefined;

  constructor() {
    const run = (sql: string) => {
      this.log.push(sql);
      const error = this.fail(sql);
      if (error !== undefined) throw error;
    };
    const throwAfter = (sql: string) => {
      const error = this.failAfter(sql);
      if (error !== undefined) throw error;
    };
    class Database extends DatabaseSync {
      override exec(sql: string): void {
        run(sql);
        super.exec(sql);
      }
      override prepare(sql: string): StatementSync {
        return new Proxy(super.prepare(sql), {
          get(statement, name) {
            const value = Reflect.get(statement, name);
            if (typeof value !== "function") return value;
            return (...args: unknown[]) => {
              run(sql);
              const result = value.apply(statement, args);
              throwAfter(sql);
              return result;
            };
          },
        });
      }
    }
    const original = this.#getBuiltinModule;
    process.getBuiltinModule =
      ((id: string) =>
        id === "node:sqlite"
          ? { DatabaseSync: Database }
          : original.call(process, id)) as typeof original;
  }

  [Symbol.dispose](): void {
    process.getBuiltinModule = this.#getBuiltinModule;
  }
}
