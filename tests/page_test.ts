/**
 * A page that is left, in real browsers: what it holds arrives, whether the visitor
 * follows a link, closes the tab, or turns to another one.
 */
import { assertEquals } from "@std/assert";
import { transformSync } from "amaro";
import type { Browser, Page } from "puppeteer-core";
import { testInBrowsers } from "../testing/browsers.ts";
import { Condition } from "../testing/condition.ts";

const ROOT = new URL("../", import.meta.url);
/** How long a request may take to arrive, in ms. */
const LIMIT = 10_000;
/**
 * How many pages are left before what none of them has sent counts as lost. When a
 * tab is closed, Firefox 153 itself loses one or two in a hundred requests that ought
 * to outlive it, also those of a page that only calls `fetch`.
 */
const MAX_PAGES = 4;
const KIB = 1024;
const CORS = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Headers": "Idempotency-Key, Content-Type",
  "Access-Control-Expose-Headers": "Retry-After",
  "Access-Control-Max-Age": "0", // so that every request is asked for
};

const PAGE = `<!doctype html>
<title>A page</title>
<script type="module">
  import { flushOnHide, streamTo } from "/mod.ts";
  Object.assign(globalThis, { flushOnHide, streamTo });
</script>`;

/** How the server responds to the next POST; afterwards with 200. */
type Behaviour = "hold" | 503;

/** Serves the page and the library, and takes what the page sends. */
class Site implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #changed = new Condition();
  readonly #held: (() => void)[] = [];
  /** The bodies of each key, in the order of arrival. */
  readonly bodies = new Map<string, string[]>();
  readonly script: Behaviour[] = [];

  constructor() {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => this.#handle(request),
    );
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  get text(): string {
    return [...this.bodies.values()].map(([first]) => first).join("");
  }

  /** Waits until the page has made as many batches. */
  async arrived(count: number): Promise<void> {
    const timer = setTimeout(
      () => this.#changed.close(`only ${this.bodies.size} arrived in time`),
      LIMIT,
    );
    const isThere = () => this.bodies.size >= count;
    try {
      await this.#changed.wait(`${count} batches`, isThere);
    } finally {
      clearTimeout(timer);
    }
  }

  async #handle(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (request.method === "OPTIONS") {
      return new Response(null, { headers: CORS });
    }
    if (request.method === "POST") return await this.#take(request);
    if (!pathname.endsWith(".ts")) {
      return new Response(PAGE, { headers: { "Content-Type": "text/html" } });
    }
    const source = await Deno.readTextFile(new URL(`.${pathname}`, ROOT));
    const { code } = transformSync(source, { mode: "strip-only" });
    return new Response(code, {
      headers: { "Content-Type": "text/javascript" },
    });
  }

  async #take(request: Request): Promise<Response> {
    const behaviour = this.script.shift();
    const body = await request.text();
    if (behaviour === 503) {
      return new Response(null, { status: 503, headers: CORS });
    }
    const key = request.headers.get("Idempotency-Key")!;
    this.bodies.set(key, [...this.bodies.get(key) ?? [], body]);
    this.#changed.notify();
    if (behaviour === "hold") {
      await new Promise<void>((resolve) => this.#held.push(resolve));
    }
    return new Response(null, { headers: CORS });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const release of this.#held) release();
    await this.#server.shutdown();
  }
}

/** What the page has. The functions that are given to `evaluate` run there. */
declare const streamTo: typeof import("../mod.ts").streamTo;
declare const flushOnHide: typeof import("../mod.ts").flushOnHide;
declare const out: import("../mod.ts").StreamBuffer;
declare const retries: number[];

