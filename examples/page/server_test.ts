/** The server of the page, without a browser: what it serves, and stores once. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { createHash } from "node:crypto";
import { request } from "node:http";
import config from "../../deno.json" with { type: "json" };
import { run } from "../../testing/child.ts";
import { fakeTime } from "../../testing/fake_time.ts";
import { PageServer } from "./server.ts";
import type { Fate, Fault, StreamState } from "./stream.ts";

const ID = "0123456789abcdef0123456789abcdef";
const MINUTE = 60_000;
/** How often a test asks for what has to happen. */
const MAX_POLLS = 5_000;

/** A server, and a stream of it. */
class Setup implements AsyncDisposable {
  readonly #server: PageServer;

  private constructor(server: PageServer) {
    this.#server = server;
  }

  static async start(): Promise<Setup> {
    const setup = new Setup(await PageServer.start(0));
    await setup.make(ID);
    return setup;
  }

  async make(id: string): Promise<void> {
    const response = await this.ask(`streams/${id}`, { method: "PUT" });
    assertEquals(response.status, 201);
  }

  /** Makes a request, and reads the response. */
  async ask(path: string, init?: RequestInit) {
    const response = await fetch(this.#server.url + path, init);
    const { status, headers } = response;
    return { status, headers, text: await response.text() };
  }

  async break(fault: Fault | ""): Promise<void> {
    const init = { method: "PUT", body: fault };
    assertEquals((await this.ask(`streams/${ID}/fault`, init)).status, 204);
  }

  async state(since = 0): Promise<StreamState> {
    return JSON.parse((await this.ask(`streams/${ID}?since=${since}`)).text);
  }

  /** Waits until this has become of a batch, so many times. */
  async happened(fate: Fate, sequence: number, times = 1): Promise<void> {
    for (let polls = 0; polls < MAX_POLLS; polls++) {
      const { latest } = await this.state();
      const isIt = (event: typeof latest[number]) =>
        event.fate === fate && event.sequence === sequence;
      if (latest.filter(isIt).length === times) return;
    }
    throw new Error(`Batch ${sequence} was never ${fate}`);
  }

  /** Posts a batch. `node:http` makes one request, and Deno's `fetch` may make two. */
  post(
    sequence: number | string,
    body: string,
    { attempt = 1, signal }: { attempt?: number; signal?: AbortSignal } = {},
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      request(`${this.#server.url}streams/${ID}/records`, {
        method: "POST",
        headers: { "Idempotency-Key": `"${ID}-${sequence}"`, attempt },
        ...(signal && { signal }),
      }, (response) => {
        response.resume().once("end", () => resolve(response.statusCode!));
      }).once("error", reject).end(body);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

Deno.test("PageServer stores a batch once, however often it arrives", async () => {
  await using setup = await Setup.start();
  assertEquals(await setup.post(0, "one\n"), 201);
  assertEquals(await setup.post(0, "one\n"), 200);
  assertEquals(await setup.post(1, "two\nsix\n"), 201);
  assertEquals(await setup.post(0, "one\n"), 200);
  const { batches, records, bytes, repeats, sha256: hash } = await setup
    .state();
  assertEquals([batches, records, bytes, repeats], [2, 3, 12, 2]);
  assertEquals(hash, sha256("one\ntwo\nsix\n"));
});

Deno.test("PageServer stores in the order of the stream what overlaps", async () => {
  await using setup = await Setup.start();
  assertEquals(await setup.post(1, "two\n"), 201);
  assertEquals(await setup.post(1, "two\n"), 200);
  assertEquals((await setup.state()).bytes, 0);
  assertEquals(await setup.post(0, "one\n"), 201);
  assertEquals((await setup.state()).sha256, sha256("one\ntwo\n"));
  assertEquals(await setup.post(7, "far\n"), 400);
});

Deno.test("PageServer reports each event once", async () => {
  await using setup = await Setup.start();
  for (const sequence of [0, 0, 1]) await setup.post(sequence, "x\n");
  const { events, latest } = await setup.state();
  assertEquals(latest.map(({ fate }) => fate), ["stored", "repeat", "stored"]);
  assertEquals(latest.map(({ sequence }) => sequence), [0, 0, 1]);
  assertEquals((await setup.state(events)).latest, []);
  assertEquals((await setup.state(events - 1)).latest.length, 1);
});

Deno.test("PageServer responds as its fault says, until it is ended", async () => {
  await using setup = await Setup.start();
  await setup.break("503");
  assertEquals(await setup.post(0, "one\n"), 503);
  await setup.break("429");
  assertEquals(await setup.post(0, "one\n"), 429);
  await setup.break("away");
  await assertRejects(() => setup.post(0, "one\n"));
  await setup.break("");
  assertEquals((await setup.state()).bytes, 0);
  assertEquals(await setup.post(0, "one\n"), 201);
  assertEquals((await setup.state()).sha256, sha256("one\n"));
});

Deno.test("PageServer stores a batch before it resets the connection", async () => {
  await using setup = await Setup.start();
  await setup.break("reset");
  await assertRejects(() => setup.post(0, "one\n"));
  assertEquals((await setup.state()).bytes, 4);
  // As a browser repeats it by itself, and then as the page retries it.
  await assertRejects(() => setup.post(0, "one\n"));
  assertEquals(await setup.post(0, "one\n", { attempt: 2 }), 200);
  const { bytes, repeats } = await setup.state();
  assertEquals([bytes, repeats], [4, 2]);
});

Deno.test("PageServer refuses one batch", async () => {
  await using setup = await Setup.start();
  assertEquals(await setup.post(0, "one\n"), 201);
  await setup.break("refuse");
  assertEquals(await setup.post(0, "one\n"), 200); // it is stored already
  assertEquals(await setup.post(1, "two\n"), 422);
  assertEquals((await setup.state()).fault, null);
  assertEquals(await setup.post(2, "six\n"), 201);
  assertEquals(await setup.post(1, "two\n"), 422); // its response may be lost
  assertEquals((await setup.state()).sha256, sha256("one\nsix\n"));
});

Deno.test("PageServer stores what it was silent about after Mend, unless the client has left", async () => {
  await using setup = await Setup.start();
  await setup.break("silence");
  const client = new AbortController();
  const first = setup.post(0, "one\n", { signal: client.signal });
  await setup.happened("silent", 0);
  client.abort();
  await assertRejects(() => first);
  await setup.happened("dropped", 0);
  const second = setup.post(0, "two\n", { attempt: 2 });
  await setup.happened("silent", 0, 2);
  await setup.break("");
  assertEquals(await second, 201);
  assertEquals((await setup.state()).sha256, sha256("two\n"));
});

Deno.test("PageServer comes back ten seconds after it went away", async () => {
  await using setup = await Setup.start();
  using time = fakeTime();
  await setup.break("away");
  assertEquals((await setup.state()).faultLeft, 10_000);
  time.tick(9_999);
  assertEquals((await setup.state()).fault, "away");
  time.tick(1);
  assertEquals((await setup.state()).fault, null);
});

Deno.test("PageServer forgets streams that are idle, and no others", async () => {
  await using setup = await Setup.start();
  const other = ID.replace("0", "f");
  using time = fakeTime();
  await setup.make(other);
  time.tick(9 * MINUTE);
  await setup.state();
  time.tick(2 * MINUTE);
  await setup.make(ID.replace("0", "e"));
  assertEquals((await setup.ask(`streams/${ID}`)).status, 200);
  assertEquals((await setup.ask(`streams/${other}`)).status, 404);
});

Deno.test("PageServer forgets the oldest of too many streams", async () => {
  await using setup = await Setup.start();
  for (let index = 0; index < 1_000; index++) {
    await setup.make(`${index}`.padStart(32, "0"));
  }
  assertEquals((await setup.ask(`streams/${ID}`)).status, 404);
  const first = "0".repeat(32);
  assertEquals((await setup.ask(`streams/${first}`)).status, 200);
});

Deno.test("PageServer refuses what it does not know", async () => {
  await using setup = await Setup.start();
  const statusOf = async (path: string, init?: RequestInit) =>
    (await setup.ask(path, init)).status;
  const put = { method: "PUT", body: "fire" };
  assertEquals(await statusOf(`streams/${ID}/fault`, put), 400);
  assertEquals(await statusOf(`streams/${ID}`, { method: "DELETE" }), 405);
  assertEquals(await statusOf(`streams/${ID.replace("0", "f")}`), 404);
  assertEquals(await setup.post("x", "one\n"), 400);
  assertEquals(await setup.post(0, "x".repeat(2 ** 20 + 1)), 413);
  for (
    const path of [
      ...["deno.json", "library/deno.json", "library/../deno.json"],
      ...["library/..%2fdeno.json", "library/cli/main.ts", "site/../main.ts"],
      ...["site/%2e%2e/server.ts", "packages/toString", "site/none.ts"],
    ]
  ) {
    assertEquals(await statusOf(path), 404, path);
  }
});

Deno.test("PageServer serves the page and all that it imports, as JavaScript", async () => {
  await using setup = await Setup.start();
  const page = await setup.ask("");
  const { imports } = JSON.parse(
    page.text.match(/<script type="importmap">([^]*?)<\/script>/)![1]!,
  ) as { imports: Record<string, string> };
  const queue = ["/site/main.ts"];
  const seen = new Set(queue);
  for (const path of queue) {
    const { status, headers, text } = await setup.ask(path.slice(1));
    assertEquals([path, status], [path, 200]);
    assertEquals(headers.get("Content-Type"), "text/javascript");
    assertMatch(headers.get("Content-Security-Policy")!, /default-src 'self'/);
    if (path.startsWith("/packages/")) continue;
    for (const [, name] of text.matchAll(/^(?!\s*\*).*\bfrom "(.+?)";/gm)) {
      const base = new URL(path, "http://page");
      const { pathname } = new URL(imports[name!] ?? name!, base);
      if (!seen.has(pathname)) queue.push(pathname);
      seen.add(pathname);
    }
  }
  assert(seen.has("/library/buffer.ts") && seen.has("/packages/uplot.js"));
});

Deno.test("deno task page needs no more permissions than it asks for", async () => {
  const [, , ...args] = config.tasks.page.split(" ");
  await using child = run(args);
  await child.waitForOutput("Ctrl+C");
  const [url] = child.output.stdout.match(/http:\/\/127\.0\.0\.1:\d+\//)!;
  for (const path of ["", "site/style.css", "library/mod.ts"]) {
    const response = await fetch(url + path);
    assertEquals(response.status, 200, await response.text());
  }
});

Deno.test("deno task page refuses what is not a port", async () => {
  const [, , ...args] = config.tasks.page.split(" ");
  await using child = run([...args, "65536"]);
  const { code, stderr } = await child.outcome;
  assertEquals(code, 2);
  assertMatch(
    stderr,
    /^PORT must be a number from 0 to 65535, received 65536$/m,
  );
});
