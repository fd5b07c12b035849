/**
 * What a process loses when it ends, and what it does not, in every way it can
 * end. Each test runs a script in its own process, against a server in the test.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { equals } from "@std/bytes";
import { receiver } from "../examples/receiver.ts";
import { type Child, type Scope, start } from "../testing/child.ts";
import {
  close,
  FaultyServer,
  held,
  never,
  respond,
} from "../testing/faulty_server.ts";

/** Windows has no such signals: a process is terminated without notice. */
const NO_SIGNALS = Deno.build.os === "windows";

// -- The end of the script --

for (
  const [how, script] of [
    ["with `await using`", async ({ streamTo, url }: Scope) => {
      await using out = streamTo(url, { flushInterval: 0 });
      await out.write("data");
    }],
    ["with close()", async ({ streamTo, url }: Scope) => {
      const out = streamTo(url, { flushInterval: 0 });
      await out.write("data");
      await out.close();
    }],
    ["without close()", async ({ streamTo, url }: Scope) => {
      const out = streamTo(url, { flushInterval: 20 });
      await out.write("data");
    }],
    ["without awaiting anything", ({ streamTo, url }: Scope) => {
      streamTo(url, { flushInterval: 20 }).write("data");
    }],
  ] as const
) {
  Deno.test(`a script that ends ${how} sends what it wrote`, async () => {
    await using server = new FaultyServer();
    await using child = start(server.url, script);
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.bodies, ["data"]);
  });
}

Deno.test("a script that ends with flushInterval: 0 and without close() loses what did not fill the store", async () => {
  await using server = new FaultyServer();
  await using child = start(server.url, async ({ streamTo, url }) => {
    const out = streamTo(url, { capacity: 4, flushInterval: 0 });
    await out.write("full");
    await out.write("rest");
    await out.write("lost");
    await out.write("too");
  });
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies, ["full", "rest", "lost"]);
});

Deno.test("a script that ends during a send waits for it, and sends later writes", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([close, behaviour]);
  await using child = start(server.url, async ({ streamTo, url }) => {
    const retry = { initialDelay: 1 };
    const out = streamTo(url, { capacity: 4, flushInterval: 20, retry });
    await out.write("full");
    await out.write("abc");
    console.log("the end");
  });
  await child.waitFor(server.received(2));
  await child.waitForOutput("the end");
  release();
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies, ["full", "full", "abc"]);
});

Deno.test("a script that ends while writes wait for room sends them all", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using child = start(server.url, ({ streamTo, url }) => {
    const out = streamTo(url, { capacity: 4, flushInterval: 20 });
    for (const text of ["one.", "two.", "six.", "ten.", "end"]) {
      void out.write(text);
    }
    console.log(`${out.stats.bytesQueued} bytes wait`);
  });
  await child.waitFor(server.received(1));
  await child.waitForOutput("11 bytes wait");
  release();
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies, ["one.", "two.", "six.", "ten.", "end"]);
});

Deno.test("a script that ends without close() while the server is down keeps retrying", async () => {
  const { release, behaviour } = held();
  const script = [close, close, respond(503), behaviour];
  await using server = new FaultyServer(script);
  await using child = start(server.url, async ({ streamTo, url }) => {
    const retry = { maxElapsed: 0 }; // so that each attempt is a send that fails
    const onError = ({ message }: Error) => console.log(message);
    const out = streamTo(url, { flushInterval: 10, retry, onError });
    await out.write("data");
    console.log("the end");
  });
  await child.waitForOutput("the end");
  await child.waitFor(server.received(4));
  release();
  const { code, stdout } = await child.outcome;
  assertEquals(code, 0);
  assertEquals(
    stdout.split("\n").filter((line) => line.includes("Cannot deliver")).length,
    3,
  );
  assertEquals(server.bodies, ["data", "data", "data", "data"]);
});

// -- An exception in an `await using` block --

Deno.test("an exception in an `await using` block does not prevent the rest from being sent", async () => {
  const { release, behaviour } = held();
  await using server = new FaultyServer([behaviour]);
  await using child = start(server.url, async ({ streamTo, url }) => {
    await using out = streamTo(url, { capacity: 4, flushInterval: 0 });
    for (const text of ["one.", "two.", "six.", "end"]) void out.write(text);
    console.log("throwing");
    throw new Error("a mistake");
  });
  await child.waitForOutput("throwing");
  await child.waitFor(server.received(1));
  release();
  const { code, stderr } = await child.outcome;
  assertEquals(code, 1);
  assertStringIncludes(stderr, "a mistake");
  assertEquals(server.bodies, ["one.", "two.", "six.", "end"]);
});

Deno.test("an exception in an `await using` block does not hide that bytes were lost", async () => {
  await using server = new FaultyServer([], close);
  await using child = start(server.url, async ({ streamTo, url }) => {
    addEventListener("unhandledrejection", ({ reason }) => {
      console.log(`${reason.suppressed}, ${reason.error}`);
    });
    await using out = streamTo(url, { retry: { maxElapsed: 0 } });
    await out.write("data");
    throw new Error("a mistake");
  });
  const { code, stdout, stderr } = await child.outcome;
  assertEquals(code, 1);
  // Deno prints neither of the two errors.
  assertStringIncludes(stderr, "SuppressedError");
  assertStringIncludes(stdout, "Error: a mistake, FlushError: Cannot deliver");
});

// -- Ends that do not wait --

/** Leaves one send acknowledged, one in flight, a full store and queued writes. */
async function fillUp({ streamTo, url, readByte }: Scope): Promise<void> {
  const out = streamTo(url, { capacity: 4, flushInterval: 0 });
  await out.write("one.");
  await out.flush();
  for (const text of ["two.", "six.", "ten."]) void out.write(text);
  console.log("ready");
  await readByte();
}

