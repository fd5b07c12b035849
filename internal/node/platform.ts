/**
 * What files need of the runtime. Built-in modules are looked up when a file is
 * opened: a static import would fail before any code of ours runs, with a message
 * that does not say which platforms have them.
 */
import type * as fs from "node:fs";
import type * as os from "node:os";
import type * as path from "node:path";
import type * as sqlite from "node:sqlite";
import type * as url from "node:url";
import type * as zlib from "node:zlib";
import { check, show } from "../checks.ts";

/** The built-in modules that are used. */
export interface Modules {
  readonly fs: typeof fs;
  readonly path: typeof path;
  readonly sqlite: typeof sqlite;
  readonly url: typeof url;
  readonly zlib: typeof zlib;
}

/** The part of the global `process` that is used, which Deno and Bun have as well. */
interface Process {
  readonly pid: number;
  getBuiltinModule?(id: string): unknown;
}

/** The part of Deno that is used: it tells what is permitted, without a prompt. */
interface DenoPermissions {
  readonly permissions: {
    querySync(
      descriptor: { name: "sys"; kind: "hostname" } | {
        name: "read";
        path: string;
      },
    ): { readonly state: string };
  };
}

const { process, Deno } = globalThis as unknown as {
  readonly process?: Process;
  readonly Deno?: DenoPermissions;
};

/**
 * Loads the modules.
 *
 * @param action What cannot be done without them: "Cannot open X".
 * @throws {TypeError} If this platform lacks one of them.
 */
export function loadModules(action: string): Modules {
  const load = (id: string) => {
    const module = builtin(`node:${id}`);
    if (module !== undefined) return module;
    throw new TypeError(
      `${action}: this platform has no node:${id}; Deno 2.8, Node 22.13 and Bun 1.4.5 or newer have it`,
    );
  };
  return {
    sqlite: load("sqlite"),
    fs: load("fs"),
    path: load("path"),
    url: load("url"),
    zlib: load("zlib"),
  } as Modules;
}

/** A built-in module; `undefined` if this platform lacks it. */
export function builtin(id: string): unknown {
  try {
    return process?.getBuiltinModule?.(id);
  } catch {
    return undefined; // Bun throws for modules that it lacks
  }
}

/** The id of this process. */
export function processId(): number {
  return process?.pid ?? 0;
}

/**
 * The name of this host; `undefined` on Deno without the permission to know it,
 * which is not asked for.
 */
export function hostName(): string | undefined {
  try {
    if (Deno !== undefined) {
      const permission = { name: "sys", kind: "hostname" } as const;
      const { state } = Deno.permissions.querySync(permission);
      if (state !== "granted") return undefined;
    }
    return (builtin("node:os") as typeof os).hostname();
  } catch {
    return undefined;
  }
}

/** Whether a file may be looked at: on Deno only with a permission, which is not asked for. */
export function isReadable(path: string): boolean {
  if (Deno === undefined) return true;
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/**
 * Waits for a turn of the event loop, in which the network and timers make
 * progress. A promise that is already settled does not: a writer that never waits
 * for anything else would stop all deliveries.
 */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * The absolute path of a file.
 *
 * @throws {TypeError} If `path` is neither a path nor a `file:` URL.
 * @throws {RangeError} If it is not the path of anything.
 */
export function absolutePath(
  action: string,
  path: string | URL,
  modules: Modules,
): string {
  const text = path instanceof URL && path.protocol === "file:"
    ? modules.url.fileURLToPath(path)
    : path;
  if (typeof text !== "string") {
    throw new TypeError(
      `${action}: path must be a path or a file: URL, received ${show(text)}`,
    );
  }
  check(
    action,
    { path: text },
    "a path, neither empty nor with a null character in it",
    "string",
    (text) => text !== "" && !text.includes("\0"),
  );
  return modules.path.resolve(text);
}

/**
 * The absolute path of a file, without links: what stands beside it is found by
 * whichever name it was opened. Deno may permit only the path with the link, as of
 * systemd's state folders; then it is that.
 *
 * @throws As `absolutePath` does.
 */
export function realPath(
  action: string,
  path: string | URL,
  modules: Modules,
): string {
  const absolute = absolutePath(action, path, modules);
  try {
    const real = modules.fs.realpathSync(absolute);
    return isReadable(real) ? real : absolute;
  } catch {
    return absolute; // it is not there yet, or opening it says what is wrong
  }
}
