/** Nothing but the network, and of that nothing but the server. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { runCommand, type Scope, start } from "../testing/child.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

/** With these, to ask for one of them is an error, and no question. */
const DENIED = ["env", "read", "write", "run", "sys", "ffi", "import"]
  .map((name) => `--deny-${name}`);

function net(server: FaultyServer): string {
  return `--allow-net=127.0.0.1:${server.port}`;
}

for (const denied of [[], DENIED]) {
  const rest = denied.length > 0 ? ", and all else denied" : "";
  Deno.test(`streamTo() needs --allow-net for its server only${rest}`, async () => {
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
  Deno.test(`StreamBuffer() with a function needs no permission for ${method}`, async () => {
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

/** Says what became of a write that may not be sent. */
async function beRefused({ streamTo, url, readByte }: Scope): Promise<void> {
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
  Deno.test(`streamTo() fails at once with ${denied}, names the permission, and keeps the bytes`, async () => {
    await using server = new FaultyServer();
    await using child = start(server.url, beRefused, { permissions: [denied] });
    await child.waitForOutput("data kept");
    await child.write("x");
    const guard = setTimeout(() => child.kill("SIGKILL"), 30_000);
    const { code, stdout } = await child.outcome;
    clearTimeout(guard);
    assertEquals(code, 0, "It did not end by itself");
    assertMatch(stdout, /^FlushError: .* \(attempt 1\): .*--allow-net/);
    assertStringIncludes(stdout, "NotCapable: ");
    assertStringIncludes(stdout, `127.0.0.1:${server.port}`);
    assertEquals(server.connections, 0);
  });
}

/** Makes one object, or says why not. */
async function makeObject(
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
  Deno.test(`${sender} needs --allow-net for its server only`, async () => {
    const created = respond(201, { location: "/", "upload-offset": "4" });
    await using server = new FaultyServer([], created);
    await using child = start(server.url, makeObject, {
      permissions: [net(server), ...DENIED],
      args: [sender],
    });
    const { code, stdout, stderr } = await child.outcome;
    assertEquals([code, stdout, stderr], [0, "", ""]);
    assertStringIncludes(server.bodies.join(), "data");
  });

  for (
    const [denied, ...own] of [
      ["--allow-net=127.0.0.1:9"],
      ["--deny-net"],
      ["--deny-net", "a fetch of its own"],
    ]
  ) {
    Deno.test(`${sender} fails at once with ${denied}${own}, and the process ends`, async () => {
      await using server = new FaultyServer();
      await using child = start(server.url, makeObject, {
        permissions: [denied!],
        args: [sender, ...own],
      });
      const guard = setTimeout(() => child.kill("SIGKILL"), 30_000);
      const { code, stdout } = await child.outcome;
      clearTimeout(guard);
      assertEquals(code, 0, "It did not end by itself");
      assertMatch(stdout, /^FlushError: .*--allow-net/);
      assertStringIncludes(stdout, "NotCapable: ");
      assertStringIncludes(stdout, `127.0.0.1:${server.port}`);
      assertEquals(server.connections, 0);
    });
  }
}

// -- The command --

interface Row {
  readonly args: string[];
  /** All that it needs beside the network. */
  readonly needs: string[];
  readonly code?: number;
}

function both(file: string): string[] {
  return [`--allow-read=${file}`, `--allow-write=${file}`];
}

/** As in the README, under "Permissions". */
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
    needs: both(file("unsent")),
  }),
  "--unsent that is needed": (file) => ({
    args: ["--unsent", file("unsent"), "--retry-for", "0"],
    needs: both(file("unsent")),
    code: 1,
  }),
  "--unsent and a file": (file) => ({
    args: ["--unsent", file("unsent"), file("input")],
    needs: [
      `--allow-read=${file("unsent")},${file("input")}`,
      `--allow-write=${file("unsent")}`,
    ],
  }),
};

for (const [name, row] of Object.entries(ROWS)) {
  Deno.test(`the command needs exactly what the README says for ${name}`, async () => {
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
    // And none of them is too much.
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

Deno.test("the command refuses another server than its permission names", async () => {
  await using server = new FaultyServer();
  const { code, stderr } = await runCommand([server.url], "data", [
    "--allow-net=127.0.0.1:9",
  ]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, `add ${net(server)}`);
  assertEquals(server.connections, 0);
});
