/** `FetchSender` and `streamTo`, over the platform's `fetch`. */
import {
  FetchSender,
  FlushError,
  SendError,
  StreamBuffer,
  streamTo,
} from "@stream-buffer/stream-buffer";
import { assert, equal, matches, rejects } from "./assert.ts";
import { Bytes, bytesOf } from "./bytes.ts";
import {
  type Check,
  check,
  everythingIn,
  keysOf,
  QUICK,
  Refused,
  textOf,
  textsOf,
  type Tools,
} from "./check.ts";
import type { Behaviour, RecordedRequest } from "./control.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** One attempt for each send. */
const ONCE = { maxElapsed: 0 };

/** The failure of a flush or a close, and of the last attempt that it made. */
async function sendErrorOf(promise: Promise<unknown>): Promise<SendError> {
  const error = await rejects(promise, FlushError, /./, "the send");
  const { cause } = error;
  assert(cause instanceof SendError, `the cause is not a SendError: ${cause}`);
  return cause;
}

/** That all requests are attempts at one batch, which has this text. */
function checkAttempts(requests: RecordedRequest[], text: string): void {
  const key = requests[0]!.headers["idempotency-key"];
  for (const [index, request] of requests.entries()) {
    const what = `of request ${index + 1}`;
    equal(request.headers["idempotency-key"], key, `the key ${what}`);
    if (request.complete) equal(textOf(request), text, `the body ${what}`);
  }
}

const REQUESTS: readonly Check[] = [
  check("writes are collected in one request", async (t) => {
    const out = t.stream();
    for (let line = 1; line <= 1000; line++) await out.write(`${line}\n`);
    await out.close();
    const { requests } = await t.record();
    equal(requests.length, 1, "requests");
    equal(textOf(requests[0]!).split("\n").length, 1001, "lines");
  }),
  check("a request has a method, a type, a size and a key", async (t) => {
    const out = t.stream();
    await out.write("hello");
    await out.close();
    const { requests: [request] } = await t.record();
    assert(request !== undefined, "there was no request");
    const { method, headers, complete, stored } = request;
    equal([method, complete, stored], ["POST", true, true], "what arrived");
    equal(headers["content-type"], "application/octet-stream", "Content-Type");
    equal(headers["content-length"], "5", "Content-Length");
    equal(headers["content-encoding"], undefined, "Content-Encoding");
    matches(
      headers["idempotency-key"] ?? "",
      /^"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-0"$/,
      "Idempotency-Key",
    );
  }),
  check("each batch has its own key, and the keys count", async (t) => {
    const out = t.stream({ idempotencyKey: "stream 7" });
    for (const text of ["one", "two", "three"]) {
      await out.write(text);
      await out.flush();
    }
    const record = await t.record();
    equal(textsOf(record), ["one", "two", "three"], "requests");
    equal(keysOf(record), ["stream 7-0", "stream 7-1", "stream 7-2"], "keys");
  }),
  check("idempotencyKey: false sends none", async (t) => {
    const out = t.stream({ idempotencyKey: false });
    await out.write("one");
    await out.close();
    const { requests: [request] } = await t.record();
    equal("idempotency-key" in request!.headers, false, "whether there is one");
  }),
  ...["PUT", "PATCH"].map((method) =>
    check(`method: "${method}" is used`, async (t) => {
      const out = t.stream({ method });
      await out.write("one");
      await out.close();
      const { requests } = await t.record();
      equal(requests.map(({ method }) => method), [method], "methods");
    })
  ),
  check(
    "a fetch of the caller's gets a Request for each attempt",
    async (t) => {
      await t.script([{ status: 503 }]);
      const given: unknown[] = [];
      const out = t.stream({
        fetch(input, init) {
          given.push(input instanceof Request);
          return fetch(input, init);
        },
      });
      await out.write("one");
      await out.close();
      equal(given, [true, true], "whether it got a Request");
      checkAttempts((await t.record()).requests, "one");
    },
  ),
  check("a transport of the caller's makes the requests", async (t) => {
    const methods: string[] = [];
    const out = t.stream({
      transport({ method, url, headers, body, signal }) {
        methods.push(method);
        const init = { method, headers: { ...headers }, signal };
        return fetch(url, { ...init, body: body as Uint8Array<ArrayBuffer> });
      },
    });
    await out.write("one");
    await out.close();
    equal(methods, ["POST"], "what the transport was given");
    equal(textsOf(await t.record()), ["one"], "requests");
  }),
  check("64 MiB arrive whole", async (t) => {
    const size = 64 * MIB;
    const source = new Bytes(1);
    const out = t.stream({ capacity: MIB });
    for (let at = 0; at < size; at += MIB) await out.write(source.next(MIB));
    await out.close();
    const { object } = await t.record();
    equal(object.size, size, "bytes at the server");
    equal(object.sha256, await t.digest(1, size), "SHA-256");
  }, 120_000),
];

