/** `TusSender`, against the tus project's own server. */
import {
  FlushError,
  SendError,
  StreamBuffer,
} from "@stream-buffer/stream-buffer";
import {
  TusSender,
  type TusSenderOptions,
} from "@stream-buffer/stream-buffer/tus";
import { assert, equal, matches, rejects } from "./assert.ts";
import { Bytes, bytesOf } from "./bytes.ts";
import {
  type Check,
  check,
  everythingIn,
  QUICK,
  textOf,
  type Tools,
} from "./check.ts";
import type { Recorded } from "./control.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const STILL = { capacity: 64 * KIB, flushInterval: 0, closeTimeout: 5_000 };

function sender(t: Tools, options: TusSenderOptions = {}): TusSender {
  return new TusSender(t.tus, { retry: QUICK, ...options });
}

/** The methods of the requests, without the one that asks what there is. */
function methodsOf({ requests }: Recorded): string[] {
  return requests.map(({ method }) => method)
    .filter((method) => method !== "OPTIONS");
}

/** Writes a seed's bytes in pieces. */
async function write(
  out: StreamBuffer,
  seed: number,
  size: number,
): Promise<void> {
  const source = new Bytes(seed);
  for (let at = 0; at < size; at += 16 * KIB) {
    await out.write(source.next(Math.min(16 * KIB, size - at)));
  }
}

/** Checks that the server has the whole object. */
async function checkObject(
  t: Tools,
  seed: number,
  size: number,
): Promise<Recorded> {
  const record = await t.record();
  const { object } = record;
  equal([object.size, object.complete], [size, true], "size, complete");
  equal(object.sha256, await t.digest(seed, size), "SHA-256");
  return record;
}

