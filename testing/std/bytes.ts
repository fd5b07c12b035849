/** The part of `@std/bytes` that the tests use, for when JSR cannot be reached. */
import { Buffer } from "node:buffer";

export function concat(
  arrays: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(arrays));
}

export function equals(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
