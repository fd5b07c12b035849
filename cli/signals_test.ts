import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import process from "node:process";
import {
  after,
  dropTimers,
  linesOf,
  logTimers,
  muteStderr,
  received,
  runLastLine,
  start,
  startRefusingTusServer,
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
import { fakeTime } from "../testing/fake_time.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import { stderr } from "./log.ts";
import { Interrupts, READ_GRACE, SEND_GRACE } from "./signals.ts";

/**
 * Replaces the signals of the process: a real one would also reach `deno test` itself. Each
 * of them counts once, as the same listener listens to all.
 */
function replaceSignals(): AsyncDisposable & {
  readonly listeners: Set<() => void>;
  interrupt(): void;
} {
  const { on, off } = process;
  const muted = muteStderr();
  const listeners = new Set<() => void>();
  Object.assign(process, {
    on: (_: string, listener: () => void) => void listeners.add(listener),
    off: (_: string, listener: () => void) => void listeners.delete(listener),
  });
  return {
    listeners,
    interrupt: () => listeners.forEach((listener) => listener()),
    async [Symbol.asyncDispose]() {
      Object.assign(process, { on, off });
      await stderr.end();
      muted[Symbol.dispose]();
    },
  };
}

/** Logs what interrupts do to a run. */
function logInterrupts(): { log: string[]; interrupts: Interrupts } {
  const log: string[] = [];
  const interrupts = new Interrupts({
    hurry: (deadline) =>
      log.push(`hurry for ${Math.round(deadline - performance.now())} ms`),
    stopReading: () => log.push("stop reading"),
    giveUp: () => log.push("give up"),
  });
  return { log, interrupts };
}

Deno.test("Interrupts stops reading after 100 ms and gives up after 5 s", async () => {
  using time = fakeTime();
  await using caught = replaceSignals();
  const { log, interrupts } = logInterrupts();
  using _ = interrupts;
  time.tick(10_000);
  assertEquals([log, interrupts.received], [[], false]);
  caught.interrupt();
  assertEquals(interrupts.received, true);
  time.tick(99);
  assertEquals(log, ["hurry for 5000 ms"]);
  time.tick(1);
  assertEquals(log.slice(1), ["stop reading"]);
  time.tick(4_899);
  assertEquals(log.slice(1), ["stop reading"]);
  time.tick(1);
  assertEquals(log.slice(1), ["stop reading", "give up"]);
});

Deno.test("Interrupts gives up at once when interrupted again", async () => {
  using time = fakeTime();
  await using caught = replaceSignals();
  const { log, interrupts } = logInterrupts();
  using _ = interrupts;
  caught.interrupt();
  time.tick(50);
  caught.interrupt();
  assertEquals(log.slice(1), ["give up"]);
});

Deno.test("Interrupts leaves no timer and no listener when disposed", async () => {
  using time = fakeTime();
  await using caught = replaceSignals();
  const { log, interrupts } = logInterrupts();
  caught.interrupt();
  assertEquals([caught.listeners.size, time.countTimers()], [1, 2]);
  interrupts[Symbol.dispose]();
  assertEquals([caught.listeners.size, time.countTimers()], [0, 0]);
  time.tick(10_000);
  assertEquals(log.slice(1), []);
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  const ignore = Deno.build.os === "windows";
  test(`cli sends what it has read on ${signal}, and counts it`, {
    ignore,
  }, async () => {
    await using server = new FaultyServer();
    await using running = start(
      [server.url, "--lines", "--interval", "10ms"],
      after(logTimers),
    );
    await running.write("one\ntwo");
    await running.waitFor(server.received(1));
    running.kill(signal);
    const { code, stdout, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertEquals(received(server), "one\ntwo");
    assertStringIncludes(stdout, `set ${SEND_GRACE}\nset ${READ_GRACE}\n`);
    // The sender has a timer of that length, too: all of them are cleared.
    const count = (line: string) => stdout.split(`${line}\n`).length - 1;
    assertEquals(count(`cleared ${SEND_GRACE}`), count(`set ${SEND_GRACE}`));
    assertStringIncludes(stderr, "interrupted: sending what was read");
    assertStringIncludes(stderr, "7 bytes acknowledged in 2 requests");
  });

  test(
    `cli saves what it has read on a second ${signal}`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const unsent = folder.file("unsent");
      await using server = new FaultyServer([respond(200)], never);
      await using running = start([
        ...["--lines", "--interval", "10ms", "--unsent", unsent],
        server.url,
      ], after(dropTimers, SEND_GRACE));
      await writeEach(running, server, "one\n", "two\nthree");
      running.kill(signal);
      await running.waitForOutput("interrupted");
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "4 bytes acknowledged in 1 request");
      assertEquals(Deno.readTextFileSync(unsent), "two\nthree");
      assertStringIncludes(stderr, `saving undelivered bytes to ${unsent}\n`);
    },
  );
}

test(
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
      await running.waitForOutput("interrupted");
      if (last === never) running.kill("SIGINT");
      const { code, stderr } = await running.outcome;
      assertEquals([code, received(server)], [1, "onetwo"]);
      const [bytes, requests] = last === never ? [3, 1] : [6, 2];
      assertStringIncludes(
        stderr,
        `${bytes} bytes acknowledged in ${requests} request`,
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
        test(
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
            // More than it reads ahead, so that it is interrupted while it reads.
            const writing = source === "a file"
              ? Promise.resolve()
              : running.write(text).catch(() => {});
            await running.waitFor(server.received(2));
            running.kill(signal);
            await running.waitForOutput("interrupted");
            release();
            // Another signal, as two of a kind may be merged into one.
            if (state !== "works") running.kill("SIGHUP");
            const { code, stderr } = await running.outcome;
            await writing;
            assertEquals(code, 1);
            const [, count] = stderr.match(/(\d+) bytes acknowledged/)!;
            const saved = await Deno.readTextFile(unsent).catch(() => "");
            const acknowledged = received(server).slice(0, Number(count));
            assertEquals(saved === "", state === "works", stderr);
            // No gap and no repetition, and at least two requests.
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
  test(
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
      await running.waitFor(server.received(2));
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

/** Makes the first delay before a retry as long as it may be: 30 s. */
function sleepLong(): void {
  const { random } = Math;
  Math.random = () => {
    Math.random = random;
    return 60;
  };
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  test(`cli sleeps through no chance to deliver after ${signal}`, {
    ignore: Deno.build.os === "windows",
  }, async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    // Back again some requests after the interrupt.
    await using server = new FaultyServer([respond(503), close, respond(503)]);
    await using running = start(
      ["--interval", "10ms", "--unsent", unsent, server.url],
      after(sleepLong),
    );
    await running.write("data");
    await running.waitForOutput("retrying");
    running.kill(signal);
    const { code, stderr } = await running.outcome;
    assertEquals(code, 1);
    assertEquals(server.bodies, ["data", "data", "data", "data"]);
    assertStringIncludes(stderr, "4 bytes acknowledged in 1 request\n");
    assertEquals([...Deno.readDirSync(folder.file(""))], []);
  });
}

test(
  "cli sends all that it has read when the server comes back after an interrupt",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    const text = linesOf(3_000_000);
    for (const lines of [[], ["--lines"]]) {
      await using server = new FaultyServer([respond(200), respond(503)]);
      await using running = start([
        ...["--capacity", "100K", "--unsent", unsent, ...lines, server.url],
      ], after(sleepLong));
      // More than it reads ahead: when the interrupt comes, no store has room.
      const writing = running.write(text).catch(() => {});
      await running.waitForOutput("retrying");
      running.kill("SIGTERM");
      const { code, stderr } = await running.outcome;
      await writing;
      assertEquals(code, 1);
      const [first, refused, ...others] = server.bodies;
      assertEquals(refused, others[0]);
      const accepted = [first, ...others].join("");
      assert(text.startsWith(accepted), "bytes are missing");
      assertStringIncludes(stderr, `${accepted.length} bytes acknowledged in `);
      assertEquals([...Deno.readDirSync(folder.file(""))], []);
    }
  },
);

test(
  "cli does not wait after an interrupt when the server wants longer than that",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using folder = await temporary();
    const unsent = folder.file("unsent");
    await using server = new FaultyServer(
      [],
      respond(503, { "retry-after": "60" }),
    );
    await using running = start([
      ...["--retry-for", "forever", "--interval", "10ms", "--unsent", unsent],
      server.url,
    ]);
    await running.write("data");
    await running.waitForOutput("retrying");
    running.kill("SIGTERM");
    const { code, stderr } = await running.outcome;
    assertEquals([code, server.bodies], [1, ["data"]]);
    assertEquals(Deno.readTextFileSync(unsent), "data");
    // The reason of the failure, and not that it was interrupted.
    assertMatch(
      stderr,
      /\nstream-buffer: Cannot deliver 4 bytes .* asks to wait 60 s/,
    );
  },
);

test("cli gives up 5 seconds after an interrupt, and saves what is left", {
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
    test(`cli ${mode} does not complete the object after ${signal}`, {
      ignore: Deno.build.os === "windows",
    }, async () => {
      const text = "half an object";
      const arrived = Promise.withResolvers<void>();
      const ended = Promise.withResolvers<void>();
      await using faulty = new FaultyServer([async (exchange) => {
        await exchange.read(text.length);
        arrived.resolve();
        try {
          await exchange.receive();
        } finally {
          ended.resolve();
        }
      }]);
      await using tus = await startRefusingTusServer();
      const [url, event] = mode === "--upload"
        ? [faulty.url, arrived.promise]
        : [tus.url, tus.appended];
      await using running = start([mode, "--interval", "1ms", url]);
      await running.write(text);
      await running.waitFor(event);
      running.kill(signal);
      const { code, stderr } = await running.outcome;
      assertEquals(code, 1);
      assertStringIncludes(stderr, "\nstream-buffer: the upload is incompl");
      if (mode === "--upload") {
        await ended.promise;
        assertEquals(faulty.requests.length, 0);
        return;
      }
      const half = uploaded(tus.server, stderr);
      assertEquals([half.text, half.isComplete], [text, false]);
      const again = await runLastLine(stderr, `${text}, and the rest`);
      assertEquals(again, { code: 0, stderr: "" });
      assertEquals(
        uploaded(tus.server, stderr).text,
        `${text}, and the rest`,
      );
    });
  }
}
