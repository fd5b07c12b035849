import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { type Reader, StreamBuffer } from "../mod.ts";
import { linesOf, received, run, start } from "../testing/command.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { LineWriter, MAX_LINE, sizeOfLines } from "./lines.ts";

for (const capacity of [1, 7, 8, 9, 20, 1000]) {
  Deno.test(`cli --lines never splits a line, at capacity ${capacity}`, async () => {
    await using server = new FaultyServer();
    const text = linesOf(300) + "x".repeat(30) + "\n\n\nlast one";
    const { code } = await run(
      [server.url, "--lines", "--capacity", `${capacity}`],
      text,
    );
    assertEquals(code, 0);
    assertEquals(received(server), text);
    for (const body of server.bodies) {
      assert(body.endsWith("\n") || body.endsWith("last one"), body);
      const lines = body.split("\n").length - 1;
      assert(body.length <= capacity || lines <= 1, "more than it must");
    }
  });
}

Deno.test("cli --lines never splits a line that spans reads", async () => {
  await using server = new FaultyServer();
  await using running = start([server.url, "--lines", "--interval", "20ms"]);
  await running.write("one\ntw");
  await running.waitFor(server.received(1));
  await running.write("o and");
  await running.write(" a half\nthree");
  await running.end();
  assertEquals((await running.outcome).code, 0);
  assertEquals(server.bodies[0], "one\n");
  assertEquals(received(server), "one\ntwo and a half\nthree");
});

test("cli --lines sends no line after one that failed", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using running = start([server.url, "--lines", "--capacity", "4"]);
  await running.write("one\nand more than a request");
  const { code, stderr } = await running.outcome;
  assertEquals([code, server.bodies], [1, ["one\n"]]);
  assertStringIncludes(stderr, "27 bytes were read but not acknowledged");
});

for (
  const [text, capacity, end, size] of [
    ["", 4, false, 0],
    ["", 4, true, 0],
    ["a", 4, false, 0],
    ["a", 4, true, 1],
    ["a\nb", 4, false, 2],
    ["a\nb", 4, true, 3],
    ["a\nb\nc", 4, false, 4],
    ["a\nb\nc", 3, false, 2],
    ["a\nbcd", 4, true, 2],
    ["long\nb\n", 4, false, 5],
    ["longer\nb\n", 4, false, 7],
    ["longer", 4, false, 0],
    ["longer", 4, true, 6],
    ["\n\n", 1, false, 1],
  ] as const
) {
  const at = end ? ", at the end" : "";
  Deno.test(`sizeOfLines() is ${size} for ${JSON.stringify(text)} and capacity ${capacity}${at}`, () => {
    const bytes = new TextEncoder().encode(text);
    assertEquals(sizeOfLines(bytes, capacity, end), size);
  });
}

/** Gives one text per read. */
function readerOf(...texts: string[]): Reader {
  return {
    read(p) {
      const text = texts.shift();
      return Promise.resolve(
        text === undefined
          ? null
          : new TextEncoder().encodeInto(text, p).written,
      );
    },
  };
}

Deno.test("LineWriter.readFrom() joins a line that several reads gave", async () => {
  const sent: string[] = [];
  const out = new StreamBuffer((bytes) => {
    sent.push(new TextDecoder().decode(bytes));
  }, { capacity: 4, oversize: "whole" });
  const lines = new LineWriter(out, 4);
  await lines.readFrom(readerOf("a", "b", "c", "d", "e\nf", "\ng"));
  await out.close();
  assertEquals(sent, ["abcde\n", "f\ng"]);
  assertEquals(lines.unaccepted.length, 0);
});

Deno.test("LineWriter.readFrom() keeps what was not accepted when a write fails", async () => {
  const out = new StreamBuffer(() => {
    throw new Error("refused");
  }, { capacity: 4, oversize: "whole", flushInterval: 0 });
  const lines = new LineWriter(out, 4);
  await assertRejects(() => lines.readFrom(readerOf("ab\ncd\nef\ngh", "ij")));
  await out.abort();
  const kept = Buffer.concat([out.takeUnsent(), lines.unaccepted]);
  assertEquals(kept.toString(), "ab\ncd\nef\ngh");
});

