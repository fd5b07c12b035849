/** The buffer, over a sender of its own or over `fetch`. */
import { assert, equal } from "./assert.ts";
import { Bytes } from "./bytes.ts";
import { type Check, textOf, textsOf } from "./check.ts";

const MIB = 1024 * 1024;

export const BUFFER_CHECKS: readonly Check[] = [
  {
    name: "writes are collected in one request",
    async run(bench) {
      const out = bench.stream();
      for (let line = 1; line <= 1000; line++) await out.write(`${line}\n`);
      await out.close();
      const record = await bench.record();
      equal(record.requests.length, 1, "requests");
      const [request] = record.requests;
      assert(request?.complete && request.stored, "the request was not stored");
      equal(textOf(request).split("\n").length, 1001, "lines");
    },
  },
  {
    name: "flush() delivers what was written before it",
    async run(bench) {
      const out = bench.stream();
      await out.write("one");
      await out.flush();
      equal(textsOf(await bench.record()), ["one"], "after the first flush");
      await out.write("two");
      await out.flush();
      await out.flush(); // with nothing to send
      equal(textsOf(await bench.record()), ["one", "two"], "requests");
    },
  },
  {
    name: "64 MiB arrive whole",
    limit: 20_000,
    async run(bench) {
      const size = 64 * MIB;
      const source = new Bytes(1);
      const out = bench.stream({ capacity: MIB });
      for (let at = 0; at < size; at += MIB) await out.write(source.next(MIB));
      await out.close();
      const { object } = await bench.record();
      equal(object.size, size, "bytes at the server");
      equal(object.sha256, await bench.digest(1, size), "SHA-256");
    },
  },
];