const RETRIES: readonly Check[] = [
  ...[408, 425, 429, 500, 502, 503, 504].map((status) =>
    check(`${status} is retried with the same key and bytes`, async (t) => {
      await t.script([{ status }, { status }]);
      const failures: SendError[] = [];
      const out = t.stream({ onRetry: (failure) => failures.push(failure) });
      await out.write("precious");
      await out.flush();
      const { requests } = await t.record();
      equal(requests.length, 3, "requests");
      checkAttempts(requests, "precious");
      // The server closes a connection by it, so a platform may repeat the request.
      if (status === 408 && failures.length < 2) return "the platform does so";
      const seen = failures.map(({ status, attempts }) => [status, attempts]);
      equal(seen, [[status, 1], [status, 2]], "failures");
    })
  ),
  ...[400, 401, 403, 404, 405, 409, 413, 415, 422, 501, 505].map((status) =>
    check(`${status} fails at once, and the bytes are kept`, async (t) => {
      await t.script([{ status, body: "why" }]);
      const out = t.stream();
      await out.write("precious");
      const error = await sendErrorOf(out.flush());
      equal([error.status, error.attempts], [status, 1], "status, attempts");
      equal([error.excerpt, error.retryable], ["why", false], "the error");
      const isContent = [400, 413, 422].includes(status);
      equal(error.refused, isContent, "whether the content is refused");
      await out.close(); // the next request is accepted
      const { requests } = await t.record();
      equal(requests.length, 2, "requests");
      checkAttempts(requests, "precious");
    })
  ),
  check("retry.maxElapsed: 0 makes one attempt", async (t) => {
    await t.script([{ status: 503 }]);
    const out = t.stream({ retry: ONCE });
    await out.write("one");
    equal((await sendErrorOf(out.flush())).status, 503, "status");
    equal((await t.record()).requests.length, 1, "requests");
  }),
  check("retry.shouldRetry decides", async (t) => {
    await t.script([{ status: 404, body: "not yet" }]);
    const retry = {
      ...QUICK,
      shouldRetry: ({ excerpt }: SendError) => excerpt === "not yet",
    };
    const out = t.stream({ retry });
    await out.write("one");
    await out.flush();
    equal((await t.record()).requests.length, 2, "requests");
  }),
  check("deadLetter is offered a batch that the server refuses", async (t) => {
    await t.script([{ status: 422 }]);
    const keys: string[] = [];
    const out = t.stream({
      idempotencyKey: "s",
      deadLetter: (_, __, { key }) => keys.push(key) > 0,
    });
    await out.write("bad");
    await out.flush();
    await out.write("good");
    await out.close();
    equal(keys, ["s-0"], "keys of diverted batches");
    const { bytesDelivered, bytesDiverted } = out.stats;
    equal([bytesDelivered, bytesDiverted], [4, 3], "bytes delivered, diverted");
    equal((await t.record()).object.size, 4, "bytes at the server");
  }),
  check("a faulty server gets every byte once, in order", async (t) => {
    const faults: Behaviour[] = [
      ...[{ status: 503 }, { cut: "unread" }, { cut: "stored" }] as const,
      ...[{ cut: 1000 }, {}, { status: 500 }, { cut: "read" }, {}] as const,
    ];
    await t.script([...faults, ...faults, ...faults]);
    const size = 40 * 16 * KIB;
    const source = new Bytes(2);
    const out = t.stream({ capacity: 16 * KIB });
    for (let at = 0; at < size; at += KIB) {
      await out.write(source.next(KIB));
    }
    await out.close();
    const { object } = await t.record();
    equal(object.conflicts, 0, "keys that were used for other bytes");
    equal(object.size, size, "bytes at the server");
    equal(object.sha256, await t.digest(2, size), "SHA-256");
  }, 20_000),
];

