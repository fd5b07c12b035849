/**
 * Tests of `StreamBuffer`, in sections. Each guarantee of the buffer (they are
 * listed in docs/architecture.md) has a section, and there a test whose name
 * begins with the guarantee:
 *
 * | guarantee                                       | section                         |
 * | ----------------------------------------------- | ------------------------------- |
 * | one store, and bounded memory                   | One store                       |
 * | a write that fits is a copy                     | A write that fits is a copy     |
 * | backpressure, and `BufferFullError`             | Backpressure                    |
 * | order                                           | Order; Concurrency; Any schedule |
 * | whole writes: never split over two sends        | Whole writes; Oversize writes   |
 * | `flush()`                                       | flush()                         |
 * | `sendNow()`                                     | sendNow(); Any schedule         |
 * | no byte waits longer than `flushInterval`       | flushInterval                   |
 * | a failed send keeps its bytes                   | A failed send keeps its bytes   |
 * | a refused batch need not stop the stream        | A batch that is refused         |
 * | a failure in the background loses nothing       | Failures in the background      |
 * | `close()` settles within `closeTimeout`         | close()                         |
 * | nothing is lost even then: `takeUnsent()`       | Nothing is lost; Any schedule   |
 * | `abort()`                                       | abort()                         |
 * | `await using` is `close()`                      | await using                     |
 * | `writable`                                      | writable                        |
 * | `readFrom()`                                    | readFrom(); readFrom() a stream |
 * | bad input changes nothing                       | Bad input changes nothing       |
 *
 * The last section checks all that concerns bytes at once, with random uses.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import fc from "fast-check";
import { open } from "node:fs/promises";
import { Readable } from "node:stream";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  BufferFullError,
  type DeadLetterContext,
  FlushError,
  NoProgressError,
  type Reader,
  type SendContext,
  type Sender,
  type Source as SourceOfBytes,
  StreamBuffer,
  type StreamBufferOptions,
} from "./buffer.ts";
import { show } from "./internal/checks.ts";
import {
  accept,
  BadSender,
  gate,
  ignore,
  refuse,
  stall,
  type Step,
} from "./testing/bad_sender.ts";

import { fakeTime, fixedRandom } from "./testing/fake_time.ts";

const ENCODER = new TextEncoder();
const DOWN = new Error("down");
const down = refuse(DOWN);
const REFUSED = Object.assign(new Error("bad record"), { refused: true });
const HOSTILE = Object.assign(new Error(), {
  message: {
    toString() {
      throw new Error("no");
    },
  },
}) as unknown as Error;
const OVERSIZE = ["split", "whole", "reject"] as const;

/** A buffer without a clock, over a sender with the given script. */
function setUp(
  options: StreamBufferOptions = {},
  script: Step[] = [],
  otherwise: Step = accept,
): { out: StreamBuffer; sender: BadSender } {
  const sender = new BadSender(script, otherwise);
  const out = new StreamBuffer(sender, { flushInterval: 0, ...options });
  return { out, sender };
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Lets everything happen that needs no time. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Collects unhandled rejections, which would fail the test, until disposed. */
function collectUnhandled(): Disposable & { readonly reasons: unknown[] } {
  const reasons: unknown[] = [];
  const listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    reasons.push(event.reason);
  };
  globalThis.addEventListener("unhandledrejection", listener);
  return {
    reasons,
    [Symbol.dispose]: () =>
      globalThis.removeEventListener("unhandledrejection", listener),
  };
}

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  await settle();
  const pending = {};
  const first = await Promise.race([promise, pending])
    .catch((error) => error);
  return first === pending;
}

// -- Bad input changes nothing --

const WRONG_NUMBERS = [0, -1, 1.5, NaN, Infinity, "8", 2 ** 53, null, {}, 8n];

for (
  const name of [
    "capacity",
    "flushInterval",
    "closeTimeout",
    "maxQueuedBytes",
    "concurrency",
  ] as const
) {
  for (const value of WRONG_NUMBERS) {
    const isMinOne = name === "capacity" || name === "concurrency";
    if (value === 0 && !isMinOne) continue;
    const shown = typeof value === "string" ? `"${value}"` : String(value);
    Deno.test(`StreamBuffer() rejects ${name}: ${shown}`, () => {
      const error = assertThrows(
        () => new StreamBuffer(() => {}, { [name]: value }),
        typeof value === "number" ? RangeError : TypeError,
        `Cannot create StreamBuffer: ${name} must be an integer from`,
      );
      if (typeof value !== "object") assertStringIncludes(error.message, shown);
    });
  }
}

Deno.test("StreamBuffer() accepts 0 for each option but capacity and concurrency", async () => {
  const options = { flushInterval: 0, closeTimeout: 0, maxQueuedBytes: 0 };
  await new StreamBuffer(() => {}, options).close();
});

Deno.test("StreamBuffer() accepts durations up to the limit of a timer", async () => {
  const max = 2 ** 31 - 1;
  await new StreamBuffer(() => {}, { flushInterval: max }).close();
  assertThrows(
    () => new StreamBuffer(() => {}, { flushInterval: max + 1 }),
    RangeError,
    "must be an integer from 0 to 2147483647, received 2147483648",
  );
});

Deno.test("StreamBuffer() rejects any other oversize, onError or sender", () => {
  const make = (options: unknown) => () =>
    new StreamBuffer(() => {}, options as StreamBufferOptions);
  assertThrows(make({ oversize: "grow" }), RangeError, 'received "grow"');
  assertThrows(make({ oversize: 1 }), TypeError, "received 1");
  assertThrows(make({ onError: "log" }), TypeError, 'received "log"');
  assertThrows(make(null), TypeError, "options must be an object");
  for (
    const [sender, shown] of [
      [undefined, "undefined"],
      [null, "null"],
      ["http://me:secret@localhost", "a string; for a URL, use streamTo()"],
      [{}, "an object (Object)"],
      [{ send: 1 }, "an object (Object)"],
    ] as const
  ) {
    assertThrows(
      () => new StreamBuffer(sender as never),
      TypeError,
      `Cannot create StreamBuffer: sender must be a function or have a method "send", received ${shown}`,
    );
  }
});

Deno.test("bad input changes nothing: write() rejects a detached buffer", async () => {
  const { out, sender } = setUp();
  const view = new Uint8Array(4);
  const { buffer } = view;
  buffer.transfer();
  await assertRejects(() => out.write(view), TypeError, "detached buffer");
  await assertRejects(
    () => out.write(buffer),
    TypeError,
    "Cannot write: data is detached",
  );
  await out.write("x");
  await assertRejects(() => out.write(view), TypeError, "detached");
  assertEquals(out.stats.bytesAccepted, 1);
  assertEquals(out.stats.bytesRejected, 0);
  await out.close();
  assertEquals(sender.text, "x");
});

for (const realm of ["this", "another"]) {
  const Kinds = realm === "this"
    ? globalThis
    : runInNewContext("globalThis") as typeof globalThis;
  const views: Record<string, (buffer: ArrayBuffer) => ArrayBufferView> = {
    "Uint8Array of fixed length": (buffer) =>
      new Kinds.Uint8Array(buffer, 4, 4),
    "Uint8Array to the end": (buffer) => new Kinds.Uint8Array(buffer, 4),
    "Float64Array": (buffer) => new Kinds.Float64Array(buffer, 8, 1),
    "BigInt64Array": (buffer) => new Kinds.BigInt64Array(buffer, 8),
    "DataView": (buffer) => new Kinds.DataView(buffer, 4, 4),
  };
  for (const [title, make] of Object.entries(views)) {
    Deno.test(`bad input changes nothing: write() rejects a ${title} of ${realm} realm, out of bounds or detached`, async () => {
      const { out, sender } = setUp();
      await out.write("x");
      const buffer = new Kinds.ArrayBuffer(16, { maxByteLength: 16 });
      const view = make(buffer);
      const { byteLength } = view;
      await out.write(view);
      buffer.resize(2);
      await assertRejects(() => out.write(view), TypeError, "shrunk");
      buffer.resize(16);
      await out.write(view);
      buffer.transfer();
      await assertRejects(() => out.write(view), TypeError, "detached");
      assertEquals(out.stats.bytesAccepted, 1 + 2 * byteLength);
      assertEquals(out.stats.bytesRejected, 0);
      await out.close();
      assertEquals(sender.text.length, 1 + 2 * byteLength);
    });

    Deno.test(`write() accepts a ${title} of ${realm} realm that is in bounds, empty or not`, async () => {
      const { out, sender } = setUp();
      const buffer = new Kinds.ArrayBuffer(16, { maxByteLength: 16 });
      new Kinds.Uint8Array(buffer).fill(97);
      const view = make(buffer);
      const { byteLength, byteOffset } = view;
      await out.write(view);
      // At the very end of its buffer: empty, and no byte is missing.
      const { constructor } = view as unknown as {
        constructor: new (...args: unknown[]) => ArrayBufferView;
      };
      await out.write(new constructor(buffer, 16));
      await out.write(new constructor(buffer, byteOffset, 0));
      await out.close();
      assertEquals(sender.text, "a".repeat(byteLength));
    });
  }
}

Deno.test("write() accepts an ArrayBuffer of another realm", async () => {
  const { out, sender } = setUp();
  const text = 'new TextEncoder().encode("foreign").buffer';
  await out.write(runInNewContext(text, { TextEncoder }));
  await out.write(runInNewContext("new ArrayBuffer(0)"));
  await out.write(runInNewContext("new Uint8Array([33]).buffer"));
  await out.close();
  assertEquals(sender.text, "foreign!");
});

Deno.test("bad input changes nothing: write() rejects any other type and names it", async () => {
  const { out, sender } = setUp();
  for (
    const [data, shown] of [
      [5, "5"],
      [null, "null"],
      [undefined, "undefined"],
      [{ a: 1 }, "an object (Object)"],
      [["a"], "an object (Array)"],
      [new Blob(["a"]), "an object (Blob)"],
      [Object.create(null), "an object (no prototype)"],
    ]
  ) {
    const error = await assertRejects(
      () => out.write(data as string),
      TypeError,
      "Cannot write: data must be a string, an ArrayBuffer or a view of one",
    );
    assertStringIncludes(error.message, `received ${shown}`);
  }
  assertEquals(out.stats.bytesRejected, 0);
  await out.close();
  assertEquals(sender.events, ["close"]);
});

Deno.test("bad input changes nothing: readFrom() rejects what is not a Source", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  await out.write("abc");
  const stream = new Blob(["x"]).stream();
  await using file = await open(new URL(import.meta.url));
  for (
    const [source, shown] of [
      [undefined, "undefined"],
      [null, "null"],
      ["text", '"text"; write() takes text and bytes'],
      [new Uint8Array(1), "an object (Uint8Array); write() takes"],
      [file, "an object (FileHandle); its readableWebStream() is one"],
      [{ reads: true }, "an object (Object); ReadableStream.from() makes"],
      [stream.getReader({ mode: "byob" }), "ReadableStreamBYOBReader"],
      [new Blob().stream().getReader(), "ReadableStreamDefaultReader"],
      [Readable.from(["x"]), "an object (Readable); Readable.toWeb() of"],
    ] as const
  ) {
    const error = await assertRejects(
      () => out.readFrom(source as unknown as Reader),
      TypeError,
      'Cannot read: source must be a ReadableStream, a Blob, a Response, or have a method "read"',
    );
    assertStringIncludes(error.message, shown);
  }
  await assertRejects(() => out.readFrom(stream), TypeError, "is locked");
  const consumed = new Response("x");
  await consumed.text();
  await assertRejects(() => out.readFrom(consumed), TypeError, "is locked");
  await out.write("d");
  await out.close();
  assertEquals(sender.text, "abcd");
});

Deno.test("an empty write makes no send and counts nothing", async () => {
  const { out, sender } = setUp();
  for (
    const data of [
      "",
      new Uint8Array(),
      new ArrayBuffer(0),
      new DataView(new ArrayBuffer(8), 8),
    ]
  ) {
    await out.write(data);
    await out.flush();
  }
  await out.close();
  assertEquals(sender.events, ["close"]);
  assertEquals(out.stats.bytesAccepted, 0);
});

Deno.test("an empty write does not retry a failed send", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 2 }, [first.step]);
  await out.write("ab");
  await out.write("cd");
  first.reject(DOWN);
  await settle();
  for (const data of ["", new Uint8Array()]) await out.write(data);
  assertEquals(sender.sends, ["ab"]);
  await out.close();
  assertEquals(sender.sends, ["ab", "ab", "cd"]);
});

// -- Options --

Deno.test("StreamBuffer() has the documented defaults", async () => {
  using time = fakeTime();
  const sends: number[] = [];
  const script = [accept, accept, ignore];
  const out = new StreamBuffer((bytes, context) => {
    sends.push(bytes.length);
    return script.shift()!(context);
  });
  const capacity = 256 * 1024;
  await out.write(new Uint8Array(1));
  await time.tickAsync(999);
  assertEquals(sends, []);
  await time.tickAsync(1);
  assertEquals(sends, [1]);
  await out.write(new Uint8Array(capacity - 1));
  assertEquals(sends, [1]);
  await out.write(new Uint8Array(1));
  assertEquals(sends, [1, capacity]);
  await settle();
  await out.write(new Uint8Array(capacity));
  assertEquals(sends, [1, capacity, capacity]);
  await out.write(new Uint8Array(capacity));
  // maxQueuedBytes: 64 times capacity.
  for (let i = 0; i < 64; i++) void out.write(new Uint8Array(capacity));
  await assertRejects(() => out.write("x"), BufferFullError, "16777216");
  const close = assertRejects(() => out.close(), FlushError);
  await time.tickAsync(29_999);
  assert(await isPending(close));
  await time.tickAsync(1);
  await close;
});

Deno.test("StreamBuffer() calls send as a method of its sender", async () => {
  let self: unknown;
  const sender = {
    send() {
      self = this;
    },
  };
  await using out = new StreamBuffer(sender);
  await out.write("x");
  await out.flush();
  assertStrictEquals(self, sender);
});

// -- One store --

Deno.test("one store: it and a spare are all that is ever allocated, the spare when first needed", async () => {
  const stores = new Set<ArrayBuffer>();
  const out = new StreamBuffer(({ buffer }) => {
    assertEquals(buffer.byteLength, 8);
    stores.add(buffer);
    return settle();
  }, { capacity: 8 });
  await out.write("abc");
  await out.flush();
  assertEquals(stores.size, 1);
  for (let i = 0; i < 50; i++) {
    await out.write("abcde");
    if (i % 7 === 0) await out.flush();
  }
  await out.close();
  assertEquals(stores.size, 2);
});

Deno.test('one store: oversize: "whole" allocates no other', async () => {
  const stores = new Set<ArrayBuffer>();
  const out = new StreamBuffer(({ buffer }) => {
    if (buffer.byteLength === 8) stores.add(buffer);
    return settle();
  }, { capacity: 8, oversize: "whole" });
  for (let i = 0; i < 9; i++) {
    for (const size of [8, 8, 20]) await out.write(new Uint8Array(size));
  }
  await out.close();
  assertEquals(stores.size, 2);
});

Deno.test("one store: memory is at most 2 × capacity + maxQueuedBytes", {
  // It gives no context the function.
  ignore: Deno.version.deno.startsWith("2.8."),
}, async () => {
  // A context that is made after the flag was set has the function.
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("globalThis.gc");
  const capacity = 1_000_000;
  const maxQueuedBytes = 21_000_000;
  const data = new Uint8Array(capacity);
  collect();
  const before = Deno.memoryUsage().external;
  const first = gate();
  const { out } = setUp({ capacity, maxQueuedBytes }, [first.step]);
  void out.write(data);
  void out.write(data);
  // Half of a store, and then less, is the worst case for packs. The last
  // write leaves no room for another.
  while (out.stats.bytesRejected === 0) {
    void out.write(data.subarray(0, 500_000));
    void out.write(data.subarray(0, 200_000));
  }
  assertEquals(out.stats.bytesQueued, maxQueuedBytes);
  collect();
  const held = Deno.memoryUsage().external - before;
  assert(held <= 2 * capacity + maxQueuedBytes + 10_000, `${held} bytes`);
  assert(held >= 2 * capacity + out.stats.bytesQueued, `${held} bytes`);
  first.resolve();
  await out.close();
});

Deno.test("queued writes take memory by the byte, not by the write", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 64 }, [first.step]);
  await out.write(new Uint8Array(64));
  await out.write(new Uint8Array(64));
  const promises = new Set<Promise<void>>();
  for (let i = 0; i < 640; i++) promises.add(out.write("x"));
  // One promise per pack, which holds as many writes as fit into a store.
  assertEquals(promises.size, 10);
  first.resolve();
  await Promise.all(promises);
  await out.close();
  assertEquals(sender.text, "\0".repeat(128) + "x".repeat(640));
});

// -- A write that fits is a copy --

Deno.test("a write that fits is a copy: its bytes are in the store when write() returns", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [stall]);
  // Into the store, into the spare, into the queue while both are full, and
  // into a pack that is queued already.
  const data = new TextEncoder().encode("abcd");
  for (let i = 0; i < 3; i++) {
    void out.write(data);
    data[0]!++;
  }
  const small = new TextEncoder().encode("x");
  for (let i = 0; i < 3; i++) {
    void out.write(small);
    small[0]!++;
  }
  data.fill(0);
  small.fill(0);
  void out.abort().catch(() => {});
  assertEquals(sender.sends, ["abcd"]);
  assertEquals(textOf(out.takeUnsent()), "abcdbbcd");
  const again = setUp({ capacity: 4 }, [() => settle()]);
  data.set(new TextEncoder().encode("abcd"));
  for (let i = 0; i < 3; i++) {
    void again.out.write(data);
    data[0]!++;
  }
  for (const text of ["x", "y", "z"]) {
    small.set(new TextEncoder().encode(text));
    void again.out.write(small);
    small.fill(0);
  }
  await again.out.close();
  assertEquals(again.sender.text, "abcdbbcdcbcdxyz");
});

Deno.test("a write that fits is a copy: write() returns the same resolved promise each time", async () => {
  const { out } = setUp({ capacity: 8 });
  const first = out.write("a");
  assertStrictEquals(out.write(new Uint8Array(2)), first);
  assertStrictEquals(out.write(""), first);
  assertStrictEquals(out.write(new Uint8Array(5)), first);
  await settle();
  assertStrictEquals(out.write(new Uint8Array()), first);
  assertStrictEquals(out.write(new Uint8Array(8)), first);
  await out.close();
  const large = setUp({ capacity: 4000 }).out;
  for (const text of ["abc", "é", "a".repeat(40), "a".repeat(300)]) {
    // Into an empty store, and behind what is there.
    for (let i = 0; i < 2; i++) assertStrictEquals(large.write(text), first);
    await large.flush();
  }
  await large.close();
});

Deno.test("a write that fits is a copy: a string makes no array, not even in an empty store", async () => {
  const { encode } = TextEncoder.prototype;
  const { out, sender } = setUp({ capacity: 4000 });
  let text = "";
  TextEncoder.prototype.encode = () => {
    throw new Error("encode() was called");
  };
  try {
    for (const size of [1, 32, 33, 256, 257, 600]) {
      for (const last of ["a", "é"]) {
        const piece = ("a".repeat(size) + last).slice(-size);
        await out.write(piece);
        await out.write(piece);
        await out.flush();
        text += piece + piece;
      }
    }
  } finally {
    TextEncoder.prototype.encode = encode;
  }
  await out.close();
  assertEquals(sender.text, text);
});

Deno.test("write() takes only the bytes of the view, of every kind of view", async () => {
  const { buffer } = new TextEncoder().encode("abcdefgh");
  for (
    const [data, expected] of [
      [new Uint8Array(buffer).subarray(1), "bcdefgh"],
      [new DataView(buffer, 2, 3), "cde"],
      [new Uint16Array(buffer, 2, 2), "cdef"],
      [new Uint8ClampedArray(buffer, 7), "h"],
      [new Float64Array(buffer), "abcdefgh"],
      [buffer, "abcdefgh"],
    ] as const
  ) {
    const { out, sender } = setUp();
    await out.write(data);
    await out.close();
    assertEquals(sender.text, expected);
  }
});

