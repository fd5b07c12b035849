/**
 * A program that writes numbered records through a spool, each with a flush, and
 * writes to a file what others may rely on, and when: `attempt KEY OFFSET SIZE CRC`
 * before a request is made, and `covered N` when a flush of the first N records has
 * fulfilled. Its arguments are the spool, that file, and the durability.
 */
import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { Spool, StreamBuffer } from "../spool/mod.ts";
import { record } from "./records.ts";

/** How many records it writes: there is a checkpoint after some 60 transactions. */
export const RECORDS = 40;
/** The size of a record in bytes at most. */
export const RECORD_LIMIT = 1_000;

if (import.meta.main) {
  const [path, marks, durability] = Deno.args;
  const descriptor = openSync(marks!, "w");
  const mark = (text: string) => writeSync(descriptor, `${text}\n`);
  const spool = new Spool(path!, async (bytes, { key, offset }) => {
    mark(`attempt ${key} ${offset} ${bytes.length} ${crc32(bytes)}`);
    // So long that records arrive meanwhile, now and then.
    await sleep(offset % 4);
  }, { durability: durability as "power" | "process", requestBytes: 4_096 });
  const out = new StreamBuffer(spool, { capacity: 4_096 });
  for (let number = 0; number < RECORDS; number++) {
    await out.write(record(0, number, RECORD_LIMIT));
    await out.flush();
    mark(`covered ${number + 1}`);
  }
  await out.close();
}