/** Whether the platform shows the status of a redirect that is not followed. */
async function showsRedirects(t: Tools): Promise<boolean> {
  await t.script([{ status: 307, headers: { Location: "/nowhere" } }]);
  const { status } = await fetch(t.url, { redirect: "manual" });
  return status === 307;
}

const REDIRECTS: readonly Check[] = [301, 302, 303, 307, 308].map((status) =>
  check(`${status} is not followed`, async (t) => {
    const visible = await showsRedirects(t);
    const retried = visible && [302, 303, 307].includes(status);
    await t.script([{ status, headers: { Location: `${t.url}/elsewhere` } }]);
    const out = t.stream();
    await out.write("precious");
    if (!retried) {
      const error = await sendErrorOf(out.flush());
      equal(error.status, visible ? status : 0, "status");
      equal(error.retryable, false, "retryable");
      matches(error.message, /redirects are not followed/, "the message");
    }
    await out.close();
    const { requests: [, ...requests] } = await t.record();
    equal(requests.map(({ method }) => method), ["POST", "POST"], "methods");
    checkAttempts(requests, "precious");
    return visible ? undefined : "the status is hidden: it fails at once";
  })
);

const CONNECTIONS: readonly Check[] = [
  ...(["unread", 100, "read", "stored"] as const).map((cut) =>
    check(`a connection that is cut (${cut}) is retried`, async (t) => {
      await t.script([{ cut }]);
      const out = t.stream();
      const text = "precious ".repeat(100);
      await out.write(text);
      await out.flush();
      const { requests, object } = await t.record();
      assert(requests.length >= 2, `${requests.length} request`);
      checkAttempts(requests, text);
      equal(object.size, text.length, "bytes at the server");
    })
  ),
  check("a connection that was idle, and is cut, is retried", async (t) => {
    const out = t.stream();
    await out.write("one");
    await out.flush();
    await t.script([{ cut: "read" }]);
    await out.write("two");
    await out.flush();
    const { requests: [, ...requests], object } = await t.record();
    checkAttempts(requests, "two");
    equal(textOf(object), "onetwo", "what the server has");
  }),
  check("a failure without a response says so", async (t) => {
    // A platform may repeat a request on its own, but not indefinitely.
    await t.script(Array.from({ length: 20 }, () => ({ cut: "read" })));
    const out = t.stream({ retry: ONCE });
    await out.write("one");
    const error = await sendErrorOf(out.flush());
    equal([error.status, error.retryable], [undefined, true], "the error");
    assert(error.cause instanceof Error, "there is no cause");
    await out.abort();
    equal(out.takeUnsent().length, 3, "bytes unsent");
  }),
  check("a timeout ends the attempt, and it is retried", async (t) => {
    await t.script([{ silent: "read" }]);
    const failures: SendError[] = [];
    const out = t.stream({
      timeout: 200,
      onRetry: (failure) => failures.push(failure),
    });
    await out.write("one");
    await out.flush();
    matches(failures[0]!.message, /it took longer than 200 ms/, "the failure");
    // The request was aborted: the server knows that no one waits for it.
    const { requests } = await t.record({ ended: 2 });
    checkAttempts(requests, "one");
  }),
  check("a 2xx is a delivery, even if its body never ends", async (t) => {
    await t.script([{ endless: true }]);
    const out = t.stream({ timeout: 500 });
    await out.write("one");
    await out.flush();
    equal((await t.record()).requests.length, 1, "requests");
  }),
  check("an early response ends the attempt", async (t) => {
    await t.script([{ status: 503, early: true }]);
    const out = t.stream({ capacity: MIB });
    await out.write(bytesOf(4, MIB));
    await out.close();
    const { object } = await t.record();
    equal(object.sha256, await t.digest(4, MIB), "SHA-256");
  }),
  check("abort() aborts the request", async (t) => {
    await t.script([{ silent: "read" }]);
    const out = t.stream();
    await out.write("one");
    const flushed = out.flush();
    await t.record({ begun: 1 });
    const reason = new Error("enough");
    await out.abort(reason);
    await rejects(flushed, Error, /enough/, "flush()");
    const { requests } = await t.record({ ended: 1 });
    equal(requests.map(({ status }) => status), [0], "statuses");
    equal(out.takeUnsent().length, 3, "bytes unsent");
  }),
  check("write() waits for a server that is slow", async (t) => {
    await t.script([{ held: true }]);
    const out = t.stream({ capacity: 4, flushInterval: 0 });
    await out.write("1111");
    await out.write("2222");
    const third = out.write("3333");
    await t.record({ begun: 1 });
    equal(out.stats.bytesQueued, 4, "bytes queued");
    await t.release();
    await third;
    await out.close();
    equal(textsOf(await t.record()), ["1111", "2222", "3333"], "requests");
  }),
  check("concurrency: 4 requests overlap, and the sum is whole", async (t) => {
    await t.script(Array.from({ length: 4 }, () => ({ held: true })));
    const size = 2 * MIB;
    const out = t.stream({ capacity: 64 * KIB, concurrency: 4 });
    void out.write(bytesOf(5, size));
    const closed = out.close();
    const { requests } = await t.record({ begun: 4 });
    equal(requests.filter(({ status }) => status > 0).length, 0, "responses");
    await t.release();
    await closed;
    const { object } = await t.record();
    equal(object.sha256, await t.digest(5, size), "SHA-256");
  }),
];