for (const oversize of ["split", "whole"] as const) {
  Deno.test(`write() copies a view of shared memory, oversize: "${oversize}"`, async () => {
    const sent: Uint8Array[] = [];
    const out: StreamBuffer = new StreamBuffer((bytes) => {
      assertInstanceOf(bytes.buffer, ArrayBuffer as never);
      sent.push(bytes.slice());
    }, { capacity: 4, oversize });
    const shared = new Uint8Array(new SharedArrayBuffer(3));
    shared.set([1, 2, 3]);
    await out.write(shared);
    await out.write(new Uint8Array(new SharedArrayBuffer(9)));
    await out.close();
    assertEquals([...concat(sent)], [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  });
}

Deno.test("write() encodes a lone or split surrogate as U+FFFD", async () => {
  for (const capacity of [4, 64]) {
    const { out, sender } = setUp({ capacity, oversize: "whole" });
    await out.write("a\ud83d");
    await out.write("\ude00b");
    await out.write("\ud83d\ude00");
    await out.close();
    assertEquals(sender.text, "a\ufffd\ufffdb😀");
  }
});

// Strings are encoded in different ways by length; the sizes include the bounds.
for (const size of [0, 1, 31, 32, 33, 255, 256, 257, 600]) {
  for (
    const [title, last] of [
      ["ASCII", "z"],
      ["ASCII except for the end", "é"],
      ["3 bytes at the end", "€"],
      ["a lone surrogate at the end", "\udbff"],
      ["the first non-ASCII character", "\x80".repeat(size)],
      ["3 bytes each", "€".repeat(size)],
      ["mixed scripts", "aé€😀".repeat(size)],
    ] as const
  ) {
    const text = size === 0 ? "" : ("a".repeat(size) + last).slice(-size);
    Deno.test(`write() of ${size} characters, ${title}: the bytes are those of TextEncoder`, async () => {
      const bytes = new TextEncoder().encode(text);
      const most = Math.max(bytes.length, 1);
      for (const capacity of [1, most, most + 1, 2 * most + 1, 9999]) {
        const received: Uint8Array[] = [];
        const out = new StreamBuffer((bytes) => {
          received.push(bytes.slice());
        }, { capacity });
        await out.write("x");
        await out.write(text);
        await out.write(text);
        assertEquals(out.stats.bytesAccepted, 1 + 2 * bytes.length);
        await out.close();
        const expected = concat([new Uint8Array([120]), bytes, bytes]);
        assertEquals(concat(received), expected);
      }
    });
  }
}

Deno.test("a string write during which a sender writes to another buffer keeps both", async () => {
  const received: string[] = [];
  await using other = new StreamBuffer(() => {}, { capacity: 400 });
  await other.write("-");
  const out = new StreamBuffer((bytes) => {
    void other.write("b".repeat(50));
    received.push(textOf(bytes));
  }, { capacity: 64 });
  for (let i = 0; i < 3; i++) await out.write("a".repeat(50));
  await out.close();
  assertEquals(received, Array(3).fill("a".repeat(50)));
  assertEquals(other.stats.bytesAccepted, 151);
});

// -- Backpressure --

for (const oversize of OVERSIZE) {
  for (const text of ["i", "ijkl"]) {
    Deno.test(`backpressure: write() of ${text} waits only while both stores are full, oversize: "${oversize}"`, async () => {
      const [first, second] = [gate(), gate()];
      const script = [first.step, second.step];
      const { out, sender } = setUp({ capacity: 4, oversize }, script);
      await out.write("abcd");
      await out.write("efgh");
      const waiting = out.write(text);
      assert(await isPending(waiting));
      assertEquals(out.stats.bytesAccepted, 8);
      assertEquals(out.stats.bytesQueued, text.length);
      first.resolve();
      await waiting;
      assertEquals(out.stats.bytesQueued, 0);
      assertEquals(sender.sends, ["abcd", "efgh"]);
      second.resolve();
      await settle();
      // It is collected again, unless it fills a store.
      assertEquals(sender.sends.length, text.length === 4 ? 3 : 2);
      await out.close();
      assertEquals(sender.sends, ["abcd", "efgh", text]);
    });
  }
}

Deno.test("backpressure: write() past maxQueuedBytes rejects with BufferFullError and accepts nothing", async () => {
  const first = gate();
  const options = { capacity: 4, maxQueuedBytes: 6 };
  const { out, sender } = setUp(options, [first.step]);
  const kept = ["abcd", "efgh", "ijk", "lm", "n"].map((t) => out.write(t));
  const error = await assertRejects(() => out.write("op"), BufferFullError);
  assertEquals(
    error.message,
    "Cannot write 2 bytes: 6 are queued, and maxQueuedBytes is 6; await write(), or raise maxQueuedBytes",
  );
  assertEquals(out.stats.bytesQueued, 6);
  assertEquals(out.stats.bytesRejected, 2);
  first.resolve();
  await Promise.all(kept);
  await out.close();
  assertEquals(sender.text, "abcdefghijklmn");
  assertEquals(sender.sends, ["abcd", "efgh", "ijk", "lmn"]);
});

Deno.test("write() larger than capacity may wait alone, regardless of maxQueuedBytes", async () => {
  for (const text of ["01234", "0123456789"]) {
    const first = gate();
    const options = { capacity: 4, maxQueuedBytes: 0 };
    const { out, sender } = setUp(options, [first.step]);
    await out.write("abcd");
    await out.write("efgh");
    await assertRejects(() => out.write("ijkl"), BufferFullError);
    const alone = out.write(text);
    assert(await isPending(alone));
    await assertRejects(() => out.write(text), BufferFullError);
    first.resolve();
    await alone;
    await out.close();
    assertEquals(sender.text, `abcdefgh${text}`);
  }
});

Deno.test("maxQueuedBytes is at least capacity by default", async () => {
  const first = gate();
  const capacity = 20 * 1024 * 1024;
  const { out, sender } = setUp({ capacity }, [first.step]);
  const data = new Uint8Array(capacity);
  const writes = [1, 2, 3].map(() => out.write(data));
  first.resolve();
  await Promise.all(writes);
  await out.close();
  assertEquals(sender.attempts.length, 3);
});

Deno.test("a queued write that does not fit into the last pack begins another", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 8 }, [first.step]);
  for (const text of ["01234567", "89abcdef"]) await out.write(text);
  const writes = ["A", "B", "C", "DEFGHI", "J"].map((text) => out.write(text));
  assertStrictEquals(writes[2], writes[0]);
  first.resolve();
  await Promise.all(writes);
  await out.close();
  assertEquals(sender.sends, ["01234567", "89abcdef", "ABC", "DEFGHIJ"]);
});

// -- Order --

for (const capacity of [1, 2, 3, 7, 8, 64]) {
  for (const size of [1, 2, 3, 5, 8, 13, 64, 200]) {
    for (const kind of ["string", "bytes"]) {
      const title = `writes of ${size} at capacity ${capacity}, as ${kind}`;
      Deno.test(`order: the bytes arrive as written: ${title}`, async () => {
        const { out, sender } = setUp({ capacity });
        let expected = "";
        for (let i = 0; i < 20; i++) {
          const text = String.fromCharCode(97 + i).repeat(size);
          expected += text;
          await out.write(
            kind === "string" ? text : new TextEncoder().encode(text),
          );
        }
        await out.close();
        assertEquals(sender.text, expected);
        for (const { text } of sender.attempts) {
          assert(text.length <= capacity, `a send of ${text.length}`);
          // A send holds whole writes only, if one fits into the store.
          if (size <= capacity) assertEquals(text.length % size, 0);
        }
      });
    }
  }
}

Deno.test("order: there is one send at a time, in the order of the writes", async () => {
  let sending = false;
  let received = "";
  const sequences: number[] = [];
  const out = new StreamBuffer(async (bytes, { sequence, offset }) => {
    assert(!sending, "two sends at a time");
    assertEquals(offset, received.length);
    sending = true;
    await settle();
    received += textOf(bytes);
    sequences.push(sequence);
    sending = false;
  }, { capacity: 8, flushInterval: 0 });
  let expected = "";
  for (let i = 0; i < 50; i++) {
    const text = `${i} `.repeat(1 + i % 5);
    expected += text;
    void out.write(text);
    if (i % 7 === 0) void out.flush();
    if (i % 11 === 0) await settle();
  }
  await out.close();
  assertEquals(received, expected);
  assertEquals(sequences, [...sequences.keys()]);
});

Deno.test("order: it is kept for writes that are not awaited", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [() => settle()]);
  for (const text of ["ab", "cdef", "gh", "ij"]) void out.write(text);
  await out.close();
  assertEquals(sender.text, "abcdefghij");
  assertEquals(sender.sends, ["ab", "cdef", "ghij"]);
});

Deno.test("write() during a send goes out with the next batch", async () => {
  const { promise, resolve, step } = gate();
  const { out, sender } = setUp({ capacity: 8 }, [step]);
  await out.write("first");
  const flush = out.flush();
  await out.write("second");
  assertEquals(sender.sends, ["first"]);
  resolve();
  await promise;
  await flush;
  await out.close();
  assertEquals(sender.sends, ["first", "second"]);
});

Deno.test("order: a new write goes behind those still queued", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 4 }, [first.step], () => settle());
  const texts = ["abcd", "efgh", "ijkl", "mnop"];
  const writes = texts.map((text) => out.write(text));
  first.resolve();
  await writes[2];
  for (const text of ["qrst", "uvwx"]) writes.push(out.write(text));
  await Promise.all(writes);
  await out.close();
  assertEquals(sender.sends, [...texts, "qrst", "uvwx"]);
});

// -- Concurrency --

/** A buffer of capacity 4 whose sends wait, in their order, for one gate each. */
function overlapping(
  concurrency: number,
  options: StreamBufferOptions = {},
  count = 12,
) {
  const gates = Array.from({ length: count }, gate);
  const steps = gates.map(({ step }) => step);
  return { ...setUp({ capacity: 4, concurrency, ...options }, steps), gates };
}

Deno.test("concurrency: as many sends overlap, each with its sequence and offset", async () => {
  const { out, sender, gates } = overlapping(3);
  const writes = ["aaaa", "bbbb", "cccc", "dddd"].map((text) =>
    out.write(text)
  );
  await Promise.all(writes); // the last one is in the store
  assertEquals(sender.attempts, [
    { sequence: 0, offset: 0, text: "aaaa" },
    { sequence: 1, offset: 4, text: "bbbb" },
    { sequence: 2, offset: 8, text: "cccc" },
  ]);
  const waiting = out.write("eeee");
  assert(await isPending(waiting), "there are four stores");
  gates[1]!.resolve();
  await waiting;
  assertEquals(sender.sends.length, 4, "any acknowledgement makes room");
  for (const { resolve } of gates) resolve();
  await out.close();
  assertEquals(sender.sends.join(""), "aaaabbbbccccddddeeee");
});

