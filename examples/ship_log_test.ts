/**
 * `ship_log.ts` as a process with no more than its documented permissions: every
 * line that it can read arrives once, in order, and as a line of its own.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";
import { type Child, preload, run } from "../testing/child.ts";
import { FaultyServer, held, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** Windows lacks these signals, and cannot rename a file that is open. */
const UNIX = { ignore: Deno.build.os === "windows" };
const EXAMPLE = fileURLToPath(import.meta.resolve("./ship_log.ts"));

/**
 * Starts the example, in which `script` runs first.
 *
 * @param shell Commands for a shell, which then becomes the process.
 */
function start(
  args: string[],
  script: () => void = () => {},
  shell?: string,
): Child {
  const permissions = ["-N=127.0.0.1", "-R"];
  return run([...permissions, preload(script), EXAMPLE, ...args], shell);
}

function append(path: string, text: string): Promise<void> {
  return Deno.writeTextFile(path, text, { append: true });
}

/** Numbered lines. */
function numbered(count: number, name = "line"): string {
  return Array.from({ length: count }, (_, i) => `${name} ${i}\n`).join("");
}

/** Waits until the server has stored this text and no other. */
async function shipped(
  server: FaultyServer,
  child: Child,
  text: string,
): Promise<void> {
  const last = text.slice(text.lastIndexOf("\n", text.length - 2) + 1);
  const stored = () =>
    server.stored.map(({ body }) => new TextDecoder().decode(body)).join("");
  await child.waitFor(server.waitFor(last, () => stored().endsWith(last)));
  assert(stored() === text, "other lines than were logged");
}

Deno.test("ship_log.ts prints its usage without a URL or a file", async () => {
  for (const args of [[], ["http://127.0.0.1:9/"]]) {
    await using child = start(args);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [2, "usage: ship_log.ts URL FILE\n"]);
  }
});

/** Prints a line when the program finds a file missing. */
function reportMissing(): void {
  const { stat } = Deno;
  Deno.stat = (path) =>
    stat(path).catch((error) => {
      console.log("the file is missing");
      throw error;
    });
}

Deno.test(
  "ship_log.ts ships what is appended, in whole lines and across a rotation",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "old\n");
    const bodies = ["one\n", "two\nthree\n", "new\n", "another one\n", "end"];
    await using child = start([server.url, path], reportMissing);
    const received = (count: number) => child.waitFor(server.received(count));
    await child.waitForOutput(`Shipping what is appended to ${path}`);
    await append(path, "one\ntw");
    await received(1);
    await append(path, "o\nthree\n");
    await received(2);
    await Deno.writeTextFile(path, "new\n");
    await received(3);
    // Renamed, and after a while replaced by a longer file.
    await Deno.rename(path, `${path}.1`);
    await child.waitForOutput("the file is missing");
    await Deno.writeTextFile(path, "another one\nend");
    await received(4);
    child.kill("SIGINT");
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.bodies, bodies);
  },
);

Deno.test("ship_log.ts retries, and ships everything once", UNIX, async () => {
  const refuse = respond(400, {}, "no");
  await using server = new FaultyServer([
    ...[refuse, respond(200)],
    ...[refuse, refuse, refuse],
  ]);
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  await using child = start([server.url, path]);
  await child.waitForOutput("Shipping");
  await append(path, "one\n");
  await child.waitForOutput('400: "no"; retrying');
  await child.waitFor(server.received(2));
  // More than two buffers hold, so that writes are rejected while sends fail.
  const numbers = Array.from({ length: 120_000 }, (_, i) => `${i}\n`).join("");
  const text = `${numbers}the end\n`;
  await append(path, text);
  for (let i = 5; !server.bodies.at(-1)!.endsWith("the end\n"); i++) {
    await child.waitFor(server.received(i));
  }
  child.kill("SIGTERM");
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies.slice(0, 2), ["one\n", "one\n"]);
  assert(
    server.bodies.slice(5).join("") === text,
    "other bytes than were appended",
  );
});

Deno.test("ship_log.ts ships a line that is larger than the buffer once", async () => {
  await using server = new FaultyServer([respond(400)]);
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  const line = "x".repeat(300_000) + "\n";
  await using child = start([server.url, path]);
  await child.waitForOutput("Shipping");
  await append(path, line);
  await child.waitFor(server.received(2));
  await append(path, "end\n");
  await child.waitFor(server.received(3));
  assert(server.bodies.join("") === `${line}${line}end\n`);
});

