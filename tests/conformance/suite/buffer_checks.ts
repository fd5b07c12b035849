/** The buffer, over senders that keep what they are given. */
import {
  BufferFullError,
  FlushError,
  type Sender,
  StreamBuffer,
  type StreamBufferOptions,
} from "@stream-buffer/stream-buffer";
import { assert, equal, reasonOf, rejects } from "./assert.ts";
import { Bytes, bytesOf } from "./bytes.ts";
import { type Check, check } from "./check.ts";
import { Gate, isSettled, Memory, turn } from "./memory.ts";

const FAILURE = new Error("unplugged");
const fail = () => Promise.reject(FAILURE);
/** Large enough for what a check writes, and no clock. */
const STILL: StreamBufferOptions = { capacity: 1024, flushInterval: 0 };

/** Bytes as an array, to compare them. */
const list = (bytes: Uint8Array) => Array.from(bytes);

/** An array as it is after a transfer. */
function detached(): Uint8Array {
  const bytes = new Uint8Array(8);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

const WRITES: readonly Check[] = [
  check("write() copies: the caller may reuse its array at once", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const bytes = Uint8Array.of(1, 2, 3);
    const written = out.write(bytes);
    bytes.fill(9);
    await written;
    await out.close();
    equal(list(sender.bytes), [1, 2, 3], "bytes");
  }),
  check("write() allocates no promise for what fits", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    const first = out.write("one");
    equal(out.write("two"), first, "the promise of the second write");
    equal(out.write(Uint8Array.of(1)), first, "the promise of the third");
    await first;
  }),
  check("write() takes every kind of array", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const { buffer } = Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7);
    await out.write(buffer);
    await out.write(new Uint8Array(buffer, 2, 3));
    await out.write(new Uint16Array(buffer, 4, 1));
    await out.write(new DataView(buffer, 1, 2));
    await out.write(new Float64Array(buffer));
    await out.close();
    const whole = [0, 1, 2, 3, 4, 5, 6, 7];
    const expected = [...whole, 2, 3, 4, 4, 5, 1, 2, ...whole];
    equal(list(sender.bytes), expected, "bytes");
  }),
  check("an empty write makes no send", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    await out.write("");
    await out.write(new Uint8Array());
    await out.flush();
    await out.close();
    equal(sender.events, ["close"], "calls of the sender");
  }),
  check("what is no data is a TypeError, and changes nothing", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    const kinds = {
      ...{ undefined, null: null, number: 7, object: {}, array: [1, 2] },
      "a detached array": detached(),
    };
    for (const [name, data] of Object.entries(kinds)) {
      const promise = out.write(data as unknown as string);
      await rejects(promise, TypeError, /^Cannot write: data /, name);
    }
    equal(out.stats.bytesAccepted, 0, "bytes accepted");
  }),
  ...[1, 7, 16, 100].map((size) =>
    check(
      `writes of ${size} bytes are never split over two sends`,
      async (t) => {
        const sender = new Memory();
        const out = t.buffer(sender, { ...STILL, capacity: 100 });
        const source = new Bytes(size);
        for (let i = 0; i < 300; i++) await out.write(source.next(size));
        await out.close();
        equal(
          sender.sends.filter(({ length }) => length % size !== 0).length,
          0,
          "sends with a part of a write",
        );
        const expected = list(bytesOf(size, 300 * size));
        equal(list(sender.bytes), expected, "bytes");
        const most = size * Math.floor(100 / size);
        equal(sender.sends[0]!.length, most, "bytes of a full batch");
      },
    )
  ),
  check("a write above the capacity is split", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, { ...STILL, capacity: 10 });
    await out.write(bytesOf(1, 25));
    await out.close();
    equal(sender.sends.map(({ length }) => length), [10, 10, 5], "sends");
    equal(list(sender.bytes), list(bytesOf(1, 25)), "bytes");
  }),
  check('oversize: "whole" sends it in one piece', async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, { ...STILL, capacity: 10, oversize: "whole" });
    await out.write("before");
    await out.write(bytesOf(1, 25));
    await out.close();
    equal(sender.sends.map(({ length }) => length), [6, 25], "sends");
  }),
  check('oversize: "reject" accepts nothing of it', async (t) => {
    const out = t.buffer(new Memory(), {
      ...STILL,
      capacity: 10,
      oversize: "reject",
    });
    const promise = out.write(bytesOf(1, 11));
    await rejects(promise, RangeError, /capacity is 10/, "write()");
    equal(out.stats.bytesRejected, 11, "bytes rejected");
    equal(out.stats.bytesAccepted, 0, "bytes accepted");
  }),
];