Deno.test("concurrency: flush() sends at once, if a send may overlap", async () => {
  const { out, sender, gates } = overlapping(2);
  for (const text of ["a", "b", "c"]) {
    void out.write(text);
    void out.flush();
  }
  assertEquals(sender.sends, ["a", "b"]);
  gates[1]!.resolve();
  await settle();
  assertEquals(sender.sends, ["a", "b", "c"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: what nobody has asked for waits for a full store, or the clock", async () => {
  const { out, sender, gates } = overlapping(3);
  await out.write("a");
  void out.flush();
  await out.write("b");
  await out.write("c");
  assertEquals(sender.sends, ["a"]);
  await out.write("dd");
  assertEquals(sender.sends, ["a", "bcdd"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: all that has waited for a server is sent as soon as it is back", async () => {
  const { out, sender, gates } = overlapping(3);
  void out.write("aaaa");
  gates[0]!.reject(DOWN);
  await settle();
  const writes = ["bbbb", "cccc", "dddd"].map((text) => out.write(text));
  void out.flush();
  gates[1]!.resolve();
  await Promise.all(writes);
  assertEquals(sender.sends, ["aaaa", "aaaa", "bbbb", "cccc", "dddd"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: flush() and bytesDelivered count what is settled without a gap, bytesAhead the rest", async () => {
  const { out, gates } = overlapping(4);
  const counts = () => {
    const { bytesDelivered, bytesAhead } = out.stats;
    return [bytesDelivered, bytesAhead];
  };
  const flushes: Promise<void>[] = [];
  const done: number[] = [];
  for (const [i, text] of ["a", "bb", "ccc", "dddd"].entries()) {
    await out.write(text);
    flushes.push(out.flush().then(() => void done.push(i)));
  }
  const cases: [number, number[], number[]][] = [
    [2, [0, 3], []],
    [1, [0, 5], []],
    [0, [6, 0], [0, 1, 2]],
    [3, [10, 0], [0, 1, 2, 3]],
  ];
  for (const [i, expected, flushed] of cases) {
    gates[i]!.resolve();
    await settle();
    assertEquals(counts(), expected);
    assertEquals(done, flushed);
  }
  await Promise.all(flushes);
  await out.close();
});

Deno.test("concurrency: a failure rejects a flush that waits for that batch, and no other", async () => {
  const { out, gates } = overlapping(3);
  await out.write("aa");
  const first = out.flush();
  await out.write("bb");
  const second = out.flush();
  await out.write("cc");
  const third = out.flush();
  gates[1]!.reject(DOWN);
  await assertRejects(() => second, FlushError, "at offset 2");
  const error = await assertRejects(() => third, FlushError, "at offset 2");
  assertEquals(error.unsentBytes, 6);
  assert(await isPending(first));
  gates[0]!.resolve();
  await first;
  gates[2]!.resolve();
  await settle();
  assertEquals(out.stats.bytesAhead, 2);
  gates[3]!.resolve();
  await out.close();
});

Deno.test("concurrency: writes that wait for room reject when any send fails", async () => {
  const { out, sender, gates } = overlapping(2);
  void out.write("aaaa");
  void out.write("bbbb");
  void out.write("cccc");
  const waiting = out.write("dddd");
  gates[1]!.reject(DOWN);
  await assertRejects(() => waiting, FlushError, "at offset 4");
  for (const { resolve } of gates) resolve();
  await out.close();
  assertEquals(out.stats.bytesRejected, 4);
  assertEquals(sender.text, "aaaabbbbcccc");
});

Deno.test("concurrency: after a failure nothing new is sent until a send succeeds that was made after it", async () => {
  using time = fakeTime();
  using _ = fixedRandom(1);
  const { out, sender, gates } = overlapping(3);
  void out.write("aaaa");
  void out.write("bbbb");
  void out.write("cccc");
  void out.write("dddd");
  gates[0]!.reject(DOWN);
  await settle();
  gates[1]!.resolve(); // it was made before, and shows nothing
  await settle();
  assertEquals(sender.sends, ["aaaa", "bbbb", "cccc"]);
  await time.tickAsync(999);
  assertEquals(sender.sends.length, 3);
  await time.tickAsync(1);
  assertEquals(sender.sends.slice(3), ["aaaa"], "the batch that had failed");
  gates[2]!.resolve(); // as above
  await settle();
  assertEquals(sender.sends.slice(4), []);
  gates[3]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(4), ["dddd"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: failures that overlap are one, and the first batch is sent before the others", async () => {
  using time = fakeTime();
  using _ = fixedRandom(1);
  const { out, sender, gates } = overlapping(4);
  for (const text of ["aaaa", "bbbb", "cccc", "dddd"]) void out.write(text);
  for (const i of [2, 0, 3, 1]) gates[i]!.reject(DOWN);
  await settle();
  assertEquals(out.stats.failures, 4);
  // As with one send at a time: after 1 s, 2 s and 4 s.
  for (const [i, delay] of [1_000, 2_000, 4_000].entries()) {
    await time.tickAsync(delay - 1);
    assertEquals(sender.sends.length, 4 + i);
    await time.tickAsync(1);
    assertEquals(sender.sends.slice(4 + i), ["aaaa"]);
    if (i < 2) gates[4 + i]!.reject(DOWN);
    await settle();
  }
  gates[6]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(7), ["bbbb", "cccc", "dddd"]);
  for (const { resolve } of gates) resolve();
  await out.close();
  assertEquals(out.stats.bytesDelivered, 16);
});

Deno.test("concurrency: flush() sends every batch that has failed, at once", async () => {
  using _ = fakeTime();
  const { out, sender, gates } = overlapping(3);
  for (const text of ["aaaa", "bbbb", "cccc"]) void out.write(text);
  for (const { reject } of gates.slice(0, 3)) reject(DOWN);
  await settle();
  void out.write("d");
  const flush = out.flush();
  assertEquals(sender.sends.slice(3), ["aaaa", "bbbb", "cccc"]);
  for (const { resolve } of gates) resolve();
  await flush;
  assertEquals(sender.sends.slice(6), ["d"]);
  await out.close();
});

Deno.test("concurrency: no batch is retried before the longest retryAfter of those that failed together", async () => {
  using time = fakeTime();
  const { out, sender, gates } = overlapping(2);
  void out.write("aaaa");
  void out.write("bbbb");
  gates[0]!.reject(Object.assign(new Error("busy"), { retryAfter: 90_000 }));
  await settle();
  gates[1]!.reject(DOWN);
  await time.tickAsync(89_999);
  assertEquals(sender.sends.length, 2);
  await time.tickAsync(1);
  assertEquals(sender.sends.slice(2), ["aaaa"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: a success does not cut short what another batch was asked to wait", async () => {
  using time = fakeTime();
  const { out, sender, gates } = overlapping(2);
  void out.write("aaaa");
  void out.write("bbbb");
  gates[0]!.reject(DOWN);
  await time.tickAsync(1_000);
  assertEquals(sender.sends.slice(2), ["aaaa"]);
  gates[1]!.reject(Object.assign(new Error("busy"), { retryAfter: 60_000 }));
  await settle();
  gates[2]!.resolve();
  void out.write("cccc");
  await time.tickAsync(59_999);
  assertEquals(sender.sends.slice(3), []);
  await time.tickAsync(1);
  assertEquals(sender.sends.slice(3), ["bbbb"]);
  gates[3]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(4), ["cccc"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: a retry timer that fires a little early leaves no batch behind", async () => {
  using time = fakeTime();
  const { setTimeout } = globalThis;
  globalThis.setTimeout =
    ((callback: () => void, ms: number) =>
      setTimeout(callback, ms - 1)) as typeof globalThis.setTimeout;
  const { out, sender, gates } = overlapping(2);
  void out.write("aaaa");
  void out.write("bbbb");
  gates[0]!.reject(Object.assign(new Error("busy"), { retryAfter: 60_000 }));
  gates[1]!.reject(DOWN);
  await settle();
  await time.tickAsync(59_999);
  assertEquals(sender.sends.slice(2), ["aaaa"]);
  gates[2]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(3), ["bbbb"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: a flush that succeeds ends the wait that a server has asked for", async () => {
  using _ = fakeTime();
  const { out, sender, gates } = overlapping(2);
  void out.write("aaaa");
  gates[0]!.reject(Object.assign(new Error("busy"), { retryAfter: 60_000 }));
  await settle();
  const flush = out.flush();
  gates[1]!.resolve();
  await flush;
  void out.write("bbbb");
  assertEquals(sender.sends, ["aaaa", "aaaa", "bbbb"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: failures one after the other neither put off the next attempt, nor make it more than one", async () => {
  using time = fakeTime();
  using _ = fixedRandom(1);
  const { out, sender, gates } = overlapping(4);
  for (const text of ["aaaa", "bbbb", "cccc", "dddd"]) void out.write(text);
  gates[0]!.reject(DOWN);
  await time.tickAsync(600);
  gates[1]!.reject(DOWN);
  await time.tickAsync(399);
  assertEquals(sender.sends.length, 4);
  await time.tickAsync(1);
  assertEquals(
    sender.sends.slice(4),
    ["aaaa"],
    "a second after the first failure",
  );
  gates[2]!.reject(DOWN);
  await time.tickAsync(60_000);
  assertEquals(sender.sends.length, 5, "one is being tried");
  gates[4]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(5), ["bbbb", "cccc"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: batches past a refused one go to deadLetter, too, and are counted at once", async () => {
  const kept: [number, string][] = [];
  const { out, gates } = overlapping(4, {
    deadLetter: (bytes, _, { offset }) => {
      kept.push([offset, textOf(bytes)]);
      return true;
    },
  });
  for (const text of ["aaaa", "bbbb", "cccc", "dddd"]) void out.write(text);
  gates[1]!.reject(REFUSED);
  gates[2]!.resolve();
  await settle();
  assertEquals(kept, [[4, "bbbb"]]);
  const { bytesDelivered, bytesDiverted, bytesAhead } = out.stats;
  assertEquals([bytesDelivered, bytesDiverted, bytesAhead], [0, 4, 4]);
  gates[0]!.resolve();
  await settle();
  assertEquals(out.stats.bytesDelivered, 8);
  assertEquals(out.stats.bytesAhead, 0);
  gates[3]!.reject(REFUSED);
  await out.close();
  assertEquals(kept, [[4, "bbbb"], [12, "dddd"]]);
  assertEquals(out.stats.bytesDelivered, 8);
  assertEquals(out.stats.bytesDiverted, 8);
});

Deno.test("concurrency: a write sent whole is sent alone", async () => {
  const { out, sender, gates } = overlapping(3, { oversize: "whole" });
  void out.write("aaaa");
  void out.write("bbbb");
  void out.write("whole write");
  void out.write("cccc");
  gates[0]!.resolve();
  await settle();
  assertEquals(sender.sends, ["aaaa", "bbbb"]);
  gates[1]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(2), ["whole write"]);
  gates[2]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(3), ["cccc"]);
  for (const { resolve } of gates) resolve();
  await out.close();
});

Deno.test("concurrency: there is one store more than sends, made when they are needed and used again", async () => {
  const stores = new Set<ArrayBuffer>();
  let inFlight = 0;
  let most = 0;
  const out = new StreamBuffer(async (bytes) => {
    stores.add(bytes.buffer);
    most = Math.max(most, ++inFlight);
    await settle();
    inFlight--;
  }, { capacity: 4, concurrency: 3, flushInterval: 0 });
  for (let i = 0; i < 5; i++) {
    await out.write("aaaa");
    await out.flush();
  }
  assertEquals(stores.size, 2, "one send at a time needs two");
  for (let i = 0; i < 100; i++) await out.write(`${i}`.padEnd(4));
  await out.close();
  assertEquals(most, 3);
  assertEquals(stores.size, 4);
});

Deno.test("concurrency: close() waits for every send, and sends once more what was in flight and failed", async () => {
  const { out, sender, gates } = overlapping(3);
  for (const text of ["aaaa", "bbbb", "cccc", "dd"]) void out.write(text);
  const close = out.close();
  gates[1]!.reject(DOWN);
  gates[2]!.resolve();
  await settle();
  assertEquals(sender.sends, ["aaaa", "bbbb", "cccc"], "one is in flight");
  gates[0]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(3), ["bbbb"]);
  gates[3]!.resolve();
  await settle();
  assertEquals(sender.sends.slice(4), ["dd"]);
  gates[4]!.resolve();
  await close;
  assertEquals(sender.events.at(-1), "close");
  assertEquals(out.stats.bytesDelivered, 14);
});

Deno.test("concurrency: close() that fails waits for the sends that overlap, which may still succeed", async () => {
  const { out, gates } = overlapping(2);
  void out.write("aaaa");
  void out.write("bbbb");
  gates[0]!.reject(DOWN);
  gates[1]!.reject(DOWN);
  await settle();
  const close = out.close();
  await settle();
  gates[2]!.reject(DOWN);
  assert(await isPending(close));
  gates[3]!.resolve();
  await assertRejects(() => close, FlushError, "at offset 0");
  assertEquals(out.stats.bytesAhead, 4);
  assertEquals(textOf(out.takeUnsent()), "aaaa");
});

Deno.test("concurrency: close() succeeds if the batch that failed is delivered while it waits", async () => {
  using time = fakeTime();
  using _ = fixedRandom(1);
  const { out, sender, gates } = overlapping(2);
  for (const text of ["aaaa", "bbbb", "c"]) void out.write(text);
  gates[0]!.reject(DOWN);
  gates[1]!.reject(DOWN);
  await settle();
  const close = out.close();
  await settle();
  gates[2]!.reject(DOWN);
  await time.tickAsync(2_000); // the retry timer
  gates[4]!.resolve();
  await settle();
  gates[3]!.resolve();
  gates[5]!.resolve();
  await close;
  assertEquals(sender.sends.slice(4), ["aaaa", "c"]);
  assertEquals(sender.events.at(-1), "close");
});

Deno.test("concurrency: close() sends the rest at once, if it may overlap with what is in flight", async () => {
  const { out, sender, gates } = overlapping(3);
  void out.write("aaaa");
  void out.write("b");
  const close = out.close();
  assertEquals(sender.sends, ["aaaa", "b"]);
  for (const { resolve } of gates) resolve();
  await close;
});

Deno.test("concurrency: takeUnsent() returns exactly what nobody has acknowledged", async () => {
  const { out, sender, gates } = overlapping(5);
  for (const text of ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ff"]) {
    void out.write(text);
  }
  gates[1]!.resolve();
  gates[3]!.resolve();
  await settle();
  const reason = new Error("enough");
  await out.abort(reason);
  assertStrictEquals(sender.signal?.reason, reason);
  gates[4]!.resolve(); // it counts until the bytes have been taken
  await settle();
  assertEquals(out.stats.bytesAhead, 12);
  assertEquals(textOf(out.takeUnsent()), "aaaaccccff");
  assertEquals(out.takeUnsent().length, 0);
  gates[0]!.resolve();
  gates[2]!.reject(DOWN);
  await settle();
  const { bytesAccepted, bytesDelivered, bytesAhead } = out.stats;
  assertEquals([bytesAccepted, bytesDelivered, bytesAhead], [22, 0, 12]);
});

Deno.test("concurrency: a sender may write to the buffer, and the order holds", async () => {
  let extra = 3;
  const sends: string[] = [];
  const out = new StreamBuffer((bytes) => {
    sends.push(textOf(bytes));
    if (extra-- > 0) void out.write(`<${extra}>!`);
    return settle();
  }, { capacity: 4, concurrency: 4, flushInterval: 0 });
  await out.write("aaaa");
  await out.close();
  assertEquals(sends, ["aaaa", "<2>!", "<1>!", "<0>!"]);
});

Deno.test("concurrency: above 1, a sender whose sends make up one object is refused", async () => {
  const sender: Sender = { send() {}, ordered: true };
  assertThrows(
    () => new StreamBuffer(sender, { concurrency: 2 }),
    RangeError,
    "Cannot create StreamBuffer: concurrency must be 1 for a sender whose sends make up one object, received 2",
  );
  await new StreamBuffer(sender, { concurrency: 1 }).close();
});

// -- Whole writes --

for (const awaited of [true, false]) {
  Deno.test(`whole writes: a write no larger than capacity is never split over two sends, awaited: ${awaited}`, async () => {
    for (const capacity of [3, 4, 7, 16]) {
      const { out, sender } = setUp({ capacity }, [], () => settle());
      for (let i = 0; i < 60; i++) {
        // Each write begins with < and ends with >, whatever its size.
        const size = 2 + (i * 5) % (capacity - 1);
        const written = out.write(`<${"x".repeat(size - 2)}>`);
        if (awaited) await written;
        if (i % 13 === 0) void out.flush();
      }
      await out.close();
      for (const send of sender.sends) assertMatch(send, /^(<x*>)+$/);
    }
  });
}

for (const [text, size] of [["€", 3], ["é", 2], ["😀", 4]] as const) {
  for (let capacity = size; capacity < 3 * size; capacity++) {
    const title = `"${text}" at capacity ${capacity}`;
    Deno.test(`whole writes: a character that fits is never split: ${title}`, async () => {
      const { out, sender } = setUp({ capacity });
      const pieces = ["a", text, text, "ab", text, text, text, "b"];
      for (const piece of pieces) await out.write(piece);
      await out.close();
      assertEquals(sender.text, pieces.join(""));
    });
  }
}

Deno.test("write() sends only when the store has no room, and at the end", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  for (
    const text of ["0", "123456", "7890", "abcdefghijklmnopqrstuvwxy", "z"]
  ) {
    await out.write(text);
  }
  await out.close();
  assertEquals(
    sender.sends,
    ["0123456", "7890", "abcdefgh", "ijklmnop", "qrstuvwx", "yz"],
  );
});

Deno.test("write() that exactly fills the store sends it, once", async () => {
  const { out, sender } = setUp({ capacity: 2 });
  await out.write("ab");
  assertEquals(sender.sends, ["ab"]);
  // Also byte by byte, from an empty store and from one with room.
  const byte = new TextEncoder().encode("c");
  await settle();
  await out.write(byte);
  assertEquals(sender.sends, ["ab"]);
  await out.write(byte);
  assertEquals(sender.sends, ["ab", "cc"]);
  await out.close();
  assertEquals(sender.sends, ["ab", "cc"]);
});

for (
  const [title, text] of [
    ["one character", "a"],
    ["ASCII, character by character", "abc"],
    ["another script", "aé"],
    ["encoded aside", "a".repeat(40)],
    ["encoded in place", "é".repeat(300)],
  ] as const
) {
  Deno.test(`write() of a string that exactly fills the store sends it: ${title}`, async () => {
    const { length } = new TextEncoder().encode(text);
    for (const before of ["", "x"]) {
      const { out, sender } = setUp({ capacity: before.length + length });
      await out.write(before);
      await out.write(text);
      assertEquals(sender.sends, [before + text]);
      await out.close();
      assertEquals(sender.sends, [before + text]);
    }
  });
}

Deno.test("write() sends nothing until the store is full", async () => {
  const { out, sender } = setUp({ capacity: 1234 });
  for (const size of [1000, 200, 30]) await out.write(new Uint8Array(size));
  assertEquals(sender.attempts.length, 0);
  await out.write(new Uint8Array(9));
  assertEquals(sender.sends.map((text) => text.length), [1230]);
  await out.close();
  assertEquals(sender.sends.map((text) => text.length), [1230, 9]);
});

// -- Oversize writes --

for (const oversize of OVERSIZE) {
  Deno.test(`oversize: "${oversize}": bytes buffered earlier are sent first`, async () => {
    const { out, sender } = setUp({ capacity: 8, oversize });
    await out.write("12345");
    const write = out.write("x".repeat(20));
    if (oversize === "reject") {
      const error = await assertRejects(() => write, RangeError);
      assertEquals(
        error.message,
        'Cannot write 20 bytes: the capacity is 8, and oversize is "reject"',
      );
      assertEquals(out.stats.bytesRejected, 20);
    } else {
      await write;
    }
    await out.write("67");
    await out.close();
    const x8 = "x".repeat(8);
    assertEquals(
      sender.sends,
      {
        split: ["12345", x8, x8, "xxxx67"],
        whole: ["12345", "x".repeat(20), "67"],
        reject: ["1234567"],
      }[oversize],
    );
  });
}

Deno.test('oversize: "reject" accepts a write of exactly capacity, and no larger one', async () => {
  const { out, sender } = setUp({ capacity: 4, oversize: "reject" });
  await assertRejects(() => out.write("12345"), RangeError);
  await out.write("abcd");
  await out.write(new TextEncoder().encode("efgh"));
  await out.close();
  assertEquals(sender.sends, ["abcd", "efgh"]);
});

Deno.test('oversize: "whole": onError is called for each failed send', async () => {
  using time = fakeTime();
  const errors: FlushError[] = [];
  const onError = (error: FlushError) => errors.push(error);
  const { out, sender } = setUp(
    { capacity: 4, oversize: "whole", flushInterval: 100, onError },
    [down, down],
  );
  await out.write("01234");
  await settle();
  assertEquals(errors.length, 1);
  await time.tickAsync(1_000);
  assertEquals(errors.length, 2);
  assertStrictEquals(errors[1], out.stats.lastError);
  await out.close();
  assertEquals(sender.sends, ["01234", "01234", "01234"]);
});

Deno.test('oversize: "whole" comes after the bytes in the store', async () => {
  const first = gate();
  const options = { capacity: 4, oversize: "whole" } as const;
  const { out, sender } = setUp(options, [first.step]);
  for (const text of ["abcd", "e", "01234", "f"]) void out.write(text);
  assertEquals(sender.sends, ["abcd"]);
  first.resolve();
  await out.close();
  assertEquals(sender.sends, ["abcd", "e", "01234", "f"]);
});

Deno.test('oversize: "split": pieces wait for room one by one', async () => {
  const gates = [gate(), gate()];
  const { out, sender } = setUp({ capacity: 2 }, gates.map((g) => g.step));
  const write = out.write("abcdefg");
  assertEquals(sender.sends, ["ab"]);
  assertEquals(out.stats.bytesAccepted, 4);
  assertEquals(out.stats.bytesQueued, 3);
  gates[0]!.resolve();
  await settle();
  assertEquals(sender.sends, ["ab", "cd"]);
  assertEquals(out.stats.bytesQueued, 1);
  assert(await isPending(write));
  gates[1]!.resolve();
  await write;
  await out.close();
  assertEquals(sender.sends, ["ab", "cd", "ef", "g"]);
});

Deno.test('oversize: "split": a failed send rejects with acceptedBytes', async () => {
  const { out, sender } = setUp({ capacity: 2 }, [accept, down]);
  const error = await assertRejects(() => out.write("abcdefg"), FlushError);
  assertEquals(error.acceptedBytes, 6);
  assertEquals(error.unsentBytes, 4);
  assertStrictEquals(error.cause, DOWN);
  await out.write("g");
  await out.close();
  assertEquals(sender.text, "abcdefg");
  assertEquals(out.stats.bytesRejected, 1);
});

Deno.test('oversize: "split": a failed send rejects with acceptedBytes, at capacity 1 too', async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 1 }, [first.step]);
  await out.write("a");
  const write = out.write("bc");
  first.reject(DOWN);
  const error = await assertRejects(() => write, FlushError);
  assertEquals(error.acceptedBytes, 1);
  await out.close();
  assertEquals(sender.text, "ab");
});

Deno.test('oversize: "whole": the write settles when its batch is made, from a copy', async () => {
  const [first, second] = [gate(), gate()];
  const { out, sender } = setUp(
    { capacity: 2, oversize: "whole" },
    [first.step, second.step, down],
  );
  await out.write("h");
  const data = new TextEncoder().encode("abcdefg");
  const write = out.write(data);
  assert(await isPending(write));
  first.resolve();
  await write;
  assertEquals(sender.sends, ["h", "abcdefg"]);
  // Neither of these changes the bytes that are resent.
  data.fill(0);
  data.buffer.transfer();
  second.reject(DOWN);
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => out.flush(), FlushError);
  }
  await out.write("i");
  await out.close();
  assertEquals(sender.sends, ["h", ...Array(3).fill("abcdefg"), "i"]);
});

for (const oversize of ["split", "whole"] as const) {
  for (const before of ["", "e", "ef"]) {
    for (const size of [0, 9]) {
      Deno.test(`oversize: "${oversize}": an array that shrinks to ${size} bytes while it waits behind "${before}" rejects, and affects no other write`, async () => {
        const first = gate();
        const { out, sender } = setUp({ capacity: 4, oversize }, [first.step]);
        await out.write("abcd");
        await out.write(before);
        const buffer = new ArrayBuffer(10, { maxByteLength: 10 });
        const write = out.write(new Uint8Array(buffer));
        const flush = out.flush();
        // "split" has taken 4 bytes into an empty store.
        const taken = oversize === "split" && before === "" ? 4 : 0;
        if (size === 0) buffer.transfer();
        else buffer.resize(size);
        first.resolve();
        const error = await assertRejects(() => write, FlushError, "detached");
        assertInstanceOf(error.cause, TypeError);
        assertEquals(error.acceptedBytes, taken);
        await assertRejects(() => flush, FlushError);
        assertEquals(out.stats.bytesRejected, 10 - taken);
        assertEquals(out.stats.bytesQueued, 0);
        // The bytes that the flush demanded never come; later ones must not be
        // sent in their place.
        for (const text of ["g", "h"]) await out.write(text);
        await out.close();
        const between = before || "\0".repeat(taken);
        assertEquals(
          sender.sends,
          ["abcd", between, "gh"].filter((text) => text !== ""),
        );
      });
    }
  }
}

Deno.test('oversize: "split": what an array that shrinks leaves in the store is not sent early', async () => {
  const [first, second] = [gate(), gate()];
  const { out, sender } = setUp({ capacity: 4 }, [first.step, second.step]);
  for (const text of ["abcd", "efgh", "x"]) void out.write(text);
  const data = new Uint8Array(9);
  const write = out.write(data);
  data.buffer.transfer();
  first.resolve();
  await assertRejects(() => write, FlushError, "detached");
  second.resolve();
  await settle();
  assertEquals(sender.sends, ["abcd", "efgh"]);
  await out.close();
  assertEquals(sender.sends, ["abcd", "efgh", "x"]);
});

// -- flush() --

Deno.test("flush() resolves when every byte written before it is delivered, queued ones included", async () => {
  const gates = [gate(), gate(), gate(), gate()];
  const { out, sender } = setUp({ capacity: 2 }, gates.map((g) => g.step));
  for (const text of ["ab", "cd", "ef"]) void out.write(text);
  const flush = out.flush();
  void out.write("gh");
  for (const { resolve } of gates.slice(0, 3)) {
    assert(await isPending(flush));
    resolve();
  }
  await flush;
  // The last send is still in flight: this flush did not wait for it.
  assertEquals(sender.text, "abcdef");
  assertEquals(sender.sends, ["ab", "cd", "ef", "gh"]);
  gates[3]!.resolve();
  await out.close();
});

Deno.test("flush() with nothing to send makes no send", async () => {
  const { out, sender } = setUp();
  assert(out.flush() instanceof Promise);
  await out.write("x");
  await out.flush();
  await out.flush();
  assertEquals(sender.sends, ["x"]);
  await out.close();
});

for (const how of ["flush", "close"] as const) {
  Deno.test(`${how}() sends the last write of a queue`, async () => {
    const { out, sender } = setUp({ capacity: 4 }, [], () => settle());
    for (const text of ["abcd", "efgh", "ijkl", "mn"]) void out.write(text);
    await out[how]();
    assertEquals(sender.sends, ["abcd", "efgh", "ijkl", "mn"]);
    await out.close();
  });
}

Deno.test("overlapping flush() calls share a send", async () => {
  const first = gate();
  const { out, sender } = setUp({}, [first.step]);
  await out.write("a");
  const flushes = [out.flush(), out.flush()];
  assertStrictEquals(flushes[1], flushes[0]);
  await out.write("b");
  flushes.push(out.flush());
  assertEquals(sender.sends, ["a"]);
  first.resolve();
  await Promise.all(flushes);
  assertEquals(sender.sends, ["a", "b"]);
  await out.close();
});

Deno.test("flush() calls for different bytes settle in order", async () => {
  const gates = [gate(), gate(), gate(), gate()];
  const { out } = setUp({ capacity: 2 }, gates.map(({ step }) => step));
  const settled: number[] = [];
  for (const i of gates.keys()) {
    void out.write("ab");
    void out.flush().then(() => settled.push(i));
  }
  for (const [i, { resolve }] of gates.entries()) {
    assertEquals(settled, [...gates.keys()].slice(0, i));
    resolve();
    await settle();
  }
  assertEquals(settled, [0, 1, 2, 3]);
  await out.close();
});

Deno.test("flush() calls for different bytes may share a send", async () => {
  const first = gate();
  const { out, sender } = setUp({}, [first.step]);
  await out.write("a");
  const flushes = [out.flush()];
  await out.write("b");
  flushes.push(out.flush());
  await out.write("c");
  flushes.push(out.flush());
  first.resolve();
  await Promise.all(flushes);
  assertEquals(sender.sends, ["a", "bc"]);
  await out.close();
});

Deno.test("flush() is not prolonged by a later write that would fit into its last pack", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 4 }, [first.step]);
  for (const text of ["aaaa", "bbbb", "123456789"]) void out.write(text);
  void out.flush();
  void out.write("x");
  const flush = out.flush();
  void out.write("yyy");
  first.resolve();
  await flush;
  assertEquals(sender.text, "aaaabbbb123456789x");
  await out.close();
  assertEquals(sender.text, "aaaabbbb123456789xyyy");
});

Deno.test("writes after a flush() are collected again", async () => {
  const { out, sender } = setUp();
  await out.write("a");
  await out.flush();
  await out.write("b");
  await settle();
  await out.write("c");
  await out.close();
  assertEquals(sender.sends, ["a", "bc"]);
});

Deno.test("flush() resolves even if the producer never stops", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [], () => settle());
  let flushed = false;
  await out.write("abc");
  const flush = out.flush().then(() => flushed = true);
  let written = 3;
  while (!flushed) {
    await out.write("abc");
    written += 3;
    assert(written < 1000, "flush() was prolonged by later writes");
  }
  await flush;
  await out.close();
  assertEquals(sender.text.length, written);
});

// -- sendNow() --

Deno.test("sendNow() sends what is in the store at once, though a send is in flight", async () => {
  const { out, sender, gates } = overlapping(1);
  await out.write("aa");
  void out.flush();
  await out.write("bb");
  out.sendNow();
  assertEquals(sender.attempts, [
    { sequence: 0, offset: 0, text: "aa" },
    { sequence: 1, offset: 2, text: "bb" },
  ]);
  gates[1]!.resolve();
  await settle();
  assertEquals(out.stats.bytesAhead, 2);
  gates[0]!.resolve();
  await settle();
  assertEquals(out.stats.bytesDelivered, 4);
  await out.close();
});

