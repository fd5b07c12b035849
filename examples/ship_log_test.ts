/**
 * `ship_log.ts` as a process with no more than its documented permissions: every
 * line arrives once, in order, in whatever process. What happens to files is the
 * subject of `spool/follow_test.ts`.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { type Child, preload, run } from "../testing/child.ts";
import {
  deduplicate,
  FaultyServer,
  held,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** Windows lacks these signals, and cannot rename a file that is open. */
const UNIX = { ignore: Deno.build.os === "windows" };
const EXAMPLE = fileURLToPath(import.meta.resolve("./ship_log.ts"));

/**
 * Starts the example, in which `script` runs first.
 *
 * @param path The log. The spool is beside it.
 * @param shell Commands for a shell, which then becomes the process.
 */
function start(
  server: FaultyServer,
  path: string,
  script: () => void = () => {},
  shell?: string,
): Child {
  const spool = `${path}.spool`;
  const permissions = [
    `-N=127.0.0.1:${server.port}`,
    `-R=${dirname(path)}`,
    `-W=${spool},${spool}-owner,${spool}-reserve`,
  ];
  return run(
    [...permissions, preload(script), EXAMPLE, server.url, path, spool],
    shell,
  );
}

function append(path: string, text: string): Promise<void> {
  return Deno.writeTextFile(path, text, { append: true });
}

/** Waits until the server has stored this text and no other. */
async function shipped(
  server: FaultyServer,
  child: Child,
  text: string,
): Promise<void> {
  const stored = () =>
    deduplicate(server.stored).map((body) => new TextDecoder().decode(body))
      .join("");
  await child.waitFor(
    server.waitFor("the text", () => stored().length >= text.length),
  );
  assertEquals(stored(), text);
}

Deno.test("ship_log.ts prints its usage if an argument is missing", async () => {
  for (const args of [[], ["http://127.0.0.1:9/", "app.log"]]) {
    await using child = run([EXAMPLE, ...args]);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [2, "usage: ship_log.ts URL FILE SPOOL\n"]);
  }
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(
    `ship_log.ts ships whole lines, across a rotation and a restart by ${signal}`,
    UNIX,
    async () => {
      await using server = new FaultyServer();
      await using folder = await temporary();
      const path = folder.file("app.log", "one\ntw");
      {
        await using child = start(server, path);
        await shipped(server, child, "one\n");
        await append(path, "o\n");
        await Deno.rename(path, `${path}.1`);
        await append(path, "three\n");
        await shipped(server, child, "one\ntwo\nthree\n");
        child.kill(signal);
        const { code, stderr } = await child.outcome;
        assertEquals([code, stderr], [0, ""]);
      }
      await append(path, "four\n");
      await Deno.rename(path, `${path}.2`);
      await append(path, "five\n");
      await using child = start(server, path);
      await shipped(server, child, "one\ntwo\nthree\nfour\nfive\n");
    },
  );
}

Deno.test(
  "ship_log.ts ships each line once although it is killed",
  UNIX,
  async () => {
    const { release, behaviour } = held();
    await using server = new FaultyServer([behaviour]);
    await using folder = await temporary();
    const path = folder.file("app.log", "one\n");
    {
      await using child = start(server, path);
      await child.waitFor(server.received(1));
      child.kill("SIGKILL");
      await child.outcome;
    }
    release();
    await append(path, "two\n");
    await using child = start(server, path);
    await shipped(server, child, "one\ntwo\n");
  },
);

Deno.test(
  "ship_log.ts ends during an outage, and ships the rest the next time",
  UNIX,
  async () => {
    await using server = new FaultyServer([], respond(503));
    await using folder = await temporary();
    const path = folder.file("app.log", "one\n");
    {
      await using child = start(server, path);
      await child.waitForOutput("503");
      child.kill("SIGTERM");
      const { code, stderr } = await child.outcome;
      assertEquals(code, 0);
      assertMatch(stderr, /503.*\n$/);
    }
    await using recovered = new FaultyServer();
    await using child = start(recovered, path);
    await shipped(recovered, child, "one\n");
  },
);

/** Fills the pipe that the program prints to, once it runs. */
function fillPipe(): void {
  const { addSignalListener } = Deno;
  Deno.addSignalListener = (...args) => {
    Deno.stderr.write(new Uint8Array(2 ** 20)).catch(() => {});
    addSignalListener(...args);
  };
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
      const path = folder.file("app.log", "one\n");
      const shell = redirect(folder.file("pipe"));
      await using child = start(server, path, fillPipe, shell);
      await shipped(server, child, "one\n");
      await append(path, "two\n");
      await shipped(server, child, "one\ntwo\n");
      child.kill("SIGINT");
      assertEquals((await child.outcome).code, 0);
    },
  );
}
