import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { setTimeout as sleep } from "node:timers/promises";
import { startCommand as start } from "../testing/child.ts";
import {
  after,
  linesOf,
  obey,
  received,
  stopTheClock,
  tellTimers,
  tusServer,
  uploaded,
  writeEach,
} from "../testing/command.ts";
import {
  close,
  FaultyServer,
  held,
  never,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  const ignore = Deno.build.os === "windows";
  Deno.test(`cli sends what it has read on ${signal}, and counts it`, {
    ignore,
  }, async () => {
    await using server = new FaultyServer();
    await using running = start(
      [server.url, "--lines", "--interval", "10ms"],
      after(tellTimers),
    );
    await running.write("one\ntwo");
    await running.until(server.received(1));
    running.kill(signal);
    const { code, stdout, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertEquals(received(server), "one\ntwo");
    // What it was granted: for all, and for a read that was under way.
    assertStringIncludes(stdout, "set 5000\nset 100\n");
    // The sender has one of 5 seconds, too.
    const [set, cleared] = [/set 5000/g, /cleared 5000/g]
      .map((pattern) => stdout.match(pattern)?.length);
    assertEquals(cleared, set);
    assertStringIncludes(stderr, "interrupted: sending what was read");
    assertStringIncludes(stderr, "7 bytes acknowledged in 2 requests");
  });

  Deno.test(
    `cli saves what it has read on a second ${signal}`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const unsent = folder.file("unsent");
      await using server = new FaultyServer([respond(200)], never);
      await using running = start([
        ...["--lines", "--interval", "10ms", "--unsent", unsent],
        server.url,
      ], after(stopTheClock));
      await writeEach(running, server, "one\n", "two\nthree");
      running.kill(signal);
      await running.said("interrupted");
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "4 bytes acknowledged in 1 requests");
      assertEquals(Deno.readTextFileSync(unsent), "two\nthree");
      assertStringIncludes(stderr, `saving undelivered bytes to ${unsent}\n`);
    },
  );
}

Deno.test(
  "cli without --lines sends what it has read on SIGINT, or saves it",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    for (const last of [respond(200), never]) {
      await using server = new FaultyServer([respond(200)], last);
      await using running = start([
        ...["--interval", "10ms", "--unsent", unsent],
        server.url,
      ]);
      await writeEach(running, server, "one", "two");
      running.kill("SIGINT");
      await running.said("interrupted");
      if (last === never) running.kill("SIGINT");
      const { code, stderr } = await running.outcome;
      assertEquals([code, received(server)], [1, "onetwo"]);
      const [bytes, requests] = last === never ? [3, 1] : [6, 2];
      assertStringIncludes(
        stderr,
        `${bytes} bytes acknowledged in ${requests} requests`,
      );
    }
    assertEquals(Deno.readTextFileSync(unsent), "two");
  },
);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  for (const source of ["a file", "standard input"]) {
    for (const lines of [false, true]) {
      for (
        const [state, last] of [
          ["works", respond(200)],
          ["is down", close],
          ["stalls", never],
        ] as const
      ) {
        Deno.test(
          `cli loses nothing on ${signal}, from ${source}${
            lines ? " with --lines" : ""
          }, while the server ${state}`,
          {
            ignore: Deno.build.os === "windows",
          },
          async () => {
            await using folder = await temporary();
            const unsent = folder.file("unsent");
            const text = linesOf(3_000_000);
            const { release, behaviour } = held(last);
            await using server = new FaultyServer(
              [respond(200), behaviour],
              last,
            );
            await using running = start([
              ...["--capacity", "100K", "--unsent", unsent],
              ...lines ? ["--lines"] : [],
              ...[
                server.url,
                source === "a file" ? folder.file("input", text) : "-",
              ],
            ]);
            // More than it reads ahead: it ends in the midst of it.
            const writing = source === "a file"
              ? Promise.resolve()
              : running.write(text).catch(() => {});
            await running.until(server.received(2));
            running.kill(signal);
            await running.said("interrupted");
            release();
            // Another one: two of a kind may arrive as one.
            if (state !== "works") running.kill("SIGHUP");
            const { code, stderr } = await running.outcome;
            await writing;
            assertEquals(code, 1);
            const [, count] = stderr.match(/(\d+) bytes acknowledged/)!;
            const saved = await Deno.readTextFile(unsent).catch(() => "");
            const acknowledged = received(server).slice(0, Number(count));
            assertEquals(saved === "", state === "works", stderr);
            // No gap, and nothing twice; and two requests at least.
            const whole = acknowledged + saved;
            assert(text.startsWith(whole), "bytes are missing");
            assert(whole.length > 200_000, `only ${whole.length} bytes`);
          },
        );
      }
    }
  }
}

for (const lines of [false, true]) {
  Deno.test(
    `cli leaves no gap when a second signal follows at once, while data arrives${
      lines ? " with --lines" : ""
    }`,
    {
      ignore: Deno.build.os === "windows",
    },
    async () => {
      await using folder = await temporary();
      const unsent = folder.file("unsent");
      const text = linesOf(2_000_000);
      await using server = new FaultyServer([respond(200)], never);
      await using running = start([
        ...["--capacity", "1M", "--interval", "1ms", "--unsent", unsent],
        ...lines ? ["--lines"] : [],
        server.url,
      ]);
      const feeding = (async () => {
        for (let at = 0; at < text.length; at += 50) {
          const piece = text.slice(at, at + 50);
          await running.write(piece);
        }
      })().catch(() => {});
      await running.until(server.received(2));
      running.kill("SIGINT");
      running.kill("SIGTERM");
      const { code, stderr } = await running.outcome;
      await feeding;
      assertEquals(code, 1);
      const [, count] = stderr.match(/(\d+) bytes acknowledged/)!;
      const saved = Deno.readTextFileSync(unsent);
      const whole = received(server).slice(0, Number(count)) + saved;
      assert(text.startsWith(whole), "there is a gap");
    },
  );
}

Deno.test("cli gives up 5 seconds after an interrupt, and saves what is left", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using folder = await temporary();
  const unsent = folder.file("unsent");
  await using server = new FaultyServer([respond(200)], never);
  await using running = start([
    ...["--interval", "10ms", "--unsent", unsent],
    server.url,
  ]);
  await writeEach(running, server, "one", "two");
  running.kill("SIGINT");
  const { code } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "two"]);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  for (const mode of ["--upload", "--tus"]) {
    Deno.test(`cli ${mode} does not complete the object after ${signal}`, {
      ignore: Deno.build.os === "windows",
    }, async () => {
      await using faulty = new FaultyServer();
      await using tus = await tusServer();
      const url = mode === "--upload" ? faulty.url : tus.url;
      await using running = start([mode, "--interval", "1ms", url]);
      await running.write("half an object");
      if (mode === "--upload") {
        while (faulty.connections === 0) await sleep(5);
      } else await running.said("the upload is at");
      await sleep(50);
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "\nstream-buffer: the object is incompl");
      if (mode === "--upload") {
        while (faulty.broken.length === 0) await sleep(1);
        assertEquals(faulty.requests.length, 0);
        return;
      }
      const { text, isComplete } = uploaded(tus.server, stderr);
      assertEquals([text, isComplete], ["half an object", false]);
      const again = await obey(stderr, "half an object, and the rest");
      assertEquals(again, { code: 0, stderr: "" });
      assertEquals(
        uploaded(tus.server, stderr).text,
        "half an object, and the rest",
      );
    });
  }
}
