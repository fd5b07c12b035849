/**
 * Runs random schedules: random calls of a buffer, against a server with random
 * faults, over real connections. Proves that no byte is lost, reordered, or
 * repeated without its key. Arguments: how many, and the seed of a run to repeat.
 *
 *     deno task schedules 10000 42
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { equals } from "@std/bytes";
import fc from "fast-check";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import {
  FlushError,
  StreamBuffer,
  type StreamBufferOptions,
} from "../buffer.ts";
import { undiciTransport } from "../http/undici.ts";
import { FetchSender, type FetchSenderOptions } from "../sender.ts";
import { roundTrips, turns } from "../testing/event_loop.ts";
import { fastTimers } from "../testing/fake_time.ts";
import {
  BEHAVIOURS,
  bySequence,
  FaultyServer,
  keyOf,
  script,
  sequenceOf,
} from "../testing/faulty_server.ts";

/** Schedules at a time; each of them mostly waits. */
const CONCURRENCY = 8;
const REASON = new Error("enough");
/** A `Retry-After` of a year is obeyed: a write that needs room waits for so long. */
const FAULTS = Object.keys(BEHAVIOURS).filter((name) => !name.includes("year"));

type Command =
  | {
    do: "write" | "write to the stream";
    size: number;
    text: boolean;
    wait: boolean;
  }
  | { do: "readFrom"; sizes: number[]; wait: boolean }
  | { do: "flush"; wait: boolean }
  | { do: "pause"; ms: number };

interface Plan {
  readonly options:
    & StreamBufferOptions
    & FetchSenderOptions
    & { capacity: number };
  readonly commands: Command[];
  readonly faults: string[];
  readonly ending: string;
  readonly transport: "fetch" | "undici";
}

/** The size of a write, in percent of the capacity. */
const SIZE = fc.oneof(fc.nat(30), fc.nat(300));
const WAIT = fc.boolean();

const COMMAND = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom("write" as const, "write to the stream" as const),
      size: SIZE,
      text: fc.boolean(),
      wait: WAIT,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("readFrom" as const),
      sizes: fc.array(SIZE, { maxLength: 5, size: "max" }),
      wait: WAIT,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant("flush" as const), wait: WAIT }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("pause" as const), ms: fc.nat(5) }),
  },
);

const PLAN: fc.Arbitrary<Plan> = fc.record({
  options: fc.record({
    capacity: fc.oneof(
      fc.integer({ min: 1, max: 24 }),
      fc.integer({ min: 1, max: 8_192 }),
      fc.constant(100_000),
    ),
    maxQueuedBytes: fc.oneof(fc.nat(100), fc.constant(2 ** 24)),
    flushInterval: fc.constantFrom(0, 1, 5, 1_000),
    closeTimeout: fc.constantFrom(50, 3_000_000),
    concurrency: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 8 })),
    oversize: fc.constantFrom("split", "whole", "reject"),
    // Longer than a response takes, and short, because some servers hang.
    timeout: fc.constant(100),
    retry: fc.record({
      initialDelay: fc.nat(2),
      maxDelay: fc.nat(10),
      maxElapsed: fc.constantFrom(0, 50, 30_000, 30_000),
      shouldRetry: fc.constant(() => true),
    }, { requiredKeys: ["initialDelay", "maxDelay", "maxElapsed"] }),
    headers: fc.constantFrom({}, () => Promise.resolve({ "x-token": "t" })),
    compression: fc.constant("gzip"),
  }, {
    requiredKeys: [
      "capacity",
      "maxQueuedBytes",
      "flushInterval",
      "closeTimeout",
      "concurrency",
      "oversize",
      "timeout",
      "retry",
      "headers",
    ],
  }),
  commands: fc.array(COMMAND, { maxLength: 25, size: "max" }),
  faults: fc.array(fc.constantFrom(...FAULTS), {
    maxLength: 20,
    size: "max",
  }),
  ending: fc.oneof(
    { weight: 3, arbitrary: fc.constant("close") },
    fc.constantFrom("close twice", "abort", "close and abort"),
  ),
  transport: fc.constantFrom("fetch", "undici"),
});