/** Runs `fillUp`, and then `end`. */
function fillUpAnd(end: () => unknown): (scope: Scope) => unknown {
  // As text, because that is how it reaches the process.
  const text =
    `async (scope) => { await (${fillUp})(scope); await (${end})(); await scope.readByte(); }`;
  return { toString: () => text } as (scope: Scope) => unknown;
}

async function isFilledUp(child: Child, server: FaultyServer) {
  await child.waitForOutput("ready");
  await child.waitFor(server.received(2));
}

for (
  const [how, expected, end] of [
    ["an uncaught exception", 1, () => {
      throw new Error("a mistake");
    }],
    ["an uncaught exception in a callback", 1, () => {
      setTimeout(() => {
        throw new Error("a mistake");
      });
    }],
    ["an unhandled rejection", 1, () => {
      void Promise.reject(new Error("a mistake"));
    }],
    ["Deno.exit()", 3, () => Deno.exit(3)],
  ] as const
) {
  Deno.test(`${how} loses what was not acknowledged, and nothing else`, async () => {
    await using server = new FaultyServer([respond(200)], never);
    await using child = start(server.url, fillUpAnd(end));
    await isFilledUp(child, server);
    await child.write("x");
    const { code, stderr } = await child.outcome;
    assertEquals(code, expected);
    if (code === 1) assertStringIncludes(stderr, "Error: a mistake");
    assertEquals(server.bodies, ["one.", "two."]);
  });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"] as const) {
  Deno.test(`${signal} loses what was not acknowledged, and nothing else`, {
    ignore: NO_SIGNALS,
  }, async () => {
    await using server = new FaultyServer([respond(200)], never);
    await using child = start(server.url, fillUp);
    await isFilledUp(child, server);
    child.kill(signal);
    assertEquals((await child.outcome).signal, signal);
    assertEquals(server.bodies, ["one.", "two."]);
  });
}

Deno.test("Deno.exit() in an `await using` block does not dispose of the buffer", async () => {
  await using server = new FaultyServer();
  await using child = start(server.url, async ({ streamTo, url }) => {
    await using out = streamTo(url);
    await out.write("lost");
    Deno.exit(0);
  });
  assertEquals((await child.outcome).code, 0);
  assertEquals(server.bodies, []);
});

Deno.test("Deno.exit() after close() loses nothing", async () => {
  await using server = new FaultyServer([close, respond(503)]);
  await using child = start(server.url, async ({ streamTo, url }) => {
    const retry = { initialDelay: 1 };
    const out = streamTo(url, { capacity: 4, retry });
    for (const text of ["one.", "two.", "six.", "end"]) void out.write(text);
    await out.close();
    Deno.exit(3);
  });
  assertEquals((await child.outcome).code, 3);
  assertEquals(server.bodies, ["one.", "one.", "one.", "two.", "six.", "end"]);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`${signal} loses nothing when a listener calls close()`, {
    ignore: NO_SIGNALS,
  }, async () => {
    const { release, behaviour } = held();
    await using server = new FaultyServer([respond(200), behaviour]);
    await using child = start(
      server.url,
      async ({ streamTo, url, readByte }) => {
        const out = streamTo(url, { capacity: 4, flushInterval: 0 });
        for (const signal of ["SIGINT", "SIGTERM"] as const) {
          Deno.addSignalListener(signal, async () => {
            console.log("closing");
            await out.close();
            Deno.exit(3);
          });
        }
        await out.write("one.");
        await out.flush();
        for (const text of ["two.", "six.", "ten.", "end"]) {
          void out.write(text);
        }
        console.log("ready");
        await readByte();
      },
    );
    await isFilledUp(child, server);
    child.kill(signal);
    await child.waitForOutput("closing");
    release();
    assertEquals((await child.outcome).code, 3);
    assertEquals(server.bodies, ["one.", "two.", "six.", "ten.", "end"]);
  });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
  Deno.test(
    `${signal} leaves whole sends on the server, and nothing of the one that was cut`,
    {
      ignore: NO_SIGNALS,
    },
    async () => {
      // More than a connection can hold, so that a send is cut in flight.
      const SIZE = 16 * 1024 * 1024;
      const sends: Uint8Array[] = [];
      const receive = receiver((bytes) => sends.push(bytes));
      const cut = Promise.withResolvers<void>();
      const settled = Promise.withResolvers<void>();
      let requests = 0;
      await using server = Deno.serve(
        {
          hostname: "127.0.0.1",
          port: 0,
          onListen: () => {},
          onError: () => new Response(null, { status: 500 }),
        },
        async (request) => {
          if (++requests < 3) return await receive(request);
          child.kill(signal);
          await cut.promise;
          return await receive(request).finally(settled.resolve);
        },
      );
      await using child = start(
        `http://127.0.0.1:${server.addr.port}/`,
        async ({ streamTo, url }) => {
          const SIZE = 16 * 1024 * 1024;
          const out = streamTo(url, { capacity: SIZE });
          for (let i = 0;; i++) await out.write(new Uint8Array(SIZE).fill(i));
        },
      );
      const outcome = await child.outcome;
      cut.resolve();
      await settled.promise;
      assertEquals(outcome.signal, signal);
      assertEquals(sends.map(({ length }) => length), [SIZE, SIZE]);
      for (const [i, bytes] of sends.entries()) {
        assert(equals(bytes, new Uint8Array(SIZE).fill(i)), `send ${i}`);
      }
    },
  );
}
