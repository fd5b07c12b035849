/** What senders promise whatever the transport, and however badly it behaves. */
import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  FetchSender,
  SendError,
  type Transport,
  type TransportRequest,
} from "../sender.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";
import { fakeTime } from "../testing/fake_time.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
} from "../testing/sending.ts";

const ONCE = { maxElapsed: 0 };

function response(status: number): Awaited<ReturnType<Transport>> {
  return { status, headers: new Headers(), body: null };
}

Deno.test("send() gives the transport the whole request, as a plain function", async () => {
  const seen: TransportRequest[] = [];
  function transport(this: unknown, request: TransportRequest) {
    assertStrictEquals(this, undefined);
    seen.push(request);
    return Promise.resolve(response(204));
  }
  await deliver(`${NO_SERVER_URL}?q=1`, {
    transport,
    headers: { "X-One": "1", "Content-Length": "999" },
    idempotencyKey: "stream",
  });
  const [{ method, url, headers, body, signal }] = seen as [TransportRequest];
  assertEquals([method, url.href], ["POST", `${NO_SERVER_URL}?q=1`]);
  assertEquals(Object.entries(headers).toSorted(), [
    ["content-type", "application/octet-stream"],
    ["idempotency-key", '"stream-0"'],
    ["x-one", "1"],
  ]);
  assertStrictEquals(body, BYTES, "the body was copied");
  assertEquals(signal.aborted, false);
});

Deno.test("a stream of known size has a Content-Length, and no other body has one", async () => {
  const lengths: (string | undefined)[] = [];
  const transport: Transport = async ({ body, headers }) => {
    lengths.push(headers["content-length"]);
    await new Response(body).bytes();
    return response(201);
  };
  for (const options of [{}, { length: 10 }]) {
    const sender = new UploadSender(NO_SERVER_URL, {
      ...options,
      transport,
      headers: { "Content-Length": "999" },
    });
    await sender.send(BYTES, context());
    await sender.close();
  }
  assertEquals(lengths, [undefined, "10"]);
});

for (const Sender of [FetchSender, UploadSender, TusSender]) {
  Deno.test(`${Sender.name}() takes either a transport, or fetch and client`, async () => {
    using client = Deno.createHttpClient({});
    const transport: Transport = () => Promise.resolve(response(204));
    for (const other of [{ fetch }, { client }, { fetch, client }]) {
      const [name] = Object.keys(other);
      const error = assertThrows(
        () => new Sender(NO_SERVER_URL, { transport, ...other }),
        TypeError,
      );
      assertEquals(
        error.message,
        `Cannot create ${Sender.name}: transport replaces ${name}, so give only one of them`,
      );
    }
    for (const wrong of ["fetch", {}, null]) {
      assertThrows(
        () => new Sender(NO_SERVER_URL, { transport: wrong as never }),
        TypeError,
        "transport must be a function",
      );
    }
    // Only the platform's `fetch` blocks ports.
    new Sender("http://a:6000/", { transport });
    await Promise.resolve();
  });
}

for (const status of [0, 199, 204, 299, 300]) {
  Deno.test(`only a 2xx of a transport is a delivery: ${status}`, async () => {
    const sent = deliver(NO_SERVER_URL, {
      transport: () => Promise.resolve(response(status)),
    });
    if (status === 204 || status === 299) return await sent;
    const { cause: _, ...error } = await assertRejects(() => sent, SendError);
    assertEquals([error.status, error.attempts], [status, 1]);
  });
}

Deno.test("a transport that ignores its signal does not hang a send, and its late response is cancelled", async () => {
  using time = fakeTime();
  const late = Promise.withResolvers<Awaited<ReturnType<Transport>>>();
  const cancelled = Promise.withResolvers<void>();
  const sent = deliver(NO_SERVER_URL, {
    transport: () => late.promise,
    timeout: 1_000,
    retry: ONCE,
  });
  const rejected = assertRejects(() => sent, SendError, "longer than 1000 ms");
  await time.tickAsync(1_000);
  await rejected;
  const body = new ReadableStream({ cancel: () => cancelled.resolve() });
  late.resolve({ ...response(200), body });
  await cancelled.promise;
});

Deno.test("a transport that fails late, after its signal, is no unhandled rejection", async () => {
  using time = fakeTime();
  const late = Promise.withResolvers<never>();
  const sent = deliver(NO_SERVER_URL, {
    transport: () => late.promise,
    timeout: 1_000,
    retry: ONCE,
  });
  const rejected = assertRejects(() => sent, SendError, "longer than 1000 ms");
  await time.tickAsync(1_000);
  await rejected;
  late.reject(new Error("late"));
});

