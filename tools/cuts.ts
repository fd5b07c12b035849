/**
 * Uploads random objects to a real tus server through a proxy that cuts
 * connections at random, until the given number of cuts is reached. Proves that
 * every object arrives intact, and that a cut repeats at most one flush. The
 * second argument is the seed of a run to repeat.
 *
 *     deno task cuts 10000 42
 */
import { assert, assertEquals } from "@std/assert";
import { equals } from "@std/bytes";
import { StreamBuffer } from "../buffer.ts";
import { undiciTransport } from "../http/undici.ts";
import { TusSender } from "../senders/tus.ts";
import { type Cut, CuttingProxy, NO_CUT } from "../testing/cutting_proxy.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import { startTusServer } from "../testing/tus_server.ts";

/** Uploads at a time; each of them mostly waits. */
const CONCURRENCY = 8;
/** Roughly the size of a request or response without its body, in bytes. */
const HEAD = 400;

/** Totals over all uploads. */
export interface Tally {
  uploads: number;
  cuts: number;
  /** How many times an upload was resumed by another sender. */
  resumed: number;
  bytes: number;
  /** Bytes that the server received more than once. */
  repeated: number;
}

/** Uploads one object, with as many senders as it takes. */
async function upload(seed: number, tally: Tally): Promise<void> {
  const random = randomFrom(seed);
  const upTo = (max: number) => Math.floor(random() * (max + 1));
  const capacity = 1 + upTo(random() < 0.5 ? 300 : 40_000);
  const size = upTo(6 * capacity);
  const object = new Uint8Array(size).map(() => upTo(255));
  const cut = (): Cut =>
    random() < 0.2
      ? NO_CUT
      : random() < 0.5
      ? { ...NO_CUT, up: upTo(2 * HEAD + 2 * capacity) }
      : { ...NO_CUT, down: upTo(3 * HEAD) };

  await using server = await startTusServer();
  await using proxy = new CuttingProxy(server.port, cut);
  const known = random() < 0.5;
  await using undici = undiciTransport();
  const over = random() < 0.5 ? {} : { transport: undici };
  // Half of the senders make one attempt, so that the upload must be resumed. No
  // timeout ends a request: that would repeat a flush without being a cut.
  const options = {
    ...over,
    retry: {
      initialDelay: 1,
      maxDelay: 5,
      maxElapsed: random() < 0.5 ? 60_000 : 0,
    },
  };
  let sender: TusSender | undefined;
  let url: string | undefined;
  for (;;) {
    try {
      sender = url === undefined
        ? new TusSender(`http://127.0.0.1:${proxy.port}/files`, {
          ...options,
          ...known && { length: size },
        })
        : await TusSender.resume(url, options);
      const out = new StreamBuffer(sender, { capacity });
      const rest = object.subarray(sender.offset);
      const step = 1 + upTo(2 * capacity);
      try {
        for (let at = 0; at < rest.length; at += step) {
          await out.write(rest.subarray(at, at + step));
          if (random() < 0.1) await out.flush();
        }
        await out.close();
        break;
      } catch (error) {
        const { bytesDelivered } = out.stats;
        await out.abort(error);
        const unsent = out.takeUnsent();
        const from = object.length - rest.length + bytesDelivered;
        const expected = object.subarray(from, from + unsent.length);
        assert(equals(unsent, expected), "takeUnsent() returned other bytes");
      }
    } catch {
      // The request for the offset was cut, too.
    }
    url ??= sender?.url;
    tally.resumed++;
  }
  url = sender.url!;
  assert(equals(server.read(url), object), "the object differs");
  assert(server.isComplete(url), "the upload is not complete");
  assertEquals(sender.offset, size);

  const repeated = server.received - size;
  assert(
    repeated <= capacity * proxy.cuts,
    `${repeated} bytes were repeated after ${proxy.cuts} cuts at capacity ${capacity}`,
  );
  tally.uploads++;
  tally.cuts += proxy.cuts;
  tally.bytes += size;
  tally.repeated += repeated;
}

/** Uploads objects until there have been `count` cuts. */
export async function checkCuts(
  count: number,
  seed = Date.now() & 0xfffffff,
): Promise<Tally> {
  const tally = { uploads: 0, cuts: 0, resumed: 0, bytes: 0, repeated: 0 };
  console.log(`Uploads with seeds from ${seed} on`);
  let next = seed;
  await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
    while (tally.cuts < count) {
      const seed = next++;
      try {
        await upload(seed, tally);
      } catch (error) {
        throw new Error(`The upload with seed ${seed} failed`, {
          cause: error,
        });
      }
    }
  }));
  console.log(
    `${tally.cuts} cuts in ${tally.uploads} uploads, ${tally.resumed} resumed: ${tally.repeated} of ${tally.bytes} bytes were received more than once`,
  );
  return tally;
}

if (import.meta.main) {
  const [count = 1_000, seed] = Deno.args.map(Number);
  await checkCuts(count, seed);
}