Deno.test("sendNow() sends what is alone in the store, and nothing from an empty buffer", async () => {
  const { out, sender } = setUp();
  out.sendNow();
  await out.write("a");
  out.sendNow();
  out.sendNow();
  assertEquals(sender.sends, ["a"]);
  await out.close();
  assertEquals(sender.sends, ["a"]);
});

Deno.test("sendNow() sends one batch more than concurrency, and the rest in its turn", async () => {
  const { out, sender, gates } = overlapping(2);
  for (const text of ["aaaa", "bbbb", "cccc", "dddd"]) void out.write(text);
  assertEquals(sender.sends, ["aaaa", "bbbb"]);
  out.sendNow();
  out.sendNow();
  assertEquals(sender.sends, ["aaaa", "bbbb", "cccc"]);
  gates[0]!.resolve();
  await settle();
  assertEquals(sender.sends.length, 3, "two are in flight");
  gates[1]!.resolve();
  await settle();
  assertEquals(sender.sends[3], "dddd");
  for (const { resolve } of gates) resolve();
  await out.close();
  assertEquals(sender.text, "aaaabbbbccccdddd");
});

Deno.test("sendNow() makes no more room than one more store, however often it is called", async () => {
  const { out, gates } = overlapping(1);
  for (const text of ["aaaa", "bbbb", "cccc"]) {
    void out.write(text);
    out.sendNow();
    out.sendNow();
  }
  assert(await isPending(out.write("dddd")), "it was called before");
  for (const { resolve } of gates) resolve();
  await out.close();
  assertEquals(out.stats.bytesDelivered, 16);
});

Deno.test("a sender that ends the buffer is not given the batches that were to follow", async () => {
  const sends: string[] = [];
  let isDown = true;
  const out: StreamBuffer = new StreamBuffer((bytes) => {
    sends.push(textOf(bytes));
    if (isDown) throw DOWN;
    void out.abort(DOWN);
  }, { capacity: 4, concurrency: 2, flushInterval: 0 });
  void out.write("aaaa");
  void out.write("bbbb");
  await settle();
  isDown = false;
  void out.flush(); // of both
  assertEquals(sends, ["aaaa", "bbbb", "aaaa"]);
});

Deno.test("sendNow() sends what has failed at once, and with it the store", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({}, [down, down, down]);
  await out.write("a");
  await assertRejects(() => out.flush(), FlushError, "down");
  await out.write("b");
  out.sendNow();
  assertEquals(sender.sends, ["a", "a", "b"]);
  await settle();
  assertEquals(out.stats.failures, 3);
  await time.tickAsync(2_000);
  assertEquals(sender.sends, ["a", "a", "b", "a", "b"]);
  assertEquals(out.stats.bytesDelivered, 2);
  await out.close();
});

Deno.test("sendNow(): a batch that has overlapped and failed waits for the one before it", async () => {
  const { out, sender, gates } = overlapping(1);
  await out.write("a");
  void out.flush();
  await out.write("b");
  out.sendNow();
  gates[0]!.reject(DOWN);
  gates[1]!.reject(DOWN);
  await settle();
  void out.flush();
  await settle();
  assertEquals(sender.sends, ["a", "b", "a"]);
  gates[2]!.reject(DOWN);
  await settle();
  assertEquals(sender.sends.length, 3, "it is held again, with the first");
  void out.flush();
  gates[3]!.resolve();
  await settle();
  assertEquals(sender.sends, ["a", "b", "a", "a", "b"]);
  gates[4]!.resolve();
  await out.close();
  assertEquals(sender.text, "ab");
});

Deno.test("sendNow() keeps no more stores than concurrency needs", async () => {
  const stores = new Set<ArrayBuffer>();
  const gates: PromiseWithResolvers<void>[] = [];
  const out = new StreamBuffer((bytes) => {
    stores.add(bytes.buffer);
    gates.push(Promise.withResolvers<void>());
    return gates.at(-1)!.promise;
  }, { capacity: 4, flushInterval: 0 });
  for (let round = 1; round <= 3; round++) {
    await out.write("a");
    void out.flush();
    await out.write("b");
    out.sendNow();
    await out.write("c"); // into a third store
    for (const { resolve } of gates) resolve();
    await settle();
    void out.flush();
    for (const { resolve } of gates) resolve();
    await settle();
    assert(stores.size <= 2 + round, "one of them was not kept");
  }
  assertEquals(stores.size, 5);
  await out.close();
});

Deno.test("sendNow() calls retryNow() of an open sender, whatever that throws", async () => {
  let told = 0;
  const out = new StreamBuffer({
    send: () => {},
    retryNow() {
      told++;
      throw new Error("no");
    },
  }, { flushInterval: 0 });
  out.sendNow();
  assertEquals(told, 1);
  await out.close();
  out.sendNow();
  assertEquals(told, 1, "the buffer is closed");
});

Deno.test("sendNow() sends nothing after a sender has ended the buffer in retryNow()", async () => {
  const sends: string[] = [];
  const out: StreamBuffer = new StreamBuffer({
    send: (bytes) => void sends.push(textOf(bytes)),
    retryNow: () => void out.abort(DOWN),
  }, { flushInterval: 0 });
  await out.write("a");
  out.sendNow();
  out.sendNow();
  assertEquals(sends, []);
  assertEquals(textOf(out.takeUnsent()), "a");
});

Deno.test("sendNow() does not overlap the sends of a sender that makes one object of them", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const sends: string[] = [];
  const out = new StreamBuffer({
    ordered: true,
    send: (bytes) => {
      sends.push(textOf(bytes));
      return promise;
    },
  }, { flushInterval: 0 });
  await out.write("a");
  out.sendNow();
  await out.write("b");
  out.sendNow();
  assertEquals(sends, ["a"]);
  resolve();
  await settle();
  assertEquals(sends, ["a", "b"]);
  await out.close();
});

Deno.test("sendNow() sends the rest of a buffer that is closing", async () => {
  const { out, sender, gates } = overlapping(1);
  await out.write("a");
  void out.flush();
  await out.write("b");
  const closed = out.close();
  assertEquals(sender.sends, ["a"]);
  out.sendNow();
  assertEquals(sender.sends, ["a", "b"]);
  for (const { resolve } of gates) resolve();
  await closed;
});

Deno.test("sendNow(): close() sends once more each of the sends that overlapped and failed", async () => {
  const { out, sender, gates } = overlapping(1);
  await out.write("a");
  void out.flush();
  await out.write("b");
  out.sendNow();
  const closed = out.close();
  for (const { reject } of gates.slice(0, 3)) reject(DOWN);
  gates[3]!.resolve();
  await assertRejects(() => closed, FlushError, "down");
  assertEquals(sender.sends, ["a", "b", "a", "b"]);
  assertEquals(textOf(out.takeUnsent()), "a");
});

Deno.test("sendNow() sends what readFrom() has read, from a copy while it reads on", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  const { promise, resolve } = Promise.withResolvers<number | null>();
  let reads = 0;
  const reading = out.readFrom({
    read: (p) => {
      if (reads++ > 0) return promise;
      p.set([65, 66]);
      return Promise.resolve(2);
    },
  });
  await settle();
  out.sendNow();
  assertEquals(sender.sends, ["AB"]);
  resolve(null);
  assertEquals(await reading, 2);
  await out.close();
});

// -- flushInterval --

Deno.test("flushInterval: no byte waits longer for its first send, however fast the writer", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({ flushInterval: 100 });
  await time.tickAsync(1000);
  assertEquals(sender.sends, []);
  const byte = new TextEncoder().encode("x");
  for (let i = 0; i < 9; i++) {
    await out.write(byte);
    await time.tickAsync(11);
  }
  assertEquals(sender.sends, []);
  await time.tickAsync(1);
  assertEquals(sender.sends, ["xxxxxxxxx"]);
  byte[0]!++;
  await out.write(byte);
  await time.tickAsync(99);
  assertEquals(sender.sends.length, 1);
  await time.tickAsync(1);
  assertEquals(sender.sends, ["xxxxxxxxx", "y"]);
  await out.close();
});

Deno.test("flushInterval restarts with the first byte after a full store", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({ capacity: 4, flushInterval: 100 });
  await out.write("a");
  await time.tickAsync(60);
  await out.write("bcd");
  await time.tickAsync(20);
  await out.write("e");
  await time.tickAsync(99);
  assertEquals(sender.sends, ["abcd"]);
  await time.tickAsync(1);
  assertEquals(sender.sends, ["abcd", "e"]);
  await out.close();
});

Deno.test("flushInterval that elapses during a send starts the next one as soon as it ends", async () => {
  using time = fakeTime();
  const first = gate();
  const { out, sender } = setUp({ flushInterval: 100 }, [first.step]);
  await out.write("a");
  await time.tickAsync(100);
  await out.write("b");
  await time.tickAsync(1000);
  assertEquals(sender.sends, ["a"]);
  first.resolve();
  await time.tickAsync(0);
  assertEquals(sender.sends, ["a", "b"]);
  await out.close();
});

Deno.test("flush(), close() and abort() leave no clock running", async () => {
  using time = fakeTime();
  const first = gate();
  const last = gate();
  const script = [first.step, accept, accept, last.step];
  const { out } = setUp({ flushInterval: 100 }, script);
  await out.write("a");
  assertEquals(time.countTimers(), 1);
  const flush = out.flush();
  assertEquals(time.countTimers(), 0);
  await out.write("b");
  const second = out.flush();
  assertEquals(time.countTimers(), 0);
  // It goes out with "b", before anything demands it.
  await out.write("c");
  first.resolve();
  await Promise.all([flush, second]);
  assertEquals(out.stats.bytesDelivered, 3);
  assertEquals(time.countTimers(), 0);
  await out.write("d");
  await out.flush();
  await out.write("e");
  void out.flush();
  await out.write("f");
  const close = out.close();
  assertEquals(time.countTimers(), 1, "the deadline of close()");
  last.resolve();
  await close;
  assertEquals(time.countTimers(), 0);
  const other = setUp({ flushInterval: 100 });
  await other.out.write("a");
  await other.out.abort();
  assertEquals(time.countTimers(), 0);
});

Deno.test("flushInterval is not prolonged by a source that brings a byte now and then", async () => {
  using time = fakeTime();
  const bytes = ["a", "b", "c"].map((text) => ({
    text,
    ...Promise.withResolvers<string>(),
  }));
  const { out, sender } = setUp({ flushInterval: 100 });
  const reading = out.readFrom(new Source(bytes.map(({ promise }) => promise)));
  for (const { text, resolve } of bytes) {
    resolve(text);
    await time.tickAsync(49);
  }
  // The first byte arrived 147 ms ago, the last one 49.
  assertEquals(sender.sends, ["abc"]);
  await reading;
  await out.close();
});

Deno.test("flushInterval: 1 is the minimum", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({ flushInterval: 1 });
  await out.write("a");
  assertEquals(sender.sends, []);
  await time.tickAsync(1);
  assertEquals(sender.sends, ["a"]);
  await out.close();
});

Deno.test("flushInterval: 0 turns the clock off", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({ flushInterval: 0 });
  await out.write("a");
  assertEquals(time.countTimers(), 0);
  await out.close();
  assertEquals(sender.text, "a");
});

// -- A failed send keeps its bytes --

Deno.test("a failed send keeps its bytes: they are sent again, first, with the same sequence and offset", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [accept, down, down]);
  await out.write("abcd");
  await out.flush();
  await out.write("ef");
  await assertRejects(() => out.flush(), FlushError);
  await out.write("gh");
  await assertRejects(() => out.flush(), FlushError);
  await out.flush();
  const failed = { sequence: 1, offset: 4, text: "ef" };
  assertEquals(sender.attempts, [
    { sequence: 0, offset: 0, text: "abcd" },
    failed,
    failed,
    failed,
    { sequence: 2, offset: 6, text: "gh" },
  ]);
  assertEquals(sender.text, "abcdefgh");
  await out.close();
});

Deno.test("a failed send keeps its bytes: flush() rejects while the server is down, and loses nothing", async () => {
  const { out, sender } = setUp({}, [down, down]);
  await out.write("abc");
  for (let i = 0; i < 2; i++) {
    const error = await assertRejects(() => out.flush(), FlushError);
    assertEquals(
      error.message,
      "Cannot deliver 3 bytes at offset 0 (batch 0): down",
    );
    assertEquals(error.unsentBytes, 3);
    assertEquals(error.acceptedBytes, 0);
    assertStrictEquals(error.cause, DOWN);
    assertEquals(out.stats.bytesDelivered, 0);
  }
  await out.flush();
  assertEquals(sender.text, "abc");
  await out.close();
});

for (
  const [title, step, cause, shown] of [
    [
      "throws",
      () => {
        throw DOWN;
      },
      DOWN,
      "down",
    ],
    ["rejects with a string", refuse("no"), "no", '"no"'],
    ["rejects with undefined", refuse(undefined), undefined, "undefined"],
    ["rejects with an object", refuse({ no: 1 }), { no: 1 }, "(Object)"],
    ["rejects with what cannot be shown", refuse(HOSTILE), HOSTILE, "cannot"],
  ] as const
) {
  Deno.test(`a sender that ${title} fails the send`, async () => {
    let calls = 0;
    const out = new StreamBuffer(
      (_, context) => calls++ === 0 ? step(context) : undefined,
      { flushInterval: 0 },
    );
    await out.write("abc");
    const error = await assertRejects(() => out.flush(), FlushError, shown);
    assertEquals<unknown>(error.cause, cause);
    await out.close();
    assertEquals(out.stats.bytesDelivered, 3);
  });
}

Deno.test("a queued write rejects when a send fails, and was not accepted", async () => {
  const first = gate();
  const errors: unknown[] = [];
  const { out, sender } = setUp(
    { capacity: 4, onError: (error) => errors.push(error) },
    [first.step],
  );
  await out.write("abcd");
  await out.write("ef");
  const waiting = [out.write("ghi"), out.write("j"), out.write("klmnopq")];
  first.reject(DOWN);
  for (const write of waiting) {
    const error = await assertRejects(() => write, FlushError);
    assertStrictEquals(error, out.stats.lastError);
    assertEquals(error.acceptedBytes, 0);
    assertEquals(error.unsentBytes, 6);
  }
  assertEquals(errors, []);
  assertEquals(out.stats.bytesQueued, 0);
  assertEquals(out.stats.bytesRejected, 11);
  // The store still has room for a write that fits.
  await out.write("gh");
  await out.close();
  assertEquals(sender.text, "abcdefgh");
});

for (
  const [flushInterval, delays] of [
    [0, [1, 2, 4, 8, 16, 32, 60, 60]],
    [100, [1, 2, 4, 8, 16, 32, 60, 60]],
    [5_000, [5, 10, 20, 40, 60, 60]],
    [90_000, [90, 90]],
  ] as const
) {
  for (const random of [0, 1]) {
    Deno.test(`a failed batch is sent again after delays that double, with flushInterval ${flushInterval} and Math.random() ${random}`, async () => {
      using time = fakeTime();
      using _ = fixedRandom(random);
      const script = delays.map(() => down);
      const { out, sender } = setUp({ capacity: 4, flushInterval }, script);
      await out.write("abcd");
      for (const [i, seconds] of delays.entries()) {
        await time.tickAsync(0);
        assertEquals(sender.sends.length, i + 1);
        const delay = seconds * 500 * (1 + random);
        // Nothing that is written hastens it, and nothing that waits for room.
        void out.write("efgh").catch(() => {});
        await time.tickAsync(delay - 1);
        assertEquals(sender.sends.length, i + 1);
        await time.tickAsync(1);
      }
      assertEquals(sender.deliveries[0]!.text, "abcd");
      assertEquals(out.stats.failures, delays.length);
      await out.close();
      assertEquals(time.countTimers(), 0);
    });
  }
}

Deno.test("a delivery makes the next delay a short one again", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const script = [down, down, down, accept, down];
  const { out, sender } = setUp({ capacity: 4 }, script);
  await out.write("abcd");
  await time.tickAsync(750 + 1_500 + 3_000);
  assertEquals(sender.text, "abcd");
  await out.write("efgh");
  await time.tickAsync(750);
  assertEquals(sender.text, "abcdefgh");
  await out.close();
});

Deno.test("flush() sends a failed batch at once, and its failures make the delay longer, too", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0.5);
  const { out, sender } = setUp({ capacity: 4 }, [down, down, down]);
  await out.write("abcd");
  await time.tickAsync(0);
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => out.flush(), FlushError);
  }
  assertEquals(sender.sends.length, 3);
  await time.tickAsync(2_999);
  assertEquals(sender.sends.length, 3);
  await time.tickAsync(1);
  assertEquals(sender.text, "abcd");
  await out.close();
});

Deno.test("a failed batch is not sent again before the retryAfter of its error has passed", async () => {
  using time = fakeTime();
  const retryAfter = 3 * 2 ** 31; // longer than a timer runs
  const busy = refuse(Object.assign(new Error("busy"), { retryAfter }));
  const { out, sender } = setUp({ capacity: 4, flushInterval: 1 }, [busy]);
  await out.write("abcd");
  await time.tickAsync(retryAfter - 1);
  assertEquals(sender.sends.length, 1);
  await time.tickAsync(1);
  assertEquals(sender.text, "abcd");
  await out.close();
});

const THROWS = {
  valueOf() {
    throw new Error("no");
  },
};
for (
  const retryAfter of [-5, NaN, "9999", null, THROWS, Symbol(), 10n ** 9n, 2]
) {
  Deno.test(`a retryAfter of ${show(retryAfter)} does not hasten anything`, async () => {
    using time = fakeTime();
    using _ = fixedRandom(0);
    const busy = refuse(Object.assign(new Error("busy"), { retryAfter }));
    const { out, sender } = setUp({ capacity: 4 }, [busy]);
    await out.write("abcd");
    await time.tickAsync(499);
    assertEquals(sender.sends.length, 1);
    await time.tickAsync(1);
    assertEquals(sender.text, "abcd");
    await out.close();
  });
}

for (const name of ["retryAfter", "ended"]) {
  Deno.test(`abort() in the getter ${name} leaves no timer behind`, async () => {
    using time = fakeTime();
    const abort = () => void out.abort();
    const out = new StreamBuffer({
      send() {
        throw {
          get retryAfter() {
            if (name === "retryAfter") abort();
            return 5;
          },
        };
      },
      get ended() {
        if (name === "ended") abort();
        return false;
      },
    }, { flushInterval: 0 });
    await out.write("a");
    await assertRejects(() => out.flush(), DOMException, "aborted");
    await settle();
    assertEquals(time.countTimers(), 0);
    assertEquals(textOf(out.takeUnsent()), "a");
  });
}

Deno.test("writes that wait for room while a batch is held follow it, or reject with the next failure", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0);
  const { out, sender } = setUp(
    { capacity: 4, maxQueuedBytes: 6 },
    [down, down],
  );
  await out.write("abcd");
  await settle();
  await out.write("efg");
  const first = assertRejects(() => out.write("hi"), FlushError);
  await time.tickAsync(500);
  await first;
  const second = out.write("hij");
  const third = out.write("klm");
  await assertRejects(() => out.write("n"), BufferFullError);
  await time.tickAsync(1_000);
  await Promise.all([second, third]);
  await out.close();
  assertEquals(sender.text, "abcdefghijklm");
});

Deno.test("close() does not wait for the delay of a failed batch", async () => {
  using time = fakeTime();
  const { out, sender } = setUp({ capacity: 4 }, [down]);
  await out.write("abcdef");
  await settle();
  await out.close(); // no time passes
  assertEquals(sender.text, "abcdef");
  assertEquals(time.countTimers(), 0);
});

Deno.test("abort() leaves no timer behind while a batch is held", async () => {
  using time = fakeTime();
  const { out } = setUp({ capacity: 4 }, [], down);
  await out.write("abcd");
  await settle();
  assertEquals(time.countTimers(), 1);
  await out.abort();
  assertEquals(time.countTimers(), 0);
  assertEquals(textOf(out.takeUnsent()), "abcd");
});

Deno.test("errors have the names of their classes", () => {
  assertEquals(new FlushError("no", { unsentBytes: 1 }).name, "FlushError");
  assertEquals(new BufferFullError("no").name, "BufferFullError");
  assertEquals(new NoProgressError("no").name, "NoProgressError");
});