/** What two buffers of the default capacity hold, in bytes. */
const TWO_BUFFERS = 2 * 262_144;

/**
 * Prints a line for each file that the program opens, for each size that it sees,
 * and when it has read more than two buffers hold: the next write has to wait.
 */
function reportFiles(): void {
  const { open, stat, FsFile: { prototype } } = Deno;
  const { read } = prototype;
  let count = 0;
  let sum = 0;
  Deno.open = async (...args) => {
    const file = await open(...args);
    console.log(`opened file ${++count}.`);
    return file;
  };
  Deno.stat = async (path) => {
    const info = await stat(path);
    console.log(`it has ${info.size} bytes.`);
    return info;
  };
  prototype.read = async function (target) {
    const size = await read.call(this, target);
    sum += size ?? 0;
    if (sum > 2 * 262_144) console.log("both buffers are full");
    return size;
  };
}

/**
 * A program that logs numbered lines all the time. For each byte of its input it
 * keeps writing to the file that it has open for longer than a quiet one is kept, and
 * then opens the path again. At the end of its input it prints how many lines
 * there were.
 */
async function logger(): Promise<void> {
  const [path] = Deno.args as [string];
  const open = () => Deno.openSync(path, { append: true, create: true });
  let [file, files, count, until, ended] = [open(), 1, 0, Infinity, false];
  const readInput = async () => {
    while (await Deno.stdin.read(new Uint8Array(1)) !== null) {
      until = performance.now() + 2_500;
    }
    ended = true;
  };
  void readInput();
  while (!ended) {
    file.writeSync(new TextEncoder().encode(`line ${count++}\n`));
    if (performance.now() > until) {
      file.close();
      file = open();
      until = Infinity;
      console.log(`logs to file ${++files}.`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  console.log(`${count} lines`);
}

Deno.test(
  "ship_log.ts ships all lines of a program that goes on in the old file",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path]);
    await child.waitForOutput("Shipping");
    const code = encodeURIComponent(`await (${logger})()`);
    const script = `data:text/javascript,${code}`;
    await using writer = run(["-R", "-W", script, path]);
    for (let rotation = 1; rotation <= 2; rotation++) {
      await Deno.rename(path, `${path}.${rotation}`);
      await Deno.writeTextFile(path, ""); // as logrotate does with `create`
      await writer.write("x");
      await writer.waitForOutput(`logs to file ${rotation + 1}.`);
    }
    await writer.end();
    const { stdout } = await writer.outcome;
    const [, count] = stdout.match(/(\d+) lines/)!;
    await shipped(server, child, numbered(Number(count)));
  },
);

Deno.test(
  "ship_log.ts ships all files of many rotations in a row, even during an outage",
  UNIX,
  async () => {
    const { release, behaviour } = held();
    await using server = new FaultyServer([behaviour]);
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path], reportFiles);
    await child.waitForOutput("Shipping");
    // More than two buffers hold, so that no more is read before the release.
    let text = numbered(100_000);
    await append(path, text);
    for (let rotation = 1; rotation <= 10; rotation++) {
      await Deno.rename(path, `${path}.${rotation}`);
      await append(path, `file ${rotation}\n`);
      text += `file ${rotation}\n`;
      await child.waitForOutput(`opened file ${rotation + 1}.`);
      await Deno.remove(`${path}.${rotation}`);
    }
    release();
    await shipped(server, child, text);
  },
);

Deno.test(
  "ship_log.ts ends half a line of the old file before it begins the new one",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path], reportFiles);
    await child.waitForOutput("Shipping");
    await append(path, "one\nha");
    await Deno.rename(path, `${path}.1`);
    await append(path, "new\n");
    await child.waitForOutput("opened file 2.");
    await append(`${path}.1`, "l");
    await shipped(server, child, "one\nhal\nnew\n");
  },
);

Deno.test(
  "ship_log.ts waits for a file that is missing or cannot be read",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log");
    await using child = start([server.url, path]);
    await child.waitForOutput("Waiting: No such file");
    await append(path, "one\n");
    await shipped(server, child, "one\n");
    await Deno.rename(path, `${path}.1`);
    await Deno.mkdir(path);
    await child.waitForOutput("is not a file");
    await append(`${path}.1`, "two\n");
    await shipped(server, child, "one\ntwo\n");
    await Deno.remove(path);
    await Deno.symlink("target", path);
    await append(folder.file("target"), "three\n");
    await shipped(server, child, "one\ntwo\nthree\n");
  },
);

