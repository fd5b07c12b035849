/**
 * `resumable.ts` as a process with no more than its documented permissions: an
 * upload is resumed with the same file only, and never mixes two.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { type Child, preload, run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { startTusServer, type TusServer } from "../testing/tus_server.ts";

/** Windows lacks these signals. */
const UNIX = { ignore: Deno.build.os === "windows" };
const EXAMPLE = fileURLToPath(import.meta.resolve("./resumable.ts"));
const RESUMED = /^Resuming at byte [1-9]\d*\n/;
const REPLACED = /is not the file of the earlier upload; starting a new one\n/;

/** Starts the example, in which `script` runs first. */
function start(args: string[], script: () => void = () => {}): Child {
  return run(["-N=127.0.0.1", "-R", "-W", preload(script), EXAMPLE, ...args]);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The size of a file, in bytes: more than is uploaded between three kills. */
const SIZE = 16 * 2 ** 20;

/** Makes the program wait forever once it has read three batches. */
function stallAfterThreeBatches(): void {
  const { prototype } = Deno.FsFile;
  const { read } = prototype;
  let left = 3 * 2 ** 20;
  prototype.read = async function (target) {
    if (left <= 0) await new Promise(() => setInterval(() => {}, 1_000));
    const size = await read.call(this, target);
    left -= size ?? 0;
    return size;
  };
}

/** Kills an upload that has stored a batch or more. Returns its URL. */
async function interrupt(server: TusServer, path: string): Promise<string> {
  await using child = start([server.url, path], stallAfterThreeBatches);
  // The second batch is sent when the first one has been stored.
  await child.waitFor(server.receivedBytes(server.received + 2 ** 20 + 1));
  child.kill("SIGKILL");
  assertEquals((await child.outcome).signal, "SIGKILL");
  const { url } = JSON.parse(Deno.readTextFileSync(`${path}.upload`));
  assert(!server.isComplete(url));
  return url;
}

/** Runs to the end, and checks that the server has the file as it is now. */
async function complete(
  server: TusServer,
  path: string,
): Promise<{ url: string; stdout: string }> {
  await using child = start([server.url, path]);
  const { code, stdout, stderr } = await child.outcome;
  assertEquals([code, stderr], [0, ""]);
  const [, url] = stdout.match(/\d+ bytes are at (.*)\n$/)!;
  assert(server.isComplete(url!));
  assertEquals(sha256(server.read(url!)), sha256(Deno.readFileSync(path)));
  return { url: url!, stdout };
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
    const { url } = JSON.parse(Deno.readTextFileSync(`${path}.upload`));
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

Deno.test(
  "resumable.ts starts a new upload when the earlier one no longer exists",
  UNIX,
  async () => {
    await using server = await startTusServer();
    await using folder = await temporary();
    const path = folder.file("backup.tar");
    Deno.writeFileSync(path, new Uint8Array(SIZE).fill(1));
    const earlier = await interrupt(server, path);
    await (await fetch(earlier, {
      method: "DELETE",
      headers: { "Tus-Resumable": "1.0.0" },
    })).body?.cancel();
    const { url, stdout } = await complete(server, path);
    assertMatch(stdout, /^The earlier upload no longer exists; starting a new/);
    assert(url !== earlier);
  },
);

/** Replaces a file by another with the same modification time. */
function replace(path: string, bytes: Uint8Array): void {
  const { atime, mtime } = Deno.statSync(path);
  Deno.writeFileSync(path, bytes);
  Deno.utimeSync(path, atime!, mtime!);
}

const CHANGES: Record<string, (path: string) => void> = {
  "replaced by another of the same size and time": (path) =>
    replace(path, new Uint8Array(SIZE).fill(2)),
  "replaced by a longer one of the same time and beginning": (path) =>
    replace(path, new Uint8Array(SIZE + 1).fill(1)),
  "replaced by a shorter one": (path) =>
    replace(path, new Uint8Array(10).fill(1)),
  "replaced by one of the same size and beginning": (path) => {
    const other = new Uint8Array(SIZE).fill(1);
    other.fill(2, SIZE / 2);
    Deno.writeFileSync(path, other);
    Deno.utimeSync(path, 0, 1);
  },
  "emptied": (path) => Deno.truncateSync(path),
  "touched": (path) => Deno.utimeSync(path, 0, 1),
};

for (const [how, change] of Object.entries(CHANGES)) {
  Deno.test(
    `resumable.ts starts a new upload of a file that was ${how}`,
    UNIX,
    async () => {
      await using server = await startTusServer();
      await using folder = await temporary();
      const path = folder.file("backup.tar");
      Deno.writeFileSync(path, new Uint8Array(SIZE).fill(1));
      const earlier = await interrupt(server, path);
      change(path);
      const { url, stdout } = await complete(server, path);
      assertMatch(stdout, REPLACED);
      assert(url !== earlier);
      assert(!server.isComplete(earlier));
    },
  );
}

Deno.test("resumable.ts resumes however often it is killed", UNIX, async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar");
  Deno.writeFileSync(path, new Uint8Array(SIZE).fill(1));
  const urls = [];
  for (let i = 0; i < 3; i++) urls.push(await interrupt(server, path));
  const { url, stdout } = await complete(server, path);
  urls.push(url);
  assertMatch(stdout, RESUMED);
  assertEquals(new Set(urls).size, 1);
});

const STATES: Record<string, string> = {
  "half of one": '{"url":"http://127.0.0.1:9/files/1","size":',
  "empty": "",
  "only a URL, as in an earlier version": "http://127.0.0.1:9/files/1",
  "another form of JSON": '["http://127.0.0.1:9/files/1"]',
  "null": "null",
  "binary": "\0\xff\xfe",
};

for (const [what, state] of Object.entries(STATES)) {
  Deno.test(`resumable.ts starts a new upload when its state is ${what}`, async () => {
    await using server = await startTusServer();
    await using folder = await temporary();
    const path = folder.file("backup.tar", "a backup");
    folder.file("backup.tar.upload", state);
    const { stdout } = await complete(server, path);
    assertMatch(stdout, /does not describe an upload; starting a new one\n/);
    assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
  });
}

Deno.test("resumable.ts starts a new upload when its state has no identity of a file", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar", "a backup");
  folder.file("backup.tar.upload", '{"url":"http://127.0.0.1:9/files/1"}');
  assertMatch((await complete(server, path)).stdout, REPLACED);
});

