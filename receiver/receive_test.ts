/**
 * The handler over real connections, behind `Deno.serve`; and in the same process where
 * a test has to control the time.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import zlib from "node:zlib";
import { undiciTransport } from "../http/undici.ts";
import { FetchSender, SendError, StreamBuffer } from "../mod.ts";
import { Condition } from "../testing/condition.ts";
import { roundTrips } from "../testing/event_loop.ts";
import { fakeTime } from "../testing/fake_time.ts";
import {
  HTTP2_PREFACE,
  http2Data,
  http2Head,
  http2Reset,
  RawClient,
} from "../testing/raw_client.ts";
import {
  type AddResult,
  type Batch,
  BatchRefusedError,
  MemoryStore,
  type OnBatch,
  receive,
  type ReceiveOptions,
  type Store,
  StoreError,
  type StoreErrorCode,
} from "./mod.ts";

const MIB = 1024 * 1024;
/** Longer than any test takes. */
const LONG = 1_000_000;

/** A receiver behind `Deno.serve`, and what it has done. */
class Receiver implements AsyncDisposable {
  readonly store: MemoryStore = new MemoryStore();
  /** What `onError` was called with. */
  readonly errors: unknown[] = [];
  /** The status of each response, in their order. */
  readonly statuses: number[] = [];
  /** How many requests the handler has been called with. */
  calls = 0;
  readonly #changed = new Condition();
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor(options: Partial<ReceiveOptions<undefined>> = {}) {
    const handler = receive({
      store: this.store,
      onError: (error) => void this.errors.push(error),
      bodyTimeout: LONG,
      ...options,
    });
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      async (request) => {
        this.calls++;
        this.#changed.notify();
        const response = await handler(request);
        this.statuses.push(response.status);
        this.#changed.notify();
        return response;
      },
    );
  }

  get port(): number {
    return this.#server.addr.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** Waits until it has been called so many times. */
  called(calls: number): Promise<void> {
    return this.#changed.wait(`${calls} calls`, () => this.calls >= calls);
  }

  /** Waits for so many responses, and returns their statuses. */
  async responded(count: number): Promise<number[]> {
    const isMet = () => this.statuses.length >= count;
    await this.#changed.wait(`${count} responses`, isMet);
    return this.statuses;
  }

  /** Makes a request by `fetch`. */
  async send(init: RequestInit): Promise<Response> {
    const response = await fetch(this.url, { method: "POST", ...init });
    const body = await response.bytes();
    return new Response(response.status === 204 ? null : body, response);
  }

  /** Sends one batch, and returns the status. */
  async post(
    key: string,
    body: BodyInit,
    headers: Record<string, string> = {},
  ): Promise<number> {
    headers = { "Idempotency-Key": `"${key}"`, ...headers };
    return (await this.send({ headers, body })).status;
  }

  /** What is stored of a stream. */
  async text(id = "a"): Promise<string> {
    return await new Response(this.store.read(id)).text();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#changed.close("the server is stopped");
    await this.#server.shutdown();
  }
}

/** The head of a request over HTTP/1.1, which has a key. */
function head(...headers: string[]): string {
  return ["POST / HTTP/1.1", "Host: x", 'Idempotency-Key: "a-0"', ...headers]
    .concat("", "").join("\r\n");
}

/** A request as a handler in the same process is given it. */
function request(
  key: string,
  body: BodyInit,
  others: Record<string, string> = {},
): Request {
  const headers = { "Idempotency-Key": `"${key}"`, ...others };
  return new Request("http://localhost/", { method: "POST", headers, body });
}

/** A kilobyte, which takes as much room. */
function kilobyte(key: string): Request {
  return request(key, "x".repeat(1_000), { "Content-Length": "1000" });
}

/** Waits until whatever can happen without the test's doing has happened. */
async function quiet(): Promise<void> {
  await roundTrips(20);
  // Other threads make the digests of batches: these come after them.
  for (let i = 0; i < 20; i++) {
    await crypto.subtle.digest("SHA-256", new Uint8Array(1_000));
  }
  await roundTrips(20);
}

/** A store that takes as long as the test says. */
class SlowStore implements Store {
  readonly inner: MemoryStore = new MemoryStore();
  /** The keys that it was called with. */
  readonly entered: string[] = [];
  readonly results: AddResult[] = [];
  readonly #gate = Promise.withResolvers<void>();
  readonly #changed = new Condition();

  async add(batch: Batch): Promise<AddResult> {
    this.entered.push(batch.key);
    this.#changed.notify();
    await this.#gate.promise;
    const result = await this.inner.add(batch);
    this.results.push(result);
    return result;
  }

  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    return this.inner.read(id);
  }

  /** Waits until it has been called so many times. */
  async called(count: number): Promise<void> {
    await this.#changed.wait("calls", () => this.entered.length >= count);
  }

  /** Lets it go on. */
  open(): void {
    this.#gate.resolve();
  }
}

// What is stored, and how often.

for (const method of ["POST", "PUT"]) {
  Deno.test(`receive(): a batch that comes by ${method}, again and again, is stored once, with one response`, async () => {
    await using receiver = new Receiver();
    for (let i = 0; i < 3; i++) {
      const headers = { "Idempotency-Key": '"a-0"' };
      const response = await receiver.send({ method, headers, body: "one\n" });
      assertEquals(response.status, 204);
      assertEquals(
        [...response.headers.keys()].filter((n) =>
          n !== "date" && n !== "vary"
        ),
        [],
      );
    }
    assertEquals(await receiver.text(), "one\n");
    assertEquals(receiver.errors, []);
  });
}