/** An HTTP date, some seconds after a time. */
const dateAfter = (time: number, seconds: number) =>
  new Date(time + 1000 * seconds).toUTCString();
/** Long ago, by any clock. */
const LONG_AGO = Date.UTC(1994, 10, 6, 8, 49, 37);

const RETRY_AFTER: readonly Check[] = [
  ...Object.entries({
    "seconds": { "Retry-After": "3600" },
    "a date, by the clock of the server": {
      "Retry-After": dateAfter(LONG_AGO, 3600),
      "Date": dateAfter(LONG_AGO, 0),
    },
  }).map(([name, headers]) =>
    check(`Retry-After (${name}) is obeyed by every send`, async (t) => {
      await t.script([{ status: 503, headers }]);
      const out = t.stream();
      await out.write("one");
      const { retryAfter } = await sendErrorOf(out.flush());
      equal(retryAfter, 3_600_000, "retryAfter, in ms");
      await out.write("two");
      const again = await sendErrorOf(out.flush());
      matches(again.message, /no request is made/, "the second failure");
      await rejects(out.close(), FlushError, /no request is made/, "close()");
      equal((await t.record()).requests.length, 1, "requests");
      equal(out.takeUnsent().length, 6, "bytes unsent");
    })
  ),
  check("Retry-After is waited for, if it is short", async (t) => {
    await t.script([{ status: 429, headers: { "Retry-After": "1" } }]);
    const delays: number[] = [];
    const out = t.stream({ onRetry: (_, delay) => delays.push(delay) });
    await out.write("one");
    await out.flush();
    assert(delays.length === 1 && delays[0]! > 900, `delays of ${delays} ms`);
    checkAttempts((await t.record()).requests, "one");
  }),
];

