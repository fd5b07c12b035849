/**
 * Everything that a store in this process does to its files: what it writes itself, as
 * calls that `traced_disk.ts` understands, and what SQLite has made of its database, as
 * copies of that after each transaction.
 *
 * SQLite is trusted: in WAL mode a crash undoes some of the latest transactions, or none,
 * and never one that was synced, or one before that.
 */
import nodeFs from "node:fs";
import process from "node:process";
import { FaultySqlite } from "./faulty_sqlite.ts";
import type { Call } from "./traced_disk.ts";

/** A step of a store, or what a test has noted. */
export type Step<Note> =
  | { call: Call }
  | {
    /** What the database and its WAL hold. */
    database: { file: Uint8Array; wal: Uint8Array };
    /** Whether they survive a power cut from now on. */
    isSynced: boolean;
  }
  | { note: Note };

// Any function of node:fs.
// deno-lint-ignore no-explicit-any
type Any = any;

/** Writes down what a store does, until disposed. */
export class TracedFiles<Note> implements Disposable {
  readonly #sqlite = new FaultySqlite();
  readonly #getBuiltinModule = process.getBuiltinModule;
  readonly #folder: string;
  readonly #database: string;
  /** The names of open files, and "" for the folder. */
  readonly #descriptors = new Map<number, string>();
  /** What has been done, in order. */
  readonly steps: Step<Note>[] = [];
  #isSynced = false;

  /**
   * @param folder Where the files are.
   * @param names The files that are traced.
   * @param database The name of the database.
   */
  constructor(folder: string, names: readonly string[], database: string) {
    this.#folder = folder;
    this.#database = `${folder}/${database}`;
    this.#sqlite.fail = (sql) => void this.#seeMode(sql);
    this.#sqlite.failAfter = (sql) => void this.#seeCommit(sql);
    const fs = this.#traced(names);
    const original = this.#getBuiltinModule;
    process.getBuiltinModule =
      ((id: string) =>
        id === "node:fs" ? fs : original.call(process, id)) as typeof original;
  }

  note(note: Note): void {
    this.steps.push({ note });
  }

  #seeMode(sql: string): void {
    const [, mode] = /^pragma synchronous = (\w+)$/.exec(sql) ?? [];
    if (mode !== undefined) this.#isSynced = mode === "full";
  }

  #seeCommit(sql: string): void {
    if (sql !== "commit") return;
    const read = (suffix: string) => {
      try {
        return nodeFs.readFileSync(this.#database + suffix);
      } catch {
        return new Uint8Array(0);
      }
    };
    const database = { file: read(""), wal: read("-wal") };
    this.steps.push({ database, isSynced: this.#isSynced });
  }

  #traced(names: readonly string[]): unknown {
    const push = (call: Call) => void this.steps.push({ call });
    const nameOf = (path: unknown) => {
      if (path === this.#folder) return "";
      return names.find((name) => path === `${this.#folder}/${name}`);
    };
    const descriptors = this.#descriptors;
    const sync = (descriptor: number) => {
      const name = descriptors.get(descriptor);
      if (name === "") push({ do: "sync the folder" });
      else if (name !== undefined) push({ do: "sync", name });
    };
    const wrote = (
      [descriptor, bytes, start, , offset]: Any[],
      count: number,
    ) => {
      const name = descriptors.get(descriptor);
      if (name === undefined) return;
      const copy = bytes.slice(start, start + count);
      push({ do: "write", name, offset, bytes: copy });
    };
    /** What to write down after each function, by its name. */
    const after: Record<string, (args: Any[], result: Any) => void> = {
      openSync([path], descriptor) {
        const name = nameOf(path);
        if (name === undefined) return;
        descriptors.set(descriptor, name);
        if (name === "") return;
        const inode = nodeFs.fstatSync(descriptor).ino;
        push({ do: "create", name, inode });
      },
      closeSync: ([descriptor]) => void descriptors.delete(descriptor),
      writeSync: wrote,
      fsyncSync: ([descriptor]) => sync(descriptor),
      fdatasyncSync: ([descriptor]) => sync(descriptor),
      ftruncateSync([descriptor, size]) {
        const name = descriptors.get(descriptor);
        if (name !== undefined) push({ do: "truncate", name, size });
      },
      renameSync([from, to]) {
        const [name, target] = [nameOf(from)!, nameOf(to)!];
        push({ do: "rename", name, to: target });
        for (const [descriptor, other] of descriptors) {
          if (other === target) descriptors.delete(descriptor);
          else if (other === name) descriptors.set(descriptor, target);
        }
      },
      rmSync([path]) {
        const name = nameOf(path);
        if (name !== undefined) push({ do: "unlink", name });
      },
      write: wrote,
      fdatasync: ([descriptor]) => sync(descriptor),
    };
    return new Proxy(nodeFs, {
      get(target, name: string) {
        const original = target[name as keyof typeof target] as Any;
        const report = after[name];
        if (report === undefined) return original;
        if (name.endsWith("Sync")) {
          return (...args: Any[]) => {
            const result = original(...args);
            report(args, result);
            return result;
          };
        }
        return (...args: Any[]) => {
          const callback = args.pop();
          original(...args, (error: Error | null, result: Any) => {
            if (!error) report(args, result);
            callback(error, result);
          });
        };
      },
    });
  }

  [Symbol.dispose](): void {
    process.getBuiltinModule = this.#getBuiltinModule;
    this.#sqlite[Symbol.dispose]();
  }
}
