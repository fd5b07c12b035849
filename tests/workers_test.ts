/**
 * Cloudflare Workers, in workerd: the example of docs/runtimes.md, and what becomes of
 * a buffer that outlives its request. On Linux, where npm has the binary.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { transformSync } from "amaro";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { startWorker } from "./conformance/drivers/workerd.ts";
import { makeProject } from "./conformance/project.ts";
import { WORKERD } from "./conformance/runtimes.ts";

const PAGE = new URL("../docs/runtimes.md", import.meta.url);
const URL_OF_EXAMPLE = "https://example.com/ingest";
const DIFFERENT_REQUEST =
  /Cannot perform I\/O on behalf of a different request/;

/** The Worker of the page, with the URL of a server. */
function example(url: string): string {
  const page = Deno.readTextFileSync(PAGE).replaceAll("\r\n", "\n");
  const [, code] = page.match(/^## Workers\n[^]*?^```ts ignore\n([^]*?)^```/m)!;
  assertMatch(code!, new RegExp(URL_OF_EXAMPLE));
  return transformSync(code!, { mode: "strip-only" }).code
    .replace(URL_OF_EXAMPLE, url);
}

/** A Worker whose requests share a buffer: each writes its path, and may flush. */
function shared(url: string): string {
  return `
    import { streamTo } from "@stream-buffer/stream-buffer";

    let out;
    export default {
      async fetch(request) {
        const { pathname, searchParams } = new URL(request.url);
        const retry = { maxElapsed: 0 };
        out ??= streamTo("${url}", { retry });
        await out.write(pathname);
        if (!searchParams.has("flush")) return new Response("written");
        const flushed = out.flush().then(() => "flushed");
        return new Response(await flushed.catch((error) => error.message));
      },
    };`;
}

/** Starts a Worker that may import the package. */
async function start(
  code: string,
): Promise<
  AsyncDisposable & { url: string; get(path: string): Promise<string> }
> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporary());
  const { modules } = await makeProject(folder.file(""));
  const { url } = stack.use(
    await startWorker({
      modules: [{ name: "worker.js", code }, ...modules],
      version: WORKERD,
      certificates: [],
      print: () => {},
      signal: new AbortController().signal,
    }),
  );
  const owned = stack.move();
  return {
    url,
    get: async (path) => await (await fetch(new URL(path, url))).text(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const ignore = Deno.build.os !== "linux";

Deno.test("a Worker delivers what it has written after its response", {
  ignore,
}, async () => {
  await using server = new FaultyServer();
  await using worker = await start(example(server.url));
  assertEquals(await worker.get("/one"), "hello");
  await server.received(1);
  assertMatch(server.bodies.join(), /^GET http:.*\/one\n$/);
});

Deno.test("a buffer that requests of a Worker share fails in the second one", {
  ignore,
}, async () => {
  await using server = new FaultyServer();
  await using worker = await start(shared(server.url));
  assertEquals(await worker.get("/one?flush"), "flushed");
  assertMatch(await worker.get("/two?flush"), DIFFERENT_REQUEST);
  assertEquals(server.requests.length, 1);
});

Deno.test("what a request of a Worker leaves in a buffer is not sent", {
  ignore,
}, async () => {
  await using server = new FaultyServer();
  await using worker = await start(shared(server.url));
  assertEquals(await worker.get("/one"), "written");
  assertEquals(await worker.get("/two"), "written");
  assertMatch(await worker.get("/three?flush"), DIFFERENT_REQUEST);
  assertEquals(server.requests.length, 0);
});

/** A Worker that receives into memory, and responds to GET with what is stored. */
const RECEIVER = `
  import { MemoryStore, receive } from "@stream-buffer/stream-buffer/receiver";

  const store = new MemoryStore();
  const handler = receive({ store });
  export default {
    async fetch(request) {
      if (request.method === "POST") return await handler(request);
      const { pathname } = new URL(request.url);
      return new Response(await new Response(store.read(pathname.slice(1))).text());
    },
  };`;

Deno.test("a Worker receives what it is sent, each batch once", {
  ignore,
}, async () => {
  await using worker = await start(RECEIVER);
  const post = async (key: string, body: string, coding?: string) => {
    const headers = new Headers({ "Idempotency-Key": `"${key}"` });
    if (coding !== undefined) headers.set("Content-Encoding", coding);
    const init = { method: "POST", headers, body };
    const response = await fetch(worker.url, init);
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await post("app-1", "two\n"), 204);
  assertEquals(await post("app-0", "one\n"), 204);
  assertEquals(await post("app-0", "one\n"), 204);
  assertEquals(await post("app-0", "another\n"), 422);
  assertEquals(await post("app-2", "three\n", "gzip"), 415);
  assertEquals(await worker.get("/app"), "one\ntwo\n");
});
