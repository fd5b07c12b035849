/**
 * A spool belongs to one process at a time, and outlives it. Each test starts
 * processes of its own.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import process from "node:process";
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";
import { inspectSpool, readSpool, Spool, SpoolError } from "../spool/mod.ts";
import { type Child, outcomeWithin, run } from "../testing/child.ts";
import { turns } from "../testing/event_loop.ts";
import { temporary } from "../testing/temporary.ts";

const SPOOL = JSON.stringify(import.meta.resolve("../spool/mod.ts"));
const CONFIG = fileURLToPath(import.meta.resolve("../deno.json"));

/** Starts a process that has `Spool` and so on, and the path of a file. */
function start(
  path: string,
  code: string,
  permissions: string[] = ["-A"],
): Child {
  const script = `
    import { inspectSpool, Spool, StreamBuffer } from ${SPOOL};
    const path = Deno.args[0];
    const away = () => Promise.reject(new Error("the server is away"));
    const readByte = () => Deno.stdin.read(new Uint8Array(1));
    ${code}`;
  const data = `data:text/javascript,${encodeURIComponent(script)}`;
  return run(["--config", CONFIG, ...permissions, data, path]);
}

/** Commits a text, says so, and stays. */
const HOLD = `
  const spool = new Spool(path, away, { drainTimeout: 0 });
  const out = new StreamBuffer(spool, { flushInterval: 0 });
  await out.write("one");
  await out.flush();
  console.log("committed");
  await readByte();
  await out.close();
  console.log("closed");`;

/** Says what opening the file does. */
const TRY = `
  try {
    const spool = new Spool(path, away, { drainTimeout: 0 });
    console.log("opened", spool.stats.bytesWaiting);
    await spool.close();
  } catch ({ code, message }) {
    console.log(code, message);
  }`;

function text(path: string): string {
  return [...readSpool(path)].map((bytes) => new TextDecoder().decode(bytes))
    .join("");
}

Deno.test("one process at a time: a second one is told who has it, and changes nothing", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using child = start(path, HOLD);
  await child.waitForOutput("committed");
  for (let i = 0; i < 3; i++) {
    const { code, message } = assertThrows(
      () => new Spool(path, () => {}),
      SpoolError,
    );
    assertEquals(code, "in-use");
    assertEquals(
      message,
      `Cannot open the spool ${path}: process ${child.pid} on ${hostname()} has it open; only one Spool at a time can use it`,
    );
    assertThrows(
      () => [...readSpool(path)],
      SpoolError,
      `process ${child.pid}`,
    );
  }
  const { owner, bytesWaiting } = inspectSpool(path);
  assertEquals([owner?.pid, owner?.host], [child.pid, hostname()]);
  // What it publishes, it does within a second; at first nothing waited.
  assert(bytesWaiting === 0 || bytesWaiting === 3);
  await child.write("x");
  await child.waitForOutput("closed");
  assertEquals(text(path), "one");
});

Deno.test("one process at a time: figures are published while it is open", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using child = start(
    path,
    `${HOLD.replace("await out.close();", 'await out.write("two");')}
     await out.flush();
     console.log("again");
     await readByte();`,
  );
  await child.waitForOutput("committed");
  // The process publishes within a second of any change.
  while (inspectSpool(path).bytesWaiting !== 3) await turns();
  await child.write("x");
  // Written in place, as a whole, each time.
  assertEquals(Deno.statSync(`${path}-owner`).size, 512);
  await child.waitForOutput("again");
  while (inspectSpool(path).bytesWaiting !== 6) await turns();
});

Deno.test("one process at a time: a killed one leaves no lock, and what it committed", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  for (let i = 1; i <= 3; i++) {
    await using child = start(path, HOLD);
    await child.waitForOutput("committed");
    child.kill("SIGKILL");
    await child.outcome;
    assertEquals(text(path), "one".repeat(i));
    assertEquals(inspectSpool(path).owner, undefined);
  }
});

Deno.test("one process at a time: a side file that a killed process has left does not say that it is in use", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const owner = { pid: 1, host: "elsewhere", updated: 0 };
  folder.file("app.spool-owner", JSON.stringify(owner));
  await using spool = new Spool(path, () => {});
  assertEquals(spool.stats.bytesWaiting, 0);
});

Deno.test("one process at a time: the same process twice, which keeps its lock", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using spool = new Spool(path, () => {});
  const link = folder.file("link.spool");
  Deno.symlinkSync(path, link);
  for (const name of [path, link, link, path]) {
    const { code, message } = assertThrows(
      () => new Spool(name, () => {}),
      SpoolError,
    );
    assertEquals(code, "in-use");
    assertStringIncludes(message, "this process has it open already");
    assertThrows(() => [...readSpool(name)], SpoolError);
    assertEquals(inspectSpool(name).owner?.pid, process.pid);
    await using child = start(path, TRY);
    const { stdout } = await child.outcome;
    assertMatch(stdout, new RegExp(`^in-use .*: process ${process.pid} `));
  }
  assertEquals(spool.ended, false);
});

