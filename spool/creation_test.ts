/** A file whose creation was interrupted holds nothing, and is created again. */
import { assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { temporary } from "../testing/temporary.ts";
import { inspectSpool, SpoolError } from "./mod.ts";
import { Spool } from "./spool.ts";

const PAGE = 16 * 1024;

/** The head of a journal whose transaction has not ended, of a file with so many pages. */
function journal(pages: number): Uint8Array {
  const head = new DataView(new ArrayBuffer(512));
  head.setBigUint64(0, 0xd9d505f920a163d7n);
  head.setUint32(16, pages);
  head.setUint32(20, 512); // the size of a sector
  head.setUint32(24, PAGE);
  return new Uint8Array(head.buffer);
}

/** An empty database: what there is before the tables are created. */
function emptyDatabase(path: string): void {
  const database = new DatabaseSync(path);
  database.exec(
    `pragma page_size = ${PAGE}; pragma auto_vacuum = incremental; vacuum`,
  );
  database.close();
}

for (
  const [after, make] of [
    ["before it had tables", emptyDatabase],
    ["while its first page was written", (path: string) => {
      Deno.writeFileSync(path, new Uint8Array(PAGE));
      Deno.writeFileSync(`${path}-journal`, journal(0));
    }],
    ["while its tables were written", (path: string) => {
      Deno.writeFileSync(path, new Uint8Array(3 * PAGE).fill(1));
      Deno.writeFileSync(`${path}-journal`, journal(0));
    }],
  ] as const
) {
  Deno.test(`Spool creates a file anew whose creation was interrupted ${after}`, async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    make(path);
    await new Spool(path, () => {}).close();
    assertEquals(inspectSpool(path).bytesWaiting, 0);
  });
}

Deno.test("Spool takes no file of something else for one whose creation was interrupted", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const content = new Uint8Array(3 * PAGE).fill(1);
  Deno.writeFileSync(path, content);
  for (const head of [journal(2), new Uint8Array(512)]) {
    Deno.writeFileSync(`${path}-journal`, head);
    const error = assertThrows(() => new Spool(path, () => {}), SpoolError);
    assertEquals(error.code, "foreign");
    assertEquals(Deno.readFileSync(path), content);
    assertEquals(Deno.readFileSync(`${path}-journal`), head);
  }
});
