import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import {
  type FetchSenderOptions,
  type SendAttempt,
  SendError,
} from "../sender.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { close, FaultyServer, respond } from "../testing/faulty_server.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
  printed,
  skipDelays,
} from "../testing/sending.ts";
import { FetchSender, streamTo, test } from "../testing/transports.ts";

for (
  const [options, errorClass, message] of [
    [{ headers: 5 }, TypeError, "must be an object, received a number"],
    [{ headers: null }, TypeError, "must be an object, received null"],
    [{ headers: "secret" }, TypeError, "must be an object, received a string"],
    [{ headers: { "a b": "c" } }, TypeError, "Cannot use headers: a name is"],
    [{ headers: { "ä": "c" } }, TypeError, "Cannot use headers: a name is"],
    [
      { headers: { b: "c", a: "sec\nret" } },
      TypeError,
      'Cannot use headers: the value of "a" is invalid',
    ],
    [
      { headers: [["a", "sec\nret €"]] },
      TypeError,
      'Cannot use headers: the value of "a" is invalid (it must be Latin-1',
    ],
    [{ headers: ["a: sec\nret"] }, TypeError, "a record, or pairs of a name"],
    [{ headers: [["sec\nret"]] }, TypeError, "a record, or pairs of a name"],
  ] as const
) {
  Deno.test(`FetchSender() rejects ${Deno.inspect(options)}`, () => {
    const error = assertThrows(
      () => new FetchSender(NO_SERVER_URL, options as FetchSenderOptions),
      errorClass as typeof Error,
      message,
    );
    assert(!printed(error).includes("sec\nret"), error.message);
  });
}

test("FetchSender() copies headers of every kind", async () => {
  await using server = new FaultyServer([respond(503)]);
  const once = new Map([["X-A", "kept"]]).entries();
  await deliver(server.url, { headers: once as never, retry: FAST });
  const changing = new Headers({ "X-A": "kept" });
  const sender = new FetchSender(server.url, { headers: changing });
  changing.delete("X-A");
  await sender.send(BYTES, context());
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-a")),
    ["kept", "kept", "kept"],
  );
});

test("a header function is called for each attempt, with the previous failure", async () => {
  await using server = new FaultyServer([respond(503), close]);
  const attempts: Omit<SendAttempt, "signal">[] = [];
  await deliver(server.url, {
    retry: FAST,
    headers: ({ signal, ...attempt }) => {
      assert(!signal.aborted);
      attempts.push(attempt);
      return { "X-Attempt": `${attempt.attempt}` };
    },
  });
  assertEquals(
    server.requests.map(({ headers }) => headers.get("x-attempt")),
    ["1", "2", "3"],
  );
  assertEquals(
    attempts.map(({ failure, ...rest }) => [rest, failure?.status]),
    [1, 2, 3].map((attempt) => [
      { sequence: 0, offset: 0, attempt },
      attempt === 2 ? 503 : undefined,
    ]),
  );
  assertEquals(attempts.map(({ failure }) => failure?.attempts), [
    undefined,
    1,
    2,
  ]);
});

for (const status of [401, 403]) {
  test(`a ${status} is retried once, without a delay, with fresh headers`, async () => {
    using time = fakeTime();
    const { delays, onRetry } = skipDelays(time);
    await using server = new FaultyServer([], async (exchange) => {
      const token = exchange.request.headers.get("authorization");
      await respond(token === "Bearer fresh" ? 200 : status)(exchange);
    });
    let refreshes = 0;
    await using out = streamTo(server.url, {
      onRetry,
      flushInterval: 0,
      headers: async ({ failure }) => {
        await Promise.resolve();
        if (failure?.status === status) refreshes++;
        return { Authorization: refreshes > 0 ? "Bearer fresh" : "Bearer old" };
      },
    });
    await out.write("abcd");
    await out.flush();
    assertEquals(server.bodies, ["abcd", "abcd"]);
    assertEquals(delays, [0]);
    assertEquals(refreshes, 1);

    refreshes = -10;
    await out.write("efgh");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertEquals((cause as SendError).attempts, 2);
    assertEquals(server.requests.length, 4);
    await out.abort();
  });
}

test("a header function makes no other status retryable", async () => {
  await using server = new FaultyServer([], respond(400));
  const error = await assertRejects(
    () => deliver(server.url, { headers: () => ({}) }),
    SendError,
  );
  assertEquals(error.attempts, 1);
});

test("a 401 is retried once per batch, even after another failure", async () => {
  await using server = new FaultyServer(
    [respond(401), respond(503)],
    respond(401),
  );
  const error = await assertRejects(
    () => deliver(server.url, { retry: FAST, headers: () => ({}) }),
    SendError,
  );
  assertEquals([error.status, error.attempts], [401, 3]);
});

test("a 403 with Retry-After is retried after that delay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  await using server = new FaultyServer([respond(403, { "retry-after": "1" })]);
  await deliver(server.url, { onRetry, headers: () => ({}) });
  assertEquals(delays, [1_000]);
});

test("a header function that fails, hangs or returns invalid headers fails the send", async () => {
  await using server = new FaultyServer();
  const bug = new RangeError("no token");
  const error = await assertRejects(
    () => deliver(server.url, { headers: () => Promise.reject(bug) }),
    SendError,
    "(attempt 1): could not get the headers: no token",
  );
  // The stack is useful, and shows no secret.
  assertInstanceOf(error.cause, Error);
  assertEquals(error.cause.name, "RangeError");
  assertEquals(error.cause.stack, bug.stack);
  assertEquals(error.retryable, false, "no request was made");
  const hung = await assertRejects(
    () =>
      deliver(server.url, { headers: () => new Promise(() => {}), timeout: 1 }),
    SendError,
  );
  assertEquals((hung.cause as Error).name, "TimeoutError");
  const nonsense = await assertRejects(
    () => deliver(server.url, { headers: () => ({ a: "sec\nret" }) }),
    SendError,
    'the value of "a" is invalid',
  );
  assert(!printed(nonsense).includes("sec\nret"));
  assertEquals(server.requests.length, 0);
});