/** Opens a page with a buffer that sends to `server`. */
async function open(
  browser: Browser,
  site: Site,
  server: Site = site,
): Promise<Page> {
  const page = await browser.newPage();
  await page.goto(`${site.origin}/`);
  await page.waitForFunction(() => "streamTo" in globalThis);
  await page.evaluate((url) => {
    const retries: number[] = [];
    const out = streamTo(url, {
      ...{ keepalive: true, flushInterval: 0, idempotencyKey: "s" },
      retry: { initialDelay: 1e9, maxDelay: 1e9, maxElapsed: Infinity },
      onRetry: (_, delay) => void retries.push(delay),
    });
    flushOnHide(out);
    Object.assign(globalThis, { out, retries });
  }, `${server.origin}/ingest`);
  return page;
}

function write(page: Page, text: string, times = 1): Promise<void> {
  return page.evaluate(
    (text, times) => {
      for (let i = 0; i < times; i++) void out.write(text);
    },
    text,
    times,
  );
}

/** A step of a test, which is repeated with another page until it passes. */
async function step(
  t: Deno.TestContext,
  name: string,
  fn: () => Promise<void>,
): Promise<void> {
  await t.step(name, async () => {
    for (let page = 1;; page++) {
      try {
        return await fn();
      } catch (error) {
        if (page === MAX_PAGES) throw error;
      }
    }
  });
}

const LEAVES: Record<string, (page: Page, site: Site) => Promise<unknown>> = {
  "follows a link": (page, site) => page.goto(`${site.origin}/elsewhere`),
  "closes the tab": (page) => page.close(),
};

testInBrowsers(
  "a visitor who leaves a page, or turns to another",
  async (browser, t) => {
    for (const [how, leave] of Object.entries(LEAVES)) {
      for (const where of ["its own origin", "another origin"]) {
        await step(
          t,
          `${how}: what the page has written arrives at ${where}`,
          async () => {
            await using site = new Site();
            await using other = new Site();
            const server = where === "another origin" ? other : site;
            const page = await open(browser, site, server);
            await write(page, "hello\n");
            await leave(page, site);
            await server.arrived(1);
            assertEquals([...server.bodies], [['"s-0"', ["hello\n"]]]);
          },
        );
      }

      await step(
        t,
        `${how}: 64 KiB arrive, half of them in a request in flight`,
        async () => {
          await using site = new Site();
          const page = await open(browser, site);
          site.script.push("hold");
          await write(page, "x".repeat(KIB), 64);
          await site.arrived(1);
          assertEquals(site.bodies.size, 1, "one batch at a time");
          await leave(page, site);
          await site.arrived(2);
          assertEquals(site.text, "x".repeat(64 * KIB));
          assertEquals([...site.bodies.keys()], ['"s-0"', '"s-1"']);
        },
      );

      await step(t, `${how}: what waits for a retry arrives, too`, async () => {
        await using site = new Site();
        const page = await open(browser, site);
        site.script.push(503);
        await write(page, "a");
        await page.evaluate(() => void out.flush());
        await page.waitForFunction(() => retries.length === 1);
        await write(page, "b");
        await leave(page, site);
        await site.arrived(2);
        const arrived = [...site.bodies].sort(([a], [b]) => a < b ? -1 : 1);
        assertEquals(arrived, [['"s-0"', ["a"]], ['"s-1"', ["b"]]]);
      });
    }

    await step(
      t,
      "all is sent when it is hidden, and the stream goes on when it is shown",
      async () => {
        await using site = new Site();
        const page = await open(browser, site);
        await write(page, "before ");
        const another = await browser.newPage();
        await another.bringToFront();
        await site.arrived(1);
        await another.close();
        await page.bringToFront();
        await write(page, "after");
        await page.evaluate(() => out.close());
        assertEquals([...site.bodies], [
          ['"s-0"', ["before "]],
          ['"s-1"', ["after"]],
        ]);
      },
    );

    await step(
      t,
      "three hundred full requests in a row are within the limit of the browser",
      async () => {
        await using site = new Site();
        const page = await open(browser, site);
        await page.evaluate(async () => {
          const text = "x".repeat(1024);
          for (let i = 0; i < 300 * 32; i++) await out.write(text);
          await out.close();
        });
        assertEquals(await page.evaluate(() => retries), []);
        assertEquals(site.bodies.size, 300);
      },
    );
  },
);
