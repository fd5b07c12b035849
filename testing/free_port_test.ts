import { assert, assertEquals } from "@std/assert";
import { FIRST_PORT, freePort, listen, PORT_COUNT } from "./free_port.ts";

/**
 * Whether `fetch` refuses to connect to a port. No request reaches it: all go
 * to a proxy that does not exist.
 */
async function isBlocked(
  port: number,
  client: Deno.HttpClient,
): Promise<boolean> {
  const error = await fetch(`http://127.0.0.1:${port}/`, { client })
    .catch((error) => error);
  assert(error instanceof Error);
  return error.message.includes("blocked");
}

Deno.test("fetch() blocks none of the free ports", {
  // It blocks no port at all.
  ignore: Deno.version.deno.startsWith("2.8."),
}, async () => {
  using client = Deno.createHttpClient({
    proxy: { url: `http://127.0.0.1:${freePort()}` },
  });
  // If this one passed, the others would prove nothing.
  assert(await isBlocked(10_080, client));
  const blocked: number[] = [];
  for (let i = 0; i < PORT_COUNT; i++) {
    const port = FIRST_PORT + i;
    if (await isBlocked(port, client)) blocked.push(port);
  }
  assertEquals(blocked, []);
});

Deno.test("free ports are below the ephemeral range of Linux", () => {
  assert(FIRST_PORT + PORT_COUNT <= 32_768);
});

Deno.test("listen() and freePort() return another port at each call", () => {
  using one = listen();
  const ports = [one.addr.port, freePort(), freePort()];
  assertEquals(new Set(ports).size, 3);
  for (const port of ports) {
    assert(port >= FIRST_PORT && port < FIRST_PORT + PORT_COUNT, `${port}`);
  }
});