Deno.test("LineWriter.readFrom() writes no half line when a read fails", async () => {
  const out = new StreamBuffer(() => {});
  const lines = new LineWriter(out, 100);
  const reader = readerOf("one\nhalf");
  const failing: Reader = {
    read: async (p) => {
      const size = await reader.read(p);
      if (size === null) throw new Error("gone");
      return size;
    },
  };
  await assertRejects(() => lines.readFrom(failing), Error, "gone");
  assertEquals(out.stats.bytesAccepted, 4);
  assertEquals(Buffer.from(lines.unaccepted).toString(), "half");
  await out.close();
});

for (
  const [title, chunks, accepted] of [
    ["that ends in a newline", ["one\n", "123456789\n", "two\n"], undefined],
    ["that ends the input", ["one\n123456789", "0"], undefined],
    ["and one byte more", ["one\n", "1234567890\n", "two\n"], "one\n"],
    ["and one byte more, in one read", ["one\n1234567890\ntwo\n"], "one\n"],
    ["and one byte more, in pieces", ["one\n", ..."12345678901"], "one\n"],
  ] as [string, string[], string | undefined][]
) {
  Deno.test(`LineWriter.readFrom() and a line of maxLine bytes ${title}`, async () => {
    const text = chunks.join("");
    const sent: string[] = [];
    await using out = new StreamBuffer((bytes) => {
      sent.push(new TextDecoder().decode(bytes));
    }, { capacity: 4, oversize: "whole" });
    const lines = new LineWriter(out, 4, 10);
    const reading = lines.readFrom(readerOf(...chunks));
    if (accepted === undefined) await reading;
    else {
      await assertRejects(
        () => reading,
        Error,
        "cannot send a line of more than 10 bytes in one request; raise --capacity",
      );
    }
    await out.flush();
    assertEquals(sent.join(""), accepted ?? text);
    // A read that follows the line is not lost either.
    const kept = Buffer.from(lines.unaccepted).toString();
    assert(text.slice(sent.join("").length).startsWith(kept), kept);
    assertEquals(kept === "", accepted === undefined);
  });
}

Deno.test("cli --lines sends the lines before one that is too long, and saves the rest", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  const long = "x".repeat(MAX_LINE);
  const { code, stderr } = await run(
    ["--lines", "--unsent", unsent, server.url],
    `one\n${long}\nthe rest`,
  );
  assertEquals([code, received(server)], [1, "one\n"]);
  assertStringIncludes(
    stderr,
    "cannot send a line of more than 16777216 bytes in one request; raise --cap",
  );
  const saved = Deno.readTextFileSync(unsent);
  assert(saved === `${long}\nthe rest`, "other bytes were saved");
});

Deno.test("cli --lines sends a line as long as --capacity, whatever that is", async () => {
  await using server = new FaultyServer();
  const long = `${"x".repeat(MAX_LINE)}\n`;
  const args = ["--lines", "--capacity", `${long.length}`, server.url];
  const { code } = await run(args, long);
  assertEquals([code, server.bodies.map(({ length }) => length)], [0, [
    long.length,
  ]]);
});

Deno.test("cli --lines uses little memory, however long a line is", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  for (const options of [[], ["--unsent", folder.file("unsent")]]) {
    await using running = start(["--lines", ...options, server.url]);
    const chunk = new Uint8Array(2 ** 20);
    let peak = 0;
    for (let i = 0; i < 100; i++) {
      const isRead = await running.write(chunk).then(() => true, () => false);
      if (!isRead) break; // it has failed
      const status = await Deno.readTextFile(`/proc/${running.pid}/status`)
        .catch(() => "");
      peak = Math.max(
        peak,
        Number(status.match(/VmHWM:\s+(\d+) kB/)?.[1] ?? 0),
      );
    }
    await running.end().catch(() => {});
    assertEquals((await running.outcome).code, 1);
    assert(peak > 0 && peak < 300_000, `a peak of ${peak} kB`);
  }
  assertEquals(server.bodies, []);
});
