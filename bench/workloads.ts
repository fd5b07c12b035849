/** Small writes, to a StreamBuffer and to its alternatives. */
import sonicBoom from "sonic-boom";
import { StreamBuffer } from "../buffer.ts";

/** The default of a StreamBuffer, and the size of all stores except sonic-boom's. */
const CAPACITY = 256 * 1024;
const ENCODER = new TextEncoder();

/** A small record. */
export const RECORD: Uint8Array<ArrayBuffer> = new Uint8Array(64).fill(65);

/** A line of 100 characters. */
export const LINE: Uint8Array<ArrayBuffer> = new Uint8Array(100).fill(65);

/** Log lines of 16 and 100 characters, and 100 characters of mixed scripts. */
export const TEXTS = {
  string16: "level=info ms=15",
  string100:
    "2026-01-01T00:00:00Z level=info method=GET path=/ingest status=204 duration=15ms bytes=4096 id=a3f9c",
  stringutf8:
    "Zażółć gęślą jaźń; съешь же ещё этих мягких булок; 日本語のテキスト; ελληνικά και 한국어; smörgås, naïve ✓ 🙂åå",
};

/** How many writes of `size` bytes fit in a store without filling it. */
function writesPerStore(size: number): number {
  return Math.ceil(CAPACITY / size) - 1;
}

/** Writes that are not awaited, flushed to a sender that does nothing before a store is full. */
export async function writes(
  data: string | Uint8Array,
  count: number,
): Promise<void> {
  const size = typeof data === "string"
    ? ENCODER.encode(data).length
    : data.length;
  const batch = writesPerStore(size);
  await using out = new StreamBuffer(() => {}, { capacity: CAPACITY });
  for (let done = 0; done < count;) {
    const end = Math.min(done + batch, count);
    for (; done < end; done++) void out.write(data);
    await out.flush();
  }
}

/** The same, with strings that the caller encodes. */
export async function encodedWrites(
  text: string,
  count: number,
): Promise<void> {
  const batch = writesPerStore(ENCODER.encode(text).length);
  await using out = new StreamBuffer(() => {}, { capacity: CAPACITY });
  for (let done = 0; done < count;) {
    const end = Math.min(done + batch, count);
    for (; done < end; done++) void out.write(ENCODER.encode(text));
    await out.flush();
  }
}

/** The lower bound: copies at a moving cursor, and nothing else. */
export async function sets(count: number): Promise<void> {
  const store = new Uint8Array(CAPACITY);
  const batch = writesPerStore(RECORD.length);
  for (let done = 0; done < count;) {
    const end = Math.min(done + batch, count);
    for (let at = 0; done < end; done++) {
      store.set(RECORD, at);
      at += RECORD.length;
    }
    await undefined;
  }
}

/**
 * The platform's alternative: a `WritableStream` over the same store. It awaits
 * `ready` before each write, because without that its queue would hold them all.
 */
export async function writerWrites(count: number): Promise<void> {
  const store = new Uint8Array(CAPACITY);
  let at = 0;
  const stream = new WritableStream<Uint8Array>({
    write(chunk) {
      if (at + chunk.length > CAPACITY) at = 0;
      store.set(chunk, at);
      at += chunk.length;
    },
  });
  const writer = stream.getWriter();
  for (let done = 0; done < count; done++) {
    await writer.ready;
    void writer.write(RECORD);
  }
  await writer.close();
}

/** sonic-boom in buffer mode, to the null device; its `write` returns no promise. */
export async function sonicBoomWrites(count: number): Promise<void> {
  const sonic = new sonicBoom.SonicBoom({
    dest: Deno.build.os === "windows" ? "NUL" : "/dev/null",
    contentMode: "buffer",
    minLength: 64 * 1024, // the fastest value of those tried
    maxWrite: 256 * 1024,
    sync: false,
  });
  await new Promise<void>((resolve) => sonic.once("ready", resolve));
  const batch = writesPerStore(RECORD.length);
  // Its types allow only strings.
  const write = sonic.write.bind(sonic) as unknown as (
    data: Uint8Array,
  ) => void;
  for (let done = 0; done < count;) {
    const end = Math.min(done + batch, count);
    for (; done < end; done++) write(RECORD);
    await new Promise<void>((resolve) => sonic.flush(() => resolve()));
  }
  const closed = new Promise<void>((resolve) => sonic.once("close", resolve));
  sonic.end();
  await closed;
}