Deno.test("receive(): a key with other bytes is refused with 422, whatever their coding", async () => {
  await using receiver = new Receiver();
  assertEquals(await receiver.post("a-0", "one"), 204);
  assertEquals(await receiver.post("a-0", "two"), 422);
  assertEquals(await receiver.post("a-0", ""), 422);
  const gzip = { "Content-Encoding": "gzip" };
  const encoded = (text: string) => new Uint8Array(zlib.gzipSync(text));
  assertEquals(await receiver.post("a-0", encoded("two"), gzip), 422);
  assertEquals(await receiver.post("a-0", encoded("one"), gzip), 204);
  assertEquals(await receiver.text(), "one");
  assertEquals(receiver.errors, []);
});

Deno.test("receive(): a store that checks, and then inserts, stores each of many attempts at once only once", async () => {
  const batches = new Map<string, Batch>();
  let most = 0;
  const now = new Map<string, number>();
  const naive: Store<undefined> = {
    async add(batch) {
      const { key } = batch;
      now.set(key, (now.get(key) ?? 0) + 1);
      most = Math.max(most, now.get(key)!);
      const isKnown = batches.has(key);
      await new Promise((resolve) => setTimeout(resolve));
      now.set(key, now.get(key)! - 1);
      if (isKnown) return "known";
      assert(!batches.has(key), `${key} is stored twice`);
      batches.set(key, batch);
      return "stored";
    },
    read: () => new ReadableStream(),
  };
  await using receiver = new Receiver({ store: naive });
  const statuses = await Promise.all(
    Array.from({ length: 60 }, (_, i) => receiver.post(`a-${i % 3}`, "x")),
  );
  assertEquals(statuses, Array(60).fill(204));
  assertEquals([...batches.keys()].sort(), ["a-0", "a-1", "a-2"]);
  assertEquals(most, 1);
});

Deno.test("receive(): a store that takes too long is a 503, and the next attempt waits for it", async () => {
  using time = fakeTime();
  const store = new SlowStore();
  const errors: StoreError[] = [];
  const onError = (error: unknown) => void errors.push(error as StoreError);
  const handler = receive({ store, storeTimeout: 20_000, onError });
  const first = handler(request("a-0", "one"));
  await store.called(1);
  await time.tickAsync(20_000);
  const response = await first;
  assertEquals(errors.map(({ code }) => code), ["busy"]);
  assertStringIncludes(errors[0]!.message, "not done so in 20000 ms");
  assertEquals(response.status, 503);
  assertEquals(response.headers.get("Retry-After"), "1");
  assertStringIncludes(await response.text(), "still being stored");

  const second = handler(request("a-0", "one"));
  const other = handler(request("a-1", "two"));
  await store.called(2);
  await quiet();
  assertEquals(store.entered.toSorted(), ["a-0", "a-1"]);
  store.open();
  assertEquals((await second).status, 204);
  assertEquals((await other).status, 204);
  assertEquals(store.results.toSorted(), ["known", "stored", "stored"]);
});

Deno.test("receive(): what came of a batch after its timeout is reported, and found out by the next attempt", async () => {
  using time = fakeTime();
  const failure = new StoreError("no", { code: "io" });
  const errors: unknown[] = [];
  const gate = Promise.withResolvers<AddResult>();
  const called = Promise.withResolvers<void>();
  const store: Store = {
    add: () => (called.resolve(), gate.promise),
    read: () => new ReadableStream(),
  };
  const handler = receive({
    store,
    onError: (error) => void errors.push(error),
  });
  const first = handler(request("a-0", "one"));
  await called.promise;
  await time.tickAsync(20_000);
  assertEquals((await first).status, 503);
  assertEquals(errors.splice(0).length, 1);
  gate.reject(failure);
  assertEquals((await handler(request("a-0", "one"))).status, 500);
  assertEquals(errors, [failure, failure]);
});

Deno.test("receive(): an attempt that waits in vain is not stored later, and gives its memory back", async () => {
  using time = fakeTime();
  const store = new SlowStore();
  const handler = receive({ store, maxPendingBytes: 2_000 });
  const hung = handler(kilobyte("a-0"));
  await store.called(1);
  const waiting = handler(kilobyte("a-0"));
  await quiet();
  await time.tickAsync(20_000);
  assertEquals((await hung).status, 503);
  assertEquals((await waiting).status, 503);
  // The first still has its memory, and so there is room for one more, one beyond the
  // limit, and no third.
  const others = ["b-0", "c-0", "d-0"].map((key) => handler(kilobyte(key)));
  await store.called(3);
  await quiet();
  assertEquals(store.entered.toSorted(), ["a-0", "b-0", "c-0"]);
  store.open();
  const responses = await Promise.all(others);
  assertEquals(responses.map(({ status }) => status), [204, 204, 204]);
  assertEquals(store.entered.toSorted(), ["a-0", "b-0", "c-0", "d-0"]);
});

Deno.test("receive(): a request that finds no room within its time is a 503, and takes none", async () => {
  using time = fakeTime();
  const store = new SlowStore();
  const handler = receive({
    store,
    maxPendingBytes: 1_000,
    storeTimeout: LONG,
  });
  // One has all the room, and one is beyond the limit.
  const stored = ["a-0", "a-1"].map((key) => handler(kilobyte(key)));
  await store.called(2);
  const late = handler(kilobyte("a-2"));
  await quiet();
  await time.tickAsync(30_000);
  const response = await late;
  assertEquals(response.status, 503);
  assertEquals(response.headers.get("Retry-After"), "1");
  assertEquals(store.entered.toSorted(), ["a-0", "a-1"]);
  store.open();
  const responses = await Promise.all(stored);
  assertEquals(responses.map(({ status }) => status), [204, 204]);
  assertEquals((await handler(kilobyte("a-2"))).status, 204);
});

/**
 * Requests that a receiver with this room is given, one after the other, while its store
 * is slow: all but the last get as far as the store, the last but one beyond the limit.
 */