const COMPRESSION: readonly Check[] = (["gzip", "deflate", "brotli"] as const)
  .map((compression) =>
    check(
      `compression: "${compression}" is undone by the server`,
      async (t) => {
        const create = () => t.stream({ compression });
        if (!canCompress(compression)) {
          const error = await rejects(
            create,
            TypeError,
            /compression must be a format that this platform supports/,
            "streamTo()",
          );
          throw new Refused(error.message);
        }
        await t.script([{ status: 503 }]);
        const out = create();
        const text = "a line of text\n".repeat(1000);
        await out.write(text);
        await out.close();
        const { requests } = await t.record();
        const coding = compression === "brotli" ? "br" : compression;
        for (const { headers, size } of requests) {
          equal(headers["content-encoding"], coding, "Content-Encoding");
          assert(size < text.length / 10, `a body of ${size} bytes`);
        }
        equal(requests.length, 2, "requests");
        checkAttempts(requests, text);
      },
    )
  );

/** Whether the platform has the format. */
function canCompress(format: string): boolean {
  try {
    new CompressionStream(format as CompressionFormat);
    return true;
  } catch {
    return false;
  }
}

const HEADERS: readonly Check[] = [
  ...Object.entries({
    "a record": { "Authorization": "Bearer one", "content-type": "text/csv" },
    "pairs": [["Authorization", "Bearer one"], ["Content-Type", "text/csv"]],
    "Headers": new Headers({
      "Authorization": "Bearer one",
      "Content-Type": "text/csv",
    }),
  }).map(([name, headers]) =>
    check(`headers may be ${name}`, async (t) => {
      const out = t.stream({ headers });
      await out.write("one");
      await out.close();
      const { requests: [request] } = await t.record();
      equal(request!.headers.authorization, "Bearer one", "Authorization");
      equal(request!.headers["content-type"], "text/csv", "Content-Type");
    })
  ),
  check("a header function is called for each attempt", async (t) => {
    await t.script([{ status: 503 }]);
    const calls: unknown[] = [];
    const out = t.stream({
      headers({ sequence, offset, attempt, failure }) {
        calls.push([sequence, offset, attempt, failure?.status]);
        const headers = { Authorization: `Bearer ${calls.length}` };
        return Promise.resolve(headers);
      },
    });
    await out.write("one");
    await out.flush();
    await out.write("two");
    await out.flush();
    const expected = [[0, 0, 1, undefined], [0, 0, 2, 503], [
      1,
      3,
      1,
      undefined,
    ]];
    equal(calls, expected, "what it was called with");
    const { requests } = await t.record();
    const tokens = requests.map(({ headers }) => headers.authorization);
    equal(tokens, ["Bearer 1", "Bearer 2", "Bearer 3"], "tokens");
  }),
  ...[401, 403].map((status) =>
    check(
      `a header function is called once more after ${status}`,
      async (t) => {
        await t.script([{ status }, {}, { status }, { status }]);
        const out = t.stream({
          headers: ({ failure }) => ({
            Authorization: failure?.status === status ? "fresh" : "stale",
          }),
        });
        await out.write("one");
        await out.flush();
        await out.write("two");
        equal((await sendErrorOf(out.flush())).attempts, 2, "attempts");
        const { requests } = await t.record();
        const tokens = requests.map(({ headers }) => headers.authorization);
        equal(tokens, ["stale", "fresh", "stale", "fresh"], "tokens");
      },
    )
  ),
  check("a header function that fails ends the send", async (t) => {
    const out = t.stream({
      headers: () => Promise.reject(new Error("no token")),
    });
    await out.write("one");
    const error = await sendErrorOf(out.flush());
    matches(error.message, /could not get the headers: no token/, "the error");
    equal((await t.record()).requests.length, 0, "requests");
  }),
  check(
    "headers that HTTP does not allow are refused, and not shown",
    async (t) => {
      const wrong = [
        { "a b": "sesame" },
        { "X-Token": "sesame\nX-Evil: 1" },
        "Authorization: sesame",
      ];
      for (const headers of wrong) {
        const error = await rejects(
          () => streamTo(t.url, { headers: headers as Record<string, string> }),
          TypeError,
          /^Cannot use headers: /,
          JSON.stringify(headers),
        );
        assert(!error.message.includes("sesame"), `it shows "sesame"`);
      }
    },
  ),
];