Deno.test("a sender that has ended gets no send but for flush(), close() and a write or read that needs room", async () => {
  using time = fakeTime();
  const errors: FlushError[] = [];
  let calls = 0;
  const out = new StreamBuffer({
    send() {
      calls++;
      throw DOWN;
    },
    get ended() {
      return true;
    },
  }, {
    capacity: 4,
    flushInterval: 10,
    onError: (error) => errors.push(error),
  });
  await out.write("ab");
  await time.tickAsync(1_000_000);
  assertEquals([calls, errors.length, time.countTimers()], [1, 1, 0]);
  await out.write("cdef");
  await time.tickAsync(1_000_000);
  assertEquals([calls, errors.length, time.countTimers()], [1, 1, 0]);
  await assertRejects(() => out.write("g"), FlushError, "down");
  await assertRejects(() => out.readFrom(new Source(["g"])), FlushError);
  await assertRejects(() => out.flush(), FlushError);
  await assertRejects(() => out.close(), FlushError);
  assertEquals(calls, 5);
  assertEquals(textOf(out.takeUnsent()), "abcdef");
});

// -- A batch that is refused --

/** The error of a server that does not like the content. */
const refused = refuse(REFUSED);

/** A buffer with a `deadLetter`, and what was given to it. */
function setUpDeadLetter(
  take: NonNullable<StreamBufferOptions["deadLetter"]>,
  script: Step[],
  options: StreamBufferOptions = {},
) {
  const letters: {
    text: string;
    error: FlushError;
    context: DeadLetterContext;
  }[] = [];
  const setup = setUp({
    ...options,
    deadLetter: (bytes, error, context) => {
      letters.push({ text: textOf(bytes), error, context });
      return take(bytes, error, context);
    },
  }, script);
  return { ...setup, letters };
}

Deno.test("a refused batch need not stop the stream: it goes to deadLetter once, and the rest follows", async () => {
  const errors: unknown[] = [];
  const { out, sender, letters } = setUpDeadLetter(
    () => true,
    [accept, refused],
    { capacity: 4, onError: (error) => errors.push(error) },
  );
  await out.write("abcd");
  await out.write("efgh");
  await out.write("ij");
  await out.flush();
  assertEquals(sender.text, "abcdij");
  assertEquals(sender.sends, ["abcd", "efgh", "ij"]);
  assertEquals(letters.map(({ text }) => text), ["efgh"]);
  const [{ error, context }] = letters as [typeof letters[number]];
  assertInstanceOf(error, FlushError);
  assertStrictEquals(error.cause, REFUSED);
  assertEquals(
    error.message,
    "Cannot deliver 4 bytes at offset 4 (batch 1): bad record",
  );
  assertEquals([context.sequence, context.offset], [1, 4]);
  assertStrictEquals(context.signal, sender.signal);
  assertMatch(context.key, /^[0-9a-f-]{36}-1$/);
  const { bytesAccepted, bytesDelivered, bytesDiverted } = out.stats;
  assertEquals([bytesAccepted, bytesDelivered, bytesDiverted], [10, 6, 4]);
  assertEquals([out.stats.sends, out.stats.failures], [2, 1]);
  assertEquals(errors, [], "deadLetter was told");
  await out.close();
  assertEquals(out.takeUnsent().length, 0);
});

Deno.test("deadLetter gets the key of the error, and one of its own for each batch and buffer otherwise", async () => {
  const withKey = refuse({ refused: true, key: "abc-7" });
  const one = setUpDeadLetter(() => true, [withKey, refused, refused], {
    capacity: 1,
  });
  await one.out.write("abc");
  await one.out.close();
  const other = setUpDeadLetter(() => true, [refused]);
  await other.out.write("a");
  await other.out.close();
  const keys = [...one.letters, ...other.letters]
    .map(({ context }) => context.key);
  assertEquals(keys[0], "abc-7");
  assertEquals(new Set(keys).size, 4);
  assertEquals(keys[1]!.replace(/-1$/, ""), keys[2]!.replace(/-2$/, ""));
});

Deno.test("deadLetter may keep and change the bytes it is given", async () => {
  const kept: Uint8Array[] = [];
  const { out, sender } = setUpDeadLetter(
    (bytes) => {
      kept.push(bytes);
      if (kept.length === 2) bytes.fill(0);
      return kept.length !== 2;
    },
    [refused, refused],
    { capacity: 4 },
  );
  await out.write("abcd");
  await out.write("efgh");
  await assertRejects(() => out.flush(), FlushError);
  await out.write("ijkl");
  await out.close();
  assertEquals(textOf(kept[0]!), "abcd");
  assertEquals(sender.text, "efghijkl");
});

for (
  const [title, take, problem] of [
    ["returns false", () => false, "deadLetter did not take them"],
    [
      "returns something else",
      () => "yes" as never,
      "deadLetter did not take them",
    ],
    [
      "resolves to nothing",
      () => Promise.resolve() as never,
      "deadLetter did not take them",
    ],
    ["throws", () => {
      throw new Error("disk full");
    }, "deadLetter failed: disk full"],
    [
      "rejects",
      () => Promise.reject(new Error("disk full")),
      "deadLetter failed: disk full",
    ],
  ] as const
) {
  Deno.test(`a refused batch is kept, and sent again later, if deadLetter ${title}`, async () => {
    using time = fakeTime();
    using _ = fixedRandom(0);
    const errors: FlushError[] = [];
    const { out, sender, letters } = setUpDeadLetter(take, [refused, refused], {
      capacity: 4,
      onError: (error) => errors.push(error),
    });
    await out.write("abcd");
    await out.write("ef");
    await time.tickAsync(499);
    assertEquals(sender.sends, ["abcd"]);
    assertEquals(errors.map(({ message }) => message), [
      `Cannot deliver 4 bytes at offset 0 (batch 0): bad record; ${problem}`,
    ]);
    assertStrictEquals(errors[0]!.cause, REFUSED);
    assertStrictEquals(out.stats.lastError, errors[0]);
    assertEquals(errors[0]!.unsentBytes, 6);
    await assertRejects(() => out.flush(), FlushError, problem);
    assertEquals(letters.length, 2);
    assertEquals(out.stats.bytesDiverted, 0);
    await out.close();
    assertEquals(sender.text, "abcdef");
  });
}

for (
  const cause of [DOWN, "no", undefined, { refused: "yes" }, { refused: 1 }]
) {
  Deno.test(`deadLetter is not offered a batch whose error is ${show(cause)}`, async () => {
    const { out, letters } = setUpDeadLetter(() => true, [refuse(cause)]);
    await out.write("abc");
    await assertRejects(() => out.flush(), FlushError);
    await out.close();
    assertEquals(letters, []);
    assertEquals(out.stats.bytesDelivered, 3);
  });
}

Deno.test("without deadLetter a refused batch is kept, and sent at most six times in ten seconds, whatever is written", async () => {
  using time = fakeTime();
  using _ = fixedRandom(0);
  const { out, sender } = setUp(
    { capacity: 4, flushInterval: 10 },
    [],
    refused,
  );
  await out.write("abcd");
  for (let i = 0; i < 1_000; i++) {
    void out.write(`${i}`);
    await time.tickAsync(10);
  }
  assert(sender.sends.length <= 6, `${sender.sends.length} sends`);
  assertEquals(new Set(sender.sends), new Set(["abcd"]));
  await out.abort();
});

Deno.test("nothing else is sent while deadLetter has a batch, and flush() waits for it", async () => {
  const taking = Promise.withResolvers<boolean>();
  const { out, sender, letters } = setUpDeadLetter(
    () => taking.promise,
    [refused],
    { capacity: 4 },
  );
  await out.write("abcd");
  await out.write("efgh");
  const waiting = out.write("i");
  const flushed = out.flush();
  assert(await isPending(flushed));
  assert(await isPending(waiting));
  assertEquals(sender.sends, ["abcd"]);
  assertEquals(letters[0]!.context.deadline, Infinity);
  const closed = out.close();
  assert(letters[0]!.context.deadline < Infinity, "it is read anew");
  taking.resolve(true);
  await Promise.all([waiting, flushed, closed]);
  assertEquals(sender.sends, ["abcd", "efgh", "i"]);
  await out.close();
});

Deno.test("deadLetter that never settles does not keep close() from ending, and what it says later does not count", async () => {
  using time = fakeTime();
  const taking = Promise.withResolvers<boolean>();
  const { out, letters } = setUpDeadLetter(() => taking.promise, [refused], {
    closeTimeout: 1_000,
  });
  await out.write("abcd");
  const closed = assertRejects(() => out.close(), FlushError);
  await time.tickAsync(0);
  const { context } = letters[0]!;
  assert(context.closing.aborted);
  assertEquals(context.deadline, performance.now() + 1_000);
  await time.tickAsync(1_000);
  const { cause } = await closed;
  assertInstanceOf(cause, DOMException);
  assertEquals(cause.name, "TimeoutError");
  assertStrictEquals((cause as Error).cause, REFUSED);
  assert(context.signal.aborted);
  taking.resolve(true);
  await settle();
  assertEquals(out.stats.bytesDiverted, 0);
  assertEquals(textOf(out.takeUnsent()), "abcd");
  assertEquals(time.countTimers(), 0);
});

for (const late of ["before", "after"]) {
  Deno.test(`deadLetter that takes a batch ${late} takeUnsent() of an aborted buffer has no effect`, async () => {
    const taking = Promise.withResolvers<boolean>();
    const { out } = setUpDeadLetter(() => taking.promise, [refused]);
    await out.write("abcd");
    void out.flush();
    await settle();
    await out.abort();
    if (late === "after") assertEquals(textOf(out.takeUnsent()), "abcd");
    taking.resolve(true);
    await settle();
    if (late === "before") assertEquals(textOf(out.takeUnsent()), "abcd");
    const { bytesDiverted, bytesDelivered } = out.stats;
    assertEquals([bytesDiverted, bytesDelivered], [0, 0]);
  });
}

Deno.test("deadLetter may call close() and abort()", async () => {
  for (const end of ["close", "abort"] as const) {
    let ended: Promise<void> | undefined;
    const { out, sender, letters } = setUpDeadLetter(
      () => {
        ended = out[end]();
        return true;
      },
      [refused],
      { capacity: 4 },
    );
    await out.write("abcdef");
    void out.flush();
    await settle();
    await ended;
    assertEquals(letters.length, 1);
    assertEquals(sender.text, end === "close" ? "ef" : "");
    const unsent = end === "close" ? "" : "abcdef";
    assertEquals(textOf(out.takeUnsent()), unsent);
  }
});

Deno.test("close() offers what is refused to deadLetter, and resolves when all is taken", async () => {
  const { out, sender, letters } = setUpDeadLetter(
    () => Promise.resolve(true),
    [refused, accept, refused],
    { capacity: 2 },
  );
  await out.write("aabbcc");
  await out.close();
  assertEquals(letters.map(({ text }) => text), ["aa", "cc"]);
  assertEquals(sender.text, "bb");
  assertEquals(sender.events.at(-1), "close");
});

// -- Failures in the background --

Deno.test("a failure in the background loses nothing, ends nothing, and is reported once", async () => {
  using time = fakeTime();
  const errors: FlushError[] = [];
  const { out, sender } = setUp({
    capacity: 4,
    flushInterval: 100,
    onError: (error) => errors.push(error),
  }, [down, down, down]);
  await out.write("abcd");
  await time.tickAsync(0);
  assertEquals(errors.length, 1);
  assertStrictEquals(errors[0], out.stats.lastError);
  await out.write("efg");
  await time.tickAsync(1_000);
  assertEquals(errors.length, 2);
  assertEquals(out.stats.failures, 2);
  assertEquals(errors[1]!.unsentBytes, 7);
  await assertRejects(() => out.flush(), FlushError);
  assertEquals(errors.length, 2, "flush() has rejected with it already");
  await time.tickAsync(4_000);
  assertEquals(sender.sends, ["abcd", "abcd", "abcd", "abcd", "efg"]);
  assertEquals(out.stats.lastError, undefined);
  await out.close();
  assertEquals(time.countTimers(), 0);
});

Deno.test("onError changes nothing, whether it throws or rejects", async () => {
  using time = fakeTime();
  using unhandled = collectUnhandled();
  let calls = 0;
  const { out, sender } = setUp({
    capacity: 2,
    onError: () => {
      if (calls++ === 0) throw new Error("the terminal has gone");
      return Promise.reject(new Error("the disk is full"));
    },
  }, [down, down]);
  await out.write("ab");
  await time.tickAsync(1_000);
  assertEquals(calls, 2);
  await out.close();
  await settle();
  assertEquals(sender.text, "ab");
  assertEquals(unhandled.reasons, []);
});

Deno.test("no rejection of write() or flush() is ever an unhandled one", async () => {
  using unhandled = collectUnhandled();
  const { out } = setUp({ capacity: 2, oversize: "reject" }, [], down);
  for (const text of ["ab", "cd", "ef", "too long"]) void out.write(text);
  void out.write(5 as never);
  void out.flush();
  await settle();
  await out.close().catch(() => {});
  void out.write("late");
  void out.flush();
  await settle();
  assertEquals(unhandled.reasons, []);
});

// -- close() --

Deno.test("close() sends the rest and closes the sender, once", async () => {
  const { out, sender } = setUp();
  await out.write("abc");
  const close = out.close();
  assertStrictEquals(out.close(), close);
  await close;
  assertStrictEquals(out.close(), close);
  assertEquals(sender.events, ["send 0", "ack 0", "close"]);
  assertEquals(out.takeUnsent().length, 0);
});

Deno.test("close() accepts the queued writes", async () => {
  const { out, sender } = setUp({ capacity: 2 }, [() => settle()]);
  const writes = ["ab", "cd", "ef", "g", "hijklm"].map((t) => out.write(t));
  await out.close();
  await Promise.all(writes);
  assertEquals(sender.text, "abcdefghijklm");
});

Deno.test("close() during a send waits for it, then sends the rest, once", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 4 }, [first.step]);
  await out.write("abcd");
  await out.write("ef");
  const close = out.close();
  assert(await isPending(close));
  assertEquals(sender.sends, ["abcd"]);
  first.resolve();
  await close;
  assertEquals(sender.sends, ["abcd", "ef"]);
});

Deno.test("close() during a send that fails sends the batch again", async () => {
  const first = gate();
  const { out, sender } = setUp({ capacity: 4 }, [first.step]);
  await out.write("abcd");
  await out.write("ef");
  const close = out.close();
  first.reject(DOWN);
  await close;
  assertEquals(sender.sends, ["abcd", "abcd", "ef"]);
});

Deno.test("a buffer that has ended accepts no bytes, even if they fit", async () => {
  const byte = new Uint8Array(1);
  const endings: ((out: StreamBuffer) => Promise<void>)[] = [
    (out) => out.close(),
    (out) => out.abort(),
  ];
  for (const end of endings) {
    const { out } = setUp({ capacity: 8 }, [], ignore);
    await out.write(byte);
    void out.flush();
    await out.write(byte);
    const ended = end(out);
    await assertRejects(() => out.write(byte), TypeError, "the buffer is clos");
    await out.abort();
    await ended.catch(() => {});
    await assertRejects(() => out.write(byte), TypeError, "closed");
    assertEquals(out.stats.bytesAccepted, 2);
    assertEquals(out.stats.bytesRejected, 2);
  }
});

Deno.test("close() that fails reports no further error of the sender", async () => {
  using unhandled = collectUnhandled();
  const out = new StreamBuffer({
    send: () => Promise.reject(DOWN),
    abort: () => Promise.reject(new Error("and more")),
  });
  await out.write("abc");
  const { cause } = await assertRejects(() => out.close(), FlushError);
  assertStrictEquals(cause, DOWN);
  await settle();
  assertEquals(unhandled.reasons, []);
});

Deno.test("close() that times out reports how much of a write was accepted", async () => {
  using time = fakeTime();
  const { out } = setUp({ capacity: 2, closeTimeout: 500 }, [], ignore);
  const write = out.write("abcdefg");
  const outcomes = Promise.allSettled([write, out.close()]);
  await time.tickAsync(500);
  const [written, closed] = await outcomes;
  assert(written.status === "rejected" && closed.status === "rejected");
  assertInstanceOf(written.reason, FlushError);
  assertEquals(written.reason.acceptedBytes, 4);
  assertEquals(closed.reason.acceptedBytes, 0);
  assertEquals(textOf(out.takeUnsent()), "abcd");
});

for (const [title, step] of [["obeys", stall], ["ignores", ignore]] as const) {
  Deno.test(`close() settles within closeTimeout, with a sender that ${title} its signal`, async () => {
    using time = fakeTime();
    const options = { capacity: 4, closeTimeout: 500 };
    const { out, sender } = setUp(options, [], step);
    const writes = ["abcd", "ef", "ghi"].map((text) => out.write(text));
    const big = out.write("0123456789");
    const flush = out.flush();
    const close = out.close();
    const outcomes = Promise.allSettled([close, flush, writes[2], big]);
    await time.tickAsync(499);
    assertEquals(out.stats.bytesQueued, 13);
    await time.tickAsync(1);
    for (const outcome of await outcomes) {
      assert(outcome.status === "rejected");
      assertInstanceOf(outcome.reason, FlushError);
      assertMatch(outcome.reason.message, /closeTimeout of 500 ms has passed/);
      assertEquals(outcome.reason.unsentBytes, 6);
      assertEquals((outcome.reason.cause as Error).name, "TimeoutError");
    }
    assertEquals(textOf(out.takeUnsent()), "abcdef");
    assertEquals(out.stats.bytesRejected, 13);
    assert(sender.signal!.aborted);
    assertEquals(sender.attempts.length, 1);
    assertEquals(time.countTimers(), 0);
  });
}

for (
  const [title, why, shown] of [
    ["reports why the sender's attempts failed", () => DOWN, "passed: down"],
    ["settles even if lastFailure throws", () => {
      throw DOWN;
    }, "passed"],
  ] as const
) {
  Deno.test(`close() that times out ${title}`, async () => {
    using time = fakeTime();
    const out = new StreamBuffer({
      send: () => new Promise(() => {}),
      get lastFailure() {
        return why();
      },
    }, { closeTimeout: 500 });
    await out.write("abc");
    const close = assertRejects(() => out.close(), FlushError);
    await time.tickAsync(500);
    const { message, unsentBytes } = await close;
    assertEquals(
      message,
      `Cannot close the buffer: closeTimeout of 500 ms has ${shown}`,
    );
    assertEquals(unsentBytes, 3);
  });
}

Deno.test("close() settles within closeTimeout when the sender's close() hangs", async () => {
  using time = fakeTime();
  const out = new StreamBuffer({
    send: () => {},
    close: () => new Promise(() => {}),
  }, { closeTimeout: 500 });
  await out.write("abc");
  const close = assertRejects(() => out.close(), FlushError, "closeTimeout");
  await time.tickAsync(500);
  assertEquals((await close).unsentBytes, 0);
});

Deno.test("close() ends the buffer whatever the error, and takeUnsent() returns the bytes", async () => {
  const { out, sender } = setUp({ capacity: 4 });
  await out.write("abc");
  const { Uint8Array } = globalThis;
  const tooLarge = new RangeError("Array buffer allocation failed");
  // The spare is allocated when it is first needed, which is now.
  globalThis.Uint8Array = new Proxy(Uint8Array, {
    construct: () => {
      throw tooLarge;
    },
  });
  try {
    assertStrictEquals(await out.close().catch((error) => error), tooLarge);
  } finally {
    globalThis.Uint8Array = Uint8Array;
  }
  assertEquals(sender.events, ["abort"]);
  assertEquals(textOf(out.takeUnsent()), "abc");
});

Deno.test("close() rejects when the sender's close() does", async () => {
  const out = new StreamBuffer({
    send: () => {},
    close: () => Promise.reject(DOWN),
  });
  await out.write("abc");
  const error = await assertRejects(() => out.close(), FlushError);
  assertEquals(error.message, "Cannot close the sender: down");
  assertStrictEquals(error.cause, DOWN);
  assertEquals(error.unsentBytes, 0);
});

Deno.test("a closed buffer rejects write() and flush(), and accepts nothing", async () => {
  const { out, sender } = setUp();
  await out.close();
  for (
    const [data, size] of [
      ["x", "1 byte"],
      ["", "0 bytes"],
      [new Uint8Array(3), "3 bytes"],
    ] as const
  ) {
    await assertRejects(
      () => out.write(data),
      TypeError,
      `Cannot write ${size}: the buffer is closed`,
    );
  }
  await assertRejects(
    () => out.flush(),
    TypeError,
    "Cannot flush: the buffer is closed",
  );
  assertEquals(sender.events, ["close"]);
  assertEquals(out.stats.bytesAccepted, 0);
  assertEquals(out.stats.bytesRejected, 4);
});

Deno.test("a closing buffer rejects write() and flush()", async () => {
  const first = gate();
  const { out, sender } = setUp({}, [first.step]);
  await out.write("abc");
  const close = out.close();
  await assertRejects(() => out.write("x"), TypeError, "closing");
  await assertRejects(() => out.flush(), TypeError, "closing");
  assertThrows(() => out.takeUnsent(), TypeError, "closing");
  first.resolve();
  await close;
  assertEquals(sender.text, "abc");
});