const ROOM: Record<string, [maxPendingBytes: number, requests: Request[]]> = {
  "as many bytes as it has": [
    2_000,
    ["a", "b", "c", "d"].map((id) => kilobyte(`${id}-0`)),
  ],
  "as many bytes as there were, if their number was not known": [
    2_000 + 64 * 1024,
    [
      ...["a", "b"].map((id) => request(`${id}-0`, chunked(1_000, 1_000).body)),
      ...["c", "d"].map((id) => request(`${id}-0`, chunked(1, 64 * 1024).body)),
      kilobyte("e-0"),
    ],
  ],
  "as many bytes as were announced, though they come in parts": [400_000, [
    request("a-0", chunked(10_000, 400_000).body, {
      "Content-Length": "400000",
    }),
    kilobyte("b-0"),
    kilobyte("c-0"),
  ]],
  "as many bytes as there are without their coding": [402_000, [
    request("a-0", new Uint8Array(zlib.gzipSync("x")), {
      "Content-Encoding": "gzip",
      "Content-Length": `${zlib.gzipSync("x").length}`,
    }),
    request("b-0", chunked(400_000, 400_000).body, {
      "Content-Length": "400000",
    }),
    ...["c", "d", "e"].map((id) => kilobyte(`${id}-0`)),
  ]],
};

for (const [name, [maxPendingBytes, requests]] of Object.entries(ROOM)) {
  Deno.test(`receive(): a batch that is being stored takes ${name}`, async () => {
    const store = new SlowStore();
    const handler = receive({ store, maxBytes: 400_000, maxPendingBytes });
    const responses: Promise<Response>[] = [];
    for (const [i, request] of requests.entries()) {
      responses.push(handler(request));
      if (i < requests.length - 1) await store.called(i + 1);
    }
    await quiet();
    assertEquals(store.entered.length, requests.length - 1);
    store.open();
    const statuses = (await Promise.all(responses)).map(({ status }) => status);
    assertEquals(statuses, requests.map(() => 204));
  });
}

Deno.test("receive(): a coding is undone only once there is room for what it may become", async () => {
  const store = new SlowStore();
  const handler = receive({ store, maxBytes: 1_000, maxPendingBytes: 2_100 });
  const stored = [handler(kilobyte("a-0"))];
  await store.called(1);
  const { body, fail } = failing();
  const cut = handler(request("b-0", body, { "Content-Length": "1000" }));
  await quiet();
  stored.push(handler(kilobyte("c-0")));
  await store.called(2);
  // Now that one is beyond the limit no other may be, though there are 100 bytes.
  fail();
  assertEquals((await cut).status, 408);
  const gzip = new Uint8Array(zlib.gzipSync("x"));
  const headers = {
    "Content-Encoding": "gzip",
    "Content-Length": `${gzip.length}`,
  };
  stored.push(handler(request("d-0", gzip, headers)));
  await quiet();
  assertEquals(store.entered, ["a-0", "c-0"]);
  store.open();
  const statuses = (await Promise.all(stored)).map(({ status }) => status);
  assertEquals(statuses, [204, 204, 204]);
});

// Keys.

for (
  const [name, key] of [
    ["no string", "a-0"],
    ["without a sequence number", '"a"'],
    ["with an empty id", '"-0"'],
    ["of 513 characters", `"${"a".repeat(511)}-0"`],
    ["of 10,000 characters", `"${"a".repeat(9_998)}-0"`],
    ["twice", '"a-0", "a-0"'],
  ] as const
) {
  Deno.test(`receive(): a key ${name} is refused with 400`, async () => {
    await using receiver = new Receiver();
    const headers = { "Idempotency-Key": key };
    const response = await receiver.send({ headers, body: "x" });
    assertEquals(response.status, 400);
    assertMatch(await response.text(), /Idempotency-Key.* 512 .*ID-SEQUENCE/);
  });
}

Deno.test("receive(): a request without a key is refused with 400", async () => {
  await using receiver = new Receiver();
  const response = await receiver.send({ body: "x" });
  assertEquals(response.status, 400);
  assertEquals(
    response.headers.get("Content-Type"),
    "text/plain; charset=utf-8",
  );
  assertEquals(await response.text(), "the request has no Idempotency-Key\n");
});

Deno.test("receive(): a key of 512 characters is accepted", async () => {
  await using receiver = new Receiver();
  const id = "a".repeat(510);
  assertEquals(await receiver.post(`${id}-0`, "x"), 204);
  assertEquals(await receiver.text(id), "x");
});

Deno.test("receive({ requireKey: false }): other keys are ids of their own, and no key is one each time", async () => {
  const ids: string[] = [];
  await using receiver = new Receiver({
    requireKey: false,
    onBatch: ({ id }) => void ids.push(id),
  });
  const post = async (body: string, key?: string) => {
    const headers: HeadersInit = key ? { "Idempotency-Key": key } : {};
    return (await receiver.send({ headers, body })).status;
  };
  assertEquals(await post("1", "plain"), 204);
  assertEquals(await post("1", "plain"), 204);
  assertEquals(await post("2", "plain"), 422);
  assertEquals(await post("3", '"string"'), 204);
  assertEquals(await post("4", '"a-0"'), 204);
  assertEquals(await post("5", '"a"'), 204);
  assertEquals(await post("6", "x".repeat(513)), 400);
  assertEquals(await post("7"), 204);
  assertEquals(await post("7"), 204);
  const [none, again] = ids.splice(-2) as [string, string];
  assert(none !== again && none.length === 36, `${none}, ${again}`);
  assertEquals(ids, ["plain", "string", "a", "a"]);
  assertEquals(await receiver.text("plain"), "1");
  assertEquals(await receiver.text("a"), "45");
  assertEquals(await receiver.text(again), "7");
});