/** Ends the process while it writes a state, half of which is on disk. */
function dieWhileWriting(): void {
  Deno.writeTextFile = (path, text) => {
    Deno.writeFileSync(path, new TextEncoder().encode(`${text}`.slice(0, 30)));
    Deno.exit(9);
  };
}

Deno.test("resumable.ts leaves the earlier state when it is killed while it writes one", async () => {
  await using server = await startTusServer();
  await using folder = await temporary();
  const path = folder.file("backup.tar", "a backup");
  const state = '{"url":"http://127.0.0.1:9/files/1"}';
  const stateFile = folder.file("backup.tar.upload", state);
  await using child = start([server.url, path], dieWhileWriting);
  assertEquals((await child.outcome).code, 9);
  assertEquals(Deno.readTextFileSync(stateFile), state);
  await complete(server, path);
  assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
});

Deno.test(
  "resumable.ts uploads a file although it cannot print",
  UNIX,
  async () => {
    await using server = await startTusServer();
    await using folder = await temporary();
    const path = folder.file("backup.tar", "a backup");
    folder.file("backup.tar.upload", "of another form");
    const permissions = ["-N=127.0.0.1", "-R", "-W"];
    await using child = run(
      [...permissions, EXAMPLE, server.url, path],
      "exec >/dev/full",
    );
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.uploads(), 1);
    assertEquals([...Deno.readDirSync(folder.file(""))].length, 1);
  },
);
