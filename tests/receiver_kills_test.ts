/**
 * Whatever a receiver is doing when it is killed, each batch that it has acknowledged is
 * stored, once and whole. `tools/receiver_kills.ts` kills more of them.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { fileURLToPath } from "node:url";
import { hostname } from "node:os";
import { FileStore, SqliteStore, StoreError } from "../receiver/mod.ts";
import { run } from "../testing/child.ts";
import { freePort } from "../testing/free_port.ts";
import type { ReceiverPlan } from "../testing/receiver_child.ts";
import { batchOf, textOf } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";
import { checkReceiverKills } from "../tools/receiver_kills.ts";

const PROGRAM = fileURLToPath(
  import.meta.resolve("../testing/receiver_child.ts"),
);
const KILLS = 15;
const CLASSES = { SqliteStore, FileStore };

for (const store of ["SqliteStore", "FileStore"] as const) {
  Deno.test({
    name:
      `${store}: what was acknowledged is stored once and whole, whenever receivers and spools are killed`,
    // There, killing is another thing, and takes longer than all the rest.
    ignore: Deno.build.os === "windows",
    async fn() {
      const { kills, spoolKills } = await checkReceiverKills(store, KILLS);
      assert(kills >= KILLS && spoolKills > 0, `${kills} and ${spoolKills}`);
    },
  });

  Deno.test(`${store}: one process at a time, until that is killed`, async () => {
    await using folder = await temporary();
    const path = folder.file("received");
    const file = store === "FileStore" ? `${path}-keys` : path;
    const port = freePort();
    const plan: ReceiverPlan = {
      ...{ store, path, port, durability: "process", prune: null, hold: null },
    };
    await using child = run(["-A", PROGRAM, JSON.stringify(plan)]);
    await child.waitForOutput("open");
    const send = (number: number) =>
      fetch(`http://127.0.0.1:${port}/`, {
        method: "POST",
        headers: { "Idempotency-Key": `"a-${number}"` },
        body: `0:${number}:\n`,
      }).then((response) => response.status);
    assertEquals(await send(0), 204);
    for (let i = 0; i < 3; i++) {
      const error = assertThrows(() => new CLASSES[store](path), StoreError);
      assertEquals(error.code, "in-use");
      assertEquals(
        error.message,
        `Cannot open the store ${file}: process ${child.pid} on ${hostname()} has it open; only one ${store} at a time can use it`,
      );
      assertEquals(await send(i + 1), 204);
    }
    child.kill("SIGKILL");
    await child.outcome;
    await using opened = new CLASSES[store](path);
    const text = "0:0:\n0:1:\n0:2:\n0:3:\n";
    assertEquals(await textOf(opened, "a"), text);
    assertEquals(await opened.add(await batchOf("a-0", "0:0:\n")), "known");
  });
}
