import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError, streamTo } from "../sender.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import {
  deliver,
  FAST,
  fixedRandom,
  NO_SERVER_URL,
  skipDelays,
} from "../testing/sending.ts";

for (
  const [value, retryAfter] of [
    ["2", 2000],
    ["0", 0],
    ["Fri, 13 Feb 2009 23:31:33 GMT", 3000],
    ["Friday, 13-Feb-09 23:31:33 GMT", 3000],
    ["Fri Feb 13 23:31:33 2009", 3000],
    ["Fri, 13 Feb 2009 23:31:29 GMT", 0],
    ["1, 2", 2000],
    ["10,  9", 10_000],
    ["1,20", 20_000],
    ["Someday", undefined],
    ["Someday, 13 Foo 2009 23:31:33 GMT", undefined],
    ["Sunday", undefined],
    ["soon", undefined],
    ["2099", 2_099_000],
    ["2099-12-31", undefined],
    ["31 Dec 2099", undefined],
    ["-5", undefined],
    ["1.5", undefined],
    ["1,", undefined],
    ["", undefined],
  ] as const
) {
  const effect = retryAfter === undefined
    ? "is ignored"
    : `delays the retry by at least ${retryAfter} ms`;
  Deno.test(`Retry-After: "${value}" ${effect}`, async () => {
    using time = fakeTime();
    time.setSystemTime(1_234_567_890_000); // 13 Feb 2009 23:31:30
    const { delays, onRetry } = skipDelays(time);
    await using server = new FaultyServer([
      respond(503, { "retry-after": value }),
    ]);
    await deliver(server.url, {
      retry: { ...FAST, maxElapsed: 10_000_000 },
      onRetry: (failure, delay) => {
        assertEquals(failure.retryAfter, retryAfter);
        onRetry(failure, delay);
      },
    });
    assertEquals(delays.length, 1);
    const least = retryAfter ?? 0;
    assert(delays[0]! >= least && delays[0]! <= least + 1, `${delays}`);
    assertEquals(server.requests.length, 2);
  });
}

Deno.test("Retry-After without a time zone is in GMT, whatever the local time zone", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  const zone = Deno.env.get("TZ");
  Deno.env.set("TZ", "Asia/Tokyo");
  try {
    const value = "Thu Jan  1 00:00:03 1970";
    assert(Date.parse(value) < 0, "the zone has not changed");
    await using server = new FaultyServer([
      respond(503, { "retry-after": value }),
    ]);
    await deliver(server.url, { onRetry, retry: FAST });
    assertEquals(delays, [3_000]);
  } finally {
    if (zone === undefined) Deno.env.delete("TZ");
    else Deno.env.set("TZ", zone);
  }
});

Deno.test("Retry-After is not undercut by a millisecond", async () => {
  using time = fakeTime();
  const headers = { "retry-after": "2" };
  const responses = [new Response(null, { status: 503, headers })];
  let attempts = 0;
  const sent = deliver(NO_SERVER_URL, {
    fetch: () => {
      attempts++;
      return Promise.resolve(responses.shift() ?? new Response());
    },
    retry: FAST,
  });
  await time.tickAsync(0);
  await time.tickAsync(1_999);
  assertEquals(attempts, 1);
  await time.tickAsync(1);
  await sent;
  assertEquals(attempts, 2);
});

Deno.test("Retry-After is a lower bound for the delay", async () => {
  using time = fakeTime();
  const { delays, onRetry } = skipDelays(time);
  using _ = fixedRandom(0.5);
  await using server = new FaultyServer([
    respond(503, { "retry-after": "0" }),
    respond(503, { "retry-after": "1" }),
  ]);
  await deliver(server.url, { onRetry, retry: { initialDelay: 4_000 } });
  assertEquals(delays, [2_000, 4_000]);
});

for (
  const value of [
    "31536000",
    "99999999999999999999",
    "Thu, 31 Dec 2099 23:59:59 GMT",
  ]
) {
  Deno.test(`Retry-After: "${value}" exceeds maxElapsed and fails at once`, async () => {
    await using server = new FaultyServer([
      respond(429, { "retry-after": value }),
    ]);
    await using out = streamTo(server.url);
    await out.write("kept");
    const { cause } = await assertRejects(() => out.flush(), FlushError);
    assertInstanceOf(cause, SendError);
    assert(cause.retryAfter! > 120_000);
    assertMatch(cause.message, /responded with 429; it asks to wait \d{8,} s$/);
    assertEquals(server.requests.length, 1);
    await out.close();
    assertEquals(server.bodies, ["kept", "kept"]);
  });
}