const BACKPRESSURE: readonly Check[] = [
  check("write() waits while both stores are full", async (t) => {
    const gate = new Gate();
    const sender = new Memory(() => gate.opened);
    const out = t.buffer(sender, { ...STILL, capacity: 4 });
    await out.write("1111");
    await out.write("2222");
    const third = out.write("3333");
    equal(await isSettled(third), false, "whether the third write has settled");
    equal(out.stats.bytesQueued, 4, "bytes queued");
    gate.open();
    await third;
    await out.close();
    equal(sender.texts, ["1111", "2222", "3333"], "sends");
  }),
  check("writes that nobody awaits arrive in order", async (t) => {
    const sender = new Memory(() => turn());
    const out = t.buffer(sender, { ...STILL, capacity: 64 });
    let expected = "";
    for (let line = 0; line < 500; line++) {
      expected += `${line}\n`;
      void out.write(`${line}\n`);
    }
    await out.close();
    equal(new TextDecoder().decode(sender.bytes), expected, "text");
  }),
  check(
    "BufferFullError: what exceeds the queue is not accepted",
    async (t) => {
      const gate = new Gate();
      const sender = new Memory(() => gate.opened);
      const out = t.buffer(sender, {
        ...STILL,
        capacity: 4,
        maxQueuedBytes: 6,
      });
      for (const text of ["1111", "2222", "333", "444"]) void out.write(text);
      await rejects(out.write("5"), BufferFullError, /6 are queued/, "write()");
      equal(out.stats.bytesRejected, 1, "bytes rejected");
      gate.open();
      await out.close();
      equal(sender.texts.join(""), "11112222333444", "text");
    },
  ),
  check("a send that is slow does not change what it was given", async (t) => {
    const gate = new Gate();
    const seen: string[] = [];
    const out = t.buffer(async (bytes) => {
      if (seen.length === 0) await gate.opened;
      seen.push(new TextDecoder().decode(bytes));
    }, { ...STILL, capacity: 4 });
    for (const text of ["1111", "2222", "3333"]) void out.write(text);
    await turn();
    gate.open();
    await out.close();
    equal(seen, ["1111", "2222", "3333"], "sends");
  }),
];

const FLUSHES: readonly Check[] = [
  check("flush() is not prolonged by later writes", async (t) => {
    const gates = [new Gate(), new Gate()];
    const sender = new Memory((_, number) => gates[number - 1]?.opened);
    const out = t.buffer(sender, STILL);
    await out.write("one");
    const flushed = out.flush();
    await out.write("two");
    void out.flush();
    gates[0]!.open();
    await flushed;
    equal(out.stats.bytesDelivered, 3, "bytes delivered");
    gates[1]!.open();
    await out.close();
    equal(sender.texts, ["one", "two"], "sends");
  }),
  check("flush() with nothing to send makes no send", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    await out.flush();
    await out.write("one");
    await out.flush();
    await out.flush();
    equal(sender.events, ["send"], "calls of the sender");
  }),
  check("flushInterval sends what nobody flushes", async (t) => {
    const sent = new Gate();
    const sender = new Memory(() => sent.open());
    const out = t.buffer(sender, { capacity: 1024, flushInterval: 10 });
    await out.write("one");
    await sent.opened;
    equal(sender.texts, ["one"], "sends");
  }),
];

