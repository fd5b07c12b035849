/** The files of the command line: what is known of them before they are read. */
import { createHash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { AccessError, tryTo } from "./errors.ts";

/** How much of the beginning of each file is in a fingerprint, in bytes. */
const HEAD_SIZE = 64 * 1024;
/** A fingerprint. Another program may describe its uploads by other values. */
const FINGERPRINT = /^v1-[0-9a-f]{64}$/;

/** An input that consists of files, whose sizes can be relied on. */
export interface InputInfo {
  /** The size of the object in bytes, of which the files are the end. */
  readonly size: number;
  /**
   * Differs if the files do: in their sizes, the times of their last modification,
   * or their first 64 KiB. A file is too large to be read twice.
   */
  readonly fingerprint: string;
}

/**
 * Finds out what is known of the input.
 *
 * @param files Paths; `-` is standard input.
 * @param offset Where in the object the first file begins.
 * @returns What is known; `undefined` if that is nothing before it is read.
 * @throws {AccessError} If a file cannot be read.
 */
export async function inspectInput(
  files: readonly string[],
  offset: number,
): Promise<InputInfo | undefined> {
  let size = offset;
  let isKnown = true;
  const hash = createHash("sha256");
  for (const path of files) {
    const file = path === "-" ? undefined : await inspectFile(path);
    isKnown &&= file !== undefined;
    if (file === undefined) continue; // the others must be readable, too
    size += file.size;
    hash.update(`${file.size} ${file.modified}\n`).update(file.head);
  }
  return isKnown
    ? { size, fingerprint: `v1-${hash.digest("hex")}` }
    : undefined;
}

/**
 * Whether an upload was begun with an input other than this one.
 *
 * @param recorded What the server has as the fingerprint of that input.
 */
export function isOtherInput(
  recorded: Uint8Array | undefined,
  input: InputInfo | undefined,
): boolean {
  const fingerprint = new TextDecoder().decode(recorded);
  return FINGERPRINT.test(fingerprint) && input !== undefined &&
    fingerprint !== input.fingerprint;
}

/** The absolute path of a file; `-` stays standard input. */
export function absolutePath(file: string): string {
  return file === "-" ? file : resolve(file);
}

/**
 * Reads the beginning of a file; `undefined` if its size is not that of its
 * content, as that of a pipe, or of a file that the kernel makes (/proc, /sys).
 */
async function inspectFile(path: string) {
  const action = `read ${path}`;
  const info = await tryTo(action, () => stat(path));
  if (info.isDirectory()) {
    throw new AccessError(`cannot ${action}: it is a directory`);
  }
  // Some files of size 0 are not empty, and can be read only once.
  const { size, mtime } = info;
  if (!info.isFile() || size === 0) return undefined;
  const head = await tryTo(action, () => readHead(path));
  return head.length === Math.min(size, HEAD_SIZE)
    ? { size, modified: mtime.getTime(), head }
    : undefined;
}

async function readHead(path: string): Promise<Uint8Array> {
  const file = await open(path);
  try {
    const head = new Uint8Array(HEAD_SIZE);
    let length = 0;
    while (length < HEAD_SIZE) {
      const { bytesRead } = await file.read(head, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return head.subarray(0, length);
  } finally {
    await file.close();
  }
}
