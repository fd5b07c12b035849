import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import type { Child } from "../testing/child.ts";
import { CLI } from "../testing/child.ts";
import { linesOf, run, start, SUCCESS } from "../testing/command.ts";
import { freePort } from "../testing/free_port.ts";
import { POSTGRES, Postgres } from "../testing/postgres.ts";
import { RawClient } from "../testing/raw_client.ts";
import { testWith } from "../testing/real_servers.ts";
import { temporary } from "../testing/temporary.ts";
import { receiveHelp } from "./receive_options.ts";

/** A receiver that listens. */
interface Receiver extends AsyncDisposable {
  readonly child: Child;
  readonly url: string;
  /** Interrupts it, and waits for its end. */
  stop(): Promise<{ readonly code: number; readonly lines: string[] }>;
}

async function receiver(
  store: string,
  args: string[] = [],
  permissions?: string[],
): Promise<Receiver> {
  const child = start(
    ["receive", "--store", store, "--port", "0", ...args],
    permissions,
  );
  await child.waitForOutput("interrupt to stop\n");
  const [url] = child.output.stderr.match(/http:\S+(?=,)/)!;
  return {
    child,
    url,
    async stop() {
      child.kill("SIGINT");
      const { code, stderr } = await child.outcome;
      const lines = stderr.trimEnd().split("\n")
        .map((line) => line.replace(/^stream-buffer: /, ""));
      return { code, lines };
    },
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Sends a batch. */
async function post(url: string, key: string, body: string): Promise<number> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Idempotency-Key": `"${key}"` },
    body,
  });
  await response.body?.cancel();
  return response.status;
}

/** Begins a request with a body of 4 bytes, of which it sends two. */
async function beginRequest({ child, url }: Receiver): Promise<RawClient> {
  const client = await RawClient.connect(Number(new URL(url).port));
  await client.write(
    'POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: "a-0"\r\nContent-Length: 4\r\n\r\non',
  );
  // Whatever comes after it is handled later.
  await child.waitFor(post(url, "b-0", "two\n").then(() => {}));
  return client;
}

Deno.test("cli receive and the sender, in two terminals: the file is the input", async () => {
  await using folder = await temporary();
  const text = linesOf(1_000_000);
  const input = folder.file("input", text);
  const stored = folder.file("stored");
  await using other = await receiver(stored);
  assertEquals(await run(["--lines", other.url, input]), SUCCESS);
  assertEquals(Deno.readTextFileSync(stored), text);
  const { code, lines } = await other.stop();
  assertEquals(code, 0);
  const [where, first, ...rest] = lines;
  assertEquals(
    where,
    `receiving at ${other.url}, storing in ${stored}; interrupt to stop`,
  );
  assertMatch(first!, /^stored 262\d\d\d bytes of batch 0 of [\da-f-]{36}$/);
  const total = [first!, ...rest]
    .map((line) => Number(/^stored (\d+) bytes of/.exec(line)?.[1] ?? 0))
    .reduce((a, b) => a + b);
  assertEquals(total, text.length);
});

Deno.test("cli receive in SQLite, and --read writes a stream in order", async () => {
  await using folder = await temporary();
  for (const name of ["one.db", "two.sqlite", "three.SQLITE3"]) {
    const store = folder.file(name);
    await using other = await receiver(store);
    await post(other.url, "app-1", "two\n");
    await post(other.url, "app-0", "one\n");
    await post(other.url, "other-0", "three\n");
    await other.stop();
    // It has been closed.
    for (const end of ["-owner", "-wal"]) {
      await assertRejects(() => Deno.stat(store + end), Deno.errors.NotFound);
    }
    const outcome = await run(["receive", "--store", store, "--read", "app"]);
    assertEquals(outcome, { ...SUCCESS, stdout: "one\ntwo\n" });
  }
});

