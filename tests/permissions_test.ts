/**
 * The library needs permission for its server, and for nothing else; the command
 * needs what its documentation lists. Each test is a process of its own.
 */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  type Child,
  type Outcome,
  runCommand,
  type Scope,
  start,
} from "../testing/child.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** Denials, so that a request for one of them is an error, not a prompt. */
const DENIED = ["env", "read", "write", "run", "sys", "ffi", "import"]
  .map((name) => `--deny-${name}`);

/** Returns the outcome; kills a process that does not exit on its own. */
async function exitOf(child: Child): Promise<Outcome> {
  const guard = setTimeout(() => child.kill("SIGKILL"), 30_000);
  const outcome = await child.outcome;
  clearTimeout(guard);
  assertEquals(outcome.code, 0, "the process did not exit on its own");
  return outcome;
}

function net(server: FaultyServer): string {
  return `--allow-net=127.0.0.1:${server.port}`;
}

for (const denied of [[], DENIED]) {
  const rest = denied.length > 0 ? ", with everything else denied" : "";
  Deno.test(`streamTo() needs only --allow-net for its server${rest}`, async () => {
    await using server = new FaultyServer();
    await using child = start(server.url, async ({ streamTo, url }) => {
      await using out = streamTo(url, { compression: "gzip" });
      await out.write("data");
    }, { permissions: [net(server), ...denied] });
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.requests.length, 1);
  });
}

for (const method of ["write", "readFrom", "writable"] as const) {
  Deno.test(`StreamBuffer() with a function needs no permission, by ${method}`, async () => {
    await using child = start("", async ({ StreamBuffer, args }) => {
      await using out = new StreamBuffer((bytes) => {
        console.log(new TextDecoder().decode(bytes));
      });
      if (args[0] === "write") await out.write("data");
      if (args[0] === "readFrom") await out.readFrom(Deno.stdin);
      if (args[0] === "writable") {
        await ReadableStream.from(["data"]).pipeTo(out.writable);
      }
    }, { permissions: ["--deny-net", ...DENIED], args: [method] });
    if (method === "readFrom") await child.write("data").then(child.end);
    const { code, stdout, stderr } = await child.outcome;
    assertEquals([code, stdout, stderr], [0, "data\n", ""]);
  });
}

/** Sends by undici, and leaves its connection open. */
async function sendByUndici({ streamTo, makeUndici, url }: Scope) {
  await using out = streamTo(url, { transport: await makeUndici() });
  await out.write("data");
}

/** What undici, and its choice of a proxy, reads of the environment. */
const VARIABLES = [
  ...["JEST_WORKER_ID", "UNDICI_NO_WASM_SIMD", "http_proxy", "HTTP_PROXY"],
  ...["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"],
];