Deno.test("one process at a time: a Worker of the same process, which does not drop its lock", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using _ = new Spool(path, () => {});
  const script = `
    import { inspectSpool, Spool } from ${SPOOL};
    self.onmessage = ({ data }) => {
      try {
        new Spool(data, () => {});
        self.postMessage("opened");
      } catch ({ code }) {
        self.postMessage(code + " " + inspectSpool(data).owner.pid);
      }
    };`;
  const worker = new Worker(
    `data:text/javascript,${encodeURIComponent(script)}`,
    { type: "module" },
  );
  const { promise, resolve } = Promise.withResolvers<unknown>();
  worker.onmessage = ({ data }) => resolve(data);
  worker.postMessage(path);
  assertEquals(await promise, `in-use ${process.pid}`);
  worker.terminate();
  await using child = start(path, TRY);
  const { stdout } = await child.outcome;
  assertMatch(stdout, new RegExp(`^in-use .*: process ${process.pid} `));
});

Deno.test("one process at a time: another host with the same process id is not this process", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  await using child = start(path, HOLD);
  await child.waitForOutput("committed");
  // As if it were in another container.
  const owner = { pid: process.pid, host: "elsewhere" };
  Deno.writeTextFileSync(`${path}-owner`, JSON.stringify(owner).padStart(512));
  assertThrows(
    () => new Spool(path, () => {}),
    SpoolError,
    `process ${process.pid} on elsewhere has it open`,
  );
});

Deno.test("exit: what was flushed survives Deno.exit() and an exception", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const endings = ["Deno.exit(3)", "throw new Error('oh')"];
  for (const [i, ending] of endings.entries()) {
    await using child = start(
      path,
      HOLD.replace("await readByte();", `${ending};`),
    );
    assert((await child.outcome).code > 0);
    assertEquals(text(path), "one".repeat(i + 1));
  }
});

Deno.test("a spool that is open and idle keeps no process alive", async () => {
  await using folder = await temporary();
  await using child = start(
    folder.file("app.spool"),
    `const spool = new Spool(path, () => {});
     const out = new StreamBuffer(spool, { flushInterval: 0 });
     await out.write("one");
     await out.flush();
     await spool.drained();
     console.log("idle");`,
  );
  const { code, stdout } = await child.outcome;
  assertEquals([code, stdout], [0, "idle\n"]);
});

// -- Permissions of the file system --

const isRoot = Deno.build.os === "linux" && Deno.uid() === 0;

/** Runs a process as a user who may do nothing, if root allows that. */
async function asNobody(path: string): Promise<string> {
  const { stdout, stderr } = await new Deno.Command("setpriv", {
    args: [
      ...["--reuid=65534", "--regid=65534", "--clear-groups"],
      ...[Deno.execPath(), "eval", "--config", CONFIG, "--no-lock"],
      `import { Spool } from ${SPOOL};
       try {
         new Spool(${JSON.stringify(path)}, () => {});
       } catch ({ name, code, message }) {
         console.log(name, code, message);
       }`,
    ],
    env: { NO_COLOR: "1", DENO_DIR: `${path}-deno`, HOME: "/" },
  }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

Deno.test(
  "a file or a folder that may not be written is refused, and says so",
  {
    ignore: !isRoot,
  },
  async () => {
    await using folder = await temporary();
    const path = folder.file("app.spool");
    const root = path.slice(0, path.lastIndexOf("/"));
    {
      await using spool = new Spool(path, () => {});
      assertEquals(spool.ended, false);
    }
    Deno.mkdirSync(`${path}-deno`);
    Deno.chownSync(`${path}-deno`, 65534, 65534);
    // The path of the library may be closed to others: nothing can be learned then.
    Deno.chmodSync(root, 0o755);
    const readOnlyFile = await asNobody(path);
    assertMatch(
      readOnlyFile,
      /^SpoolError io Cannot open the spool .*: (EACCES: )?[Pp]ermission denied/,
    );
    const readOnlyFolder = await asNobody(`${root}/new.spool`);
    assertMatch(
      readOnlyFolder,
      /^SpoolError io .*; its folder must exist and be writable/,
    );
    Deno.chmodSync(path, 0o666);
    const noSideFiles = await asNobody(path);
    assertMatch(noSideFiles, /^SpoolError io .*(writable|ermission denied)/);
  },
);

Deno.test("close() ends although the sender fails at once, again and again", async () => {
  await using folder = await temporary();
  for (const drainTimeout of [5, 100]) {
    await using child = start(
      folder.file("app.spool"),
      `const spool = new Spool(path, async () => { throw new Error("no"); }, {
        drainTimeout: ${drainTimeout},
      });
      const out = new StreamBuffer(spool);
      await out.write("one");
      await out.close();
      console.log("closed");`,
    );
    const { stdout } = await outcomeWithin(30_000, child);
    assertEquals(stdout, "closed\n");
  }
});