Deno.test("cli receive is killed, and restarted: each line is stored once", async () => {
  await using folder = await temporary();
  const text = linesOf(400_000);
  const input = folder.file("input", text);
  const stored = folder.file("stored");
  const port = `${freePort()}`;
  let size = 0;
  const hasGrown = async () => {
    for (;;) {
      const { size: now } = await Deno.stat(stored);
      if (now > size + 20_000) return void (size = now);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  await using sender = start([
    ...["--lines", "--capacity", "1K", "--retry-for", "forever", "--quiet"],
    ...[`http://127.0.0.1:${port}/`, input],
  ]);
  for (let kill = 0; kill < 3; kill++) {
    await using killed = await receiver(stored, ["--port", port]);
    await killed.child.waitFor(hasGrown());
    killed.child.kill("SIGKILL");
  }
  assert(size < text.length, "it was never killed in the middle");
  await using last = await receiver(stored, ["--port", port]);
  const { code, stderr } = await sender.outcome;
  assertEquals([code, stderr], [0, ""]);
  assertEquals((await last.stop()).code, 0);
  assert(Deno.readTextFileSync(stored) === text, "other lines are stored");
});

Deno.test("cli receive: an interrupt lets requests end that have begun, and no other begin", async () => {
  await using folder = await temporary();
  const stored = folder.file("stored");
  await using other = await receiver(stored);
  using client = await beginRequest(other);
  const stopping = other.stop();
  await other.child.waitForOutput("interrupted: finishing the requests");
  const late = await fetch(other.url, { method: "POST", body: "x" });
  assertEquals(await late.text(), "the receiver is being stopped\n");
  assertEquals([late.status, late.headers.get("Retry-After")], [503, "1"]);
  await client.write("e\n");
  assertEquals((await client.response())?.status, 204);
  assertEquals((await stopping).code, 0);
  assertEquals(Deno.readTextFileSync(stored), "two\none\n");
});

Deno.test("cli receive: a second interrupt ends it at once", async () => {
  await using folder = await temporary();
  const stored = folder.file("stored");
  await using other = await receiver(stored);
  using _ = await beginRequest(other);
  other.child.kill("SIGTERM");
  await other.child.waitForOutput("interrupted: finishing the requests");
  assertEquals((await other.stop()).code, 0);
  assertEquals(Deno.readTextFileSync(stored), "two\n");
});

Deno.test("cli receive says what has become of a batch", async () => {
  await using folder = await temporary();
  for (const quiet of [false, true]) {
    const store = folder.file(`stored-${quiet}.db`);
    await using before = await receiver(store);
    assertEquals(await post(before.url, "app-7", "one\n"), 204);
    const first = await before.stop();
    assertEquals(first.lines[1], "stored 4 bytes of batch 7 of app");

    // It has said nothing before, and so says it at once.
    const port = `${freePort()}`;
    const args = ["receive", "--store", store, "--port", port];
    await using child = start(quiet ? [...args, "--quiet"] : args);
    const url = `http://127.0.0.1:${port}/`;
    const isUp = async () => {
      while (!await post(url, "app-7", "one\n").catch(() => 0)) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    };
    await child.waitFor(isUp());
    assertEquals(await post(url, "app-7", "two\n"), 422);
    child.kill("SIGINT");
    const { code, stderr } = await child.outcome;
    assertEquals(code, 0);
    const conflict =
      "stream-buffer: refused batch 7 of app: it was stored before, with other bytes\n";
    const interrupted =
      "stream-buffer: interrupted: finishing the requests that have arrived (interrupt again to stop at once)\n";
    assertEquals(
      stderr,
      quiet ? conflict + interrupted : `stream-buffer: receiving at ${url}, ` +
        `storing in ${store}; interrupt to stop\n` +
        "stream-buffer: batch 7 of app was stored before\n" +
        interrupted + conflict,
    );
  }
});

Deno.test("cli receive --any-key takes what curl sends, which is refused without it", async () => {
  await using folder = await temporary();
  for (const [options, status] of [[[], 400], [["--any-key"], 204]] as const) {
    const stored = folder.file(`stored-${status}`);
    await using other = await receiver(stored, [...options]);
    const response = await fetch(other.url, { method: "POST", body: "one\n" });
    await response.body?.cancel();
    assertEquals(response.status, status);
    await other.stop();
    const text = Deno.readTextFileSync(stored);
    assertEquals(text, status === 204 ? "one\n" : "");
  }
});

Deno.test("cli receive --max-bytes bounds a batch", async () => {
  await using folder = await temporary();
  const stored = folder.file("stored");
  await using other = await receiver(stored, ["--max-bytes", "1K"]);
  const { code, stderr } = await run([other.url], "x".repeat(1025));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "a body may have 1024 bytes at most");
  assertEquals(await run([other.url], "x".repeat(1024)), SUCCESS);
});

Deno.test("cli receive --prune forgets batches, and not their keys", async () => {
  await using folder = await temporary();
  for (const name of ["stored", "stored.db"]) {
    const store = folder.file(name);
    await using before = await receiver(store);
    await post(before.url, "app-0", "one\n");
    await before.stop();
    const args = ["receive", "--store", store];
    assertEquals((await run([...args, "--prune", "30"])).stderr, forgot(0, 0));
    assertEquals((await run([...args, "--prune", "0"])).stderr, forgot(4, 1));
    const { code, stdout, stderr } = await run([...args, "--read", "app"]);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(
      stderr,
      "stream-buffer: nothing is stored of the stream app\n",
    );
    await using after = await receiver(store);
    assertEquals(await post(after.url, "app-0", "one\n"), 204);
    const { lines } = await after.stop();
    assertEquals(lines[1], "batch 0 of app was stored before");
  }
});

function forgot(bytes: number, batches: number): string {
  return `stream-buffer: ${bytes} bytes of ${batches} batch${
    batches === 1 ? "" : "es"
  } forgotten\n`;
}

Deno.test("cli receive fails if another program listens there", async () => {
  await using folder = await temporary();
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response(),
  );
  const { port } = server.addr;
  const { code, stderr } = await run([
    ...["receive", "--store", folder.file("stored"), "--port", `${port}`],
  ]);
  assertEquals([code, stderr], [
    2,
    `stream-buffer: cannot listen on 127.0.0.1:${port}: another program does; choose another --port\n`,
  ]);
});

