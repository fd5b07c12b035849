import { assertEquals } from "@std/assert";
import { Ring, RING_SIZE, type SharedRing } from "./ring.ts";

/** Puts bytes in as the reading thread does, as far as they fit. */
function put({ bytes, written, taken, events }: SharedRing, data: Uint8Array) {
  for (const byte of data) {
    const start = Atomics.load(written, 0);
    if (((start - Atomics.load(taken, 0)) | 0) === bytes.length) return;
    bytes[start & (bytes.length - 1)] = byte;
    Atomics.store(written, 0, start + 1);
  }
  Atomics.add(events, 0, 1);
  Atomics.notify(events, 0);
}

function takeAll(ring: Ring, p: Uint8Array, end?: number): number[] {
  const taken: number[] = [];
  for (let size; (size = ring.take(p, end)) > 0;) {
    taken.push(...p.subarray(0, size));
  }
  return taken;
}

Deno.test("Ring.take() returns 0 when nothing is there", () => {
  assertEquals(new Ring().take(new Uint8Array(10)), 0);
});

for (const room of [1, 2, 3, 100]) {
  Deno.test(`Ring.take() takes bytes out in order, ${room} at a time at most`, () => {
    const ring = new Ring();
    put(ring.shared, new Uint8Array([1, 2, 3, 4, 5]));
    assertEquals(takeAll(ring, new Uint8Array(room)), [1, 2, 3, 4, 5]);
  });
}

Deno.test("Ring.take() stops at a position, and resumes from there", () => {
  const ring = new Ring();
  put(ring.shared, new Uint8Array([1, 2]));
  const end = ring.written;
  put(ring.shared, new Uint8Array([3]));
  const p = new Uint8Array(10);
  assertEquals(takeAll(ring, p, end), [1, 2]);
  assertEquals(takeAll(ring, p, end), []);
  assertEquals(takeAll(ring, p), [3]);
});

Deno.test("Ring keeps every byte when a position wraps around 2^31 and 2^32", () => {
  for (const start of [2 ** 31 - 3, -3]) {
    const ring = new Ring();
    ring.shared.written[0] = ring.shared.taken[0] = start;
    put(ring.shared, new Uint8Array([1, 2, 3, 4, 5, 6]));
    assertEquals(takeAll(ring, new Uint8Array(4)), [1, 2, 3, 4, 5, 6]);
  }
});

Deno.test("Ring is full with RING_SIZE bytes, and has room when some are taken", () => {
  const ring = new Ring();
  put(ring.shared, new Uint8Array(RING_SIZE + 1).fill(7));
  const p = new Uint8Array(RING_SIZE);
  const first = ring.take(p);
  put(ring.shared, new Uint8Array([8]));
  let total = first;
  for (let size; (size = ring.take(p)) > 0;) total += size;
  assertEquals(total, RING_SIZE + 1);
});

Deno.test("Ring.nextEvent() does not wait for an event that has happened", async () => {
  const ring = new Ring();
  const seen = ring.events;
  put(ring.shared, new Uint8Array([1]));
  await ring.nextEvent(seen);
});

Deno.test("Ring.nextEvent() resolves at the next event", async () => {
  const ring = new Ring();
  const waiting = ring.nextEvent(ring.events);
  ring.notify();
  await waiting;
});