for (
  const env of [["--ignore-env"], [`--allow-env=${VARIABLES.join()}`]]
) {
  Deno.test(`undiciTransport() needs only --allow-net for its server, and ${env}`, async () => {
    await using server = new FaultyServer();
    const denied = DENIED.filter((flag) => flag !== "--deny-env");
    await using child = start(server.url, sendByUndici, {
      permissions: [net(server), ...denied, ...env],
    });
    const { code, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(server.requests.length, 1);
  });
}

Deno.test("undiciTransport() names a variable that it may not read", async () => {
  await using server = new FaultyServer();
  await using child = start(server.url, sendByUndici, {
    permissions: [net(server), ...DENIED],
  });
  const { code, stderr } = await child.outcome;
  assertEquals(code, 1);
  assertMatch(stderr, /NotCapable: .*"http_proxy".*--allow-env/);
});

Deno.test("an idle connection of undiciTransport() does not keep the process alive", async () => {
  const headers = { "keep-alive": "timeout=600" };
  await using server = new FaultyServer([], respond(200, headers));
  await using child = start(server.url, sendByUndici);
  await exitOf(child);
  assertEquals(server.requests.length, 1);
});

/** Prints what happens to a write that must not be sent. */
async function sendWithoutPermission(
  { streamTo, url, readByte }: Scope,
): Promise<void> {
  const out = streamTo(url);
  await out.write("data");
  try {
    await out.flush();
  } catch (error) {
    const { cause } = error as Error;
    console.log(`${error}\n${(cause as Error).cause}`);
  }
  await out.close().catch(() => {});
  console.log(new TextDecoder().decode(out.takeUnsent()), "kept");
  await readByte();
}

for (const denied of ["--allow-net=127.0.0.1:9", "--deny-net"]) {
  Deno.test(`streamTo() with ${denied} fails at once, names the permission, and keeps the bytes`, async () => {
    await using server = new FaultyServer();
    await using child = start(server.url, sendWithoutPermission, {
      permissions: [denied],
    });
    await child.waitForOutput("data kept");
    await child.write("x");
    const { stdout } = await exitOf(child);
    assertMatch(stdout, /^FlushError: .* \(attempt 1\): .*--allow-net/);
    assertStringIncludes(stdout, "NotCapable: ");
    assertStringIncludes(stdout, `127.0.0.1:${server.port}`);
    assertEquals(server.connections, 0);
  });
}

/** Uploads one object, or prints why it cannot. */
async function uploadObject(
  { StreamBuffer, TusSender, UploadSender, url, args }: Scope,
): Promise<void> {
  const Sender = args[0] === "TusSender" ? TusSender : UploadSender;
  const options = { fetch: args[1] ? fetch.bind(globalThis) : fetch };
  const out = new StreamBuffer(new Sender(url, { length: 4, ...options }));
  try {
    await out.write("data");
    await out.close();
  } catch (error) {
    const { cause } = error as Error;
    console.log(`${error}\n${(cause as Error).cause}`);
  }
}

for (const sender of ["UploadSender", "TusSender"]) {
  Deno.test(`${sender} needs only --allow-net for its server`, async () => {
    const created = respond(201, { location: "/", "upload-offset": "4" });
    await using server = new FaultyServer([], created);
    await using child = start(server.url, uploadObject, {
      permissions: [net(server), ...DENIED],
      args: [sender],
    });
    const { code, stdout, stderr } = await child.outcome;
    assertEquals([code, stdout, stderr], [0, "", ""]);
    assertStringIncludes(server.bodies.join(), "data");
  });

  for (
    const [denied, ...custom] of [
      ["--allow-net=127.0.0.1:9"],
      ["--deny-net"],
      ["--deny-net", "custom fetch"],
    ]
  ) {
    const title = [denied, ...custom].join(" and a ");
    Deno.test(`${sender} with ${title} fails at once, and the process exits`, async () => {
      await using server = new FaultyServer();
      await using child = start(server.url, uploadObject, {
        permissions: [denied!],
        args: [sender, ...custom],
      });
      const { stdout } = await exitOf(child);
      assertMatch(stdout, /^FlushError: .*--allow-net/);
      assertStringIncludes(stdout, "NotCapable: ");
      assertStringIncludes(stdout, `127.0.0.1:${server.port}`);
      assertEquals(server.connections, 0);
    });
  }
}

// -- The spool --

/** Commits and delivers once, or prints why it cannot. */
async function useSpool({ spoolTo, url, args }: Scope): Promise<void> {
  try {
    await using out = spoolTo(args[0]!, url);
    await out.write("data");
    await out.flush();
  } catch (error) {
    for (let e = error as Error | undefined; e; e = e.cause as Error) {
      console.log(`${e}`);
    }
  }
}

Deno.test("spoolTo() needs exactly --allow-read and --allow-write for FILE, FILE-owner and FILE-reserve, besides its server", async () => {
  await using folder = await temporary();
  const path = folder.file("app.spool");
  const files = ["", "-owner", "-reserve"].map((suffix) => path + suffix);
  const flags = { read: files, write: files };
  await using server = new FaultyServer();
  const attempt = async (
    { read, write }: Record<keyof typeof flags, string[]>,
  ) => {
    await using child = start(server.url, useSpool, {
      permissions: [
        ...[net(server), `--allow-read=${read}`, `--allow-write=${write}`],
        ...["env", "run", "sys", "ffi", "import"].map((x) => `--deny-${x}`),
      ],
      args: [path],
    });
    const { code, stdout, stderr } = await child.outcome;
    assertEquals([code, stderr], [0, ""]);
    return stdout;
  };
  // A new file, and one that is there.
  assertEquals(await attempt(flags), "");
  assertEquals(await attempt(flags), "");
  assertEquals(server.bodies, ["data", "data"]);
  // Without a reserve that is left it would be noticed only when one is made.
  Deno.writeTextFileSync(`${path}-reserve`, "");
  for (const file of files) {
    for (const kind of ["read", "write"] as const) {
      const rest = files.filter((name) => name !== file);
      const stdout = await attempt({ ...flags, [kind]: rest });
      assertMatch(stdout, /SpoolError: Cannot (open|add .* to) the spool /);
      assertStringIncludes(stdout, `Requires ${kind} access to "${file}"`);
      assertStringIncludes(stdout, `--allow-${kind}`);
    }
  }
  assertEquals(server.requests.length, 2);
});

// -- The command --

interface Row {
  readonly args: string[];
  /** Permissions that it needs besides the network. */
  readonly needs: string[];
  readonly code?: number;
}

function both(file: string): string[] {
  return [`--allow-read=${file}`, `--allow-write=${file}`];
}

/** The rows of the documentation's table of permissions. */
const ROWS: Record<string, (file: (name: string) => string) => Row> = {
  "standard input": () => ({ args: [], needs: [] }),
  "standard input in lines, compressed": () => ({
    args: ["--lines", "--compress", "brotli"],
    needs: [],
  }),
  "a file": (file) => ({
    args: [file("input")],
    needs: [`--allow-read=${file("input")}`],
  }),
  "headers in a file": (file) => ({
    args: ["-H", `@${file("headers")}`],
    needs: [`--allow-read=${file("headers")}`],
  }),
  "a variable in a header": () => ({
    args: ["-H", "Authorization: ${TEST_TOKEN}"],
    needs: ["--allow-env=TEST_TOKEN"],
  }),
  "--unsent": (file) => ({
    args: ["--unsent", file("unsent")],
    needs: [`--allow-write=${file("unsent")}`],
  }),
  "--unsent that is used": (file) => ({
    args: ["--unsent", file("unsent"), "--retry-for", "0"],
    needs: [`--allow-write=${file("unsent")}`],
    code: 1,
  }),
  "--refused that is used": (file) => ({
    args: ["--refused", file("refused")],
    needs: [`--allow-write=${file("refused")}`],
    code: 3,
  }),
  "--unsent and --refused": (file) => ({
    args: ["--unsent", file("unsent"), "--refused", file("refused")],
    needs: [
      `--allow-read=${file("unsent")},${file("refused")}`,
      `--allow-write=${file("unsent")},${file("refused")}`,
    ],
  }),
  "--spool": (file) => ({
    args: ["--spool", file("spool")],
    needs: both(filesOf(file("spool"))),
  }),
  "--spool and --refused that is used": (file) => ({
    args: ["--spool", file("spool"), "--refused", file("refused")],
    needs: both(`${filesOf(file("spool"))},${file("refused")}`),
    code: 3,
  }),
  "--unsent and a file": (file) => ({
    args: ["--unsent", file("unsent"), file("input")],
    needs: [
      `--allow-read=${file("input")}`,
      `--allow-write=${file("unsent")}`,
    ],
  }),
};

/** The files of a spool, for a list of permissions. */
function filesOf(spool: string): string {
  return [spool, `${spool}-owner`, `${spool}-reserve`].join();
}

for (const [name, row] of Object.entries(ROWS)) {
  Deno.test(`the command needs exactly the documented permissions for ${name}`, async () => {
    await using folder = await temporary();
    folder.file("input", "data");
    folder.file("headers", "X-One: 1\n");
    const { args, needs, code: expected = 0 } = row((name) =>
      folder.file(name)
    );
    const serve = () => new FaultyServer([], respond(expected ? 400 : 200));
    {
      await using server = serve();
      const { code, stderr } = await runCommand([server.url, ...args], "data", [
        net(server),
        ...needs,
      ]);
      assertEquals(code, expected, stderr);
      assertEquals(server.bodies.length, 1);
    }
    // Without any one of them it fails.
    for (const missing of needs) {
      await using server = serve();
      const rest = needs.filter((need) => need !== missing);
      const { code, stderr } = await runCommand([server.url, ...args], "data", [
        net(server),
        ...rest,
      ]);
      assertEquals(code, 2, stderr);
      assertStringIncludes(stderr, missing.replace(/=.*/, ""));
      assertEquals(server.connections, 0);
    }
  });
}

Deno.test("the command rejects a server for which it has no permission, and names the flag", async () => {
  await using server = new FaultyServer();
  const { code, stderr } = await runCommand([server.url], "data", [
    "--allow-net=127.0.0.1:9",
  ]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, `add ${net(server)}`);
  assertEquals(server.connections, 0);
});
