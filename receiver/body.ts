/** Reading the body of a request, within bounds. */
import type * as zlib from "node:zlib";
import { countOf, property } from "../internal/checks.ts";
import { builtin } from "../internal/node/platform.ts";
import { Refusal } from "./refusal.ts";
import type { Claim } from "./room.ts";

/**
 * How much is allocated when the first bytes arrive, if as many are announced. A batch of
 * this size is copied once: to grow from 64 KiB took a fifth of the time of reading it.
 * With a larger size, fewer clients that have stopped would fill the room.
 */
const ANNOUNCED_SIZE = 256 * 1024;
/** The same if nothing is announced: about what one read of a socket yields. */
const FIRST_SIZE = 64 * 1024;

/** How a body is read. */
export interface ReadOptions {
  /** How large it may be, before and after decoding. */
  readonly maxBytes: number;
  /** Takes the memory. In the end it holds that of the result. */
  readonly claim: Claim;
  /** Aborted when it has taken too long. */
  readonly signal: AbortSignal;
}

/**
 * The whole body of a request, decoded according to its `Content-Encoding`.
 *
 * @throws {Refusal} If it cannot be accepted.
 * @throws {TypeError} If it has been read before, or is not of bytes.
 */
export async function readBody(
  { headers, body, bodyUsed }: Request,
  options: ReadOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  // What is left of it could look like a whole one.
  if (bodyUsed) throw new TypeError("Cannot read the body: it was read before");
  const decode = decoderFor(headers.get("Content-Encoding"));
  const length = lengthOf(headers.get("Content-Length"));
  const { maxBytes, claim, signal } = options;
  if (length === undefined && mayBeCutOff(headers)) {
    throw new Refusal(411, "the request must have a Content-Length");
  }
  if (length !== undefined && length > maxBytes) throw tooLarge(maxBytes);
  const encoded = await readAll(body, length, options);
  if (length !== undefined && encoded.length !== length) {
    throw cutOff(
      `the body ended after ${countOf(encoded.length)} of ${length}`,
    );
  }
  if (decode === undefined) return encoded;
  await takeRoom(claim, maxBytes, signal);
  const bytes = await decode(encoded, maxBytes);
  claim.keep(bytes.length);
  return bytes;
}

function lengthOf(header: string | null): number | undefined {
  return header !== null && /^\d+$/.test(header) ? Number(header) : undefined;
}

/**
 * Whether the end of a body without `Content-Length` may be a cut. Deno takes some resets
 * of an HTTP/2 stream for the end of its body
 * (https://github.com/hyperium/hyper/issues/3681). Over HTTP/1.1 a body without length has
 * a `Transfer-Encoding`, and a cut is an error. A request that was made in this process
 * was not cut off: its headers can be changed, other than those of `Deno.serve`.
 */
function mayBeCutOff(headers: Headers): boolean {
  if (!("Deno" in globalThis) || headers.has("Transfer-Encoding")) return false;
  try {
    headers.delete("Transfer-Encoding"); // which is not there
    return false;
  } catch {
    return true;
  }
}

/**
 * Not a 400, at which senders give a batch up: its content is not at fault. It may be
 * this server that ends, as Deno's does before such a body is whole
 * (https://github.com/denoland/deno/issues/36809), or a proxy.
 */
function cutOff(message: string, options?: ErrorOptions): Refusal {
  return new Refusal(408, message, options);
}

function tooLarge(maxBytes: number, when = ""): Refusal {
  return new Refusal(
    413,
    `a body may have ${countOf(maxBytes)} at most${when}`,
  );
}

/** Takes memory, and waits until there is some. */
async function takeRoom(
  claim: Claim,
  size: number,
  signal: AbortSignal,
): Promise<void> {
  try {
    await claim.take(size, signal);
  } catch {
    throw Refusal.busy("too many requests are being received");
  }
}