Deno.test("receive(): onBatch is given the key, the bytes and the headers", async () => {
  const seen: Batch[] = [];
  await using receiver = new Receiver({
    onBatch: (batch) => void seen.push(batch),
  });
  const key = "a.0123456789abcdef-7/2-5";
  const before = Date.now();
  assertEquals(await receiver.post(key, "xyz", { "X-Tenant": "one" }), 204);
  const [{ digest, headers, received, bytes, ...rest }] = seen as [Batch];
  assertEquals(rest, {
    ...{ key, id: "a", epoch: "0123456789abcdef", sequence: 7 },
    ...{ part: "2-5", from: 2 },
  });
  assertEquals(new TextDecoder().decode(bytes), "xyz");
  assertEquals(headers.get("X-Tenant"), "one");
  assert(received >= before && received <= Date.now());
  const sha = await crypto.subtle.digest("SHA-256", bytes);
  assertEquals(digest, new Uint8Array(sha));
});

// Methods.

for (const method of ["GET", "HEAD", "DELETE", "PATCH", "OPTIONS"]) {
  Deno.test(`receive(): ${method} is refused with 405`, async () => {
    await using receiver = new Receiver();
    const headers = { "Idempotency-Key": '"a-0"' };
    const response = await receiver.send({ method, headers });
    assertEquals(response.status, 405);
    assertEquals(response.headers.get("Allow"), "POST, PUT");
    assertEquals(await receiver.text(), "");
  });
}

// Failures that are not the client's.

for (
  const [code, status, retryAfter] of [
    ["full", 507, null],
    ["busy", 503, "1"],
    ["closed", 503, "1"],
    ["io", 500, null],
    ["damaged", 500, null],
    [undefined, 500, null],
  ] as [StoreErrorCode | undefined, number, string | null][]
) {
  const title = code === undefined ? "that throws" : `that is "${code}"`;
  Deno.test(`receive(): a store ${title} is a ${status}, and onError learns why, the client nothing`, async () => {
    const error = code === undefined
      ? new Error("secret")
      : new StoreError("secret", { code });
    let isBroken = true;
    const inner = new MemoryStore();
    const store: Store<undefined> = {
      add(batch) {
        if (isBroken) throw error;
        return inner.add(batch);
      },
      read: (id) => inner.read(id),
    };
    const calls: unknown[][] = [];
    await using receiver = new Receiver({
      store,
      onError: (...args) => void calls.push(args),
    });
    const headers = { "Idempotency-Key": '"a-0"' };
    const response = await receiver.send({ headers, body: "x" });
    assertEquals(response.status, status);
    assertEquals(response.headers.get("Retry-After"), retryAfter);
    assertEquals((await response.text()).includes("secret"), false);
    assertEquals(calls.length, 1);
    assertEquals(calls[0]![0], error);
    assert(calls[0]![1] instanceof Request);
    isBroken = false;
    assertEquals(await receiver.post("a-0", "x"), 204);
    assertEquals(await new Response(inner.read("a")).text(), "x");
  });
}

Deno.test("receive(): what onBatch throws is a 500, a BatchRefusedError a 422 with its message, and neither is stored", async () => {
  let thrown: unknown = new Error("secret");
  const onBatch: OnBatch<undefined> = () => {
    if (thrown !== undefined) throw thrown;
  };
  await using receiver = new Receiver({ onBatch });
  assertEquals(await receiver.post("a-0", "x"), 500);
  assertEquals(receiver.errors, [thrown]);
  thrown = new BatchRefusedError("a line is not JSON");
  const headers = { "Idempotency-Key": '"a-0"' };
  const response = await receiver.send({ headers, body: "x" });
  assertEquals(response.status, 422);
  assertEquals(await response.text(), "a line is not JSON\n");
  assertEquals(receiver.errors.length, 1);
  assertEquals(await receiver.text(), "");
  thrown = undefined;
  assertEquals(await receiver.post("a-0", "x"), 204);
  assertEquals(await receiver.text(), "x");
});

Deno.test("receive(): two epochs with one number are stored, and reported", async () => {
  await using receiver = new Receiver();
  assertEquals(await receiver.post("a.0123456789abcdef-3", "x"), 204);
  assertEquals(await receiver.post("a.fedcba9876543210-3", "y"), 204);
  const [error, ...rest] = receiver.errors as [StoreError];
  assertEquals(rest, []);
  assert(error instanceof StoreError);
  assertEquals(error.code, "overlap");
  assertMatch(error.message, /Batch 3 of the stream a .*fedcba9876543210/);
});

for (
  const [name, onError] of [
    ["throws", () => {
      throw new Error("it throws");
    }],
    ["rejects", () => Promise.reject(new Error("it rejects"))],
  ] as const
) {
  Deno.test(`receive(): an onError that ${name} changes nothing`, async () => {
    const onBatch = () => Promise.reject(new Error("no"));
    await using receiver = new Receiver({ onError, onBatch });
    assertEquals(await receiver.post("a-0", "x"), 500);
  });
}

Deno.test("receive(): without onError, errors are printed", async () => {
  const printed: unknown[][] = [];
  const { error } = console;
  console.error = (...args) => void printed.push(args);
  try {
    const failure = new Error("no");
    const onBatch = () => Promise.reject(failure);
    const handler = receive({ store: new MemoryStore(), onBatch });
    assertEquals((await handler(request("a-0", "x"))).status, 500);
    assertEquals(printed, [[failure]]);
  } finally {
    console.error = error;
  }
});

