/** `UploadSender`: a whole stream in one request, where the platform can do that. */
import {
  FlushError,
  SendError,
  StreamBuffer,
} from "@stream-buffer/stream-buffer";
import {
  UploadSender,
  type UploadSenderOptions,
} from "@stream-buffer/stream-buffer/upload";
import { assert, equal, matches, reasonOf, rejects } from "./assert.ts";
import { Bytes, bytesOf } from "./bytes.ts";
import {
  type Check,
  check,
  everythingIn,
  Refused,
  textOf,
  type Tools,
} from "./check.ts";
import { turn } from "./memory.ts";
import { streamBodies } from "./platform.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const STILL = { capacity: 64 * KIB, flushInterval: 0, closeTimeout: 5_000 };

/** A check of an upload; where the platform has none, it is one of the refusal. */
function uploadCheck(name: string, run: Check["run"], limit?: number): Check {
  return check(name, async (t) => {
    await requireStreams(t);
    return await run(t);
  }, limit);
}

/**
 * Returns if the platform can send a stream.
 *
 * @throws {Refused} If it cannot, and the library has refused to upload.
 */
async function requireStreams(t: Tools): Promise<void> {
  const bodies = await streamBodies(t);
  await t.forget();
  if (bodies === "sent") return;
  const upload = async () => {
    const out = t.buffer(new UploadSender(t.url), STILL);
    await out.write("an object");
    await out.close();
  };
  const error = bodies === "sent as text"
    ? await rejects(upload, TypeError, /cannot send a stream/, "UploadSender")
    : await rejects(upload, FlushError, /PUT .* failed/, "the upload");
  const { requests } = await t.record();
  equal(requests.length, 0, "requests of an upload that cannot be made");
  const { message } = error.cause instanceof SendError ? error.cause : error;
  throw new Refused(message.replace(t.url, "URL")); // it differs by run
}

/** An upload in progress. */
function upload(t: Tools, options: UploadSenderOptions = {}): StreamBuffer {
  return t.buffer(new UploadSender(t.url, options), STILL);
}

/** How the server learned where the body ends. */
function framingOf({ version, headers }: {
  readonly version: string;
  readonly headers: Readonly<Record<string, string>>;
}): string {
  if (version === "HTTP/2") return "in frames";
  return "content-length" in headers ? "with its length" : "in chunks";
}

/** Why a buffer over an upload fails. */
async function uploadErrorOf(promise: Promise<unknown>): Promise<SendError> {
  const { cause } = await rejects(promise, FlushError, /./, "the upload");
  assert(cause instanceof SendError, `the cause is no SendError: ${cause}`);
  return cause;
}

