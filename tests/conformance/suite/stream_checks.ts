/** Streams: as the buffer's own end of a pipe, and as what it reads from. */
import { FlushError, NoProgressError } from "@stream-buffer/stream-buffer";
import { assert, equal, reasonOf, rejects } from "./assert.ts";
import { Bytes, bytesOf } from "./bytes.ts";
import { type Check, check } from "./check.ts";
import { Gate, isSettled, Memory, turn } from "./memory.ts";

const STILL = { capacity: 16, flushInterval: 0 };

/** A stream of these chunks. `ReadableStream.from` is not everywhere. */
function streamOf<T>(
  chunks: Iterable<T>,
  events: { pull?: () => void; cancel?: (reason: unknown) => void } = {},
): ReadableStream<T> {
  const iterator = chunks[Symbol.iterator]();
  return new ReadableStream({
    pull(controller) {
      events.pull?.();
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: (reason) => events.cancel?.(reason),
  }, { highWaterMark: 0 });
}

/** A byte stream that gives `size` bytes of a seed, at most `most` at a time. */
function byteStream(
  seed: number,
  size: number,
  most: number,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const source = new Bytes(seed);
  let left = size;
  return new ReadableStream({
    type: "bytes",
    pull(controller) {
      const request = controller.byobRequest;
      if (left === 0) {
        controller.close();
        request?.respond(0);
        return;
      }
      const room = request?.view?.byteLength ?? most;
      const bytes = source.next(Math.min(left, most, room));
      left -= bytes.length;
      if (request?.view) {
        const { buffer, byteOffset } = request.view;
        new Uint8Array(buffer, byteOffset).set(bytes);
        request.respond(bytes.length);
      } else {
        controller.enqueue(bytes);
      }
    },
  }) as ReadableStream<Uint8Array<ArrayBuffer>>;
}

const PIPES: readonly Check[] = [
  check("pipeTo(writable) sends text and bytes, and closes", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const chunks = ["one ", Uint8Array.of(50, 32), "three"];
    await streamOf<string | Uint8Array>(chunks).pipeTo(out.writable);
    equal(sender.texts, ["one 2 three"], "sends");
    equal(sender.events.at(-1), "close", "the last call of the sender");
    equal(out.writable, out.writable, "the stream, each time");
  }),
  check("pipeTo(writable) keeps pace with the sender", async (t) => {
    const gate = new Gate();
    const sender = new Memory(() => gate.opened);
    const out = t.buffer(sender, STILL);
    let pulls = 0;
    const chunks = Array.from({ length: 50 }, () => new Uint8Array(16));
    const piped = streamOf(chunks, { pull: () => pulls++ })
      .pipeTo(out.writable);
    for (let i = 0; i < 10; i++) await turn();
    assert(pulls < 10, `${pulls} chunks were read while no send had ended`);
    gate.open();
    await piped;
    equal(sender.bytes.length, 50 * 16, "bytes");
  }),
  check("pipeTo(writable) of a source that fails aborts", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const reason = new Error("the source failed");
    const source = new ReadableStream<string>({
      start(controller) {
        controller.enqueue("precious");
      },
      pull: () => Promise.reject(reason),
    });
    equal(
      await reasonOf(source.pipeTo(out.writable), "pipeTo()"),
      reason,
      "why",
    );
    equal(sender.events, ["abort"], "calls of the sender");
    equal(out.takeUnsent().length, 8, "bytes unsent");
  }),
  check("pipeTo(writable) cancels its source when a write fails", async (t) => {
    const out = t.buffer(() => Promise.reject(new Error("unplugged")), STILL);
    const cancelled = Promise.withResolvers<unknown>();
    const chunks = Array.from({ length: 50 }, () => new Uint8Array(16));
    const source = streamOf(chunks, { cancel: cancelled.resolve });
    await rejects(
      source.pipeTo(out.writable),
      FlushError,
      /unplugged/,
      "pipeTo()",
    );
    assert(await cancelled.promise instanceof FlushError, "the reason");
  }),
  check(
    "pipeThrough(CompressionStream) can come before the buffer",
    async (t) => {
      const sender = new Memory();
      const out = t.buffer(sender, STILL);
      const text = "a line of text\n".repeat(500);
      await new Blob([text]).stream()
        .pipeThrough(new CompressionStream("gzip"))
        .pipeTo(out.writable);
      const inflated = new Blob([sender.bytes]).stream()
        .pipeThrough(new DecompressionStream("gzip"));
      equal(await new Response(inflated).text(), text, "the text");
    },
  ),
];