const FAILURES: readonly Check[] = [
  check(
    "a failed send keeps its bytes, and flush() sends them again",
    async (t) => {
      const sender = new Memory((_, number) =>
        number === 1 ? fail() : undefined
      );
      const out = t.buffer(sender, STILL);
      await out.write("one");
      const error = await rejects(
        out.flush(),
        FlushError,
        /unplugged/,
        "flush()",
      );
      equal(error.cause, FAILURE, "the cause");
      equal(error.unsentBytes, 3, "unsentBytes");
      await out.write("two");
      await out.flush();
      equal(sender.texts, ["one", "one", "two"], "sends");
      const positions = sender.contexts.map(({ sequence, offset }) => [
        sequence,
        offset,
      ]);
      equal(positions, [[0, 0], [0, 0], [1, 3]], "sequences and offsets");
      equal(out.stats.failures, 1, "failures");
      equal(out.stats.lastError, undefined, "the last error");
    },
  ),
  check("a failed batch is sent again without being asked", async (t) => {
    const again = new Gate();
    const sender = new Memory((_, n) => n === 1 ? fail() : again.open());
    const out = t.buffer(sender, { capacity: 1024, flushInterval: 5 });
    await out.write("one");
    await again.opened; // after half a second to a second
    equal(sender.texts, ["one", "one"], "sends");
  }),
  check("writes that wait for room reject when a send fails", async (t) => {
    const gate = new Gate();
    const sender = new Memory(async (_, number) => {
      await gate.opened;
      if (number === 1) throw FAILURE;
    });
    const out = t.buffer(sender, { ...STILL, capacity: 4 });
    await out.write("1111");
    await out.write("2222");
    const third = out.write("3333");
    gate.open();
    const error = await rejects(third, FlushError, /unplugged/, "write()");
    equal(error.acceptedBytes, 0, "acceptedBytes");
    equal(out.stats.bytesAccepted, 8, "bytes accepted");
    await out.close();
    equal(sender.texts, ["1111", "1111", "2222"], "sends");
  }),
  check("onError reports a failure that nobody waits for", async (t) => {
    const reported = Promise.withResolvers<FlushError>();
    const out = t.buffer(() => fail(), {
      capacity: 1024,
      flushInterval: 5,
      onError(error) {
        reported.resolve(error);
        throw new Error("thrown by onError"); // is ignored
      },
    });
    await out.write("one");
    const error = await reported.promise;
    equal(error.cause, FAILURE, "the cause");
    equal(out.stats.lastError, error, "stats.lastError");
  }),
  check("what nobody awaits is never an unhandled rejection", async (t) => {
    const out = t.buffer(() => fail(), { ...STILL, capacity: 4 });
    for (const text of ["1111", "2222", "3333"]) void out.write(text);
    void out.flush();
    void out.readFrom(new Blob(["4444"]));
    void out.write(undefined as unknown as string);
    for (let i = 0; i < 5; i++) await turn();
    assert(out.stats.failures > 0, "no send has failed");
  }),
  check("a sender may throw, and the bytes are kept", async (t) => {
    let calls = 0;
    const out = t.buffer(() => {
      if (calls++ === 0) throw FAILURE;
    }, STILL);
    await out.write("one");
    await rejects(out.flush(), FlushError, /unplugged/, "flush()");
    await out.flush();
    equal(out.stats.bytesDelivered, 3, "bytes delivered");
  }),
  check("deadLetter takes a batch that was refused", async (t) => {
    const refusal = Object.assign(new Error("no"), { refused: true });
    const sender = new Memory((_, number) => {
      if (number === 1) throw refusal;
    });
    const diverted: unknown[] = [];
    const out = t.buffer(sender, {
      ...STILL,
      deadLetter(bytes, error, { key, sequence, offset }) {
        const text = new TextDecoder().decode(bytes);
        diverted.push([text, error.cause === refusal, sequence, offset]);
        return Promise.resolve(key.length > 0);
      },
    });
    await out.write("bad");
    await out.flush();
    await out.write("good");
    await out.close();
    equal(diverted, [["bad", true, 0, 0]], "batches diverted");
    const { bytesDiverted, bytesDelivered } = out.stats;
    equal([bytesDiverted, bytesDelivered], [3, 4], "bytes diverted, delivered");
  }),
  check("deadLetter that does not take a batch keeps it", async (t) => {
    const refusal = Object.assign(new Error("no"), { refused: true });
    const results = [() => false, () => Promise.reject(new Error("full"))];
    for (const result of results) {
      const out = t.buffer(() => Promise.reject(refusal), {
        ...STILL,
        deadLetter: result,
      });
      await out.write("bad");
      await rejects(out.flush(), FlushError, /no/, "flush()");
      equal(out.stats.bytesDiverted, 0, "bytes diverted");
      await out.abort();
      equal(out.takeUnsent().length, 3, "bytes kept");
    }
  }),
];

