/**
 * What differs by platform. Most of these observe, and pass in any case: what they
 * return is for the table in docs/runtimes.md.
 */
import { FlushError, type SendError } from "@stream-buffer/stream-buffer";
import { TusSender } from "@stream-buffer/stream-buffer/tus";
import { assert, equal, rejects } from "./assert.ts";
import { type Check, check, keysOf, textsOf, type Tools } from "./check.ts";
import { streamBodies } from "./platform.ts";

/**
 * Makes a request on a connection that was idle, and that the server closes after it
 * has read it.
 *
 * @returns Whether it arrived more than once.
 */
async function countRepeats(
  t: Tools,
  method: string,
  request: () => Promise<unknown>,
): Promise<string> {
  await (await fetch(t.url, { method: "POST" })).text(); // warms a connection
  await t.script([{ method, cut: "read" }]);
  await request().catch(() => {});
  const { requests: [, ...requests] } = await t.record();
  const arrived = requests.filter((request) => request.method === method);
  assert(arrived.length > 0, "it has not arrived");
  return arrived.length > 1 ? "repeated" : "never repeated";
}

const REPEATS: readonly Check[] = [
  ...["POST", "PUT"].map((method) =>
    check(
      `a ${method} of bytes by fetch, when its connection dies`,
      (t) =>
        countRepeats(t, method, async () => {
          const response = await fetch(t.url, { method, body: "bytes" });
          await response.text();
        }),
    )
  ),
  check(
    "a POST without a body by fetch, when its connection dies",
    (t) =>
      countRepeats(t, "POST", async () => {
        const response = await fetch(t.url, { method: "POST" });
        await response.text();
      }),
  ),
  ...["POST", "PUT"].map((method) =>
    check(`a ${method} by FetchSender, when its connection dies`, async (t) => {
      const retry = { maxElapsed: 0 };
      const result = await countRepeats(t, method, async () => {
        const out = t.stream({ method, retry, idempotencyKey: "s" });
        await out.write("bytes");
        await out.close();
      });
      const { requests: [, ...requests], ...record } = await t.record();
      const attempts = { ...record, requests };
      assert(keysOf(attempts).every((key) => key === "s-0"), "another key");
      assert(
        textsOf(attempts).every((text) => text === "bytes"),
        "other bytes",
      );
      return result;
    })
  ),
  check(
    "a POST by TusSender, when its connection dies",
    (t) =>
      countRepeats(t, "POST", async () => {
        const sender = new TusSender(t.url, { retry: { maxElapsed: 0 } });
        await sender.create();
      }),
  ),
];

const CORS: readonly Check[] = [
  check("CORS: what a preflight asks for", async (t) => {
    const out = t.stream();
    await out.write("one");
    await out.close();
    const { preflights } = await t.record();
    if (!t.isCrossOrigin) {
      equal(preflights, [], "preflights");
      return "there is none";
    }
    assert(preflights.length > 0, "there was no preflight");
    return preflights[0];
  }),
  check(
    "CORS: a server that does not allow Idempotency-Key gets nothing",
    async (t) => {
      await t.script([], { disallow: ["idempotency-key"] });
      const out = t.stream({ retry: { maxElapsed: 0 } });
      await out.write("one");
      if (!t.isCrossOrigin) {
        return await out.close().then(() => "it is not asked");
      }
      const error = await rejects(out.flush(), FlushError, /./, "flush()");
      equal((error.cause as SendError).status, undefined, "status");
      equal((await t.record()).requests.length, 0, "requests");
      await out.abort();
      equal(out.takeUnsent().length, 3, "bytes unsent");
      return "the request fails";
    },
  ),
  check("CORS: a Retry-After that is not exposed is not seen", async (t) => {
    const headers = { "Retry-After": "3600" };
    await t.script([{ status: 503, headers }], { hide: ["retry-after"] });
    const out = t.stream({ retry: { maxElapsed: 0 } });
    await out.write("one");
    const error = await rejects(out.flush(), FlushError, /503/, "flush()");
    const { retryAfter } = error.cause as SendError;
    equal(retryAfter, t.isCrossOrigin ? undefined : 3_600_000, "retryAfter");
    return t.isCrossOrigin ? "it is not seen" : "it is seen";
  }),
];

const FEATURES: readonly Check[] = [
  check("the version of HTTP that FetchSender speaks", async (t) => {
    const out = t.stream();
    await out.write("bytes");
    await out.close();
    const { requests } = await t.record();
    return requests[0]!.version;
  }),
  check("the stream that is the body of a request", streamBodies),
  check("the formats of CompressionStream", () => {
    const formats = ["gzip", "deflate", "brotli"].filter((format) => {
      try {
        new CompressionStream(format as CompressionFormat);
        return true;
      } catch {
        return false;
      }
    });
    return Promise.resolve(formats.join(", "));
  }),
  check("the status of a redirect that is not followed", async (t) => {
    await t.script([{ status: 307, headers: { Location: "/nowhere" } }]);
    const { status } = await fetch(t.url, { redirect: "manual" });
    return status === 307 ? "visible" : "hidden";
  }),
  check("the parts of crypto", () => {
    const names = ["subtle", "randomUUID"].filter((name) =>
      (crypto as unknown as Record<string, unknown>)[name] !== undefined
    );
    return Promise.resolve(names.join(", ") || "none");
  }),
  check("the streams that are byte streams", () => {
    const streams = {
      "Response": new Response("x").body!,
      "Blob": new Blob(["x"]).stream(),
    };
    const names = Object.entries(streams).filter(([, stream]) => {
      try {
        stream.getReader({ mode: "byob" });
        return true;
      } catch {
        return false;
      }
    }).map(([name]) => name);
    return Promise.resolve(names.join(", ") || "none");
  }),
];

/** All of them. */
export const PLATFORM_CHECKS: readonly Check[] = [
  ...REPEATS,
  ...CORS,
  ...FEATURES,
];