const SOURCES: readonly Check[] = [
  ...[1, 7, 16, 1000].map((most) =>
    check(
      `readFrom() reads a byte stream, ${most} bytes at a time`,
      async (t) => {
        const sender = new Memory(() => turn());
        const out = t.buffer(sender, { ...STILL, capacity: 64 });
        equal(
          await out.readFrom(byteStream(most, 2000, most)),
          2000,
          "bytes read",
        );
        await out.close();
        const expected = Array.from(bytesOf(most, 2000));
        equal(Array.from(sender.bytes), expected, "bytes");
      },
    )
  ),
  check("readFrom() reads a stream of text and bytes", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const chunks = ["añ", Uint8Array.of(98), Uint8Array.of(99).buffer, "", "d"];
    const source = streamOf<string | Uint8Array | ArrayBuffer>(chunks);
    equal(await out.readFrom(source), 6, "bytes read");
    await out.close();
    equal(sender.texts, ["añbcd"], "sends");
    equal(source.locked, false, "whether the stream is locked");
  }),
  check("readFrom() reads a Blob, of any size", async (t) => {
    const sender = new Memory(() => turn());
    const out = t.buffer(sender, { ...STILL, capacity: 65_536 });
    const bytes = bytesOf(3, 500_000);
    equal(await out.readFrom(new Blob([bytes])), bytes.length, "bytes read");
    equal(await out.readFrom(new Blob([])), 0, "bytes of an empty one");
    await out.close();
    equal(sender.bytes.every((byte, i) => byte === bytes[i]), true, "bytes");
    equal(sender.bytes.length, bytes.length, "their number");
  }),
  check("readFrom() reads a Response and a Request", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    equal(await out.readFrom(new Response("a body")), 6, "bytes of a Response");
    const request = new Request("https://example.com/", {
      method: "POST",
      body: "and more",
    });
    // Firefox has no body of a Request.
    if ("body" in Request.prototype) await out.readFrom(request);
    else await out.write(await request.text());
    equal(await out.readFrom(new Response()), 0, "bytes of an empty one");
    await out.close();
    equal(new TextDecoder().decode(sender.bytes), "a bodyand more", "text");
  }),
  check("readFrom() reads what fetch() receives", async (t) => {
    const size = 1_000_000;
    const sender = new Memory(() => turn());
    const out = t.buffer(sender, { ...STILL, capacity: 65_536 });
    const body = "0123456789".repeat(size / 10);
    await t.script([{ body }]);
    equal(await out.readFrom(await fetch(t.url)), size, "bytes read");
    await out.close();
    equal(new TextDecoder().decode(sender.bytes) === body, true, "the text");
  }),
  check("readFrom() reads a Reader into the store", async (t) => {
    const sender = new Memory();
    const out = t.buffer(sender, STILL);
    const source = new Bytes(5);
    let left = 100;
    const read = (p: Uint8Array) => {
      const bytes = source.next(Math.min(p.length, left, 9));
      p.set(bytes);
      left -= bytes.length;
      return Promise.resolve(bytes.length || null);
    };
    equal(await out.readFrom({ read }), 100, "bytes read");
    await out.close();
    equal(Array.from(sender.bytes), Array.from(bytesOf(5, 100)), "bytes");
  }),
  check("readFrom() gives up on a Reader that makes no progress", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    const source = { read: () => Promise.resolve(0) };
    await rejects(
      out.readFrom(source),
      NoProgressError,
      /100 times/,
      "readFrom()",
    );
  }),
  check("readFrom() owns the input until it ends", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    const gate = new Gate();
    const reading = out.readFrom({
      read: async () => {
        await gate.opened;
        return null;
      },
    });
    await rejects(out.write("x"), TypeError, /reading/, "write()");
    await rejects(out.readFrom(new Blob()), TypeError, /reading/, "readFrom()");
    gate.open();
    await reading;
    await out.write("x");
  }),
  check(
    "readFrom() rejects as its source does, and keeps what it read",
    async (t) => {
      const sender = new Memory();
      const out = t.buffer(sender, STILL);
      const reason = new Error("the source failed");
      let pulls = 0;
      const source = new ReadableStream<string>({
        pull(controller) {
          if (pulls++ > 0) throw reason;
          controller.enqueue("precious");
        },
      }, { highWaterMark: 0 });
      equal(await reasonOf(out.readFrom(source), "readFrom()"), reason, "why");
      await out.write(" bytes");
      await out.close();
      equal(sender.texts, ["precious bytes"], "sends");
    },
  ),
  check("readFrom() refuses what cannot be read", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    const locked = streamOf(["x"]);
    locked.getReader();
    await rejects(out.readFrom(locked), TypeError, /locked/, "a locked stream");
    for (const source of [undefined, null, "text", 1, {}, []]) {
      await rejects(
        out.readFrom(source as unknown as Blob),
        TypeError,
        /^Cannot read: source must be /,
        `readFrom(${String(source)})`,
      );
    }
    const numbers = streamOf([1]) as ReadableStream<unknown>;
    await rejects(
      out.readFrom(numbers as ReadableStream<string>),
      TypeError,
      /^Cannot /,
      "a stream of numbers",
    );
    await out.write("it is still open");
  }),
  check("abort() ends readFrom() while it waits for its source", async (t) => {
    const out = t.buffer(new Memory(), STILL);
    for (const type of [undefined, "bytes"] as const) {
      const out = t.buffer(new Memory(), STILL);
      const source = new ReadableStream({
        ...type && { type },
        pull: () => new Promise<void>(() => {}),
      });
      await out.write("before");
      const reading = out.readFrom(source);
      equal(await isSettled(reading), false, "whether readFrom() has settled");
      const reason = new Error("enough");
      await out.abort(reason);
      equal(await reasonOf(reading, "readFrom()"), reason, "why it ended");
      equal(out.takeUnsent().length, 6, "bytes unsent");
    }
    await out.close();
  }),
  check(
    "a flush during readFrom() of a byte stream delivers what was read",
    async (t) => {
      const sender = new Memory();
      const out = t.buffer(sender, { ...STILL, capacity: 64 });
      const gate = new Gate();
      let pulls = 0;
      const source = new ReadableStream({
        type: "bytes",
        async pull(controller) {
          if (pulls++ === 1) await gate.opened;
          if (pulls <= 2) {
            controller.enqueue(new TextEncoder().encode(`part ${pulls} `));
          } else {
            controller.close();
            controller.byobRequest?.respond(0);
          }
        },
      });
      const reading = out.readFrom(source as ReadableStream<Uint8Array>);
      while (out.stats.bytesAccepted < 7) await turn();
      await out.flush();
      equal(sender.texts, ["part 1 "], "sends while the source waits");
      gate.open();
      equal(await reading, 14, "bytes read");
      await out.close();
      equal(sender.texts, ["part 1 ", "part 2 "], "sends");
    },
  ),
];

/** All of them. */
export const STREAM_CHECKS: readonly Check[] = [...PIPES, ...SOURCES];