const ENDS: readonly Check[] = [
  check(
    "close() ends when the server is away, and keeps the bytes",
    async (t) => {
      await t.script(Array.from({ length: 200 }, () => ({ status: 503 })));
      const out = t.stream({
        closeTimeout: 300,
        retry: { maxElapsed: Infinity },
      });
      await out.write("precious");
      const error = await rejects(out.close(), FlushError, /503/, "close()");
      equal(error.unsentBytes, 8, "unsentBytes");
      equal(new TextDecoder().decode(out.takeUnsent()), "precious", "the rest");
    },
  ),
  check(
    "what takeUnsent() returns can be sent by another stream",
    async (t) => {
      await t.script([{}, { status: 404 }, { status: 404 }]);
      const first = t.stream({ capacity: 8, flushInterval: 0 });
      await first.write("arrives ");
      await first.write("is kept ");
      await first.write("and this");
      await rejects(first.close(), FlushError, /404/, "close()");
      const second = t.stream();
      await second.write(first.takeUnsent());
      await second.close();
      const stored = (await t.record()).requests.filter(({ stored }) => stored);
      const text = stored.map((request) => textOf(request)).join("");
      equal(text, "arrives is kept and this", "what the server has");
    },
  ),
  check("close() ends a backoff that is under way", async (t) => {
    await t.script([{ status: 503 }]);
    const waits = Promise.withResolvers<void>();
    const out = t.stream({
      retry: {
        initialDelay: 3_600_000,
        maxDelay: 3_600_000,
        maxElapsed: Infinity,
      },
      onRetry: () => waits.resolve(),
    });
    await out.write("one");
    void out.flush();
    await waits.promise;
    await out.close();
    equal((await t.record()).requests.length, 2, "requests");
  }),
  check("a FetchSender serves one stream only", async (t) => {
    const sender = new FetchSender(t.url, { retry: QUICK });
    const first = t.buffer(sender);
    await first.write("one");
    await first.flush();
    const second = t.buffer(sender);
    await second.write("two");
    await rejects(
      second.flush(),
      FlushError,
      /another StreamBuffer/,
      "flush()",
    );
    equal((await t.record()).requests.length, 1, "requests");
  }),
  check("a FetchSender knows why its latest attempt failed", async (t) => {
    await t.script([{ status: 503 }]);
    const sender = new FetchSender(t.url, { retry: ONCE });
    const out = t.buffer(sender);
    equal(sender.lastFailure, undefined, "before the first attempt");
    await out.write("one");
    await out.flush().catch(() => {});
    equal(sender.lastFailure?.status, 503, "after a failure");
    await out.flush();
    equal(sender.lastFailure, undefined, "after a success");
    await out.close();
    equal(sender.ended, true, "whether it has ended");
  }),
  check("a Sender may be one that wraps another", async (t) => {
    const inner = new FetchSender(t.url, { retry: QUICK, idempotencyKey: "s" });
    const out = new StreamBuffer({
      async send(bytes, context) {
        const half = bytes.length / 2;
        const parts = [bytes.slice(0, half), bytes.slice(half)];
        for (const [index, part] of parts.entries()) {
          const key = `s-${context.sequence}/${index}`;
          await inner.send(part, { ...context, key });
        }
      },
      close: () => inner.close(),
    });
    await out.write("onetwo");
    await out.close();
    const record = await t.record();
    equal(textsOf(record), ["one", "two"], "requests");
    equal(keysOf(record), ["s-0/0", "s-0/1"], "keys");
  }),
];