const ENDS: readonly Check[] = [
  check("close() sends the rest, then closes the sender", async (t) => {
    const sender = new Memory(() => turn());
    const out = t.buffer(sender, { ...STILL, capacity: 4 });
    for (const text of ["1111", "2222", "3333"]) void out.write(text);
    const closed = out.close();
    equal(out.close(), closed, "the promise of another call");
    await closed;
    equal(sender.events, ["send", "send", "send", "close"], "calls");
    equal(out.takeUnsent().length, 0, "bytes unsent");
  }),
  check("[Symbol.asyncDispose]() closes", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    await out.write("one");
    await out[Symbol.asyncDispose]();
    equal(sender.events, ["send", "close"], "calls of the sender");
  }),
  check("a closed buffer accepts nothing", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    await out.close();
    const calls = [
      () => out.write("one"),
      () => out.flush(),
      () => out.readFrom(new Blob(["one"])),
    ];
    for (const call of calls) {
      await rejects(call, TypeError, /closed/, String(call));
    }
  }),
  check(
    "close() settles within closeTimeout, and takeUnsent() has the rest",
    async (t) => {
      const out = t.buffer(
        (_, { signal }) =>
          new Promise((_, reject) => {
            signal.addEventListener("abort", () => reject(signal.reason));
          }),
        { ...STILL, closeTimeout: 50 },
      );
      await out.write("precious");
      const error = await rejects(out.close(), FlushError, /50 ms/, "close()");
      equal(error.unsentBytes, 8, "unsentBytes");
      equal(new TextDecoder().decode(out.takeUnsent()), "precious", "the rest");
      equal(out.takeUnsent().length, 0, "bytes of a second call");
    },
  ),
  check("takeUnsent() refuses while the buffer is open", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    await rejects(() => out.takeUnsent(), TypeError, /open/, "takeUnsent()");
  }),
  check("abort() ends everything with its reason", async (t) => {
    let context: { readonly signal: AbortSignal } | undefined;
    const sender: Sender = {
      send(_, given) {
        context = given;
        return new Promise(() => {});
      },
      abort: () => turn(),
    };
    const out = t.buffer(sender, { ...STILL, capacity: 4 });
    await out.write("1111");
    await out.write("22");
    const waiting = [out.write("333"), out.flush()];
    const reason = new Error("enough");
    await out.abort(reason);
    for (const promise of waiting) {
      equal(await reasonOf(promise, "a promise"), reason, "its reason");
    }
    equal(context?.signal.reason, reason, "the reason of the signal");
    equal(new TextDecoder().decode(out.takeUnsent()), "111122", "unsent");
    await out.close();
  }),
  check("a sender learns that closing has begun, and until when", async (t) => {
    const gate = new Gate();
    const sender = new Memory(() => gate.opened);
    const out = t.buffer(sender, { ...STILL, closeTimeout: 5_000 });
    await out.write("one");
    void out.flush();
    const context = sender.contexts[0]!;
    equal(context.closing.aborted, false, "closing before close()");
    equal(context.deadline, Infinity, "deadline before close()");
    const closed = out.close();
    equal(context.closing.aborted, true, "closing after close()");
    assert(Number.isFinite(context.deadline), "the deadline is not finite");
    gate.open();
    await closed;
  }),
];