for (
  const [way, use] of [
    ["has read", (request) => request.text()],
    ["has begun to read", async ({ body }) => {
      const reader = body!.getReader();
      await reader.read();
      reader.releaseLock();
    }],
  ] satisfies [string, (request: Request) => Promise<unknown>][]
) {
  Deno.test(`receive(): a body that someone else ${way} is a 500, and reported`, async () => {
    const store = new MemoryStore();
    const errors: unknown[] = [];
    const handler = receive({
      store,
      onError: (error) => void errors.push(error),
    });
    const used = request("a-0", "x");
    await use(used);
    assertEquals((await handler(used)).status, 500);
    assertEquals(errors.length, 1);
    assertEquals((await handler(request("a-0", "x"))).status, 204);
    assertEquals(await new Response(store.read("a")).text(), "x");
  });
}

for (const chunk of ["abc", new ArrayBuffer(3), new Uint16Array(3), [1], 1]) {
  const name = typeof chunk === "object" ? chunk.constructor.name : chunk;
  Deno.test(`receive(): a body whose chunks are not bytes, but ${name}, is a 500, reported, and not stored`, async () => {
    const errors: unknown[] = [];
    const store = new MemoryStore();
    const onError = (error: unknown) => void errors.push(error);
    const handler = receive({ store, onError });
    const chunks: unknown[] = [new Uint8Array(3), chunk];
    const body = ReadableStream.from(chunks) as ReadableStream<Uint8Array>;
    assertEquals((await handler(request("a-0", body))).status, 500);
    assertEquals(errors.length, 1);
    assertEquals((await handler(request("a-0", "x"))).status, 204);
  });
}

// Bodies that are cut off.

const CUTS: Record<string, (string | Uint8Array)[]> = {
  "with a Content-Length": [head("Content-Length: 10"), "abc"],
  "with a Content-Length, before it begins": [head("Content-Length: 10")],
  "between chunks": [head("Transfer-Encoding: chunked"), "3\r\nabc\r\n"],
  "in a chunk": [head("Transfer-Encoding: chunked"), "A\r\nabc"],
  "in the size of a chunk": [head("Transfer-Encoding: chunked"), "1"],
  "before the last line": [
    head("Transfer-Encoding: chunked"),
    "3\r\nabc\r\n0\r\n",
  ],
};

for (const [name, parts] of Object.entries(CUTS)) {
  for (const way of ["closes", "stops writing to"] as const) {
    Deno.test(`receive(): nothing is stored of a body that is cut off ${name}, by a client that ${way} the connection`, async () => {
      await using receiver = new Receiver();
      using client = await RawClient.connect(receiver.port);
      for (const part of parts) await client.write(part);
      await receiver.called(1);
      if (way === "closes") client[Symbol.dispose]();
      else await client.end();
      assertEquals(await receiver.responded(1), [408]);
      assertEquals(await receiver.text(), "");
      assertEquals(receiver.errors, []);
      assertEquals(await receiver.post("a-0", "abc"), 204);
    });
  }
}

Deno.test("receive(): a sender makes another attempt at a body under way when the server is shut down", async () => {
  const receiver = new Receiver();
  using client = await RawClient.connect(receiver.port);
  await client.write(head("Content-Length: 6"));
  await client.write("abc");
  await receiver.called(1);
  const end = receiver[Symbol.asyncDispose]();
  await client.write("def");
  const { status } = (await client.response())!;
  await end;
  // Deno cuts it off, and may cease to.
  const text = status === 204 ? "abcdef" : "";
  assertEquals(await receiver.text(), text);
  if (text === "") assertEquals(status, 408);
});

Deno.test("receive(): nothing is stored of a body whose chunks are malformed", async () => {
  await using receiver = new Receiver();
  using client = await RawClient.connect(receiver.port);
  await client.write(head("Transfer-Encoding: chunked"));
  await receiver.called(1);
  await client.write("3\r\nabc\r\nnonsense\r\n\r\n");
  assertEquals(await receiver.responded(1), [408]);
  assertEquals(await receiver.text(), "");
});

/** What an HTTP/2 request for 6 bytes has, as far as it is not reset. */
const HTTP2_START: Uint8Array[] = [
  HTTP2_PREFACE,
  http2Head(1, { "idempotency-key": '"a-0"', "content-length": "6" }),
  http2Data(1, "abc"),
];

for (
  const [name, code] of [["NO_ERROR", 0], ["INTERNAL_ERROR", 2], [
    "CANCEL",
    8,
  ]] as const
) {
  for (const when of ["later", "in the same packet"]) {
    Deno.test(`receive(): nothing is stored of an HTTP/2 stream that is reset with ${name}, ${when}`, async () => {
      await using receiver = new Receiver();
      using client = await RawClient.connect(receiver.port);
      const packets = [concat(HTTP2_START), http2Reset(1, code)];
      if (when === "later") {
        await client.write(packets[0]!);
        await receiver.called(1);
        await client.write(packets[1]!);
      } else await client.write(concat(packets));
      assertEquals(await receiver.responded(1), [408]);
      assertEquals(await receiver.text(), "");
    });
  }
}

Deno.test("receive(): nothing is stored of an HTTP/2 stream whose connection is lost", async () => {
  await using receiver = new Receiver();
  using client = await RawClient.connect(receiver.port);
  await client.write(concat(HTTP2_START));
  await receiver.called(1);
  client[Symbol.dispose]();
  assertEquals(await receiver.responded(1), [408]);
  assertEquals(await receiver.text(), "");
});

Deno.test("receive(): a whole HTTP/2 stream is stored", async () => {
  await using receiver = new Receiver();
  using client = await RawClient.connect(receiver.port);
  await client.write(concat([...HTTP2_START, http2Data(1, "def", true)]));
  assertEquals(await receiver.responded(1), [204]);
  assertEquals(await receiver.text(), "abcdef");
});

