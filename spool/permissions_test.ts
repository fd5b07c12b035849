/** A spool needs the permissions that its documentation names. */
import { assertEquals } from "@std/assert";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";

Deno.test("Spool() needs permission for three files, new or not", async () => {
  await using folder = await temporary();
  const file = folder.file("app.spool");
  const files = [file, `${file}-owner`, `${file}-reserve`].join();
  const script = folder.file(
    "script.ts",
    `import { Spool } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    const away = () => Promise.reject(new Error("the server is away"));
    const spool = new Spool(Deno.args[0], away, { drainTimeout: 0 });
    const { signal } = new AbortController();
    await spool.send(new Uint8Array(5), { sequence: 0, offset: 0, signal });
    console.log(spool.stats.bytesWaiting);
    await spool.close();`,
  );
  for (const waiting of [5, 10]) {
    await using child = run([
      ...["--no-check", `--allow-read=${files}`, `--allow-write=${files}`],
      ...[script, file],
    ]);
    const { stdout, stderr } = await child.outcome;
    assertEquals([stdout, stderr], [`${waiting}\n`, ""]);
  }
});

Deno.test("Spool() gives disk space back with permission for three files", async () => {
  await using folder = await temporary();
  const file = folder.file("app.spool");
  const files = [file, `${file}-owner`, `${file}-reserve`].join();
  const script = folder.file(
    "script.ts",
    `import { Spool } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    const served = Promise.withResolvers();
    const onError = ({ message }) => console.log(message);
    const spool = new Spool(Deno.args[0], () => served.promise, { onError });
    const { signal } = new AbortController();
    for (let i = 0; i < 6; i++) {
      const context = { sequence: i, offset: i * 2 ** 20, signal };
      await spool.send(new Uint8Array(2 ** 20), context);
    }
    served.resolve();
    await spool.close();
    console.log(Deno.statSync(Deno.args[0]).size < 200_000);`,
  );
  await using child = run([
    ...["--no-check", `--allow-read=${files}`, `--allow-write=${files}`],
    ...[script, file],
  ]);
  const { stdout, stderr } = await child.outcome;
  assertEquals([stdout, stderr], ["true\n", ""]);
});