const OVERLAPS: readonly Check[] = [
  check("concurrency: 4 sends are in flight, and no more", async (t) => {
    const gate = new Gate();
    let inFlight = 0, most = 0;
    const sender = new Memory(async () => {
      most = Math.max(most, ++inFlight);
      await gate.opened;
      await turn();
      inFlight--;
    });
    const out = t.buffer(sender, { ...STILL, capacity: 10, concurrency: 4 });
    void out.write(bytesOf(1, 100));
    await turn();
    equal(inFlight, 4, "sends before any has ended");
    gate.open();
    await out.close();
    equal(most, 4, "sends at the same time");
    equal(list(sender.bytes), list(bytesOf(1, 100)), "bytes");
  }),
  check(
    "concurrency: what is acknowledged past a gap is not unsent",
    async (t) => {
      const sender = new Memory(({ sequence }) =>
        sequence === 1 ? fail() : turn()
      );
      const out = t.buffer(sender, { ...STILL, capacity: 2, concurrency: 3 });
      void out.write("001122");
      await reasonOf(out.flush(), "flush()");
      for (let i = 0; i < 5; i++) await turn();
      const { bytesAccepted, bytesDelivered, bytesAhead } = out.stats;
      equal([bytesDelivered, bytesAhead], [2, 2], "bytes delivered, ahead");
      await out.abort();
      const unsent = out.takeUnsent();
      equal(new TextDecoder().decode(unsent), "11", "unsent");
      equal(unsent.length, bytesAccepted - bytesDelivered - bytesAhead, "held");
    },
  ),
  check(
    "concurrency: a sender whose sends make up one object is refused",
    async () => {
      await rejects(
        () => new StreamBuffer(new Memory(() => {}, true), { concurrency: 2 }),
        RangeError,
        /concurrency must be 1/,
        "new StreamBuffer()",
      );
    },
  ),
  ...[1, 4].map((concurrency) =>
    check(
      `stats add up, with ${concurrency} at once and failures`,
      async (t) => {
        const random = new Bytes(concurrency);
        const delivered = new Map<number, Uint8Array>();
        const refusal = Object.assign(new Error("no"), { refused: true });
        const out = t.buffer(async (bytes, { offset }) => {
          const [fate] = random.next(1) as unknown as [number];
          const copy = bytes.slice();
          await turn();
          if (fate < 40) throw FAILURE;
          if (fate < 60) throw refusal;
          delivered.set(offset, copy);
        }, {
          ...STILL,
          capacity: 32,
          concurrency,
          deadLetter(bytes, _, { offset }) {
            delivered.set(offset, bytes);
            return true;
          },
        });
        let written = 0;
        for (let i = 0; i < 200; i++) {
          const [size] = random.next(1) as unknown as [number];
          const part = bytesOf(7, written + size % 40).subarray(written);
          const writing = out.write(part);
          void out.flush(); // sends again at once what has failed
          try {
            await writing;
            written += part.length;
          } catch (error) {
            written += (error as FlushError).acceptedBytes;
          }
        }
        await out.abort();
        const unsent = out.takeUnsent();
        const {
          bytesAccepted,
          bytesDelivered,
          bytesDiverted,
          bytesAhead,
          bytesQueued,
        } = out.stats;
        equal(bytesAccepted, written, "bytes accepted");
        equal(bytesQueued, 0, "bytes queued");
        const settled = bytesDelivered + bytesDiverted + bytesAhead;
        equal(unsent.length, bytesAccepted - settled, "bytes unsent");
        const parts = [...delivered].sort(([a], [b]) => a - b);
        const size = parts.reduce((sum, [, { length }]) => sum + length, 0);
        equal(size + unsent.length, written, "bytes delivered and unsent");
        const expected = list(bytesOf(7, written));
        for (const [offset, part] of parts) {
          const same = expected.slice(offset, offset + part.length);
          equal(list(part), same, `the batch at ${offset}`);
        }
      },
    )
  ),
];

const OPTIONS: readonly Check[] = [
  check("invalid options are refused when the buffer is made", async () => {
    const wrong: [object, typeof TypeError | typeof RangeError][] = [
      [{ capacity: 0 }, RangeError],
      [{ capacity: "1" }, TypeError],
      [{ flushInterval: -1 }, RangeError],
      [{ flushInterval: 2 ** 31 }, RangeError],
      [{ closeTimeout: 1.5 }, RangeError],
      [{ concurrency: 0 }, RangeError],
      [{ maxQueuedBytes: -1 }, RangeError],
      [{ oversize: "drop" }, RangeError],
      [{ onError: 1 }, TypeError],
      [{ deadLetter: null }, TypeError],
    ];
    for (const [options, errorClass] of wrong) {
      await rejects(
        () => new StreamBuffer(() => {}, options),
        errorClass,
        /^Cannot create StreamBuffer: /,
        JSON.stringify(options),
      );
    }
    await rejects(
      () => new StreamBuffer("https://example.com/" as unknown as Sender),
      TypeError,
      /use streamTo\(\)/,
      "a URL as the sender",
    );
  }),
];

/** All of them. */
export const BUFFER_CHECKS: readonly Check[] = [
  ...WRITES,
  ...BACKPRESSURE,
  ...FLUSHES,
  ...FAILURES,
  ...ENDS,
  ...OVERLAPS,
  ...OPTIONS,
];