Deno.test("SendContext tells a sender that the buffer is closing, and until when", async () => {
  using time = fakeTime();
  time.tick(5_000);
  const contexts: SendContext[] = [];
  let seen: number | undefined;
  const first = gate();
  const { out } = setUp({ capacity: 2, closeTimeout: 700 }, [
    (context) => {
      contexts.push(context);
      context.closing.addEventListener("abort", () => seen = context.deadline);
      return first.step(context);
    },
    (context) => void contexts.push(context),
  ]);
  await out.write("abc");
  const [{ closing, signal }] = contexts as [SendContext];
  assertEquals(contexts[0]!.deadline, Infinity);
  assertEquals(closing.aborted, false);
  time.tick(50);
  const closed = out.close();
  assertEquals(closing.aborted, true);
  assertEquals([seen, contexts[0]!.deadline], [5_750, 5_750]);
  first.resolve();
  await closed;
  assertEquals(contexts[1]!.deadline, 5_750);
  assertStrictEquals(contexts[1]!.closing, closing);
  assertEquals(signal.aborted, false);
});

Deno.test("a listener of closing may call close() and abort()", async () => {
  for (const end of ["close", "abort"] as const) {
    let ended: Promise<void> | undefined;
    const { out, sender } = setUp({}, [({ closing }) => {
      closing.addEventListener("abort", () => ended = out[end]());
    }]);
    await out.write("a");
    await out.flush();
    await out.write("b");
    const closed = out.close();
    const outcome = await closed.then(() => "closed", () => "failed");
    assertEquals(outcome, end === "close" ? "closed" : "failed");
    if (end === "close") assertStrictEquals(ended, closed);
    await ended;
    assertEquals(
      sender.events.filter((event) => event === "close").length,
      end === "close" ? 1 : 0,
    );
  }
});

// -- Nothing is lost --

Deno.test("nothing is lost: after a failed close() takeUnsent() returns exactly the unacknowledged bytes, once", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [], down);
  await out.write("abcd");
  await settle();
  await out.write("ef");
  const error = await assertRejects(() => out.close(), FlushError);
  assertEquals(error.unsentBytes, 6);
  assertStrictEquals(error.cause, DOWN);
  const attempts = sender.attempts.length;
  assertStrictEquals(
    await assertRejects(() => out.close(), FlushError),
    error,
  );
  assertEquals(sender.attempts.length, attempts);
  await assertRejects(() => out.write("x"), TypeError, "closed");
  assertEquals(textOf(out.takeUnsent()), "abcdef");
  assertEquals(out.takeUnsent().length, 0);
  assertEquals(out.stats.bytesAccepted, 6);
  assertEquals(out.stats.bytesDelivered, 0);
  assertEquals(out.stats.bytesRejected, 1);
  // What was sent may be only a part of the stream: the sender must not commit it.
  assertEquals(sender.events.slice(-2), ["fail 0", "abort"]);
});

Deno.test("an acknowledgement after closeTimeout still counts, until the bytes are taken", async () => {
  for (const taken of [false, true]) {
    using time = fakeTime();
    const late = gate();
    const options = { capacity: 4, closeTimeout: 500 };
    const { out } = setUp(options, [late.step]);
    await out.write("abcd");
    await out.write("ef");
    const close = assertRejects(() => out.close(), FlushError);
    await time.tickAsync(500);
    await close;
    if (taken) assertEquals(textOf(out.takeUnsent()), "abcdef");
    late.resolve();
    await time.tickAsync(0);
    assertEquals(textOf(out.takeUnsent()), taken ? "" : "ef");
    assertEquals(out.stats.bytesDelivered, taken ? 0 : 4);
  }
});

Deno.test("nothing is lost: takeUnsent() returns a write sent whole, even if its array has changed", async () => {
  const { out } = setUp({ capacity: 2, oversize: "whole" }, [stall]);
  const data = new TextEncoder().encode("abcdef");
  await out.write(data);
  data.fill(0);
  await out.abort(DOWN);
  assertEquals(textOf(out.takeUnsent()), "abcdef");
});

Deno.test("takeUnsent() throws on an open buffer", async () => {
  const { out } = setUp();
  assertThrows(() => out.takeUnsent(), TypeError, "the buffer is open");
  await out.close();
});

// -- await using --

Deno.test("await using is close(), and both errors are reported if the block throws too", async () => {
  const { out, sender } = setUp();
  {
    await using scoped = out;
    await scoped.write("abc");
  }
  assertEquals(sender.events, ["send 0", "ack 0", "close"]);

  const bug = new Error("a bug");
  const error = await assertRejects(async () => {
    await using scoped = setUp({}, [], down).out;
    await scoped.write("abc");
    throw bug;
  }, SuppressedError);
  assertStrictEquals(error.suppressed, bug);
  assertInstanceOf(error.error, FlushError);
});

// -- abort() --

Deno.test("abort() aborts the send, rejects everything that waits with the reason, and sends no more", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [stall]);
  await out.write("abcd");
  await out.write("ef");
  const waiting = [out.write("ghi"), out.write("0123456789"), out.flush()];
  const reason = { why: "enough" };
  await out.abort(reason);
  for (const promise of waiting) {
    assertStrictEquals(await promise.catch((error) => error), reason);
  }
  assertStrictEquals(sender.signal!.reason, reason);
  await settle();
  assertEquals(sender.events, ["send 0", "abort", "fail 0"]);
  assertEquals(textOf(out.takeUnsent()), "abcdef");
  await assertRejects(() => out.write("x"), TypeError, "closed");
});

Deno.test("the sender's abort() gets the reason, or the error of close()", async () => {
  const reasons: unknown[] = [];
  const make = () =>
    new StreamBuffer({
      send: () => Promise.reject(DOWN),
      abort: (reason) => void reasons.push(reason),
    });
  await make().abort("enough");
  const out = make();
  await out.write("a");
  const error = await assertRejects(() => out.close(), FlushError);
  assertEquals(reasons.length, 2);
  assertStrictEquals(reasons[0], "enough");
  assertStrictEquals(reasons[1], error);
});

Deno.test("abort() without a reason uses an AbortError", async () => {
  const { out } = setUp({}, [stall]);
  await out.write("a");
  const flush = out.flush();
  await out.abort();
  const error = await assertRejects(() => flush, DOMException);
  assertEquals(error.name, "AbortError");
});

Deno.test("abort() settles even if the sender ignores its signal", async () => {
  const { out } = setUp({}, [ignore]);
  await out.write("a");
  const flush = out.flush();
  await out.abort(DOWN);
  assertStrictEquals(await assertRejects(() => flush), DOWN);
  assertEquals(textOf(out.takeUnsent()), "a");
});

Deno.test("abort() has ended the buffer when listeners of its signal are called", async () => {
  let unsent: Uint8Array | undefined;
  const out: StreamBuffer = new StreamBuffer((_, { signal }) => {
    signal.addEventListener("abort", () => {
      void out.flush();
      unsent = out.takeUnsent();
    });
    return new Promise(() => {});
  }, { flushInterval: 0 });
  await out.write("abc");
  void out.flush();
  await out.abort();
  assertEquals(unsent && textOf(unsent), "abc");
  assertEquals(out.stats.sends, 0);
});

for (const reason of [null, "enough", 0]) {
  Deno.test(`abort(${JSON.stringify(reason)}) during close() rejects it with the reason`, async () => {
    const { out } = setUp({}, [stall]);
    await out.write("a");
    const close = out.close();
    await settle();
    await out.abort(reason);
    assertEquals(await close.catch((error) => error), reason);
    assertEquals(textOf(out.takeUnsent()), "a");
  });
}

Deno.test("abort() during close() rejects it with the reason", async () => {
  const { out, sender } = setUp({}, [stall]);
  await out.write("a");
  const close = out.close();
  await settle();
  await out.abort(DOWN);
  assertStrictEquals(await assertRejects(() => close), DOWN);
  assertStrictEquals(out.close(), close);
  assertEquals(sender.attempts.length, 1);
  assertEquals(sender.events.includes("close"), false);
});

Deno.test("abort() during close() sends no more, even if the send in flight succeeds", async () => {
  for (const held of ["", "b"]) {
    const first = gate();
    const errors: unknown[] = [];
    const { out, sender } = setUp(
      { onError: (error) => errors.push(error) },
      [first.step],
    );
    await out.write("a");
    void out.flush();
    await out.write(held);
    const flush = out.flush();
    const close = out.close();
    await out.abort(DOWN);
    assertStrictEquals(await assertRejects(() => flush), DOWN);
    assertStrictEquals(await assertRejects(() => close), DOWN);
    first.resolve();
    await settle();
    assertEquals(sender.events, ["send 0", "abort", "ack 0"]);
    assertEquals(textOf(out.takeUnsent()), held);
    assertEquals(errors, []);
  }
});

Deno.test("a send that abort() cuts off is counted, but not reported", async () => {
  for (const taken of [false, true]) {
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    const last = gate();
    const { out } = setUp({ capacity: 4, onError }, [last.step]);
    await out.write("abcd");
    await out.abort();
    if (taken) assertEquals(textOf(out.takeUnsent()), "abcd");
    last.reject(DOWN);
    await settle();
    assertEquals(errors, []);
    assertEquals(out.stats.failures, 1);
    assertStrictEquals(out.stats.lastError!.cause, DOWN);
    assertEquals(textOf(out.takeUnsent()), taken ? "" : "abcd");
  }
});

Deno.test("abort() on a closed buffer and close() on an aborted one do nothing", async () => {
  const { out, sender } = setUp();
  await out.close();
  await out.abort();
  assertEquals(sender.events, ["close"]);
  const other = setUp();
  await other.out.abort();
  await other.out.abort();
  await other.out.close();
  assertEquals(other.sender.events, ["abort"]);
});

Deno.test("close() settles even if the abort() of the sender hangs", async () => {
  const out = new StreamBuffer({
    send: () => {},
    abort: () => new Promise(() => {}),
  });
  void out.abort();
  await out.close();
});

Deno.test("abort() after close() does not call the sender's abort()", async () => {
  const events: string[] = [];
  const out = new StreamBuffer({
    send: () => {},
    close: () => {
      events.push("close");
      void Promise.resolve().then(() => Promise.resolve())
        .then(() => out.abort());
    },
    abort: () => void events.push("abort"),
  });
  await out.close();
  await settle();
  assertEquals(events, ["close"]);
});

// -- Senders that call back, or take their bytes away --

Deno.test("a write rejects if the send that it starts ends the buffer", async () => {
  const out: StreamBuffer = new StreamBuffer(() => void out.abort(), {
    capacity: 4,
    flushInterval: 0,
  });
  await out.write("abc");
  await assertRejects(() => out.write("de"), TypeError, "closed");
  assertEquals(textOf(out.takeUnsent()), "abc");
  assertEquals(out.stats.bytesRejected, 2);
});

Deno.test("a sender that calls close() from abort() finds the buffer ended", async () => {
  const sends: string[] = [];
  let aborts = 0;
  const out: StreamBuffer = new StreamBuffer({
    send: (bytes) => void sends.push(textOf(bytes)),
    abort: () => {
      aborts++;
      return out.close();
    },
  });
  await out.write("secret");
  await out.abort();
  await settle();
  assertEquals([sends, aborts], [[], 1]);
  assertEquals(textOf(out.takeUnsent()), "secret");
});

Deno.test("a sender may write, flush and close from send(), and its writes come last", async () => {
  const sends: string[] = [];
  const out: StreamBuffer = new StreamBuffer((bytes) => {
    sends.push(textOf(bytes));
    if (sends.length > 1) return;
    void out.write("from within");
    void out.flush();
    void out.close();
    throw DOWN;
  }, { flushInterval: 0 });
  await out.write("before ");
  await assertRejects(() => out.flush(), FlushError);
  await out.close();
  assertEquals(sends, ["before ", "before ", "from within"]);
});

Deno.test("stats read inside send() account for the whole write that started it", async () => {
  const queued: number[] = [];
  await using out: StreamBuffer = new StreamBuffer(() => {
    const { bytesAccepted, bytesDelivered, bytesQueued } = out.stats;
    assertEquals(bytesAccepted + bytesQueued, 10);
    queued.push(bytesQueued, bytesDelivered);
  }, { capacity: 4 });
  await out.write("0123456789");
  assertEquals(queued, [2, 0, 0, 4]);
});

for (const way of ["strings", "bytes"]) {
  Deno.test(`a sender that transfers its bytes and delivers them loses no others: ${way}`, async () => {
    const sends: string[] = [];
    const out = new StreamBuffer((bytes) => {
      sends.push(textOf(bytes));
      bytes.buffer.transfer();
    }, { capacity: 4, flushInterval: 0 });
    for (const text of ["abc", "def", "ghi", "jkl"]) {
      await out.write(
        way === "strings" ? text : new TextEncoder().encode(text),
      );
      await out.flush();
    }
    await out.close();
    assertEquals(sends, ["abc", "def", "ghi", "jkl"]);
  });
}

Deno.test("a sender that transfers its bytes and fails loses them, and the error reports it", async () => {
  let sends = 0;
  const out = new StreamBuffer((bytes) => {
    sends++;
    bytes.buffer.transfer();
    throw DOWN;
  }, { capacity: 4, flushInterval: 0 });
  await out.write("abc");
  await assertRejects(() => out.flush(), FlushError, "down");
  await out.write("def");
  for (let i = 0; i < 2; i++) {
    await assertRejects(
      () => i === 0 ? out.flush() : out.close(),
      FlushError,
      "the sender has transferred the bytes, and did not deliver them",
    );
  }
  assertEquals(sends, 1);
  assertEquals(out.stats.bytesDelivered, 0);
  assertEquals(textOf(out.takeUnsent()), "def");
});

// -- writable --

Deno.test("writable accepts strings and bytes, and its close() is close()", async () => {
  const { out, sender } = setUp();
  assertStrictEquals(out.writable, out.writable);
  const writer = out.writable.getWriter();
  await writer.write("abc");
  await writer.write(new TextEncoder().encode("def"));
  assertEquals(sender.sends, []);
  await writer.close();
  assertEquals(sender.events, ["send 0", "ack 0", "close"]);
  assertEquals(sender.text, "abcdef");
});

Deno.test("writable rejects any other type of chunk", async () => {
  const { out } = setUp();
  const writer = out.writable.getWriter();
  await assertRejects(() => writer.write(5 as never), TypeError, "received 5");
  await assertRejects(() => writer.closed, TypeError);
  await out.close();
});

Deno.test("writable: pipeTo of a source that fails aborts with its reason", async () => {
  const { out, sender } = setUp();
  let pulls = 0;
  const source = new ReadableStream<string>({
    pull(controller) {
      if (pulls++ < 2) controller.enqueue("abc");
      else controller.error(DOWN);
    },
  });
  assertStrictEquals(
    await assertRejects(() => source.pipeTo(out.writable)),
    DOWN,
  );
  assertEquals(sender.events, ["abort"]);
  await assertRejects(() => out.write("x"), TypeError, "closed");
  assertEquals(textOf(out.takeUnsent()), "abcabc");
});

Deno.test("writable: abort settles as the sender's abort() does", async () => {
  const ended = gate();
  const out = new StreamBuffer({ send: () => {}, abort: () => ended.promise });
  const abort = out.writable.abort("enough");
  assert(await isPending(abort));
  ended.reject(DOWN);
  assertStrictEquals(await assertRejects(() => abort), DOWN);
});

Deno.test("writable: pipeTo with preventAbort leaves the buffer alive", async () => {
  const { out, sender } = setUp();
  const source = new ReadableStream<string>({
    start(controller) {
      controller.enqueue("abc");
    },
    pull(controller) {
      controller.error(DOWN);
    },
  }, { highWaterMark: 0 });
  await assertRejects(() =>
    source.pipeTo(out.writable, { preventAbort: true })
  );
  await out.write("def");
  await out.close();
  assertMatch(sender.text, /^(abc)?def$/);
});

Deno.test("writable: a failed send rejects the write with a FlushError and cancels the source", async () => {
  const { out, sender } = setUp({ capacity: 4 }, [], down);
  let cancelled: unknown;
  const source = new ReadableStream<string>({
    pull(controller) {
      controller.enqueue("abc");
    },
    cancel(reason) {
      cancelled = reason;
    },
  });
  const error = await assertRejects(
    () => source.pipeTo(out.writable),
    FlushError,
  );
  assertStrictEquals(error.cause, DOWN);
  assertStrictEquals(cancelled, error);
  assertEquals(new Set(sender.sends), new Set(["abc"]));
  await assertRejects(() => out.close(), FlushError);
  assertEquals(textOf(out.takeUnsent()), "abcabc");
});

Deno.test("writable: chunks behind one that is rejected reject as well", async () => {
  const { out } = setUp({ capacity: 2 }, [], down);
  const writer = out.writable.getWriter();
  const writes = ["ab", "cd", "ef", "gh"].map((text) => writer.write(text));
  const outcomes = await Promise.allSettled([...writes, writer.closed]);
  assertEquals(
    outcomes.map(({ status }) => status),
    ["fulfilled", "fulfilled", "rejected", "rejected", "rejected"],
  );
  for (const outcome of outcomes.slice(2)) {
    assert(outcome.status === "rejected");
    assertInstanceOf(outcome.reason, FlushError);
  }
  await assertRejects(() => out.close(), FlushError);
  assertEquals(textOf(out.takeUnsent()), "abcd");
});

for (const [title, step] of [["obeys", stall], ["ignores", ignore]] as const) {
  Deno.test(`writable: abort during a write settles, with a sender that ${title} its signal`, async () => {
    const { out, sender } = setUp({ capacity: 2 }, [step]);
    const writer = out.writable.getWriter();
    const writes = ["ab", "cd", "ef"].map((text) => writer.write(text));
    await settle();
    writer.closed.catch(() => {});
    await writer.abort(DOWN);
    assertStrictEquals(sender.signal!.reason, DOWN);
    await assertRejects(() => writes[2]!);
    assertEquals(textOf(out.takeUnsent()), "abcd");
    assertEquals(sender.attempts.length, 1);
  });
}

// -- readFrom() --

/** Returns chunks of ASCII, as far as there is room, and then the end. */
/** A source, and what it has given to the buffer. */
interface Given {
  readonly source: Reader | ReadableStream;
  /** Everything that was read. */
  text: string;
  /** What was read last. */
  last: string;
  reading: boolean;
}

/** A source of each kind that reads from `source`. */
const STREAMS = {
  reader: (source: Source): Given => source,
  bytes: (source: Source): Given => watch(byteStream(source)),
  chunks: (source: Source): Given =>
    watch(
      new ReadableStream({
        async pull(controller) {
          const room = new Uint8Array(100);
          const size = await source.read(room);
          if (size === null) controller.close();
          else controller.enqueue(room.subarray(0, size));
        },
      }, { highWaterMark: 0 }),
    ),
};

/** A byte stream. */
function byteStream(source: Source): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: "bytes",
    autoAllocateChunkSize: 100, // for a reader that brings no buffer
    async pull(controller: ReadableByteStreamController) {
      const request = controller.byobRequest!;
      let size: number | null = 0;
      while (size === 0) size = await source.read(request.view as Uint8Array);
      if (size === null) controller.close();
      request.respond(size ?? 0);
    },
  });
}

/** Records what the readers of a stream of bytes return. */
function watch(stream: ReadableStream<Uint8Array>): Given {
  const given = { source: stream, text: "", last: "", reading: false };
  const getReader = stream.getReader.bind(stream) as (
    options?: object,
  ) => ReadableStreamDefaultReader<Uint8Array>;
  const getWatchedReader = (options?: object) => {
    const reader = getReader(options);
    const read = reader.read.bind(reader) as (
      view?: Uint8Array,
    ) => Promise<ReadableStreamReadResult<Uint8Array>>;
    reader.read = async (view?: Uint8Array) => {
      const result = await read(view);
      if (!result.done && result.value.length > 0) {
        given.last = textOf(result.value);
        given.text += given.last;
      }
      return result;
    };
    return reader;
  };
  Object.assign(stream, { getReader: getWatchedReader });
  return given;
}

class Source implements Reader, Given {
  /** What was read last. */
  last = "";
  readonly source: Reader = this;
  readonly #chunks: (string | Promise<string>)[];
  /** The room that each read had. */
  readonly rooms: number[] = [];
  /** Everything that was read. */
  text = "";
  reading = false;

  constructor(chunks: (string | Promise<string>)[]) {
    this.#chunks = [...chunks];
  }

  async read(p: Uint8Array): Promise<number | null> {
    this.rooms.push(p.length);
    const chunk = await this.#chunks.shift();
    if (chunk === undefined) return null;
    const { read } = new TextEncoder().encodeInto(chunk, p);
    if (read < chunk.length) this.#chunks.unshift(chunk.slice(read));
    this.last = chunk.slice(0, read);
    this.text += this.last;
    return read;
  }
}