const SECRETS: readonly Check[] = [
  check("what a server repeats of a secret is hidden", async (t) => {
    const secrets = ["sesame-opens-it", "query-of-a-secret"];
    const [token, query] = secrets;
    const body = `${token!.toUpperCase()} and ${query} are wrong`;
    await t.script([{ status: 403, body }]);
    const out = t.buffer(
      new FetchSender(`${t.url}?token=${query}`, {
        headers: { Authorization: `Bearer ${token}` },
        retry: ONCE,
      }),
    );
    await out.write("one");
    const error = await rejects(out.flush(), FlushError, /403/, "flush()");
    const shown = everythingIn(error).toLowerCase();
    matches(shown, /\*\*\* and \*\*\* are wrong/, "the error");
    for (const secret of secrets) {
      assert(!shown.includes(secret), `it shows ${secret}`);
    }
  }),
  check("the platform's own error shows no secret", async (t) => {
    await t.script(Array.from({ length: 20 }, () => ({ cut: "unread" })));
    const secrets = ["sesame-opens-it", "query-of-a-secret"];
    const [token, query] = secrets;
    const out = t.buffer(
      new FetchSender(`${t.url}?token=${query}`, {
        headers: { Authorization: `Bearer ${token}` },
        retry: ONCE,
      }),
    );
    await out.write("one");
    const error = await rejects(out.flush(), FlushError, /./, "flush()");
    const shown = everythingIn(error).toLowerCase();
    for (const secret of secrets) {
      assert(!shown.includes(secret), `it shows ${secret}`);
    }
  }),
  check(
    "a URL that cannot be used is refused, without its secrets",
    async () => {
      const wrong = {
        "sesame": /must be an absolute URL/,
        "ftp://example.com/": /must begin with http/,
        "https://user:sesame@example.com/": /must not carry credentials/,
        "http://127.0.0.1:6000/": /must not use port 6000, which fetch blocks/,
        "//example.com/?token=sesame": /must be an absolute URL/,
      };
      for (const [url, pattern] of Object.entries(wrong)) {
        const error = await rejects(
          () => streamTo(url),
          TypeError,
          pattern,
          url,
        );
        const shown = error.message.includes("sesame");
        equal(shown, url === "sesame", "whether it shows the URL");
      }
    },
  ),
  check("invalid options are refused when the sender is made", async (t) => {
    const wrong: [object, typeof TypeError | typeof RangeError][] = [
      [{ method: "GET" }, RangeError],
      [{ method: 1 }, TypeError],
      [{ timeout: 0 }, RangeError],
      [{ compression: "zip" }, RangeError],
      [{ idempotencyKey: 'a "quote"' }, RangeError],
      [{ retry: { maxElapsed: -1 } }, RangeError],
      [{ retry: { initialDelay: "1" } }, TypeError],
      [{ fetch: {} }, TypeError],
      [{ transport: () => {}, fetch: () => {} }, TypeError],
    ];
    for (const [options, errorClass] of wrong) {
      await rejects(
        () => new FetchSender(t.url, options),
        errorClass,
        /^Cannot create FetchSender: /,
        JSON.stringify(options),
      );
    }
  }),
];

/** All of them. */
export const SENDER_CHECKS: readonly Check[] = [
  ...REQUESTS,
  ...RETRIES,
  ...REDIRECTS,
  ...CONNECTIONS,
  ...RETRY_AFTER,
  ...COMPRESSION,
  ...HEADERS,
  ...ENDS,
  ...SECRETS,
];
