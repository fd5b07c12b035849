/**
 * What is on a disk after a power cut, as far as that can be known from the system
 * calls of one process: strace, or `traced_files.ts`, writes down what the process writes
 * and syncs, and {@linkcode TracedDisk} applies as much of it as the cut would leave.
 *
 * What was synced survives. Of what was not, POSIX promises nothing: any part of it
 * may have reached the disk, in any order.
 */
import { Buffer } from "node:buffer";

/** The calls that change files. Others on the traced files are not understood. */
const TRACED =
  "openat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2";
/** Longer than any write of a database, in bytes. */
const MAX_WRITE = 1024 * 1024;
/** What a disk writes as a whole, in bytes. */
const SECTOR = 512;
/** The largest file, in bytes. */
const MAX_FILE = 64 * 1024 * 1024;

/** Whether this system has strace, and lets it trace. */
export function canTrace(): boolean {
  try {
    const args = ["-o", "/dev/null", "true"];
    return new Deno.Command("strace", { args }).outputSync().success;
  } catch {
    return false;
  }
}

/**
 * The arguments for strace to trace the main thread of a command, which is where
 * Deno runs synchronous calls of the main module.
 *
 * @param log Where the trace is written.
 * @param folder Where the files are. Its path must be plain: strace escapes others.
 * @param names The files that are traced. None may exist yet.
 */
export function straceArgs(
  log: string,
  folder: string,
  names: readonly string[],
): string[] {
  const paths = [folder, ...names.map((name) => `${folder}/${name}`)];
  return [
    ...["-o", log, "-x", "-y", "-s", `${MAX_WRITE}`, "-e", `trace=${TRACED}`],
    ...paths.flatMap((path) => ["-P", path]),
  ];
}

/** A system call that succeeded, on a file of the folder. */
export type Call =
  | { do: "create"; name: string; inode?: number }
  | { do: "sync" | "unlink"; name: string }
  | { do: "write"; name: string; offset: number; bytes: Uint8Array }
  | { do: "truncate"; name: string; size: number }
  | { do: "rename"; name: string; to: string }
  | { do: "sync the folder" };

/** A call on a file that a power cut may undo. */
type Change = Extract<Call, { do: "write" | "truncate" }>;

/** What becomes of a change that was not synced. */
export type Fate = "kept" | "lost" | "torn";

/** A file, whatever its name. */
interface File {
  /** What it had, if that is known. */
  readonly inode: number | undefined;
  synced: Uint8Array<ArrayBuffer>;
  changes: Change[];
}

/** What a name of the folder becomes: `undefined` if it is removed. */
type Names = [name: string, file: File | undefined][];

/** The files of a folder, as a disk has them. */
export class TracedDisk {
  #names = new Map<string, File>();
  #syncedNames = new Map<string, File>();
  /** What has become of names since they were synced. A rename is one of them. */
  #changes: Names[] = [];

  /** Makes a call. */
  apply(call: Call): void {
    switch (call.do) {
      case "create":
        if (this.#names.has(call.name)) return;
        this.#change([[
          call.name,
          { inode: call.inode, synced: emptyFile(), changes: [] },
        ]]);
        break;
      case "unlink":
        this.#change([[call.name, undefined]]);
        break;
      case "rename": {
        const file = this.#names.get(call.name)!;
        this.#change([[call.name, undefined], [call.to, file]]);
        break;
      }
      case "sync the folder":
        this.#syncedNames = new Map(this.#names);
        this.#changes = [];
        break;
      case "sync": {
        const file = this.#names.get(call.name)!;
        for (const change of file.changes) applyChange(file.synced, change);
        file.changes = [];
        break;
      }
      default:
        this.#names.get(call.name)!.changes.push(call);
    }
  }

  #change(names: Names): void {
    this.#changes.push(names);
    setNames(this.#names, names);
  }

  /** Whether synced bytes of any file contain a text. */
  hasSynced(text: RegExp): boolean {
    return [...this.#names.values()].some(({ synced }) =>
      text.test(Buffer.from(synced.buffer, 0, synced.length).toString("latin1"))
    );
  }

  /**
   * The files that a power cut now would leave.
   *
   * @param fate What becomes of each change that was not synced; of a name, `torn` is as
   *   good as `lost`.
   * @param inodes Is given the inode of each file, by its name.
   */
  cut(
    fate: () => Fate,
    inodes = new Map<string, number | undefined>(),
  ): Map<string, Uint8Array<ArrayBuffer>> {
    const names = new Map(this.#syncedNames);
    for (const change of this.#changes) {
      if (fate() === "kept") setNames(names, change);
    }
    const files = new Map<string, Uint8Array<ArrayBuffer>>();
    for (const [name, file] of names) {
      const content = emptyFile();
      applyChange(content, {
        do: "write",
        name,
        offset: 0,
        bytes: file.synced,
      });
      for (const change of file.changes) {
        const what = fate();
        if (what === "kept") applyChange(content, change);
        else if (what === "torn") tear(content, change, fate);
      }
      files.set(name, content);
      inodes.set(name, file.inode);
    }
    return files;
  }
}