for (const capacity of [1, 2, 7, 8, 64]) {
  for (const size of [0, 1, 3, 8, 20]) {
    Deno.test(`readFrom() accepts everything, in chunks of ${size} at capacity ${capacity}`, async () => {
      const { out, sender } = setUp({ capacity }, [() => settle()]);
      const text = "0123456789abcdefghij";
      const source = new Source(Array(10).fill(text.slice(0, size)));
      await out.write("<");
      assertEquals(await out.readFrom(source), 10 * size);
      await out.write(">");
      await out.close();
      assertEquals(sender.text, `<${text.slice(0, size).repeat(10)}>`);
      assertEquals(sender.sends.length, Math.ceil((10 * size + 2) / capacity));
    });
  }
}

Deno.test("onError is called even if readFrom() waited for room earlier", async () => {
  const [first, second] = [gate(), gate()];
  const late = Promise.withResolvers<string>();
  const errors: FlushError[] = [];
  const { out, sender } = setUp(
    { capacity: 4, onError: (error) => errors.push(error) },
    [first.step, second.step],
  );
  const reading = out.readFrom(new Source(["abcdefgh", late.promise]));
  await settle();
  assertEquals(out.stats.bytesAccepted, 8, "it waits for room");
  first.resolve();
  await settle();
  second.reject(DOWN);
  await settle();
  assertEquals(errors.map(({ cause }) => cause), [DOWN]);
  late.resolve("ij");
  assertEquals(await reading, 10);
  await out.close();
  assertEquals(sender.text, "abcdefghij");
});

Deno.test("onError is called even if readFrom() was rejected while it waited for room", async () => {
  using time = fakeTime();
  const errors: FlushError[] = [];
  const { out, sender } = setUp({
    capacity: 4,
    flushInterval: 100,
    onError: (error) => errors.push(error),
  }, [down, down]);
  const source = new Source(["abcdefgh"]);
  await assertRejects(() => out.readFrom(source), FlushError);
  assertEquals(errors, [], "readFrom() has rejected with it");
  await time.tickAsync(1_000);
  assertEquals(errors.map(({ cause }) => cause), [DOWN]);
  await out.close();
  assertEquals(sender.text, "abcdefgh");
});

Deno.test("readFrom() continues during a send, and reads only when there is room", async () => {
  const { promise, resolve, step } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const source = new Source(["abcdefghijkl"]);
  const reading = out.readFrom(source);
  await settle();
  assertEquals(sender.sends, ["abcd"]);
  assertEquals(source.text, "abcdefgh");
  resolve();
  await promise;
  assertEquals(await reading, 12);
  assertEquals(source.rooms, [4, 4, 4, 4]);
  await out.close();
  assertEquals(sender.sends, ["abcd", "efgh", "ijkl"]);
});

for (const what of ["flush()", "the interval"] as const) {
  Deno.test(`readFrom() that waits for its source: ${what} sends what was read before`, async () => {
    using time = fakeTime();
    const first = gate();
    const late = Promise.withResolvers<string>();
    const { out, sender } = setUp(
      { capacity: 8, flushInterval: what === "flush()" ? 0 : 1_000 },
      [first.step],
    );
    const reading = out.readFrom(new Source(["abc", late.promise, "fghij"]));
    await settle();
    const flushed = what === "flush()" ? out.flush() : time.tickAsync(1_000);
    await settle();
    assertEquals(sender.sends, ["abc"]);
    // This is read into the same store, and must not change what is in flight.
    late.resolve("de");
    await settle();
    first.resolve();
    await flushed;
    assertEquals(await reading, 10);
    await out.close();
    assertEquals(sender.sends, ["abc", "defghij"]);
    assertEquals(sender.deliveries.map(({ offset }) => offset), [0, 3]);
    assertEquals(time.countTimers(), 0);
  });
}

Deno.test("readFrom() reads straight into the two stores", async () => {
  const read = new Set<ArrayBufferLike>();
  const sent = new Set<ArrayBufferLike>();
  await using out = new StreamBuffer((bytes) => {
    sent.add(bytes.buffer);
  }, { capacity: 4 });
  for (const text of ["0123456789abcdef", "ab", "0123456789abcdef012"]) {
    const late = Promise.withResolvers<string>();
    const source = new Source([text, late.promise]);
    const reading = out.readFrom({
      read: (p) => {
        read.add(p.buffer);
        return source.read(p);
      },
    });
    await settle();
    await out.flush();
    late.resolve("");
    await reading;
  }
  await out.flush();
  assertEquals(read.size, 2);
  // The very same two.
  assertEquals(sent.union(read).size, 2);
});

for (const behind of ["e", "ef"]) {
  Deno.test(`readFrom() resumes once there is room, even if a later flush() of ${behind} is pending`, async () => {
    const [first, second] = [gate(), gate()];
    const late = Promise.withResolvers<string>();
    const { out } = setUp({ capacity: 4 }, [first.step, second.step]);
    const source = new Source([`abcd${behind}`, late.promise]);
    const reading = out.readFrom(source);
    await settle();
    const flushed = out.flush();
    late.resolve("ghijk");
    await settle();
    assertEquals(source.text.length, 8);
    first.resolve();
    await settle();
    assertEquals(source.text, `abcd${behind}ghijk`);
    second.resolve();
    await Promise.all([flushed, reading, out.close()]);
  });
}

Deno.test("readFrom() comes after the writes that are queued", async () => {
  const { resolve, step } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  for (const text of ["abcd", "efgh", "ij", "klmnopqrs"]) void out.write(text);
  const source = new Source(["tuv"]);
  const reading = out.readFrom(source);
  await settle();
  assertEquals(source.rooms, []);
  resolve();
  assertEquals(await reading, 3);
  await out.close();
  assertEquals(sender.text, "abcdefghijklmnopqrstuv");
});

Deno.test("readFrom() rejects when a send fails, has lost nothing, and can be continued", async () => {
  const errors: FlushError[] = [];
  const { out, sender } = setUp({
    capacity: 4,
    onError: (error) => errors.push(error),
  }, [down, accept, down]);
  const source = new Source(["abcdefghijklmnopqrst"]);
  for (const text of ["abcdefgh", "abcdefghijkl"]) {
    const error = await assertRejects(
      () => out.readFrom(source),
      FlushError,
      "down",
    );
    assertStrictEquals(error.cause, DOWN);
    assertEquals(source.text, text);
    assertEquals(out.stats.bytesAccepted, text.length);
    assertEquals(out.stats.bytesRejected, 0);
  }
  assertEquals(errors, []);
  assertEquals(await out.readFrom(source), 8);
  await out.close();
  assertEquals(sender.text, "abcdefghijklmnopqrst");
});

Deno.test("a send that fails while readFrom() waits for its source is reported to onError", async () => {
  const errors: FlushError[] = [];
  const late = Promise.withResolvers<string>();
  const { out, sender } = setUp({
    capacity: 4,
    onError: (error) => errors.push(error),
  }, [down]);
  const reading = out.readFrom(new Source(["abcd", late.promise]));
  await settle();
  assertEquals(errors.map(({ cause }) => cause), [DOWN]);
  late.resolve("ef");
  assertEquals(await reading, 6);
  await out.close();
  assertEquals(sender.text, "abcdef");
});

for (
  const [wrong, shown] of [
    [undefined, "undefined"],
    [NaN, "NaN"],
    [-1, "-1"],
    [6, "6"],
    [1.5, "1.5"],
    ["3", '"3"'],
    [3n, "3n"],
    [{ value: "x" }, "an object (Object)"],
  ] as const
) {
  Deno.test(`readFrom() rejects ${typeof wrong} ${shown} as the number of bytes read`, async () => {
    const { out, sender } = setUp({ capacity: 8 });
    await out.write("abc");
    const source = { read: () => Promise.resolve(wrong as number) };
    const error = await assertRejects(() => out.readFrom(source), TypeError);
    assertEquals(
      error.message,
      `Cannot read: the source was given 5 bytes of room, and returned ${shown}`,
    );
    await out.write("d");
    await out.close();
    assertEquals(sender.text, "abcd");
  });
}

for (
  const [title, first] of [
    ["at once", []],
    ["later", [1, ...Array<number>(99).fill(0), 1]],
  ] as const
) {
  Deno.test(`readFrom() rejects with NoProgressError when its source returns 0 a hundred times, ${title}`, async () => {
    const { out } = setUp();
    let reads = 0;
    const source = { read: () => Promise.resolve(first[reads++] ?? 0) };
    await assertRejects(
      () => out.readFrom(source),
      NoProgressError,
      "returned 0 bytes 100 times",
    );
    assertEquals(reads, first.length + 100);
    await out.close();
  });
}

for (const flushInterval of [0, 100]) {
  Deno.test(`a source that transfers the store ends the buffer, flushInterval: ${flushInterval}`, async () => {
    using time = fakeTime();
    const { out, sender } = setUp({ capacity: 8, flushInterval });
    await out.write("abc");
    const error = await assertRejects(
      () =>
        out.readFrom({
          read: (p) => {
            structuredClone(p, { transfer: [p.buffer as ArrayBuffer] });
            return Promise.resolve(1);
          },
        }),
      FlushError,
      "the source has transferred the store",
    );
    // It sends no zeros in their place, and accepts nothing that would be lost.
    await assertRejects(() => out.write("d"), TypeError, "closed");
    await assertRejects(() => out.flush(), TypeError, "closed");
    await time.tickAsync(1_000);
    assertInstanceOf(error.cause, TypeError);
    assertEquals(error.unsentBytes, 3);
    assertStrictEquals(
      await assertRejects(() => out.close(), FlushError),
      error,
    );
    assertEquals(sender.events, ["abort"]);
    assertEquals(out.takeUnsent().length, 0);
    assertEquals(out.stats.bytesAccepted, 3);
  });
}

Deno.test("a source that transfers the store during a send leaves that send to end on its own", async () => {
  for (const ending of ["ack", "fail"]) {
    const first = gate();
    const { out, sender } = setUp({ capacity: 4 }, [first.step]);
    const chunks = ["abcd", "ef"];
    await assertRejects(
      () =>
        out.readFrom({
          read: (p) => {
            const chunk = chunks.shift();
            if (chunk === undefined) {
              structuredClone(p, { transfer: [p.buffer as ArrayBuffer] });
              return Promise.resolve(1);
            }
            new TextEncoder().encodeInto(chunk, p);
            return Promise.resolve(chunk.length);
          },
        }),
      FlushError,
      "transferred",
    );
    if (ending === "ack") first.resolve();
    else first.reject(DOWN);
    await settle();
    await assertRejects(() => out.close(), FlushError, "transferred");
    await settle();
    assertEquals(sender.events, ["send 0", "abort", `${ending} 0`]);
    const delivered = ending === "ack" ? 4 : 0;
    assertEquals(out.stats.bytesDelivered, delivered);
    assertEquals(textOf(out.takeUnsent()), delivered ? "" : "abcd");
  }
});

for (const how of ["throws", "rejects"]) {
  Deno.test(`readFrom() rejects with what a source ${how}, and keeps what it read`, async () => {
    const { out, sender } = setUp({ capacity: 8 });
    const reads = [2, 1];
    const source: Reader = {
      read: (p) => {
        const size = reads.shift();
        if (size !== undefined) {
          p.fill(97, 0, size);
          return Promise.resolve(size);
        }
        if (how === "rejects") return Promise.reject(DOWN);
        throw DOWN;
      },
    };
    const error = await out.readFrom(source).catch((error) => error);
    assertStrictEquals(error, DOWN);
    await out.write("b");
    await out.close();
    assertEquals(sender.text, "aaab");
  });
}

Deno.test("readFrom() takes the store back when its source fails", async () => {
  const sent = new Set<ArrayBuffer>();
  const out = new StreamBuffer(({ buffer }) => void sent.add(buffer));
  const source = { read: () => Promise.reject(DOWN) };
  await assertRejects(() => out.readFrom(source));
  // The stores alternate; a copy would always be made in the same one.
  for (let i = 0; i < 2; i++) {
    await out.write("a");
    await out.flush();
  }
  assertEquals(sent.size, 2);
  await out.close();
});

Deno.test("no other write is accepted during readFrom()", async () => {
  const late = Promise.withResolvers<string>();
  const { out, sender } = setUp({ capacity: 8, oversize: "reject" });
  await out.write("a");
  const reading = out.readFrom(new Source([late.promise]));
  for (const data of ["x", "x".repeat(300), new Uint8Array(1)]) {
    await assertRejects(
      () => out.write(data),
      TypeError,
      "the buffer is reading from a source; await readFrom() first",
    );
  }
  await assertRejects(
    () => out.readFrom(new Source([])),
    TypeError,
    "Cannot read: the buffer is reading from a source",
  );
  assertThrows(() => out.takeUnsent(), TypeError, "reading");
  assertEquals(out.stats.bytesRejected, 302);
  late.resolve("b");
  await reading;
  await out.write("c");
  await out.close();
  assertEquals(sender.text, "abc");
  await assertRejects(() => out.readFrom(new Source([])), TypeError, "closed");
});

Deno.test("close() ends readFrom() at once, and sends what a pending read brings in time", async () => {
  const { resolve, step } = gate();
  const late = Promise.withResolvers<string>();
  const { out, sender } = setUp({ capacity: 8 }, [step]);
  const middle = Promise.withResolvers<string>();
  const source = new Source(["abc", middle.promise, late.promise, "never"]);
  const reading = out.readFrom(source);
  await settle();
  void out.flush();
  middle.resolve("de");
  await settle();
  const closed = out.close();
  await assertRejects(
    () => reading,
    TypeError,
    "Cannot continue to read: the buffer is closing",
  );
  late.resolve("fg");
  await settle();
  resolve();
  await closed;
  assertEquals(sender.sends, ["abc", "defg"]);
  assertEquals(source.text, "abcdefg");
});

Deno.test("close() also sends bytes that a pending read brings during its own send", async () => {
  const first = gate();
  const late = Promise.withResolvers<string>();
  const { out, sender } = setUp({ capacity: 8 }, [first.step]);
  await out.write("ab");
  void out.readFrom(new Source([late.promise]));
  const closed = out.close();
  await settle();
  assertEquals(sender.sends, ["ab"]);
  late.resolve("xy");
  await settle();
  first.resolve();
  await closed;
  assertEquals(sender.sends, ["ab", "xy"]);
  assertEquals(out.takeUnsent().length, 0);
});

Deno.test("close() does not wait for the source, and takeUnsent() returns later bytes", async () => {
  const late = Promise.withResolvers<string>();
  const { out, sender } = setUp({ capacity: 8 });
  const reading = out.readFrom(new Source(["abc", late.promise]));
  await settle();
  await out.close();
  await assertRejects(() => reading, TypeError, "Cannot continue to read");
  assertEquals(sender.text, "abc");
  assertEquals(out.takeUnsent().length, 0);
  late.resolve("de");
  await settle();
  assertEquals(out.stats.bytesAccepted, 5);
  assertEquals(textOf(out.takeUnsent()), "de");
});

Deno.test("close() starts no send for bytes that arrive while it closes the sender", async () => {
  const late = Promise.withResolvers<string>();
  const closing = gate();
  const { out, sender } = setUp({ capacity: 2 });
  sender.close = () => {
    sender.events.push("close");
    return closing.promise;
  };
  void out.readFrom(new Source(["ab", late.promise]));
  await settle();
  const closed = out.close();
  await settle();
  late.resolve("cd");
  await settle();
  closing.resolve();
  await closed;
  assertEquals(sender.events, ["send 0", "ack 0", "close"]);
  assertEquals(textOf(out.takeUnsent()), "cd");
});

for (const ending of ["close", "abort", "fail"]) {
  Deno.test(`readFrom() that is not awaited cannot end the process: ${ending}`, async () => {
    const never = new Promise<string>(() => {});
    const { out } = setUp({ capacity: 4 }, ending === "fail" ? [down] : []);
    void out.readFrom(
      new Source(ending === "fail" ? ["abcdefghi"] : ["abc", never]),
    );
    await settle();
    if (ending === "close") await out.close();
    else await out.abort();
    await settle();
  });
}

for (const waiting of ["for its source", "for room"]) {
  Deno.test(`abort() ends readFrom() that waits ${waiting}, and takeUnsent() returns what was read`, async () => {
    const never = new Promise<string>(() => {});
    const { out } = setUp({ capacity: 4 }, [stall]);
    const source = new Source(
      waiting === "for room" ? ["abcdefghij"] : ["abcdef", never],
    );
    const reading = out.readFrom(source);
    await settle();
    await out.abort(DOWN);
    assertStrictEquals(await reading.catch((error) => error), DOWN);
    assertEquals(textOf(out.takeUnsent()), source.text);
    assertEquals(out.stats.bytesAccepted, source.text.length);
  });
}

Deno.test("readFrom() reads a file and a connection", async () => {
  using file = await Deno.open(new URL(import.meta.url));
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const text = await Deno.readTextFile(new URL(import.meta.url));
  const [near, far] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }),
    listener.accept(),
  ]);
  using _ = far;
  await near.write(new TextEncoder().encode("the end"));
  near.close();
  const { out, sender } = setUp({ capacity: 1000 });
  const size = await out.readFrom(file);
  assertEquals(await out.readFrom(far), 7);
  await out.close();
  assertEquals(sender.text, text + "the end");
  assertEquals(sender.sends.length, Math.ceil((size + 7) / 1000));
});

// -- readFrom() a stream --

/** What is left in a stream, as text. */
async function restOf(stream: ReadableStream): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += typeof chunk === "string" ? chunk : textOf(chunk);
  }
  return text;
}

/** A stream of chunks, and what it was asked for; it stays open after the last one. */
function chunked(chunks: unknown[], end = true) {
  const state = { pulls: 0, cancelled: false };
  const stream = new ReadableStream({
    pull(controller) {
      state.pulls++;
      if (chunks.length > 0) controller.enqueue(chunks.shift());
      else if (end) controller.close();
      else return new Promise(() => {});
    },
    cancel: () => void (state.cancelled = true),
  }, { highWaterMark: 0 });
  return Object.assign(state, { stream });
}

const SOURCES: Record<string, (text: string) => SourceOfBytes> = {
  "a byte stream": (text) => byteStream(new Source([text])),
  "a stream of bytes": (text) =>
    chunked(text.match(/.{1,5}/g)!.map((part) => ENCODER.encode(part))).stream,
  "a stream of text": (text) => chunked(text.match(/.{1,5}/g)!).stream,
  "a stream of any buffers": (text) =>
    chunked([
      new DataView(ENCODER.encode(text.slice(0, 7)).buffer),
      ENCODER.encode(text.slice(7)).buffer,
    ]).stream,
  "a Blob": (text) => new Blob([text]),
  "a Response": (text) => new Response(text),
  "a Request": (text) =>
    new Request("http://localhost", { method: "PUT", body: text }),
};

for (const [kind, make] of Object.entries(SOURCES)) {
  for (const capacity of [1, 4, 5, 7, 64]) {
    Deno.test(`readFrom() accepts everything from ${kind} at capacity ${capacity}`, async () => {
      const { out, sender } = setUp({ capacity, concurrency: 2 });
      await out.write("<");
      const text = "0123456789abcdefghij";
      assertEquals(await out.readFrom(make(text)), text.length);
      await out.write(">");
      await out.close();
      assertEquals(sender.text, `<${text}>`);
    });
  }
}

Deno.test("readFrom() reads nothing from a missing body, or an empty stream", async () => {
  const { out, sender } = setUp();
  const sources = [
    new Response(null),
    new Blob(),
    chunked([]).stream,
    chunked(["", new Uint8Array()]).stream,
    byteStream(new Source([])),
  ];
  for (const source of sources) assertEquals(await out.readFrom(source), 0);
  await out.close();
  assertEquals(sender.events, ["close"]);
});

Deno.test("readFrom() reads a byte stream into a store of its own, and swaps it for an empty one", async () => {
  const stores = new Set<ArrayBuffer>();
  const out = new StreamBuffer(async (bytes) => {
    await settle();
    stores.add(bytes.buffer);
  }, { capacity: 8, flushInterval: 0 });
  const source = new Source(["x".repeat(80)]);
  const stream = byteStream(source);
  assertEquals(await out.readFrom(stream), 80);
  await out.close();
  assertEquals(source.rooms, Array(11).fill(8), "a store is never copied");
  // What the stream was given and what the sender was given are one buffer, under
  // a new name for each read.
  assertEquals(stores.size, 10);
});