/** All of them. */
export const TUS_CHECKS: readonly Check[] = [
  check("TusSender sends an object of unknown size", async (t) => {
    const out = t.buffer(sender(t), STILL);
    await write(out, 1, MIB);
    await out.close();
    const record = await checkObject(t, 1, MIB);
    equal(methodsOf(record)[0], "POST", "the first request");
    const create = record.requests.find(({ method }) => method === "POST")!;
    equal(create.headers["upload-defer-length"], "1", "Upload-Defer-Length");
  }),
  check("TusSender sends an object of known size", async (t) => {
    const out = t.buffer(sender(t, { length: MIB }), STILL);
    await write(out, 2, MIB);
    await out.close();
    const record = await checkObject(t, 2, MIB);
    const patches = methodsOf(record).filter((method) => method === "PATCH");
    equal(patches.length, MIB / STILL.capacity, "batches");
    const create = record.requests.find(({ method }) => method === "POST")!;
    equal(create.headers["upload-length"], `${MIB}`, "Upload-Length");
  }),
  check(
    "TusSender sends a checksum, where the platform can compute it",
    async (t) => {
      await t.script([{
        method: "OPTIONS",
        status: 200,
        headers: {
          "Tus-Version": "1.0.0",
          "Tus-Extension": "creation,creation-defer-length,checksum",
          "Tus-Checksum-Algorithm": "md5,sha256",
        },
      }]);
      const out = t.buffer(sender(t), STILL);
      await out.write("an object");
      await out.close();
      const { requests, object } = await t.record();
      equal(textOf(object), "an object", "the object");
      const patch = requests.find(({ method }) => method === "PATCH")!;
      const checksum = patch.headers["upload-checksum"];
      if (crypto.subtle === undefined) {
        equal(checksum, undefined, "Upload-Checksum");
        return "none, as there is no crypto.subtle";
      }
      const digest = patch.sha256.match(/../g)!
        .map((hex) => String.fromCharCode(parseInt(hex, 16))).join("");
      equal(checksum, `sha256 ${btoa(digest)}`, "Upload-Checksum");
      return "SHA-256";
    },
  ),
  check("checksum: true is refused without crypto.subtle", async (t) => {
    const create = () => sender(t, { checksum: true });
    if (crypto.subtle !== undefined) return void create();
    await rejects(create, TypeError, /crypto.subtle is missing/, "TusSender");
  }),
  check("TusSender sends an empty object", async (t) => {
    await t.buffer(sender(t), STILL).close();
    const { object } = await t.record();
    equal([object.size, object.complete], [0, true], "size, complete");
  }),
  ...[0, 1000, 60_000].map((cut) =>
    check(
      `an upload resumes after a cut (${cut} bytes of a batch)`,
      async (t) => {
        const at = cut === 0 ? "unread" : cut;
        await t.script([
          { method: "PATCH" },
          { method: "PATCH", cut: at },
          { method: "PATCH", cut: at },
        ]);
        const out = t.buffer(sender(t), STILL);
        await write(out, 3, MIB);
        await out.close();
        const record = await checkObject(t, 3, MIB);
        if (cut === 0) return; // the platform may have repeated the request
        const heads = methodsOf(record).filter((method) => method === "HEAD");
        assert(heads.length > 0, "the server was not asked for its offset");
      },
    )
  ),
  check("a batch that was stored before a cut is not sent again", async (t) => {
    await t.script([{ method: "PATCH", cut: "stored" }]);
    const out = t.buffer(sender(t), STILL);
    await out.write("an object");
    await out.close();
    const { requests, object } = await t.record();
    equal(textOf(object), "an object", "the object");
    const sizes = requests.filter(({ method }) => method === "PATCH")
      .map(({ size }) => size).filter((size) => size > 0);
    // A platform may repeat the request by itself; the server then refuses it.
    assert(sizes.length <= 2, `${sizes.length} requests with the batch`);
  }),
  check("TusSender retries 503, and 423", async (t) => {
    await t.script([
      ...[503, 423].map((status) => ({ method: "PATCH", status })),
      { method: "POST", status: 503 },
    ]);
    const out = t.buffer(sender(t), STILL);
    await write(out, 4, 200_000);
    await out.close();
    await checkObject(t, 4, 200_000);
  }),
  check("TusSender.resume() continues where the server is", async (t) => {
    const size = 200_000;
    const bytes = bytesOf(5, size);
    const first = sender(t, { metadata: { filename: "dump.sql" } });
    const url = await first.create();
    equal(first.url, url, "the URL");
    const interrupted = t.buffer(first, STILL);
    await interrupted.write(bytes.subarray(0, 100_000));
    await interrupted.flush();
    await interrupted.abort();
    const second = await TusSender.resume(url, { retry: QUICK });
    equal(second.offset, 100_000, "the offset");
    const { filename } = second.metadata;
    equal(new TextDecoder().decode(filename), "dump.sql", "the metadata");
    const out = t.buffer(second, STILL);
    await out.write(bytes.subarray(second.offset));
    await out.close();
    await checkObject(t, 5, size);
  }),
  check("terminate: true removes an upload that is aborted", async (t) => {
    const terminating = sender(t, { terminate: true });
    const out = t.buffer(terminating, STILL);
    await out.write("half of it");
    await out.flush();
    await out.abort();
    await rejects(
      TusSender.resume(terminating.url!, { retry: QUICK }),
      SendError,
      /the upload no longer exists/,
      "resume()",
    );
    equal(methodsOf(await t.record()).includes("DELETE"), true, "a DELETE");
  }),
  check("an upload of another size than its length is refused", async (t) => {
    const short = t.buffer(sender(t, { length: 9 }), STILL);
    await short.write("eight");
    await rejects(short.close(), FlushError, /its length is 9/, "close()");
    equal((await t.record()).object.complete, false, "whether it is complete");
    const long = t.buffer(sender(t, { length: 4 }), STILL);
    await long.write("eight");
    await rejects(
      long.flush(),
      FlushError,
      /length of the object is 4/,
      "flush()",
    );
  }),
  check("TusSender recognises a server that does not speak tus", async (t) => {
    await t.script([{ method: "POST", status: 404 }]);
    const other = new TusSender(t.url, { retry: QUICK });
    await rejects(
      other.create(),
      SendError,
      /does not seem to speak tus/,
      "create()",
    );
  }),
  check("the error of a TusSender shows no secret", async (t) => {
    const body = "sesame-opens-it is wrong";
    await t.script([{ method: "POST", status: 403, body }]);
    const headers = { Authorization: "sesame-opens-it" };
    const error = await rejects(
      sender(t, { headers }).create(),
      SendError,
      /403/,
      "create()",
    );
    const shown = everythingIn(error);
    matches(shown, /\*\*\* is wrong/, "the error");
    assert(!shown.includes("sesame"), "it shows the secret");
  }),
  check("an upload by tus takes no concurrency", async (t) => {
    await rejects(
      () => new StreamBuffer(sender(t), { concurrency: 2 }),
      RangeError,
      /concurrency must be 1/,
      "new StreamBuffer()",
    );
  }),
];