Deno.test("cli receive fails if --host is not an address of this machine", async () => {
  await using folder = await temporary();
  const { code, stderr } = await run(
    ["receive", "--store", folder.file("stored"), "--host", "192.0.2.1"],
    "",
    ["-N", "-R", "-W"],
  );
  assertEquals([code, stderr], [
    2,
    "stream-buffer: cannot listen on 192.0.2.1:8000: --host must be an address of this machine\n",
  ]);
});

Deno.test("cli receive fails if another process has the store", async () => {
  await using folder = await temporary();
  for (const name of ["stored", "stored.db"]) {
    const store = folder.file(name);
    await using other = await receiver(store);
    for (const options of [["--port", "0"], ["--read", "a"]]) {
      const { code, stderr } = await run([
        ...["receive", "--store", store, ...options],
      ]);
      assertEquals(code, 2);
      assertMatch(
        stderr,
        /^stream-buffer: cannot open the store \S+: process /,
      );
      assertStringIncludes(
        stderr,
        `: process ${other.child.pid} has it open; only one command at a time can use it\n`,
      );
    }
  }
});

for (
  const [title, make, message] of [
    ["has no folder", () => {}, /: there is no folder /],
    [
      "is a folder",
      (path: string) => Deno.mkdirSync(path, { recursive: true }),
      /: it is a folder\n/,
    ],
    [
      "is another file",
      (path: string) => {
        Deno.mkdirSync(new URL(".", `file://${path}`), { recursive: true });
        Deno.writeTextFileSync(path, linesOf(100_000));
      },
      /(choose another path)\n$/,
    ],
  ] as const
) {
  for (const name of ["stored", "stored.db"]) {
    Deno.test(`cli receive rejects a store ${name} that ${title}`, async () => {
      await using folder = await temporary();
      const store = folder.file(`folder/${name}`);
      make(store);
      const args = ["receive", "--port", "0", "--store", store];
      const { code, stderr } = await run(args);
      assertEquals(code, 2);
      assertMatch(stderr, /^stream-buffer: cannot open the store /);
      assertMatch(stderr, message);
    });
  }
}

