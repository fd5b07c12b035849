/** What a spool publishes beside its file. */
import { assertEquals } from "@std/assert";
import { temporary } from "../testing/temporary.ts";
import { loadModules } from "../internal/node/platform.ts";
import { OwnerFile } from "./side_files.ts";

Deno.test("OwnerFile says what was written last", async () => {
  await using folder = await temporary();
  const modules = loadModules("Cannot test");
  const file = new OwnerFile(modules, folder.file("spool"));
  for (const bytesWaiting of [0, 5, 1_000]) {
    file.write({
      ...{ id: "id", batchesWaiting: 0, oldest: null, bytesWaiting },
      ...{ bytesDelivered: 0, bytesDiverted: 0, bytesLost: 0 },
    });
    assertEquals(file.read()?.bytesWaiting, bytesWaiting);
  }
  file.remove();
  assertEquals(file.read(), undefined);
});
