import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { type FlushError, SendError, streamTo } from "../mod.ts";
import { MemoryStore, SqliteStore } from "../receiver/mod.ts";
import { run } from "../testing/child.ts";
import { temporary } from "../testing/temporary.ts";
import { parseCallers, receiveFrom } from "./receiver_auth.ts";

const TOKENS = { alice: "alice.s-token~1==", bob: "bob+s/token" };
const CALLERS = Object.entries(TOKENS)
  .map(([name, token]) => `${name} ${hexOf(token)}\n`).join("");

function hexOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

/** A receiver of alice and bob, on a port. */
function setUp() {
  const store = new MemoryStore();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    receiveFrom(parseCallers(CALLERS), store),
  );
  const url = `http://127.0.0.1:${server.addr.port}/`;
  return {
    url,
    post: async (authorization: string | undefined, body = "x") => {
      const headers = new Headers({ "Idempotency-Key": '"id-0"' });
      if (authorization) headers.set("Authorization", authorization);
      const response = await fetch(url, { method: "POST", headers, body });
      await response.body?.cancel();
      return response;
    },
    textOf: (id: string) => new Response(store.read(id)).text(),
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

Deno.test("receiveFrom() stores what comes with a token, in streams of its caller", async () => {
  await using receiver = setUp();
  const { post, textOf } = receiver;
  assertEquals((await post(`Bearer ${TOKENS.alice}`, "A")).status, 204);
  assertEquals((await post(`bearer  ${TOKENS.bob}`, "B")).status, 204);
  // The same id, which is another stream.
  assertEquals(await textOf("alice:id"), "A");
  assertEquals(await textOf("bob:id"), "B");
  assertEquals((await post(`Bearer ${TOKENS.bob}`, "B")).status, 204);
  assertEquals(await textOf("bob:id"), "B");
});

for (
  const [what, authorization] of Object.entries({
    "no token": undefined,
    "an empty token": "Bearer",
    "another token": "Bearer wrong",
    "the beginning of a token": `Bearer ${TOKENS.bob.slice(0, -1)}`,
    "a token and more": `Bearer ${TOKENS.bob}x`,
    "a digest": `Bearer ${hexOf(TOKENS.bob)}`,
    "another scheme": `Basic ${TOKENS.bob}`,
    "a token without a scheme": TOKENS.bob,
    "two tokens": `Bearer ${TOKENS.bob}, Bearer ${TOKENS.alice}`,
  })
) {
  Deno.test(`receiveFrom() refuses ${what} with 401`, async () => {
    await using receiver = setUp();
    const response = await receiver.post(authorization);
    assertEquals(response.status, 401);
    const challenge = response.headers.get("WWW-Authenticate");
    assert(challenge?.startsWith('Bearer realm="receiver"'), `${challenge}`);
    assertEquals(await receiver.textOf("alice:id"), "");
    assertEquals(await receiver.textOf("bob:id"), "");
  });
}

Deno.test("a sender keeps its bytes until it has a token", async () => {
  await using receiver = setUp();
  let token = "expired";
  await using out = streamTo(receiver.url, {
    capacity: 4 * 1024 * 1024, // more than the server reads before it refuses
    idempotencyKey: "app",
    headers: () => ({ Authorization: `Bearer ${token}` }),
  });
  const text = "0123456789abcde\n".repeat(200_000);
  await out.write(text);
  const { cause } = await assertRejects(() => out.flush()) as FlushError;
  assert(cause instanceof SendError);
  assertEquals(cause.status, 401);
  token = TOKENS.alice;
  await out.flush();
  assert(await receiver.textOf("alice:app") === text);
});

Deno.test("parseCallers() takes nothing but names and digests", () => {
  const digest = hexOf("x");
  assertEquals(parseCallers(`\na-b_1  ${digest}\r\n`).length, 1);
  for (
    const line of [
      "a",
      digest,
      `a:b ${digest}`,
      `a ${digest}0`,
      `a b ${digest}`,
    ]
  ) {
    assertThrows(() => parseCallers(line), TypeError, "Caller 1 must be");
  }
});

Deno.test("examples/receiver_auth.ts has everything after it was killed", async () => {
  await using folder = await temporary();
  const script = fileURLToPath(import.meta.resolve("./receiver_auth.ts"));
  const path = folder.file("db");
  await using server = run([
    ...["-N", "-R", "-W", script],
    ...[folder.file("callers.txt", CALLERS), path, "0"],
  ]);
  await server.waitForOutput("/\n");
  const out = streamTo(server.output.stdout.trim(), {
    headers: { Authorization: `Bearer ${TOKENS.alice}` },
    idempotencyKey: "app",
  });
  await out.write("hello\n");
  await out.close();
  server.kill("SIGKILL");
  await server.outcome;
  await using store = new SqliteStore(path);
  const text = await new Response(store.read("alice:app")).text();
  assertEquals(text, "hello\n");
});