function setNames(map: Map<string, File>, names: Names): void {
  for (const [name, file] of names) {
    if (file === undefined) map.delete(name);
    else map.set(name, file);
  }
}

/** A file that can grow. */
function emptyFile(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(0, { maxByteLength: MAX_FILE }));
}

function applyChange(file: Uint8Array<ArrayBuffer>, change: Change): void {
  if (change.do === "truncate") return file.buffer.resize(change.size);
  const { offset, bytes } = change;
  if (file.length < offset + bytes.length) {
    file.buffer.resize(offset + bytes.length);
  }
  file.set(bytes, offset);
}

/** Applies some sectors of a write; a file is made shorter or longer at once. */
function tear(
  file: Uint8Array<ArrayBuffer>,
  change: Change,
  fate: () => Fate,
): void {
  if (change.do === "truncate") return applyChange(file, change);
  const { bytes } = change;
  for (let at = 0; at < bytes.length;) {
    const offset = change.offset + at;
    const end = at + SECTOR - offset % SECTOR;
    if (fate() === "kept") {
      applyChange(file, { ...change, offset, bytes: bytes.subarray(at, end) });
    }
    at = end;
  }
}

/**
 * Reads what strace has written.
 *
 * @param folder As in {@linkcode straceArgs}.
 * @throws {Error} If it has a call that this module does not know.
 */
export function parseTrace(log: string, folder: string): Call[] {
  return log.split("\n").flatMap((line) => {
    if (!/ = \d+(<.*>)?$/.test(line)) {
      // Failed, or a remark; but a call must not have been cut in two.
      if (line.includes("unfinished")) throw new Error(`Unknown: ${line}`);
      return [];
    }
    return parseCall(line, folder) ?? [];
  });
}

function parseCall(line: string, folder: string): Call | undefined {
  const method = line.slice(0, line.indexOf("("));
  const path = /^\w+\(\d+<([^>]*)>/.exec(line)?.[1];
  const name = path?.slice(folder.length + 1);
  switch (method) {
    case "openat": {
      const [, opened, flags] = /"(.*)", (\S+)/.exec(line)!;
      if (!flags!.includes("O_CREAT")) return;
      return { do: "create", name: opened!.slice(folder.length + 1) };
    }
    case "unlink":
      return {
        do: "unlink",
        name: /"(.*)"/.exec(line)![1]!.slice(folder.length + 1),
      };
    case "fsync":
    case "fdatasync":
      if (path === folder) return { do: "sync the folder" };
      return { do: "sync", name: name! };
    case "ftruncate":
      return {
        do: "truncate",
        name: name!,
        size: Number(/, (\d+)\)/.exec(line)![1]),
      };
    case "pwrite64":
    case "write": {
      const start = line.indexOf('"') + 1;
      const end = line.lastIndexOf('"');
      const [, offset] = line.slice(end).match(/^", \d+(?:, (\d+))?\)/)!;
      return {
        do: "write",
        name: name!,
        offset: Number(offset ?? 0),
        bytes: unescape(line.slice(start, end)),
      };
    }
    default:
      throw new Error(`Unknown: ${line.slice(0, 200)}`);
  }
}

/** The bytes of a string, which strace writes all in hexadecimal, or all as they are. */
function unescape(text: string): Uint8Array {
  return text.startsWith("\\x")
    ? Buffer.from(text.replaceAll("\\x", ""), "hex")
    : Buffer.from(text.replaceAll("\\n", "\n"));
}
