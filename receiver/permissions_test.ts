/** Stores in files need the permissions that their documentation names. */
import { assertEquals } from "@std/assert";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";

for (
  const [store, ...suffixes] of [
    ["SqliteStore", "", "-owner", "-reserve"],
    ["FileStore", "", "-new", "-keys", "-keys-owner", "-keys-reserve"],
  ] as const
) {
  Deno.test(`${store} needs permission for its ${suffixes.length} files, new or not`, async () => {
    await using folder = await temporary();
    const file = folder.file("received");
    const files = suffixes.map((suffix) => file + suffix).join();
    const script = folder.file(
      "script.ts",
      `import { receive, ${store} } from ${
        JSON.stringify(import.meta.resolve("./mod.ts"))
      };
      const [path, key] = Deno.args;
      const store = new ${store}(path);
      const response = await receive({ store })(
        new Request("http://localhost/", {
          method: "POST",
          headers: { "Idempotency-Key": JSON.stringify(key) },
          body: "hello",
        }),
      );
      console.log(response.status);
      // Once something is older than nothing at all.
      while ((await store.prune(0)).batches === 0);
      await store.close();`,
    );
    for (const key of ["a-0", "a-1"]) {
      await using child = run([
        ...["--no-check", `--allow-read=${files}`, `--allow-write=${files}`],
        ...[script, file, key],
      ]);
      const { stdout, stderr } = await child.outcome;
      assertEquals([stdout, stderr], ["204\n", ""]);
    }
  });
}