Deno.test("readFrom() of a byte stream: what was written before stays in the store, and can be sent meanwhile", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  const late = Promise.withResolvers<string>();
  await out.write("abc");
  const source = new Source([late.promise, "123456789"]);
  const reading = out.readFrom(byteStream(source));
  await settle();
  await out.flush();
  assertEquals(sender.sends, ["abc"]);
  late.resolve("de");
  assertEquals(await reading, 11);
  assertEquals(source.rooms.slice(0, 2), [5, 6]);
  await out.close();
  assertEquals(sender.text, "abcde123456789");
});

Deno.test("readFrom() takes each chunk of a stream as a write: it is not split unless it is larger", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  const { stream } = chunked(["aaaaa", "bbbbb", "cc", "d".repeat(20), "e"]);
  assertEquals(await out.readFrom(stream), 33);
  await out.close();
  assertEquals(sender.sends, [
    "aaaaa",
    "bbbbbcc",
    "dddddddd",
    "dddddddd",
    "dddde",
  ]);
});

Deno.test('readFrom() honours oversize: "whole" and "reject" for the chunks of a stream', async () => {
  const chunks = () => chunked(["aa", "b".repeat(20), "c"]).stream;
  const whole = setUp({ capacity: 8, oversize: "whole" });
  assertEquals(await whole.out.readFrom(chunks()), 23);
  await whole.out.close();
  assertEquals(whole.sender.sends, ["aa", "b".repeat(20), "c"]);

  const { out, sender } = setUp({ capacity: 8, oversize: "reject" });
  const stream = chunks();
  await assertRejects(() => out.readFrom(stream), RangeError, "20 bytes");
  assertEquals(out.stats.bytesRejected, 20);
  assertEquals(await out.readFrom(stream), 1);
  await out.close();
  assertEquals(sender.text, "aac");
});

Deno.test("readFrom() reads a stream only when there is room", async () => {
  const { step, resolve } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const source = chunked(["aaa", "bbb", "ccc", "ddd"]);
  const reading = out.readFrom(source.stream);
  await settle();
  // One is in flight, one in the store, and one was read before it was known
  // that it does not fit.
  assertEquals(source.pulls, 3);
  assertEquals(out.stats.bytesAccepted, 9);
  resolve();
  assertEquals(await reading, 12);
  await out.close();
  assertEquals(sender.sends, ["aaa", "bbb", "ccc", "ddd"]);
});

Deno.test("readFrom() of a stream: a chunk that waits for room is not sent before its time", async () => {
  const { step, resolve } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const { stream } = chunked(["aaaa", "bbb", "cc"], false);
  const reading = assertRejects(() => out.readFrom(stream), TypeError);
  await settle();
  resolve();
  await settle();
  assertEquals(
    sender.sends,
    ["aaaa", "bbb"],
    "the last one waits for the clock",
  );
  await out.close();
  await reading;
  assertEquals(sender.sends, ["aaaa", "bbb", "cc"]);
});

Deno.test("readFrom() copies a chunk that has to wait", async () => {
  const { step, resolve } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const chunk = ENCODER.encode("ccc");
  const { stream } = chunked([ENCODER.encode("aaaabbb"), chunk]);
  const reading = out.readFrom(stream);
  await settle();
  chunk.fill(0);
  resolve();
  await reading;
  await out.close();
  assertEquals(sender.text, "aaaabbbccc");
});

Deno.test("readFrom() of a stream rejects when a send fails, and has accepted the chunk that it had", async () => {
  const { step, reject } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step, down]);
  const source = chunked(["aaa", "bbb", "ccccccccc", "ddd"]);
  const first = out.readFrom(source.stream);
  await settle();
  reject(DOWN);
  await assertRejects(() => first, FlushError, "down");
  assertEquals(source.cancelled, false);
  assertEquals(out.stats.bytesAccepted, 15);
  const write = out.write("xyz"); // behind the chunk
  await assertRejects(() => out.flush(), FlushError, "down");
  await assertRejects(() => write, FlushError, "down");
  assertEquals(out.stats.bytesRejected, 3);
  assertEquals(await out.readFrom(source.stream), 3);
  await out.write("!");
  await out.close();
  assertEquals(sender.text, "aaabbbcccccccccddd!");
});

Deno.test("readFrom() of a stream: what is written behind a chunk that waits for room is a write of its own", async () => {
  const { step, reject } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const reading = out.readFrom(ReadableStream.from(["aaa", "bbb", "cc"]));
  await settle();
  reject(new Error("down"));
  await assertRejects(() => reading, FlushError);
  const written = out.write("dd");
  const { bytesAccepted, bytesQueued } = out.stats;
  assertEquals({ bytesAccepted, bytesQueued }, {
    bytesAccepted: 8,
    bytesQueued: 2,
  });
  await out.flush();
  await written;
  assertEquals(sender.text, "aaabbbccdd");
  assertEquals(out.stats.bytesAccepted, 10);
  assertEquals(out.stats.bytesQueued, 0);
  await out.close();
});

Deno.test("readFrom() of a stream: takeUnsent() returns the chunk that waits for room", async () => {
  const { out } = setUp({ capacity: 4 }, [stall]);
  const { stream } = chunked(["aaa", "bbb", "ccccccccc", "ddd"]);
  const reading = out.readFrom(stream);
  await settle();
  const reason = new Error("enough");
  const rejected = assertRejects(() => reading, Error, "enough");
  await out.abort(reason);
  await rejected;
  assertEquals(textOf(out.takeUnsent()), "aaabbbccccccccc");
  assertEquals(out.takeUnsent().length, 0);
  const { bytesAccepted, bytesDelivered } = out.stats;
  assertEquals([bytesAccepted, bytesDelivered], [15, 0]);
  assertEquals(await restOf(stream), "ddd");
});

Deno.test("readFrom() of a stream: close() delivers the chunk that waits for room", async () => {
  const { step, resolve } = gate();
  const { out, sender } = setUp({ capacity: 4 }, [step]);
  const { stream } = chunked(["aaa", "bbb", "ccccccccc", "ddd"]);
  const reading = assertRejects(
    () => out.readFrom(stream),
    TypeError,
    "closing",
  );
  await settle();
  const close = out.close();
  resolve();
  await close;
  await reading;
  assertEquals(sender.text, "aaabbbccccccccc");
});

for (const kind of ["close", "abort"] as const) {
  for (const type of ["bytes", "chunks"] as const) {
    Deno.test(`${kind}() ends readFrom() during a read of ${type}, and the stream keeps what it has not given`, async () => {
      const { out, sender } = setUp({ capacity: 8 });
      const late = Promise.withResolvers<string>();
      const { source } = STREAMS[type](new Source(["abc", late.promise]));
      const stream = source as ReadableStream<Uint8Array>;
      const reading = assertRejects(() => out.readFrom(stream));
      await settle();
      await out[kind]();
      await reading;
      late.resolve("late");
      assertEquals(await restOf(stream), "late");
      assertEquals(sender.text + textOf(out.takeUnsent()), "abc");
    });
  }
}

Deno.test("readFrom() rejects with the error of its stream, and keeps what came before", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  for (const type of ["bytes", undefined] as const) {
    let pulls = 0;
    const stream = new ReadableStream({
      type,
      pull(controller: ReadableStreamDefaultController) {
        if (pulls++ > 0) return controller.error(DOWN);
        controller.enqueue(ENCODER.encode("abc"));
      },
    } as UnderlyingSource);
    const error = await assertRejects(() => out.readFrom(stream));
    assertStrictEquals(error, DOWN);
    assert(!stream.locked);
  }
  await out.write("d");
  await out.close();
  assertEquals(sender.text, "abcabcd");
});

Deno.test("readFrom() reads nothing if its source ends the buffer, or has it read, while it makes its stream", async () => {
  for (const isEnded of [true, false]) {
    const { out } = setUp();
    const stream = ReadableStream.from([new Uint8Array(4)]);
    const never = { read: () => new Promise<null>(() => {}) };
    const source = {
      get body() {
        if (isEnded) out.abort();
        else out.readFrom(never);
        return stream;
      },
    };
    await assertRejects(
      () => out.readFrom(source),
      TypeError,
      `Cannot read: the buffer is ${isEnded ? "closed" : "reading"}`,
    );
    assert(!stream.locked);
    await out.abort();
    assertEquals(out.takeUnsent().length, 0);
  }
});

Deno.test("readFrom() rejects a chunk of another type, and releases its stream", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  const { stream } = chunked(["ab", 1, "c"]);
  await assertRejects(() => out.readFrom(stream), TypeError, "received 1");
  assertEquals(await out.readFrom(stream), 1);
  await out.close();
  assertEquals(sender.text, "abc");
});

Deno.test("readFrom() releases a stream at its end, and leaves it to the caller", async () => {
  const { out } = setUp({ capacity: 2 }, [down]);
  const source = chunked(["abcd", "efgh"], false);
  await assertRejects(() => out.readFrom(source.stream), FlushError);
  assert(!source.stream.locked);
  assert(!source.cancelled);
  await source.stream.cancel();
  assert(source.cancelled);
  await out.close();
});

Deno.test("readFrom() cancels the stream that it has made of a Blob", async () => {
  const { out } = setUp({ capacity: 2 }, [down]);
  const source = chunked(["abcd", "efgh"], false);
  const blob = Object.assign(new Blob(), { stream: () => source.stream });
  await assertRejects(() => out.readFrom(blob as Blob), FlushError);
  assert(source.cancelled);
  await out.close();
});

Deno.test("readFrom() of a stream: nothing else can be written meanwhile, and flush() delivers what was read", async () => {
  const { out, sender } = setUp({ capacity: 8 });
  const { stream } = chunked(["abc"], false);
  const reading = out.readFrom(stream);
  await settle();
  await assertRejects(() => out.write("x"), TypeError, "reading from a source");
  await assertRejects(() => out.readFrom(stream), TypeError, "reading");
  await out.flush();
  assertEquals(sender.text, "abc");
  const rejected = assertRejects(() => reading, TypeError, "closing");
  await out.close();
  await rejected;
});

// -- stats --

Deno.test("stats count accepted, delivered, queued and rejected bytes, sends and failures", async () => {
  const gates = [gate(), gate()];
  const options = { capacity: 4, maxQueuedBytes: 3 };
  const { out } = setUp(options, gates.map((g) => g.step));
  assertEquals(out.stats, {
    bytesAccepted: 0,
    bytesDelivered: 0,
    bytesDiverted: 0,
    bytesAhead: 0,
    bytesQueued: 0,
    bytesRejected: 0,
    sends: 0,
    failures: 0,
    lastError: undefined,
  });
  for (const text of ["abcd", "efg", "hij", "too many"]) void out.write(text);
  const before = out.stats;
  gates[0]!.resolve();
  await settle();
  gates[1]!.reject(DOWN);
  await settle();
  const { lastError, ...after } = out.stats;
  assertInstanceOf(lastError, FlushError);
  assertEquals(after, {
    bytesAccepted: 10,
    bytesDelivered: 4,
    bytesDiverted: 0,
    bytesAhead: 0,
    bytesQueued: 0,
    bytesRejected: 8,
    sends: 1,
    failures: 1,
  });
  assertEquals(before.bytesQueued, 3);
  assertEquals(before.bytesAccepted, 7);
  await out.close();
  assertEquals(out.stats.bytesDelivered, 10);
  assertEquals(out.stats.lastError, undefined);
});

// -- Any schedule --

type Command =
  | { do: "write"; size: number; text: boolean; wait: boolean }
  | { do: "read"; from: keyof typeof STREAMS; sizes: number[]; wait: boolean }
  | { do: "flush"; wait: boolean }
  | { do: "now" }
  | { do: "pause" };

const COMMAND: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("write" as const),
      size: fc.oneof(fc.nat(40), fc.nat(5)),
      text: fc.boolean(),
      wait: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("read" as const),
      from: fc.constantFrom("reader", "bytes", "chunks"),
      sizes: fc.array(fc.nat(40), { maxLength: 5 }),
      wait: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("flush" as const),
      wait: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: "now" as const }) },
  { weight: 1, arbitrary: fc.constant({ do: "pause" as const }) },
);

const OUTCOMES: Record<string, Step> = {
  refuse: refused,
  accept,
  acceptLater: () => settle(),
  fail: down,
  failLater: () => settle().then(() => Promise.reject(DOWN)),
  throw: () => {
    throw DOWN;
  },
};

Deno.test("any schedule: delivered and unsent bytes are the accepted ones, in order, no write split", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        capacity: fc.integer({ min: 1, max: 24 }),
        maxQueuedBytes: fc.nat(100),
        flushInterval: fc.nat(2),
        oversize: fc.constantFrom(...OVERSIZE),
        concurrency: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 8 })),
        letters: fc.array(
          fc.constantFrom("take", "take later", "keep", "throw"),
        ),
      }),
      fc.array(COMMAND, { maxLength: 40 }),
      fc.array(fc.constantFrom(...Object.keys(OUTCOMES))),
      fc.constantFrom("close", "close twice", "abort", "close and abort"),
      checkSchedule,
    ),
    { numRuns: 1_000 },
  );
});

async function checkSchedule(
  { letters, ...options }: StreamBufferOptions & {
    capacity: number;
    concurrency: number;
    letters: string[];
  },
  commands: Command[],
  outcomes: string[],
  ending: string,
): Promise<void> {
  using time = fakeTime();
  /** Lets time pass until a promise has settled. */
  const settled = async (promise: Promise<unknown>) => {
    let isPending = true;
    const end = () => void (isPending = false);
    promise.then(end, end);
    for (await settle(); isPending; await settle()) {
      await time.tickAsync(60_000); // as much as a retry may take
    }
  };
  const { capacity } = options;
  const sender = new BadSender(outcomes.map((name) => OUTCOMES[name]!));
  // The delivered and the diverted batches, by their offset.
  const gone = new Map<number, { text: string; diverted: boolean }>();
  /** What there is of them without a gap. */
  const settledText = () => {
    let text = "";
    let diverted = 0;
    for (let batch; (batch = gone.get(text.length)) !== undefined;) {
      text += batch.text;
      if (batch.diverted) diverted += batch.text.length;
    }
    return { text, diverted };
  };
  const inFlight = new Set<number>();
  let isNow = false; // during sendNow(), which may send one batch more
  const recorder: Sender = {
    send: async (bytes, context) => {
      const { sequence, offset } = context;
      assert(!inFlight.has(sequence), "a batch is in flight twice");
      inFlight.add(sequence);
      assert(inFlight.size <= options.concurrency + (isNow ? 1 : 0));
      if (options.concurrency === 1 && !isNow) {
        assertEquals(settledText().text.length, offset, "sent out of turn");
      }
      try {
        await sender.send(bytes, context);
        gone.set(offset, { text: textOf(bytes), diverted: false });
      } finally {
        inFlight.delete(sequence);
      }
    },
  };
  let diverted = 0;
  const deadLetter = async (
    bytes: Uint8Array,
    _: FlushError,
    { signal, offset }: DeadLetterContext,
  ) => {
    const outcome = letters.shift() ?? "take";
    if (outcome === "throw") throw new Error("disk full");
    if (outcome === "take later") await settle();
    if (outcome === "keep" || signal.aborted) return false;
    gone.set(offset, { text: textOf(bytes), diverted: true });
    diverted += bytes.length;
    return true;
  };
  // Whatever time passes, it is not enough for close() to give up.
  const closeTimeout = 2 ** 31 - 1;
  const out = new StreamBuffer(recorder, {
    ...options,
    closeTimeout,
    deadLetter,
  });
  // An abort does not say what of a write was accepted: `undefined`. What was
  // read from a source is accepted, whatever becomes of readFrom().
  const writes: {
    text: string;
    source?: Given;
    accepted: Promise<string | undefined>;
  }[] = [];
  const flushes: Promise<unknown>[] = [];
  let next = 0;
  const textOfSize = (size: number) => {
    let text = "";
    while (text.length < size) text += `${next++},`;
    return text.slice(0, size);
  };

  for (const command of commands) {
    if (command.do === "pause") await settle();
    if (command.do === "now") {
      isNow = true;
      out.sendNow();
      isNow = false;
    }
    if (command.do === "flush") {
      const { bytesAccepted } = out.stats;
      // Of what is being read now, only the buffer knows how much it has.
      const now = writes.findIndex(({ source }) => source?.reading);
      const before = writes.slice(0, now < 0 ? undefined : now)
        .map(({ accepted }) => accepted);
      const flush = out.flush().then(async () => {
        // All accepted writes made before it, and no less, are delivered.
        const expected = (await Promise.all(before)).join("");
        const { text } = settledText();
        assert(text.startsWith(expected), "flush() resolved too early");
        assert(text.length >= bytesAccepted);
      }, (error) => assertInstanceOf(error, FlushError));
      flushes.push(flush);
      flush.catch(() => {}); // looked at in the end
      if (command.wait) await settled(flush);
    }
    if (command.do === "write") {
      const text = textOfSize(command.size);
      const bytes = new TextEncoder().encode(text);
      const write = out.write(command.text ? text : bytes);
      const accepted = write.then(() => text, (error) => {
        if (error === DOWN) return undefined;
        if (!(error instanceof FlushError)) return "";
        assert(out.stats.failures > 0, `no send has failed: ${error.message}`);
        return text.slice(0, error.acceptedBytes);
      });
      writes.push({ text, accepted });
      if (command.wait) await settled(accepted);
    }
    if (command.do === "read") {
      const source = new Source(
        command.sizes.map((size) =>
          size % 2 ? textOfSize(size) : settle().then(() => textOfSize(size))
        ),
      );
      const given = STREAMS[command.from](source);
      given.reading = true;
      const reading = out.readFrom(given.source).catch((error) => error);
      const accepted = reading.then(async (error) => {
        given.reading = false;
        await settle();
        // A chunk that is larger than the capacity may have been rejected.
        return error instanceof RangeError
          ? given.text.slice(0, given.text.length - given.last.length)
          : given.text;
      });
      writes.push({ text: "", source: given, accepted });
      if (command.wait) await settled(reading);
    }
  }

  const ends: Promise<unknown>[] = [];
  if (ending.startsWith("close")) ends.push(out.close());
  if (ending === "close twice") ends.push(out.close());
  if (ending.endsWith("abort")) ends.push(out.abort(DOWN));
  await settled(Promise.allSettled(ends));
  await Promise.all(flushes.map((flush) =>
    flush.catch((error) => {
      // After an abort, flush() rejects with its reason.
      if (!ending.endsWith("abort")) throw error;
    })
  ));
  const outcomesOf = await Promise.all(writes.map(({ accepted }) => accepted));
  await settle();
  for (const write of writes) write.text ||= write.source?.text ?? "";

  // What is unsent fills the gaps, and nothing is left of it.
  let left = textOf(out.takeUnsent());
  const stats = out.stats;
  const whole = settledText();
  let got = "";
  while (got.length < stats.bytesAccepted) {
    const batch = gone.get(got.length)?.text;
    got += batch ?? left[0]!;
    if (batch === undefined) left = left.slice(1);
  }
  assertEquals(left, "");
  assertEquals(sender.text.length, stats.bytesDelivered + stats.bytesAhead);
  assertEquals(whole.text.length - whole.diverted, stats.bytesDelivered);
  assertEquals(diverted, stats.bytesDiverted);
  assertEquals(time.countTimers(), 0);
  assertEquals(stats.bytesQueued, 0);
  const written = writes.reduce((sum, { text }) => sum + text.length, 0);
  assertEquals(stats.bytesAccepted + stats.bytesRejected, written);
  assertEquals(stats.sends, sender.deliveries.length);

  const attempts = new Map<number, { offset: number; text: string }>();
  let end = 0;
  for (const { sequence, offset, text } of sender.attempts) {
    const known = attempts.get(sequence);
    if (known === undefined) {
      assertEquals({ sequence, offset }, {
        sequence: attempts.size,
        offset: end,
      });
      attempts.set(sequence, { offset, text });
      end += text.length;
    } else {
      assertEquals({ offset, text }, known);
    }
  }

  let position = 0;
  for (const [i, { text, source }] of writes.entries()) {
    const accepted = outcomesOf[i];
    if (accepted === undefined) {
      // Cut off by the abort: its first pieces may be there, and nothing after.
      const rest = got.slice(position);
      assert(text.startsWith(rest), `${text} is not ${rest}`);
      position += rest.length;
      continue;
    }
    assertEquals(got.slice(position, position + accepted.length), accepted);
    if (accepted.length > 0 && text.length <= capacity && !source) {
      const last = position + accepted.length - 1;
      for (const { offset, text } of attempts.values()) {
        const inside = (at: number) =>
          at >= offset && at < offset + text.length;
        assertEquals(inside(position), inside(last), "a write was split");
      }
    }
    position += accepted.length;
  }
  assertEquals(position, got.length);
}