for (const isReset of [false, true]) {
  const end = isReset ? "that is reset" : "that is whole";
  Deno.test(`receive(): an HTTP/2 stream without Content-Length is refused with 411, even one ${end}`, async () => {
    await using receiver = new Receiver();
    using client = await RawClient.connect(receiver.port);
    await client.write(concat([
      HTTP2_PREFACE,
      http2Head(1, { "idempotency-key": '"a-0"' }),
      http2Data(1, "abc", !isReset),
      ...isReset ? [http2Reset(1, 8)] : [],
    ]));
    assertEquals(await receiver.responded(1), [411]);
    assertEquals(await receiver.text(), "");
  });
}

// Codings.

const TEXT = "hello world\n".repeat(500);
const CODINGS = {
  "gzip": zlib.gzipSync,
  "deflate": zlib.deflateSync,
  "br": (content: zlib.InputType) =>
    zlib.brotliCompressSync(content, {
      params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5 },
    }),
};

for (const [coding, compress] of Object.entries(CODINGS)) {
  const encoded = new Uint8Array(compress(TEXT));
  const headers = { "Content-Encoding": coding };
  /** The statuses of these bodies, and what is stored of them. */
  const receiveAll = async (
    bodies: Uint8Array<ArrayBuffer>[],
    maxBytes = 10_000,
  ): Promise<[statuses: number[], text: string]> => {
    const store = new MemoryStore();
    const handler = receive({ store, maxBytes });
    const statuses: number[] = [];
    for (const [i, body] of bodies.entries()) {
      const response = await handler(request(`a-${i}`, body, headers));
      statuses.push(response.status);
    }
    return [statuses, await new Response(store.read("a")).text()];
  };

  Deno.test(`receive(): Content-Encoding ${coding} is undone`, async () => {
    await using receiver = new Receiver();
    assertEquals(await receiver.post("a-0", encoded, headers), 204);
    const empty = new Uint8Array(compress(""));
    assertEquals(await receiver.post("a-1", empty, headers), 204);
    assertEquals(await receiver.text(), TEXT);
  });

  Deno.test(`receive(): ${coding} that is cut off anywhere is a 400`, async () => {
    const cuts = Array.from(encoded, (_, i) => encoded.slice(0, i));
    const [statuses, text] = await receiveAll(cuts);
    assertEquals(statuses, cuts.map(() => 400));
    assertEquals(text, "");
  });

  Deno.test(`receive(): ${coding} with anything behind it is a 400`, async () => {
    const more = [new Uint8Array(1), new Uint8Array([1, 2, 3])];
    // Several members are one body of gzip (RFC 1952, section 2.2).
    if (coding !== "gzip") more.push(encoded);
    const bodies = more.map((rest) => concat([encoded, rest]));
    const [statuses, text] = await receiveAll(bodies);
    assertEquals(statuses, more.map(() => 400));
    assertEquals(text, "");
  });

  Deno.test(`receive(): ${coding} that is something else is a 400`, async () => {
    const plain = new TextEncoder().encode(TEXT);
    const others = Object.values(CODINGS).filter((other) => other !== compress);
    const bodies = [
      plain,
      ...others.map((other) => new Uint8Array(other(TEXT))),
    ];
    const [statuses, text] = await receiveAll(bodies);
    assertEquals(statuses, bodies.map(() => 400));
    assertEquals(text, "");
  });

  Deno.test(`receive(): ${coding} may have maxBytes when it is undone, and not one more`, async () => {
    assertEquals(await receiveAll([encoded], TEXT.length), [[204], TEXT]);
    assertEquals(await receiveAll([encoded], TEXT.length - 1), [[413], ""]);
  });

  Deno.test(`receive(): a bomb of ${coding} is a 413`, async () => {
    const bomb = new Uint8Array(compress(new Uint8Array(16 * MIB)));
    assert(bomb.length < 20_000);
    assertEquals(await receiveAll([bomb], MIB), [[413], ""]);
  });
}

Deno.test("receive(): a 413 tells a body that is too large from one that is decompressed", async () => {
  const handler = receive({ store: new MemoryStore(), maxBytes: 100 });
  const refusalOf = async (
    body: Uint8Array<ArrayBuffer>,
    headers: Record<string, string>,
  ) => {
    const init = {
      method: "POST",
      headers: { "Idempotency-Key": '"a-0"', ...headers },
      body,
    };
    const response = await handler(new Request("http://localhost/", init));
    return [response.status, await response.text()];
  };
  const large = new Uint8Array(101);
  const gzip = { "Content-Encoding": "gzip" };
  const zipped = new Uint8Array(zlib.gzipSync(large));
  const message = "a body may have 100 bytes at most";
  assertEquals(await refusalOf(large, {}), [413, `${message}\n`]);
  assertEquals(await refusalOf(zipped, gzip), [
    413,
    `${message} when it is decompressed\n`,
  ]);
});

Deno.test("receive(): the members of gzip are one body, however many", async () => {
  await using receiver = new Receiver();
  const gzip = (text: string) => new Uint8Array(zlib.gzipSync(text));
  const headers = { "Content-Encoding": "gzip" };
  const two = concat([gzip("one\n"), gzip("two\n")]);
  assertEquals(await receiver.post("a-0", two, headers), 204);
  const empty = gzip("");
  const many = concat(Array.from({ length: 50_000 }, () => empty));
  assertEquals(await receiver.post("a-1", many, headers), 204);
  assertEquals(await receiver.text(), "one\ntwo\n");
});

for (const name of ["GZIP", " gzip ", "x-gzip", "identity", ""]) {
  Deno.test(`receive(): Content-Encoding may be ${JSON.stringify(name)}`, async () => {
    await using receiver = new Receiver();
    const isGzip = /gzip/i.test(name);
    const body = isGzip ? new Uint8Array(zlib.gzipSync("x")) : "x";
    const headers = { "Content-Encoding": name };
    assertEquals(await receiver.post("a-0", body, headers), 204);
    assertEquals(await receiver.text(), "x");
  });
}