for (const options of [["--read", "a"], ["--prune", "1"]]) {
  Deno.test(`cli receive ${options[0]} creates no store`, async () => {
    await using folder = await temporary();
    const store = folder.file("stored.db");
    const args = ["receive", "--store", store, ...options];
    const { code, stderr } = await run(args);
    assertEquals([code, stderr], [
      2,
      `stream-buffer: cannot open the store ${store}: no such file or directory\n`,
    ]);
    assertEquals([...Deno.readDirSync(folder.file(""))], []);
  });
}

Deno.test("cli receive names the permissions that it lacks, and needs no others", async () => {
  await using folder = await temporary();
  for (
    const [name, ends] of [
      ["stored", ["", "-keys", "-keys-owner", "-keys-reserve", "-new"]],
      ["stored.db", ["", "-owner", "-reserve"]],
    ] as const
  ) {
    const store = folder.file(name);
    const files = ends.map((end) => store + end);
    const net = "--allow-net=127.0.0.1:0";
    const all = [net, `--allow-read=${files}`, `--allow-write=${files}`];
    for (const missing of all) {
      const { code, stderr } = await run(
        ["receive", "--store", store, "--port", "0"],
        "",
        all.filter((flag) => flag !== missing),
      );
      assertEquals([code, stderr], [
        2,
        missing === net
          ? `stream-buffer: cannot listen on 127.0.0.1:0: add ${net}\n`
          : `stream-buffer: cannot use the store ${store}: add ${
            all.slice(1).join(" ")
          }\n`,
      ]);
    }
    assertEquals([...Deno.readDirSync(folder.file(""))], []);

    await using other = await receiver(store, [], all);
    assertEquals(await post(other.url, "app-0", "one\n"), 204);
    assertEquals((await other.stop()).code, 0);
    const args = ["receive", "--store", store];
    const forgotten = await run([...args, "--prune", "0"], "", all.slice(1));
    assertEquals(forgotten.stderr, forgot(4, 1));
    for await (const { name } of Deno.readDir(folder.file(""))) {
      await Deno.remove(folder.file(name));
    }
  }
});

testWith(POSTGRES)(
  "cli receive in PostgreSQL, twice at once, and --read and --prune beside them",
  async () => {
    await using postgres = await Postgres.start();
    const env = "--ignore-env";
    const net = `--allow-net=127.0.0.1:${postgres.port}`;
    const all = [`${net},127.0.0.1:0`, env];
    await using one = await receiver(postgres.url, [], all);
    await using two = await receiver(postgres.url, [], all);
    assertEquals(await post(one.url, "app-1", "two\n"), 204);
    assertEquals(await post(two.url, "app-0", "one\n"), 204);
    assertEquals(await post(two.url, "app-1", "two\n"), 204);
    const args = ["receive", "--store", postgres.url];
    assertEquals(await run([...args, "--read", "app"], "", [net, env]), {
      ...SUCCESS,
      stdout: "one\ntwo\n",
    });

    await postgres.crash();
    assertEquals(await post(one.url, "app-2", "three\n"), 503);
    await postgres.start();
    assertEquals(await post(one.url, "app-2", "three\n"), 204);
    const forgotten = await run([...args, "--prune", "0"], "", [net, env]);
    assertEquals(forgotten.stderr, forgot(14, 3));

    for (const { stop, url, child } of [one, two]) {
      const { code, lines } = await stop();
      assertEquals(code, 0);
      assertEquals(
        lines[0],
        `receiving at ${url}, storing in PostgreSQL; interrupt to stop`,
      );
      assert(!child.output.stderr.includes("hunter2"), "the password is shown");
    }
    assertMatch(
      one.child.output.stderr,
      /\nstream-buffer: cannot add to the store at 127\.0\.0\.1:/,
    );
  },
);