async function readAll(
  body: ReadableStream<Uint8Array<ArrayBuffer>> | null,
  length: number | undefined,
  { maxBytes, claim, signal }: ReadOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  // One array that grows: a client may send one byte at a time, and as many arrays
  // would take far more memory than their bytes.
  let bytes = new Uint8Array(0);
  let size = 0;
  if (body === null) return bytes;
  const reader = body.getReader();
  const cancel = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener("abort", cancel);
  try {
    for (;;) {
      const { done, value } = await readFrom(reader);
      if (signal.aborted) throw new Refusal(408, "the body takes too long");
      if (done) {
        claim.keep(size);
        return size === bytes.length ? bytes : bytes.slice(0, size);
      }
      // Some platforms let any stream pass, and an array takes text for zeros.
      if (!(value instanceof Uint8Array)) {
        throw new TypeError("Cannot read the body: its chunks are not bytes");
      }
      const end = size + value.length;
      if (end > maxBytes) throw tooLarge(maxBytes);
      if (end > bytes.length) {
        const first = length === undefined ? FIRST_SIZE : ANNOUNCED_SIZE;
        const doubled = Math.max(2 * bytes.length, first);
        const capacity = Math.max(end, Math.min(doubled, length ?? maxBytes));
        await takeRoom(claim, capacity - bytes.length, signal);
        const grown = new Uint8Array(capacity);
        grown.set(bytes);
        bytes = grown;
      }
      bytes.set(value, size);
      size = end;
    }
  } catch (error) {
    cancel();
    throw error;
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

async function readFrom<T>(
  reader: ReadableStreamDefaultReader<T>,
): Promise<ReadableStreamReadResult<T>> {
  try {
    return await reader.read();
  } catch (error) {
    throw cutOff("the body ended early", { cause: error });
  }
}

/** Decodes a body. */
type Decoder = (
  encoded: Uint8Array<ArrayBuffer>,
  maxBytes: number,
) => Promise<Uint8Array<ArrayBuffer>>;

/** `gunzip` and its like, with the option `info`, which their types leave out. */
type Unzip = (
  encoded: Uint8Array,
  options: zlib.ZlibOptions,
  callback: (error: Error | null, result: unknown) => void,
) => void;

/** What they give then. */
interface Unzipped {
  readonly buffer: Uint8Array<ArrayBuffer>;
  readonly engine: zlib.Zlib;
}

/**
 * The decoder of each coding (RFC 9110, section 8.4.1; RFC 7932), where the platform has
 * `node:zlib`. `DecompressionStream` has no bound: on Deno it makes 268 MB of 203 bytes
 * in one step.
 */
function decoders(): Map<string, Decoder> {
  const all = new Map<string, Decoder>();
  const modules = builtin("node:zlib") as typeof zlib | undefined;
  if (modules === undefined) return all;
  const { gunzip, inflate, brotliDecompress } = modules;
  all.set("gzip", (encoded, max) => unzip(gunzip, encoded, max));
  all.set("deflate", (encoded, max) => unzip(inflate, encoded, max));
  if (!hasBrotliStream()) return all;
  return all.set("br", async (encoded, max) => {
    // On Deno, `brotliDecompress` takes a body that was cut off for a whole one. So it
    // only makes sure that the result has no more than `max` bytes.
    await unzip(brotliDecompress, encoded, max);
    try {
      const stream = new DecompressionStream("brotli" as CompressionFormat);
      const decoded = new Blob([encoded]).stream().pipeThrough(stream);
      return new Uint8Array(await new Response(decoded).arrayBuffer());
    } catch (error) {
      throw garbled(error);
    }
  });
}

function hasBrotliStream(): boolean {
  try {
    new DecompressionStream("brotli" as CompressionFormat);
    return true;
  } catch {
    return false;
  }
}

function unzip(
  method: Unzip,
  encoded: Uint8Array,
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const options = { maxOutputLength: maxBytes, info: true };
  return new Promise((resolve, reject) => {
    method(encoded, options, (error, result) => {
      if (error !== null) {
        const isTooLarge = property(error, "code") === "ERR_BUFFER_TOO_LARGE";
        return reject(
          isTooLarge
            ? tooLarge(maxBytes, " when it is decompressed")
            : garbled(error),
        );
      }
      const { buffer, engine } = result as Unzipped;
      // It ignores what comes after the end, which may be data: a second stream.
      if (engine.bytesWritten === encoded.length) resolve(bytesOf(buffer));
      else reject(garbled(new Error("there is more after its end")));
    });
  });
}

/** The same memory, without the methods that Node has changed. */
function bytesOf(node: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(node.buffer, node.byteOffset, node.length);
}

function garbled(cause: unknown): Refusal {
  const message = "the body is not what its Content-Encoding says";
  return new Refusal(400, message, { cause });
}

/** The decoder for the coding that a header names; `undefined` if none is needed. */
function decoderFor(header: string | null): Decoder | undefined {
  const name = header?.toLowerCase() || "identity";
  if (name === "identity") return undefined;
  const all = decoders();
  const decoder = all.get(name === "x-gzip" ? "gzip" : name);
  if (decoder !== undefined) return decoder;
  const names = [...all.keys(), "identity"].join(", ");
  throw new Refusal(415, `Content-Encoding may be one of ${names}`, {
    headers: { "Accept-Encoding": names },
  });
}