for (const name of ["zstd", "gzip, gzip", "constructor", "brotli"]) {
  Deno.test(`receive(): Content-Encoding ${name} is refused with 415`, async () => {
    await using receiver = new Receiver();
    const headers = { "Content-Encoding": name, "Idempotency-Key": '"a-0"' };
    const response = await receiver.send({ headers, body: "x" });
    assertEquals(response.status, 415);
    const accepted = "gzip, deflate, br, identity";
    assertEquals(response.headers.get("Accept-Encoding"), accepted);
    assertStringIncludes(await response.text(), accepted);
    assertEquals(await receiver.text(), "");
  });
}

// Size.

/** A body that is cut off when the test says so. */
function failing(): { body: ReadableStream; fail: () => void } {
  const gate = Promise.withResolvers<void>();
  const body = new ReadableStream({
    async pull(controller) {
      controller.enqueue(new Uint8Array(1));
      await gate.promise;
      controller.error(new Error("cut off"));
    },
  }, { highWaterMark: 0 });
  return { body, fail: gate.resolve };
}

/** Bytes in chunks of `size`, until the reader leaves or there were `length`. */
function chunked(
  size: number,
  length = Infinity,
): {
  body: ReadableStream<Uint8Array<ArrayBuffer>>;
  wasCancelled: () => boolean;
} {
  let isCancelled = false;
  let left = length;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull(controller) {
      const next = Math.min(size, left);
      left -= next;
      if (next > 0) controller.enqueue(new Uint8Array(next).fill(120));
      else controller.close();
    },
    cancel() {
      isCancelled = true;
    },
  }, { highWaterMark: 0 });
  return { body, wasCancelled: () => isCancelled };
}

Deno.test("receive(): a body may have maxBytes, and not one more, with and without Content-Length", async () => {
  await using receiver = new Receiver({ maxBytes: 100_000 });
  const small = "x".repeat(100_000);
  assertEquals(await receiver.post("a-0", small), 204);
  assertEquals(await receiver.post("b-0", `${small}x`), 413);
  assertEquals(await receiver.post("c-0", chunked(1_000, 100_000).body), 204);
  assertEquals(await receiver.post("d-0", chunked(1_000, 100_001).body), 413);
  const texts = ["a", "b", "c", "d"].map((id) => receiver.text(id));
  assertEquals(await Promise.all(texts), [small, "", small, ""]);
});

Deno.test("receive(): a body that never ends is a 413, and is not read on", async () => {
  const { body, wasCancelled } = chunked(1_000);
  const handler = receive({ store: new MemoryStore(), maxBytes: MIB });
  const response = await handler(request("a-0", body));
  assertEquals(response.status, 413);
  assertStringIncludes(await response.text(), `${MIB} bytes`);
  assert(wasCancelled());
});

Deno.test("receive(): a body may come byte by byte", async () => {
  const store = new MemoryStore();
  const handler = receive({ store });
  const size = 70_001;
  const response = await handler(request("a-0", chunked(1, size).body));
  assertEquals(response.status, 204);
  const text = await new Response(store.read("a")).text();
  assertEquals(text, "x".repeat(size));
});

Deno.test("receive(): an array that is stored has no more memory than its bytes", async () => {
  const sizes: number[][] = [];
  const onBatch: OnBatch<undefined> = ({ bytes }) =>
    void sizes.push([bytes.length, bytes.buffer.byteLength]);
  const handler = receive({ store: new MemoryStore(), onBatch });
  await handler(request("a-0", chunked(1_000, 100_000).body));
  await handler(request("a-1", "x"));
  assertEquals(sizes, [[100_000, 100_000], [1, 1]]);
});

Deno.test("receive(): a body that is announced as too large is a 413 before it comes", async () => {
  await using receiver = new Receiver({ maxBytes: 1_000 });
  using client = await RawClient.connect(receiver.port);
  await client.write(head("Content-Length: 1001"));
  assertEquals((await client.response())?.status, 413);
});

Deno.test("receive(): a request with two lengths is a 411", async () => {
  await using receiver = new Receiver();
  using client = await RawClient.connect(receiver.port);
  await client.write(head("Content-Length: 3", "Content-Length: 3") + "abc");
  assertEquals((await client.response())?.status, 411);
  assertEquals(await receiver.text(), "");
});

// Senders see why they are refused, though they have not sent everything yet.

for (
  const [name, transport] of [["fetch", undefined], [
    "undici",
    undiciTransport(),
  ]] as const
) {
  for (
    const [status, size, options, settings] of [
      [413, 32, {}, {}],
      [413, 2, { compression: "gzip" }, {}],
      [400, 32, { idempotencyKey: false }, {}],
      [405, 32, { method: "PATCH" }, {}],
      [413, 32, {}, { maxPendingBytes: 1 }],
    ] as const
  ) {
    const title = JSON.stringify([options, settings]);
    Deno.test(`receive(): ${name} sees the ${status} of ${size} MiB, with ${title}`, async () => {
      await using receiver = new Receiver({ maxBytes: MIB, ...settings });
      const sender = new FetchSender(receiver.url, {
        ...options,
        ...transport && { transport },
        retry: { maxElapsed: 0 },
      });
      const large = new Uint8Array(size * MIB);
      // It has to be large after compression, too.
      const random = crypto.getRandomValues(new Uint8Array(65_536));
      for (let i = 0; i < large.length; i += random.length) {
        large.set(random, i);
      }
      const out = new StreamBuffer(sender, { capacity: large.length });
      const written = out.write(large);
      const error = await assertRejects(() => out.flush());
      await written;
      const { cause } = error as Error;
      assert(cause instanceof SendError);
      assertEquals(cause.status, status);
      out.abort();
      await sender.close?.();
    });
  }
}