for (
  const [permissions, message] of [
    [
      ["-R", "-W"],
      "cannot listen on 127.0.0.1:0: add --allow-net=127.0.0.1:0",
    ],
    [
      ["--allow-net=127.0.0.1:0"],
      "cannot connect to db.invalid:5432: add --allow-net=db.invalid:5432",
    ],
    [
      ["-N"],
      "cannot use PostgreSQL: its client reads the environment; add --ignore-env, or --allow-env",
    ],
  ] as const
) {
  Deno.test(`cli receive in PostgreSQL with ${permissions.join(" ")} names the permission that it lacks`, async () => {
    const store = "postgresql://app:hunter2@db.invalid/app";
    const args = ["receive", "--port", "0", "--store", store];
    const { code, stderr } = await run(args, "", [...permissions]);
    assertEquals([code, stderr], [2, `stream-buffer: ${message}\n`]);
  });
}

const INVALID_STORE =
  "--store must be a file, or like postgres://USER:PASSWORD@HOST:PORT/NAME, percent-encoded";

for (
  const [args, message] of [
    ...[
      "postgres:///app",
      "postgres://app:hunter2@[a/b",
      "posgres://app:hunter2@db.example.com/app",
    ].map((store) => [["--store", store], INVALID_STORE] as const),
    [[], "receive requires --store STORE"],
    [["--store", ""], "receive requires --store STORE"],
    [["--store"], /'--store <value>' argument missing/],
    [["--store", "a", "--lines"], "unknown option --lines"],
    [["--store", "a", "b"], "receive takes no FILE but that of --store"],
    [
      ["--store", "a", "--port", "65536"],
      '--port must be a number from 0 to 65535, received "65536"',
    ],
    [
      ["--store", "a", "--port", "http"],
      '--port must be a number from 0 to 65535, received "http"',
    ],
    [
      ["--store", "a", "--max-bytes", "1X"],
      '--max-bytes must be a size like 64K or 1M, received "1X"',
    ],
    [
      ["--store", "a", "--max-bytes", "0"],
      /^--max-bytes must be an integer from 1 to \d+, received 0$/,
    ],
    [
      ["--store", "a", "--prune", "-1"],
      /'--prune' argument is ambiguous/,
    ],
    [
      ["--store", "a", "--prune", "1d"],
      '--prune must be a number of days, received "1d"',
    ],
    [
      ["--store", "a", "--prune", "1", "--read", "a"],
      "--read and --prune cannot be used together",
    ],
    [
      ["--store", "a", "--read", "a", "--port", "1"],
      "--read and --port cannot be used together",
    ],
    [
      ["--store", "a", "--prune", "1", "--any-key"],
      "--prune and --any-key cannot be used together",
    ],
  ] as const
) {
  Deno.test(`cli receive ${args.join(" ")} is invalid usage`, async () => {
    const { code, stdout, stderr } = await run(
      ["receive", ...args],
      "",
      ["--allow-net=127.0.0.1:8000"],
    );
    assertEquals([code, stdout], [2, ""]);
    const [, text] = stderr.match(
      /^stream-buffer: ([^]*)\nTry --help\.\n$/,
    )!;
    if (typeof message === "string") assertEquals(text, message);
    else assertMatch(text!, message);
  });
}

Deno.test("cli receive --help needs no permission, and fits into 80 columns", async () => {
  const outcome = await run(["receive", "--help"], "", []);
  assertEquals(outcome, { ...SUCCESS, stdout: receiveHelp(CLI) });
  const lines = receiveHelp("cli/main.ts").split("\n");
  assertEquals(lines.filter(({ length }) => length > 80), []);
});