Deno.test(
  "ship_log.ts keeps what it has read of a file that is truncated",
  UNIX,
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path]);
    await child.waitForOutput("Shipping");
    await append(path, "one\nhalf of two");
    await child.waitFor(server.received(1));
    await Deno.truncate(path);
    await append(path, "new\n");
    await shipped(server, child, "one\nhalf of two\nnew\n");
  },
);

Deno.test(
  "ship_log.ts recognises a truncation during an outage, even if more follows than was read",
  UNIX,
  async () => {
    const { release, behaviour } = held();
    await using server = new FaultyServer([behaviour]);
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path], reportFiles);
    await child.waitForOutput("Shipping");
    const old = numbered(100_000);
    await append(path, old);
    await child.waitForOutput(`it has ${old.length} bytes.`);
    await child.waitForOutput("both buffers are full");
    // Shorter than before, and longer than all that two buffers hold.
    const text = numbered(60_000, "new line");
    await Deno.writeTextFile(path, text);
    await child.waitForOutput("opened file 2.");
    release();
    const stored = () =>
      server.stored.map(({ body }) => new TextDecoder().decode(body)).join("");
    await child.waitFor(
      server.waitFor("the last line", () => stored().endsWith("59999\n")),
    );
    assert(stored().endsWith(`\n${text}`), "lines after the truncation");
    const before = stored().slice(0, -text.length - 1);
    assert(before !== "" && old.startsWith(before), "lines before it");
  },
);

Deno.test(
  "ship_log.ts delivers what it has read when it is interrupted during an outage",
  UNIX,
  async () => {
    const { release, behaviour } = held();
    await using server = new FaultyServer([behaviour]);
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path], reportFiles);
    await child.waitForOutput("Shipping");
    const text = numbered(100_000);
    await append(path, text);
    await child.waitForOutput("both buffers are full");
    child.kill("SIGTERM");
    release();
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    const stored = server.bodies.join("");
    assert(stored.length > TWO_BUFFERS && text.startsWith(stored));
  },
);

/** Makes `closeTimeout` pass at once. */
function closeSoon(): void {
  const { setTimeout } = globalThis;
  Object.assign(globalThis, {
    setTimeout: (callback: () => void, ms: number) =>
      setTimeout(callback, ms === 30_000 ? 0 : ms),
  });
}

Deno.test(
  "ship_log.ts reports that it could not deliver what it had read",
  UNIX,
  async () => {
    await using server = new FaultyServer([], respond(503));
    await using folder = await temporary();
    const path = folder.file("app.log", "");
    await using child = start([server.url, path], closeSoon);
    await child.waitForOutput("Shipping");
    await append(path, numbered(100_000));
    await child.waitForOutput("retrying");
    child.kill("SIGINT");
    const { code, stderr } = await child.outcome;
    assertEquals(code, 1);
    assertMatch(stderr, /FlushError: .*closeTimeout.*\n$/);
  },
);

/**
 * When the program finds its file missing, fills the pipe that it prints to, and
 * creates the file.
 */
function createFileAndFillPipe(): void {
  const { stat } = Deno;
  Deno.stat = (path) =>
    stat(path).catch((error) => {
      Deno.stderr.write(new Uint8Array(2 ** 20)).catch(() => {});
      Deno.writeTextFileSync(path, "one\n");
      throw error;
    });
}

const OUTPUTS: Record<string, (pipe: string) => string> = {
  "a full disk": () => "exec >/dev/full 2>&1",
  "a closed pipe": (pipe) =>
    `mkfifo ${pipe}; exec 3<>${pipe} >${pipe} 2>&1 3<&-`,
  "a pipe that nobody reads": (pipe) =>
    `mkfifo ${pipe}; exec 3<>${pipe} >${pipe} 2>&1`,
};

for (const [name, redirect] of Object.entries(OUTPUTS)) {
  Deno.test(
    `ship_log.ts ships although it prints to ${name}`,
    UNIX,
    async () => {
      await using server = new FaultyServer([respond(503), respond(400)]);
      await using folder = await temporary();
      const path = folder.file("app.log");
      const permissions = ["-N=127.0.0.1", "-R", "-W"];
      await using child = run(
        [
          ...permissions,
          preload(createFileAndFillPipe),
          EXAMPLE,
          server.url,
          path,
        ],
        redirect(folder.file("pipe")),
      );
      await shipped(server, child, "one\n");
      await append(path, "two\n");
      await shipped(server, child, "one\ntwo\n");
      child.kill("SIGINT");
      assertEquals((await child.outcome).code, 0);
    },
  );
}
