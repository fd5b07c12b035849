/**
 * What the library does when a page is hidden, with an object in place of the page:
 * that the requests then outlive a real one is tested in tests/page_test.ts.
 */
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { FetchSender, flushOnHide, StreamBuffer, streamTo } from "../sender.ts";
import { fakeTime } from "../testing/fake_time.ts";
import { BYTES, context, NO_SERVER_URL } from "../testing/sending.ts";

const KIB = 1024;

/** Makes this program a page until disposed. */
function page(): Disposable & { hide(): void; show(): void; leave(): void } {
  const document = Object.assign(new EventTarget(), {
    visibilityState: "visible",
  });
  Object.assign(globalThis, { document });
  const change = (state: string) => {
    document.visibilityState = state;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  return {
    hide: () => change("hidden"),
    show: () => change("visible"),
    leave: () => void globalThis.dispatchEvent(new Event("pagehide")),
    [Symbol.dispose]: () => Reflect.deleteProperty(globalThis, "document"),
  };
}

/** A `fetch` that keeps requests in flight until they are settled by hand. */
function heldFetch() {
  const requests: {
    keepalive: boolean;
    size: number;
    respond(status: number): void;
    fail(): void;
  }[] = [];
  const fetch = async (input: RequestInfo | URL) => {
    const request = input as Request;
    const { promise, resolve, reject } = Promise.withResolvers<Response>();
    const size = (await request.arrayBuffer()).byteLength;
    requests.push({
      ...{ keepalive: request.keepalive, size },
      respond: (status) => resolve(new Response(null, { status })),
      fail: () => reject(new TypeError("failed")),
    });
    return promise;
  };
  return { fetch: fetch as typeof globalThis.fetch, requests };
}

function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

Deno.test("flushOnHide() sends what is in the buffer when the page is hidden or left, and not when it is shown", async () => {
  using visitor = page();
  const sends: string[] = [];
  const out = new StreamBuffer((bytes) => {
    sends.push(new TextDecoder().decode(bytes));
  }, { flushInterval: 0 });
  flushOnHide(out);
  await out.write("a");
  visitor.show();
  assertEquals(sends, []);
  visitor.hide();
  assertEquals(sends, ["a"], "before the event is over");
  visitor.show();
  await out.write("b");
  visitor.leave();
  assertEquals(sends, ["a", "b"]);
  await out.close();
  visitor.leave();
});

Deno.test("flushOnHide() calls fetch before the event is over", async () => {
  using visitor = page();
  let calls = 0;
  const out = streamTo(NO_SERVER_URL, {
    ...{ keepalive: true, flushInterval: 0, headers: { Authorization: "x" } },
    fetch: () => {
      calls++;
      return Promise.resolve(new Response());
    },
  });
  flushOnHide(out);
  await out.write("a");
  visitor.leave();
  assertEquals(calls, 1);
  await out.close();
});

Deno.test("flushOnHide() ends with its signal", async () => {
  using visitor = page();
  const sends: unknown[] = [];
  const out = new StreamBuffer((bytes) => void sends.push(bytes), {
    flushInterval: 0,
  });
  const controller = new AbortController();
  flushOnHide(out, { signal: controller.signal });
  controller.abort();
  await out.write("a");
  visitor.hide();
  visitor.leave();
  assertEquals(sends, []);
  await out.close();
});

Deno.test("flushOnHide() needs a page, a buffer, and a signal if any", () => {
  const out = new StreamBuffer(() => {});
  assertThrows(
    () => flushOnHide(out),
    TypeError,
    "Cannot flush on hide: there is no page here that could be hidden; call close()",
  );
  using _ = page();
  for (const wrong of [undefined, null, {}, "https://example.com"]) {
    assertThrows(
      () => flushOnHide(wrong as StreamBuffer),
      TypeError,
      "Cannot flush on hide: out must be a StreamBuffer, received",
    );
  }
  for (const options of [null, 5, { signal: null }, { signal: {} }]) {
    assertThrows(
      () => flushOnHide(out, options as { signal: AbortSignal }),
      TypeError,
      "Cannot flush on hide",
    );
  }
});

Deno.test("keepalive is refused on a page that does not know it", () => {
  using _page = page();
  const { Request } = globalThis;
  Object.assign(globalThis, { Request: class {} });
  try {
    const error = assertThrows(
      () => new FetchSender(NO_SERVER_URL, { keepalive: true }),
      TypeError,
    );
    assertStringIncludes(error.message, "this platform's fetch supports");
  } finally {
    globalThis.Request = Request;
  }
});

Deno.test("keepalive: requests outlive the page within 64 KiB of all senders together, and others do not", async () => {
  const { fetch, requests } = heldFetch();
  const senders = [1, 2].map(() =>
    new FetchSender(NO_SERVER_URL, { fetch, keepalive: true })
  );
  const sends: Promise<void>[] = [];
  const send = async (sender: number, sequence: number, size: number) => {
    const bytes = new Uint8Array(size);
    sends.push(senders[sender]!.send(bytes, context(sequence)));
    await settle();
    return requests.at(-1)!.keepalive;
  };
  assertEquals(await send(0, 0, 65 * KIB), false, "it is too large");
  assertEquals(await send(0, 1, 32 * KIB), true);
  assertEquals(await send(1, 0, 32 * KIB), true);
  assertEquals(await send(1, 1, 1), false, "64 KiB are in flight");
  for (const { respond } of requests) respond(200);
  await Promise.all(sends);
  assertEquals(await send(0, 2, 64 * KIB), true, "there is room again");
  requests.at(-1)!.respond(200);
  await Promise.all(sends);
});

Deno.test("keepalive: what has failed without a response is sent again in an ordinary request, and then not", async () => {
  const { fetch, requests } = heldFetch();
  const sender = new FetchSender(NO_SERVER_URL, {
    ...{ fetch, keepalive: true },
    retry: { initialDelay: 0 },
  });
  const sent = sender.send(BYTES, context());
  const kinds: boolean[] = [];
  for (const end of ["fail", "fail", 503, 503, 200] as const) {
    while (requests.length === 0) await settle();
    const { keepalive, ...request } = requests.pop()!;
    kinds.push(keepalive);
    if (end === "fail") request.fail();
    else request.respond(end);
  }
  await sent;
  assertEquals(kinds, [true, false, true, true, true]);
});

Deno.test("without keepalive no request outlives its page", async () => {
  const { fetch, requests } = heldFetch();
  const sent = new FetchSender(NO_SERVER_URL, { fetch }).send(BYTES, context());
  await settle();
  assertEquals(requests[0]!.keepalive, false);
  requests[0]!.respond(200);
  await sent;
});

for (
  const [options, capacity] of [
    [{ keepalive: true }, 32 * KIB],
    [{ keepalive: true, concurrency: 3 }, 16 * KIB],
    [{ keepalive: true, capacity: 7 }, 7],
    [{ keepalive: true, concurrency: 100_000 }, 256 * KIB],
    [{ keepalive: false }, 256 * KIB],
    [{}, 256 * KIB],
  ] as const
) {
  Deno.test(`streamTo() makes a store of ${capacity} bytes for ${Deno.inspect(options)}`, async () => {
    using _ = fakeTime();
    const { fetch, requests } = heldFetch();
    const out = streamTo(NO_SERVER_URL, { ...options, fetch });
    await out.write(new Uint8Array(capacity - 1));
    assertEquals(out.stats.sends, 0);
    await out.write(new Uint8Array(1)); // fills the store
    await new Promise((resolve) => setImmediate(resolve));
    assertEquals(requests.length, 1);
    requests[0]!.respond(200);
    await out.close();
  });
}

Deno.test("streamTo() leaves it to the buffer to reject concurrency", () => {
  for (const concurrency of [0, -1, 0.5, NaN]) {
    assertThrows(
      () => streamTo(NO_SERVER_URL, { keepalive: true, concurrency }),
      RangeError,
      "concurrency must be an integer",
    );
  }
});
