/** `resumable.ts` as a process with no more than its documented permissions. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { type Child, run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { startTusServer } from "../testing/tus_server.ts";

/** Windows lacks these signals. */
const UNIX = { ignore: Deno.build.os === "windows" };
const EXAMPLE = fileURLToPath(import.meta.resolve("./resumable.ts"));

/** Starts the example. */
function start(args: string[]): Child {
  return run(["-N=127.0.0.1", "-R", "-W", EXAMPLE, ...args]);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

Deno.test("resumable.ts prints its usage without an endpoint or a file", async () => {
  for (const args of [[], ["http://127.0.0.1:9/"]]) {
    await using child = start(args);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [2, "usage: resumable.ts ENDPOINT FILE\n"]);
  }
});

Deno.test(
  "resumable.ts resumes 100 MB after it was killed half-way",
  UNIX,
  async () => {
    await using server = await startTusServer();
    await using folder = await temporary();
    const path = folder.file("backup.tar");
    const size = 100_000_000;
    {
      using file = await Deno.open(path, { create: true, write: true });
      const hash = createHash("shake256", { outputLength: 50_000 });
      const chunk = new Uint8Array(hash.update("a backup").digest());
      for (let at = 0; at < size; at += chunk.length) {
        new DataView(chunk.buffer).setUint32(0, at);
        await file.write(chunk);
      }
    }
    const args = [server.url, path];

    await using first = start(args);
    await first.waitFor(server.receivedBytes(size / 2));
    first.kill("SIGKILL");
    assertEquals((await first.outcome).signal, "SIGKILL");
    const url = Deno.readTextFileSync(`${path}.upload`);
    assert(!server.isComplete(url));

    await using second = start(args);
    const { code, stdout } = await second.outcome;
    assertEquals(code, 0);
    const [, skipped] = stdout.match(/^Resuming at byte (\d+)\n/)!;
    assert(Number(skipped) >= size / 2 - 2 ** 20, `from byte ${skipped}`);
    assertMatch(stdout, /\n100000000 bytes are at http.*\n$/);
    assert(server.isComplete(url));
    assertEquals(sha256(server.read(url)), sha256(Deno.readFileSync(path)));
    assert(server.received <= size + 2 ** 20, "more than 1 MiB was resent");
    assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
  },
);

Deno.test("resumable.ts starts a new upload when the earlier one no longer exists", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar", "a backup");
  folder.file("backup.tar.upload", `${server.url}/gone`);
  await using child = start([server.url, path]);
  const { code, stdout } = await child.outcome;
  assertEquals(code, 0);
  const [, url] = stdout.match(
    /^The earlier upload no longer exists.*\n8 bytes are at (.*)\n$/,
  )!;
  assertEquals(new TextDecoder().decode(server.read(url!)), "a backup");
});