for (const [status, ok] of [[200, true], [503, false]] as const) {
  Deno.test(`a body that ignores the signal does not hang a send, and is cancelled after a ${status}`, async () => {
    using time = fakeTime();
    let cancelled = 0;
    const read = Promise.withResolvers<void>();
    const body = new ReadableStream({
      pull: () => {
        read.resolve();
        return new Promise(() => {});
      },
      cancel: () => void cancelled++,
    }, { highWaterMark: 0 });
    const sent = deliver(NO_SERVER_URL, {
      transport: () => Promise.resolve({ ...response(status), body }),
      timeout: 1_000,
      retry: ONCE,
    }).then(() => true, (error) => error.status !== status && error);
    await read.promise;
    await time.tickAsync(1_000);
    assertEquals(await sent, ok);
    assertEquals(cancelled, 1);
  });
}

for (
  const [title, transport] of [
    ["throws", () => {
      throw new Error("no network");
    }],
    ["rejects", () => Promise.reject(new Error("no network"))],
  ] as const
) {
  Deno.test(`a transport that ${title} is a network error, which is retried`, async () => {
    const failures: SendError[] = [];
    let attempts = 0;
    await deliver(NO_SERVER_URL, {
      transport: () =>
        ++attempts < 3 ? transport() : Promise.resolve(response(204)),
      retry: FAST,
      onRetry: (failure) => failures.push(failure),
    });
    assertEquals(failures.map(({ message }) => message), [
      `POST of 10 bytes to ${NO_SERVER_URL} failed (attempt 1): no network`,
      `POST of 10 bytes to ${NO_SERVER_URL} failed (attempt 2): no network`,
    ]);
  });
}

for (const name of ["NotCapable", "TransportClosed"]) {
  Deno.test(`a transport that rejects with an error named ${name} is not called again`, async () => {
    let calls = 0;
    const thrown = Object.assign(new Error("it cannot"), { name });
    const error = await assertRejects(() =>
      deliver(NO_SERVER_URL, {
        transport: () => {
          calls++;
          return Promise.reject(thrown);
        },
      }), SendError);
    assertEquals([calls, error.retryable], [1, false]);
    assertInstanceOf(error.cause, Error);
    assertEquals(error.cause.name, name);
    const advice = name === "NotCapable" ? "" : "; is the `transport` closed?";
    assertEquals(
      error.message,
      `POST of 10 bytes to ${NO_SERVER_URL} failed (attempt 1): it cannot${advice}`,
    );
  });
}

Deno.test("what a transport throws shows no secrets", async () => {
  const error = await assertRejects(
    () =>
      deliver(`${NO_SERVER_URL}?token=abcdefgh`, {
        headers: { Authorization: "Bearer hijklmnop" },
        transport: ({ url, headers }) =>
          Promise.reject(
            new Error(`${url} with ${headers.authorization}`),
          ),
        retry: ONCE,
      }),
    SendError,
  );
  assertEquals(
    error.message,
    `POST of 10 bytes to ${NO_SERVER_URL} failed (attempt 1): ${NO_SERVER_URL} with ***`,
  );
});

const NO_RESPONSES: [title: string, result: unknown, shown: string][] = [
  ["nothing", undefined, "received undefined"],
  ["a status", 204, "received 204"],
  ["a promise of nothing", Promise.resolve(), "received undefined"],
  [
    "a status that is a string",
    { status: "200", headers: new Headers(), body: null },
    'status must be an integer, received "200"',
  ],
  [
    "headers that are a record",
    { status: 200, headers: {}, body: null },
    'headers must have a method "get", received an object (Object)',
  ],
  [
    "no body",
    { status: 200, headers: new Headers() },
    "body must be a ReadableStream or null, received undefined",
  ],
  [
    "a body that is no stream of the web",
    { status: 200, headers: new Headers(), body: (async function* () {})() },
    "body must be a ReadableStream or null, received an object",
  ],
];
for (const [title, result, shown] of NO_RESPONSES) {
  Deno.test(`a transport that returns ${title} fails the attempt, with a message that says so`, async () => {
    await assertRejects(
      () =>
        deliver(NO_SERVER_URL, {
          transport: () => result as never,
          retry: ONCE,
        }),
      SendError,
      `transport must return a promise of a response: ${shown}`,
    );
  });
}

Deno.test("a transport that throws fails the attempt", async () => {
  let calls = 0;
  const transport: Transport = () => {
    if (calls++ === 0) throw new Error("not yet");
    return Promise.resolve(response(204));
  };
  await deliver(NO_SERVER_URL, { transport, retry: FAST });
  assertEquals(calls, 2);
});
