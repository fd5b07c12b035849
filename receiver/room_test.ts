import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { Claim, Room } from "./room.ts";

const NEVER = new AbortController().signal;

/** Lets everything happen that needs no event. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

/** A request, and what it has got, as a test sees it. */
class Request {
  readonly claim: Claim;
  taken = 0;
  isWaiting = false;
  readonly #abort = new AbortController();

  constructor(room: Room) {
    this.claim = new Claim(room);
  }

  /** Takes bytes, and adds its name to `granted` once it has them. */
  async take(size: number, name = "", granted: string[] = []): Promise<void> {
    this.isWaiting = true;
    try {
      await this.claim.take(size, this.#abort.signal);
      this.taken += size;
      granted.push(name);
    } catch (error) {
      assertEquals(error, this.#abort.signal.reason);
    } finally {
      this.isWaiting = false;
    }
  }

  leave(): void {
    this.#abort.abort(new Error("it leaves"));
  }

  end(): void {
    this.claim[Symbol.dispose]();
    this.taken = 0;
  }
}

/** Asserts that exactly `size` bytes are free, and nobody waits. */
async function assertFree(room: Room, size: number): Promise<void> {
  const requests = Array.from({ length: 3 }, () => new Request(room));
  // The first takes everything, and the second goes beyond the limit.
  const sizes = [size, 1, 1];
  const waits = requests.map((request, i) => request.take(sizes[i]!));
  await settle();
  assertEquals(requests.map(({ taken }) => taken), [size, 1, 0]);
  for (const request of requests) {
    request.leave();
    request.end();
  }
  await Promise.all(waits);
}

Deno.test("Room grants what there is at once, and gives what comes back to the next", async () => {
  const room = new Room(10);
  const [a, b, exempt, c] = [1, 2, 3, 4].map(() => new Request(room)) as [
    ...[Request, Request, Request, Request],
  ];
  const granted: string[] = [];
  void a.take(6, "a", granted);
  void b.take(4, "b", granted);
  await settle();
  assertEquals(granted, ["a", "b"]);
  await exempt.take(1);
  void c.take(3, "c", granted);
  await settle();
  assertEquals(granted, ["a", "b"]);
  a.claim.keep(2);
  await settle();
  assertEquals(granted, ["a", "b", "c"]);
  for (const request of [a, b, exempt, c]) request.end();
  await assertFree(room, 10);
});

Deno.test("Room lets one go beyond the limit, the first, and no other until it ends", async () => {
  const room = new Room(10);
  const full = new Request(room);
  const granted: string[] = [];
  await full.take(10);
  const [first, second] = [new Request(room), new Request(room)];
  void first.take(30, "first", granted);
  void second.take(1, "second", granted);
  await settle();
  assertEquals(granted, ["first"]);
  // It need not wait again.
  void first.take(1_000, "first", granted);
  await settle();
  assertEquals(granted, ["first", "first"]);
  first.end();
  await settle();
  assertEquals(granted, ["first", "first", "second"]);
  full.end();
  second.end();
  await assertFree(room, 10);
});

Deno.test("Room serves those that wait in the order in which they came, whatever they want", async () => {
  const room = new Room(10);
  const [full, exempt] = [new Request(room), new Request(room)];
  await full.take(10);
  await exempt.take(1);
  const granted: string[] = [];
  const waiting = [7, 2, 5, 1].map((size) => {
    const request = new Request(room);
    void request.take(size, `${size}`, granted);
    return request;
  });
  full.claim.keep(4);
  await settle();
  // There are 5 free, and would be for those behind it.
  assertEquals(granted, []);
  full.end();
  await settle();
  assertEquals(granted, ["7", "2"]);
  for (const request of [exempt, ...waiting]) {
    request.end();
    await settle();
  }
  await assertFree(room, 10);
});

Deno.test("Room serves those that have some before those that have none", async () => {
  const room = new Room(10);
  const [some, other, exempt] = [1, 2, 3].map(() => new Request(room)) as [
    ...[Request, Request, Request],
  ];
  const entering = new Request(room);
  await some.take(5);
  await other.take(5);
  await exempt.take(1);
  const granted: string[] = [];
  void entering.take(1, "entering", granted);
  void some.take(4, "some", granted);
  await settle();
  other.claim.keep(2);
  await settle();
  assertEquals(granted, []);
  other.end();
  await settle();
  assertEquals(granted, ["some"]);
  exempt.end();
  await settle();
  assertEquals(granted, ["some", "entering"]);
  some.end();
  entering.end();
  await assertFree(room, 10);
});

Deno.test("Room forgets who leaves, and serves those behind it", async () => {
  const room = new Room(10);
  const [full, exempt] = [new Request(room), new Request(room)];
  await full.take(5);
  await exempt.take(10);
  exempt.claim.keep(1);
  const granted: string[] = [];
  const [large, small] = [new Request(room), new Request(room)];
  void large.take(7, "large", granted);
  void small.take(2, "small", granted);
  await settle();
  assertEquals(granted, []);
  large.leave();
  await settle();
  assertEquals(granted, ["small"]);
  for (const request of [full, exempt, large, small]) request.end();
  await assertFree(room, 10);
});

Deno.test("Room takes nothing for who has left before", async () => {
  const room = new Room(10);
  const reason = new Error("it has left");
  const claim = new Claim(room);
  const error = await assertRejects(
    () => claim.take(1, AbortSignal.abort(reason)),
  );
  assertEquals(error, reason);
  await assertFree(room, 10);
});

Deno.test("Room does not go with the signals of those that it has served", async () => {
  const room = new Room(10);
  const [a, b] = [new Request(room), new Request(room)];
  await a.take(10);
  const granted: string[] = [];
  void b.take(1, "b", granted);
  await settle();
  a.leave();
  b.leave();
  await settle();
  assertEquals([a.taken, b.taken, granted], [10, 1, ["b"]]);
  await assertRejects(() => b.claim.take(1, AbortSignal.abort()));
  a.end();
  b.end();
  await assertFree(room, 10);
  await new Claim(room).take(1, NEVER);
});

Deno.test("Room is bounded, and everyone gets a turn, whatever they do", async () => {
  const SIZE = 20;
  const LARGEST = 30;
  const step = fc.record({
    action: fc.constantFrom("take", "take", "take", "keep", "leave", "end"),
    who: fc.nat({ max: 7 }),
    size: fc.integer({ min: 1, max: LARGEST }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step), async (steps) => {
      const room = new Room(SIZE);
      const requests = Array.from({ length: 8 }, () => new Request(room));
      const check = () => {
        const taken = requests.map(({ taken }) => taken).sort((a, b) => a - b);
        // All but one are within the limit.
        const sums = taken.map((one) => taken.reduce((a, b) => a + b) - one);
        assert(Math.min(...sums) <= SIZE, `${taken}`);
      };
      for (const { action, who, size } of steps) {
        const request = requests[who]!;
        if (action === "leave") request.leave();
        else if (!request.isWaiting) {
          if (action === "take") void request.take(size);
          else if (action === "end") request.end();
          else if (request.taken > size) {
            request.claim.keep(size);
            request.taken = size;
          }
        }
        await settle();
        check();
        if (action === "leave") {
          assertEquals(request.isWaiting, false);
          request.end();
          requests[who] = new Request(room);
          await settle();
        }
        // As long as someone waits, someone can end.
        const waiting = requests.filter(({ isWaiting }) => isWaiting);
        const busy = requests.filter(({ taken, isWaiting }) =>
          taken > 0 && !isWaiting
        );
        if (waiting.length > 0) assert(busy.length > 0, "all of them wait");
      }
      // They end one after the other: all that wait have their turn.
      for (let turns = 0; turns <= requests.length; turns++) {
        for (const request of requests) if (!request.isWaiting) request.end();
        await settle();
        check();
      }
      assertEquals(requests.filter(({ isWaiting }) => isWaiting), []);
      for (const request of requests) request.end();
      await assertFree(room, SIZE);
    }),
    { numRuns: 1_000 },
  );
});