/** One write, in the order of the calls. */
interface Write {
  bytes: Uint8Array;
  /** How many bytes the buffer accepted; `undefined` if it was aborted. */
  accepted?: Promise<number | undefined>;
}

/** Carries out a plan, and checks where every byte ended up. */
async function check(plan: Plan): Promise<void> {
  await using server = new FaultyServer(script(plan.faults));
  await using undici = undiciTransport();
  const sender = new FetchSender(server.url, {
    ...plan.options,
    ...plan.transport === "undici" && { transport: undici },
  });
  /** Each batch, by its sequence number. */
  const batches: { offset: number; size: number; acknowledged: boolean }[] = [];
  const out = new StreamBuffer({
    send: async (bytes, context) => {
      const { sequence, offset } = context;
      batches[sequence] ??= { offset, size: bytes.length, acknowledged: false };
      assertEquals(batches[sequence].offset, offset);
      assertEquals(batches[sequence].size, bytes.length);
      await sender.send(bytes, context);
      batches[sequence].acknowledged = true;
    },
    close: () => sender.close(),
    abort: () => sender.abort(),
    get lastFailure() {
      return sender.lastFailure;
    },
    get ended() {
      return sender.ended;
    },
  }, plan.options);
  const writes: Write[] = [];
  const pending = new Set<Promise<unknown>>();
  const track = (promise: Promise<unknown>) => {
    pending.add(promise);
    const settled = () => void pending.delete(promise);
    promise.then(settled, settled);
    return promise;
  };
  let next = 0;
  // No two parts are equal, and there are characters of 2 and 3 bytes.
  const textOfSize = (percent: number) => {
    const size = Math.ceil(percent * plan.options.capacity / 100);
    let text = "";
    while (text.length < size) text += `${next++}é€`;
    return text.slice(0, size);
  };
  const encode = (text: string) => new TextEncoder().encode(text);
  const writer = out.writable.getWriter();
  let streaming = true;
  let early = false;
  let read: Promise<unknown> = Promise.resolve();

  for (const command of plan.commands) {
    let promise: Promise<unknown>;
    switch (command.do) {
      case "pause":
        await sleep(command.ms); // part of the schedule
        continue;
      case "flush": {
        const { bytesAccepted } = out.stats;
        const delivered = () => out.stats.bytesDelivered >= bytesAccepted;
        const flush = track(out.flush());
        promise = flush;
        void flush.then(() => early ||= !delivered(), () => {});
        break;
      }
      case "readFrom": {
        const texts = command.sizes.map(textOfSize);
        const readInto = async (p: Uint8Array) => {
          await turns(1);
          const text = texts.shift();
          if (text === undefined) return null;
          const { written } = new TextEncoder().encodeInto(text, p);
          writes.push({ bytes: p.slice(0, written) });
          return written;
        };
        promise = track(out.readFrom({
          read: (p) => read = readInto(p) as Promise<number | null>,
        }));
        break;
      }
      default: {
        const text = textOfSize(command.size);
        const bytes = encode(text);
        const data = command.text ? text : bytes;
        const toStream = command.do !== "write" && streaming;
        const write = track(toStream ? writer.write(data) : out.write(data));
        const accepted = write.then(() => bytes.length, (error) => {
          if (error === REASON) return undefined;
          return error instanceof FlushError ? error.acceptedBytes : 0;
        });
        writes.push({ bytes, accepted });
        promise = accepted;
        // A stream passes its chunks on one by one, and ends with a failure.
        if (toStream) {
          await accepted;
          await write.catch(() => streaming = false);
        }
      }
    }
    if (command.wait) await promise.catch(() => {});
  }

  const ends: Promise<unknown>[] = [];
  if (plan.ending.startsWith("close")) ends.push(track(out.close()));
  if (plan.ending === "close twice") ends.push(track(out.close()));
  if (plan.ending.endsWith("abort")) ends.push(track(out.abort(REASON)));
  const [end] = await Promise.allSettled(ends);
  const { bytesAccepted: accepted, bytesDelivered: delivered } = out.stats;
  if (!plan.ending.endsWith("abort")) {
    if (end!.status === "fulfilled") assertEquals(delivered, accepted);
    else assertInstanceOf(end!.reason, FlushError);
  }
  await read;
  await turns(1);
  assertEquals(pending.size, 0, "a promise is still pending");
  assert(!early, "flush() resolved too early");

  const { bytesAccepted, bytesDelivered, bytesAhead, sends } = out.stats;
  const acknowledged = [...batches.keys()]
    .filter((sequence) => batches[sequence]!.acknowledged);
  const unsent = out.takeUnsent();
  // A server that responds first and reads afterwards may still be reading.
  await untilStored(server, sends);

  // A repeated key means the same bytes, stored or not.
  const sent = bySequence(server.requests);
  for (const request of server.incomplete) {
    const { body } = request;
    const whole = sent.get(sequenceOf(request)) ?? body;
    assert(equals(whole.subarray(0, body.length), body));
  }
  for (const { method, path } of server.requests) {
    assertEquals(`${method} ${path}`, "POST /ingest");
  }

  // Acknowledged and unsent bytes together are the accepted ones: the unsent bytes
  // fill the gaps.
  const stored = new Map(
    [...bySequence(server.stored)].map(([sequence, body]) => [
      sequence,
      plan.options.compression ? new Uint8Array(gunzipSync(body)) : body,
    ]),
  );
  const all = new Uint8Array(bytesAccepted);
  let at = 0;
  let taken = 0;
  const fillGap = (end: number) => {
    const gap = unsent.subarray(taken, taken + end - at);
    all.set(gap, at);
    taken += gap.length;
    at = end;
  };
  for (const sequence of acknowledged) {
    const { offset, size } = batches[sequence]!;
    fillGap(offset);
    all.set(stored.get(sequence)!, offset);
    at += size;
  }
  fillGap(bytesAccepted);
  assertEquals(taken, unsent.length);
  assertEquals(taken + bytesDelivered + bytesAhead, bytesAccepted);
  const firstGap = batches.find(({ acknowledged }) => !acknowledged);
  assertEquals(
    firstGap?.offset ?? bytesAccepted - unsent.length,
    bytesDelivered,
  );
  // What the server has stored without an acknowledgement that arrived is among the
  // unsent bytes, and its key shows that it is repeated.
  for (const [sequence, body] of stored) {
    const { offset, size } = batches[sequence]!;
    assert(equals(body, all.subarray(offset, offset + size)));
  }

  let position = 0;
  for (const { bytes, accepted } of writes) {
    const rest = all.subarray(position, position + bytes.length);
    let size = accepted === undefined ? bytes.length : await accepted;
    // An abort cut it short: a part of it is there, and nothing after it.
    size ??= all.length - position;
    assert(equals(rest.subarray(0, size), bytes.subarray(0, size)));
    position += size;
  }
  assertEquals(position, all.length);
}

/** Waits until the server has stored this many batches, or stores no more. */
async function untilStored(server: FaultyServer, count: number): Promise<void> {
  const stored = () => new Set(server.stored.map(keyOf)).size;
  while (stored() < count) {
    const before = server.bodyBytes;
    await roundTrips();
    if (server.bodyBytes === before) return;
  }
}

/** Checks `count` random schedules, and prints their seed. */
export async function checkSchedules(
  count: number,
  seed = Date.now() & 0xfffffff,
): Promise<void> {
  console.log(`${count} schedules, seed ${seed}`);
  using _ = fastTimers();
  const numRuns = Math.ceil(count / CONCURRENCY);
  await Promise.all(
    Array.from(
      { length: CONCURRENCY },
      (_, i) =>
        fc.assert(fc.asyncProperty(PLAN, check), { numRuns, seed: seed + i }),
    ),
  );
}

if (import.meta.main) {
  const [count = 1_000, seed] = Deno.args.map(Number);
  await checkSchedules(count, seed);
}