// Clients that are slow, or many.

for (
  const [name, ...parts] of [
    ["before it begins", head("Content-Length: 10")],
    ["in the middle", head("Content-Length: 10"), "abc"],
    ["between chunks", head("Transfer-Encoding: chunked"), "3\r\nabc\r\n"],
  ] as [string, ...string[]][]
) {
  Deno.test(`receive(): a client that stops ${name} is a 408 after bodyTimeout, and stores nothing`, async () => {
    await using receiver = new Receiver({ bodyTimeout: 50 });
    using client = await RawClient.connect(receiver.port);
    for (const part of parts) await client.write(part);
    const response = await client.response();
    assertEquals(response?.status, 408);
    assertEquals(await receiver.text(), "");
    assertEquals(receiver.errors, []);
    assertEquals(await receiver.post("a-0", "abc"), 204);
  });
}

Deno.test("receive(): a good client is served while 200 others have stopped in their headers, and 200 in their bodies", async () => {
  await using receiver = new Receiver();
  using clients = new DisposableStack();
  for (let i = 0; i < 200; i++) {
    const inHead = clients.use(await RawClient.connect(receiver.port));
    await inHead.write(head().slice(0, -10));
    const inBody = clients.use(await RawClient.connect(receiver.port));
    await inBody.write(`${head("Content-Length: 100000")}half`);
  }
  await receiver.called(200);
  const large = "x".repeat(5 * MIB);
  assertEquals(await receiver.post("b-0", large), 204);
  assertEquals(await receiver.text("b"), large);
  clients.dispose();
  const expected = [204, ...Array(200).fill(408)];
  assertEquals(await receiver.responded(201), expected);
  // They have given back what they had, or this would not find room.
  assertEquals(await receiver.text("a"), "");
});

Deno.test("receive(): 1,000 streams share little room, and each gets through", async () => {
  const STREAMS = 1_000;
  const SIZE = 20_000;
  const LIMIT = 10 * SIZE;
  let [held, most] = [0, 0];
  const counts = new Map<string, number>();
  const store: Store<undefined> = {
    async add({ id, bytes }) {
      held += bytes.length;
      most = Math.max(most, held);
      await new Promise((resolve) => setTimeout(resolve));
      held -= bytes.length;
      counts.set(id, (counts.get(id) ?? 0) + 1);
      return "stored";
    },
    read: () => new ReadableStream(),
  };
  await using receiver = new Receiver({ store, maxPendingBytes: LIMIT });
  const body = "x".repeat(SIZE);
  const statuses = await Promise.all(
    Array.from({ length: STREAMS }, async (_, i) => [
      await receiver.post(`s${i}-0`, body),
      await receiver.post(`s${i}-1`, body),
    ]),
  );
  assertEquals(statuses.flat().filter((status) => status !== 204), []);
  assertEquals(counts.size, STREAMS);
  assertEquals([...counts.values()].filter((count) => count !== 2), []);
  assert(most <= LIMIT + SIZE, `${most} bytes at once`);
});

Deno.test("receive(): its memory is free again, however requests end", async () => {
  const store = new SlowStore();
  const errors = [new StoreError("no", { code: "full" })];
  await using receiver = new Receiver({
    store: {
      add: (batch: Batch) => {
        const error = errors.pop();
        return error ? Promise.reject(error) : store.add(batch);
      },
      read: (id: string) => store.read(id),
    },
    maxBytes: 1_000,
    maxPendingBytes: 2_000,
  });
  const post = (key: string) => receiver.post(key, "x".repeat(1_000));
  assertEquals(await post("a-0"), 507);
  assertEquals(await post("no key"), 400);
  const gzip = { "Content-Encoding": "gzip" };
  assertEquals(await receiver.post("a-1", "no gzip", gzip), 400);
  assertEquals(await receiver.post("a-2", chunked(10, 2_000).body), 413);
  {
    using client = await RawClient.connect(receiver.port);
    await client.write(`${head("Content-Length: 1000")}half`);
    await receiver.called(5);
  }
  await receiver.responded(5);
  // Two take all the room, one is beyond the limit, and one waits.
  const posts = ["b-0", "b-1", "b-2", "b-3"].map(post);
  await store.called(3);
  await quiet();
  assertEquals(store.entered.length, 3);
  store.open();
  assertEquals(await Promise.all(posts), [204, 204, 204, 204]);
});

// Options.

for (
  const [options, expected] of [
    [{}, TypeError],
    [{ store: null }, TypeError],
    [{ store: "received.db" }, TypeError],
    [{ store: {} }, RangeError],
    [{ maxBytes: 0 }, RangeError],
    [{ maxBytes: 1.5 }, RangeError],
    [{ maxBytes: "1" }, TypeError],
    [{ maxPendingBytes: 0 }, RangeError],
    [{ bodyTimeout: 0 }, RangeError],
    [{ storeTimeout: 2 ** 31 }, RangeError],
    [{ requireKey: "no" }, TypeError],
    [{ onBatch: null }, TypeError],
    [{ onError: 1 }, TypeError],
  ] as const
) {
  const isStore = "store" in options || Object.keys(options).length === 0;
  const all = isStore ? options : { store: new MemoryStore(), ...options };
  Deno.test(`receive() rejects ${JSON.stringify(options)}`, () => {
    const error = assertThrows(
      () => receive(all as ReceiveOptions<undefined>),
      expected,
      `Cannot create receiver: ${Object.keys(options)[0] ?? "store"} must be`,
    );
    assertEquals(error.message.includes("received.db"), false);
  });
}
