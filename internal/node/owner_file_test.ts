/** What says who has a file open. */
import { assertEquals } from "@std/assert";
import { temporary } from "../../testing/temporary.ts";
import { OwnerFile } from "./owner_file.ts";
import { loadModules, processId } from "./platform.ts";

Deno.test("OwnerFile says what was written last", async () => {
  await using folder = await temporary();
  const modules = loadModules("Cannot test");
  const path = folder.file("file");
  const file = new OwnerFile<{ bytesWaiting: number }>(modules, path);
  for (const bytesWaiting of [0, 5, 1_000]) {
    file.write({ bytesWaiting });
    assertEquals(file.read()?.bytesWaiting, bytesWaiting);
    assertEquals(file.read()?.pid, processId());
  }
  file.remove();
  assertEquals(file.read(), undefined);
});
