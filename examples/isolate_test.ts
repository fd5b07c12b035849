/** Records that are refused are set aside, all others arrive once and in order. */
import { assertEquals, assertRejects } from "@std/assert";
import {
  FetchSender,
  FlushError,
  type SendError,
  StreamBuffer,
} from "@stream-buffer/stream-buffer";
import { fileURLToPath } from "node:url";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { isolate } from "./isolate.ts";

/**
 * A server that refuses a request with a record that is bad, and stores every other
 * one once for each key.
 *
 * @param failures Statuses for the requests with these numbers, from 0.
 */
function startServer(failures: Record<number, number> = {}) {
  const stored = new Map<string, string>();
  let requests = 0;
  const server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
    const status = failures[requests++];
    const text = await request.text();
    if (status !== undefined) return new Response("", { status });
    if (text.includes("bad")) {
      return new Response("bad record", { status: 400 });
    }
    const key = request.headers.get("Idempotency-Key")!;
    if (!stored.has(key)) stored.set(key, text);
    return new Response();
  });
  return {
    url: `http://localhost:${server.addr.port}/`,
    stored,
    text: () => [...stored.values()].join(""),
    requests: () => requests,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

function setUp(url: string) {
  const saved: string[] = [];
  const reasons: SendError[] = [];
  const sender = new FetchSender(url, { retry: { maxElapsed: 0 } });
  const out = new StreamBuffer(sender, {
    flushInterval: 0,
    deadLetter: isolate(sender, (record, reason) => {
      saved.push(new TextDecoder().decode(record));
      reasons.push(reason);
      return Promise.resolve();
    }),
  });
  return { out, saved, reasons };
}

for (
  const records of [
    ["bad 1"],
    ["bad"],
    ["bad\n", "\n"],
    ["\n", "bad\n"],
    ["bad\n", "\n", "\n"],
    ["good\r\n", "bad\r\n", "go\u2028od\r\n"],
    ["bad 1\n", "good\n"],
    ["good\n", "bad 1"],
    ["bad 1\n", "bad 2\n", "bad 3\n"],
    ["\n", "bad 1\n", "\n", "\n", "good"],
    Array.from(
      { length: 100 },
      (_, i) => `${i % 33 === 0 ? "bad" : "good"} ${i}\n`,
    ),
    ["good 1\n", `bad ${"long".repeat(1_000)}\n`, "good 2\n", "good 3\n"],
  ]
) {
  Deno.test(
    `isolate.ts sets aside the bad records of ${records.length}: ${
      JSON.stringify(records).slice(0, 40)
    }`,
    async () => {
      await using server = startServer();
      const { out, saved, reasons } = setUp(server.url);
      for (const record of records) await out.write(record);
      await out.flush();
      await out.write("after");
      await out.close();
      const bad = records.filter((record) => record.includes("bad"));
      const good = records.filter((record) => !bad.includes(record));
      assertEquals(saved, bad);
      assertEquals(server.text(), good.join("") + "after");
      assertEquals(reasons.map(({ status }) => status), bad.map(() => 400));
    },
  );
}

Deno.test("isolate.ts sets aside a record of one byte", async () => {
  const stored: string[] = [];
  await using server = Deno.serve(
    { port: 0, onListen() {} },
    async (request) => {
      const text = await request.text();
      if (/^\n|\n\n/.test(text)) return new Response("empty", { status: 422 });
      stored.push(text);
      return new Response();
    },
  );
  const { out, saved } = setUp(`http://localhost:${server.addr.port}/`);
  await out.write("\na\n\nb\n");
  await out.close();
  assertEquals([stored, saved], [["a\n", "b\n"], ["\n", "\n"]]);
});

Deno.test("isolate.ts repeats what it sends under the same keys after a failure", async () => {
  // The batch and its first half are refused, and the last quarter meets a 503.
  await using server = startServer({ 6: 503, 9: 503 });
  const { out, saved } = setUp(server.url);
  const records = ["1\n", "bad 2\n", "3\n", "4\n", "5\n", "bad 6\n", "7\n"];
  for (const record of records) await out.write(record);
  let failures = 0;
  while (await out.flush().then(() => false, () => true)) failures++;
  assertEquals(failures, 2);
  await out.write("8\n");
  await out.close();
  assertEquals(server.text(), "1\n3\n4\n5\n7\n8\n");
  assertEquals(new Set(saved), new Set(["bad 2\n", "bad 6\n"]));
  const keys = [...server.stored.keys()].slice(0, -1);
  const stream = keys[0]!.replace(/-0\/.*/, "");
  for (const key of keys) {
    assertEquals(key.replace(/\d+-\d+"$/, ""), `${stream}-0/`);
  }
});

Deno.test("isolate.ts keeps the batch if a record cannot be saved", async () => {
  await using server = startServer();
  const sender = new FetchSender(server.url);
  const out = new StreamBuffer(sender, {
    deadLetter: isolate(sender, () => Promise.reject(new Error("disk full"))),
  });
  await out.write("1\nbad 2\n3\n");
  await assertRejects(() => out.close(), FlushError, "disk full");
  assertEquals(new TextDecoder().decode(out.takeUnsent()), "1\nbad 2\n3\n");
});

Deno.test("isolate.ts as a program delivers a file, and saves what is refused", async () => {
  await using server = startServer();
  await using folder = await temporary();
  const input = folder.file("records.ndjson", "1\r\nbad 2\n\u20283");
  const refused = folder.file("refused.ndjson");
  await using child = run([
    ...["-N", "-R", `-W=${refused}`],
    fileURLToPath(import.meta.resolve("./isolate.ts")),
    ...[server.url, input, refused],
  ]);
  const { code, stderr } = await child.outcome;
  assertEquals([code, stderr], [0, ""]);
  assertEquals(server.text(), "1\r\n\u20283");
  assertEquals(await Deno.readTextFile(refused), "bad 2\n");
});