/** All of them. */
export const UPLOAD_CHECKS: readonly Check[] = [
  uploadCheck("UploadSender sends an object of unknown size", async (t) => {
    const out = upload(t);
    const source = new Bytes(1);
    for (let i = 0; i < 64; i++) await out.write(source.next(16 * KIB));
    await out.close();
    const { requests, object } = await t.record();
    equal(requests.length, 1, "requests");
    const [request] = requests;
    equal([request!.method, request!.stored], ["PUT", true], "what arrived");
    equal(object.sha256, await t.digest(1, MIB), "SHA-256");
    return framingOf(request!);
  }),
  uploadCheck("UploadSender sends an object of known size", async (t) => {
    const out = upload(t, { length: MIB });
    const source = new Bytes(2);
    for (let i = 0; i < 64; i++) await out.write(source.next(16 * KIB));
    await out.close();
    const { requests, object } = await t.record();
    equal(requests.length, 1, "requests");
    equal(object.sha256, await t.digest(2, MIB), "SHA-256");
    return framingOf(requests[0]!);
  }),
  uploadCheck("UploadSender sends 64 MiB from a pipe", async (t) => {
    const size = 64 * MIB;
    const source = new Bytes(3);
    let left = size;
    const stream = new ReadableStream({
      pull(controller) {
        controller.enqueue(source.next(MIB));
        left -= MIB;
        if (left === 0) controller.close();
      },
    });
    await stream.pipeTo(upload(t).writable);
    const { object } = await t.record();
    equal(object.size, size, "bytes at the server");
    equal(object.sha256, await t.digest(3, size), "SHA-256");
  }, 120_000),
  uploadCheck("UploadSender sends an empty object", async (t) => {
    await upload(t).close();
    const { requests } = await t.record();
    equal(
      requests.map(({ size, stored }) => [size, stored]),
      [[0, true]],
      "it",
    );
  }),
  uploadCheck("UploadSender sends method and headers", async (t) => {
    const out = upload(t, {
      method: "POST",
      headers: { "Content-Type": "text/plain", "Authorization": "Bearer one" },
    });
    await out.write("an object");
    await out.close();
    const { requests: [request] } = await t.record();
    const { method, headers } = request!;
    const given = [method, headers["content-type"], headers.authorization];
    equal(given, ["POST", "text/plain", "Bearer one"], "what arrived");
    equal(textOf(request!), "an object", "the object");
  }),
  uploadCheck(
    "an upload that is shorter than its length is never complete",
    async (t) => {
      const out = upload(t, { length: 9 });
      await out.write("eight");
      await out.flush();
      await t.record({ begun: 1 });
      await rejects(
        out.close(),
        Error,
        /only 5 bytes, but `length` is 9/,
        "close()",
      );
      const { requests } = await t.record({ ended: 1 });
      equal(
        requests.filter(({ stored }) => stored).length,
        0,
        "objects stored",
      );
    },
  ),
  uploadCheck(
    "an upload that is longer than its length is refused",
    async (t) => {
      const out = upload(t, { length: 4 });
      await out.write("eight");
      const error = await uploadErrorOf(out.flush());
      matches(error.message, /at least 5 bytes, but `length` is 4/, "why");
      const { requests } = await t.record();
      equal(
        requests.filter(({ stored }) => stored).length,
        0,
        "objects stored",
      );
    },
  ),
  uploadCheck(
    "an upload that is cut in the middle fails, and is not retried",
    async (t) => {
      await t.script([{ cut: 100 * KIB }]);
      const sender = new UploadSender(t.url);
      const out = t.buffer(sender, STILL);
      const write = async () => {
        for (;;) await out.write(bytesOf(4, 64 * KIB));
      };
      const error = await uploadErrorOf(write());
      matches(error.message, /it is unknown how many of them/, "why");
      equal(error.retryable, false, "retryable");
      equal(
        await reasonOf(sender.closed, "closed"),
        error,
        "why closed rejects",
      );
      equal(await uploadErrorOf(out.flush()), error, "why flush() rejects");
      await rejects(out.close(), FlushError, /unknown how many/, "close()");
      const { requests } = await t.record({ ended: 1 });
      const seen = requests.map(({ stored, complete }) => [stored, complete]);
      equal(seen, [[false, false]], "what the server has");
    },
  ),
  uploadCheck("a response before the end of an upload fails it", async (t) => {
    await t.script([{ status: 413, early: true }]);
    const out = upload(t);
    const bytes = bytesOf(5, 64 * KIB);
    let isEarly = true;
    const send = async () => {
      for (let i = 0; i < 1000; i++) {
        await out.write(bytes);
        await turn();
      }
      isEarly = false;
      await out.close();
    };
    const error = await uploadErrorOf(send());
    equal(error.status, 413, "status");
    matches(error.message, /the object is larger than it allows/, "why");
    return isEarly ? "at once" : "at its end";
  }, 20_000),
  uploadCheck(
    "timers fire while an upload is written without a pause",
    async (t) => {
      const out = upload(t);
      let fired = false;
      setTimeout(() => fired = true);
      // Slowly enough for the server, which takes each piece at once.
      for (let i = 0; i < 5_000 && !fired; i++) {
        await out.write(bytesOf(i, 64 * KIB));
      }
      assert(fired, "no timer has fired");
    },
  ),
  uploadCheck("an upload that is refused at its end fails", async (t) => {
    await t.script([{ status: 507, body: "no room" }]);
    const out = upload(t);
    await out.write("an object");
    const error = await rejects(out.close(), FlushError, /no room/, "close()");
    equal((error.cause as SendError).status, 507, "status");
    equal((await t.record()).requests.length, 1, "requests");
  }),
  uploadCheck("an upload that stalls times out", async (t) => {
    await t.script([{ silent: "unread" }]);
    const out = upload(t, { timeout: 300 });
    const write = async () => {
      for (;;) await out.write(bytesOf(6, 64 * KIB));
    };
    const error = await uploadErrorOf(write());
    matches(error.message, /it took longer than 300 ms/, "why");
  }),
  uploadCheck("abort() leaves an upload incomplete", async (t) => {
    const out = upload(t);
    await out.write("half of it");
    await out.flush();
    await t.record({ begun: 1 });
    await out.abort();
    const { requests } = await t.record({ ended: 1 });
    const seen = requests.map(({ stored, complete }) => [stored, complete]);
    equal(seen, [[false, false]], "what the server has");
  }),
  uploadCheck(
    "a pipe whose source fails leaves an upload incomplete",
    async (t) => {
      const reason = new Error("the source failed");
      let pulls = 0;
      const source = new ReadableStream({
        async pull(controller) {
          if (pulls++ === 8) {
            // Otherwise the server may see nothing of it.
            await t.record({ begun: 1 });
            throw reason;
          }
          controller.enqueue(bytesOf(7, 64 * KIB));
        },
      });
      const piped = source.pipeTo(upload(t).writable);
      equal(await reasonOf(piped, "pipeTo()"), reason, "why it rejects");
      const { requests } = await t.record({ ended: 1 });
      equal(
        requests.filter(({ stored }) => stored).length,
        0,
        "objects stored",
      );
    },
  ),
  uploadCheck("an upload takes no concurrency", async (t) => {
    await rejects(
      () => new StreamBuffer(new UploadSender(t.url), { concurrency: 2 }),
      RangeError,
      /concurrency must be 1/,
      "new StreamBuffer()",
    );
  }),
  uploadCheck("the error of an upload shows no secret", async (t) => {
    const body = "sesame-opens-it is wrong";
    await t.script([{ status: 403, body }]);
    const out = upload(t, { headers: { Authorization: "sesame-opens-it" } });
    await out.write("an object");
    const error = await rejects(out.close(), FlushError, /403/, "close()");
    const shown = everythingIn(error);
    matches(shown, /\*\*\* is wrong/, "the error");
    assert(!shown.includes("sesame"), "it shows the secret");
  }),
];
