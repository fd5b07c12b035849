/// <reference lib="dom" />
/**
 * The page, in a real Chromium: every button does what it says, and in the end both
 * sides have the same SHA-256.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Browser, Page, Viewport } from "puppeteer-core";
import { CHROMIUM, FIREFOX, openBrowser } from "../../testing/browsers.ts";
import { type Program, testWith } from "../../testing/real_servers.ts";
import { PageServer } from "./server.ts";
import type { Fault } from "./stream.ts";

/** How long anything in the page may take, in ms: a busy machine is slow. */
const LIMIT = 30_000;
/** Contrast of text (WCAG 2.2, criterion 1.4.3), and of what is drawn (1.4.11). */
const MIN_TEXT_CONTRAST = 4.5;
const MIN_CONTRAST = 3;
const WIDE = { width: 1200, height: 900 };
const NARROW = { width: 360, height: 640, isMobile: true, hasTouch: true };
const DRAWN = ["accepted", "delivered", "held", "flight", "queued", "failed"];

/** The page in one tab. */
class Tab {
  readonly page: Page;
  /** What went wrong in the page, other than requests that were to fail. */
  readonly problems: string[] = [];

  constructor(page: Page, url: string) {
    this.page = page;
    page.setDefaultTimeout(LIMIT);
    page.on("pageerror", (error) => this.problems.push(`${error}`));
    page.on("console", (message) => {
      const text = message.text();
      const isExpected = text.startsWith("Failed to load resource");
      if (message.type() === "error" && !isExpected) this.problems.push(text);
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(url)) this.problems.push(request.url());
    });
  }

  /** Waits until an expression is true in the page. */
  async until(expression: string): Promise<void> {
    try {
      await this.page.waitForFunction(expression);
    } catch (error) {
      const text = await this.page.evaluate("document.body.innerText");
      throw new Error(`Waited for ${expression}; the page is:\n${text}`, {
        cause: error,
      });
    }
  }

  async text(id: string): Promise<string> {
    return `${await this.page.$eval(`#${id}`, (e) => e.textContent)}`.trim();
  }

  async press(fault: Fault): Promise<void> {
    await this.page.click(`[data-fault="${fault}"]`);
  }

  /** Waits until a button is, or is not, pressed. */
  async untilPressed(fault: Fault, isPressed = true): Promise<void> {
    await this.until(
      `document.querySelector('[data-fault="${fault}"]').ariaPressed === "${isPressed}"`,
    );
  }

  async untilText(id: string, pattern: RegExp): Promise<void> {
    await this.until(
      `${pattern}.test(document.getElementById("${id}").textContent)`,
    );
  }

  /** Waits until there is a request that is described like this. */
  async untilRequest(pattern: RegExp): Promise<void> {
    await this.until(`(() => {
      const timeline = document.getElementById("timeline");
      const press = (key) =>
        timeline.dispatchEvent(new KeyboardEvent("keydown", { key }));
      press("End");
      for (let index = 0; index < 200; index++) {
        if (${pattern}.test(timeline.ariaValueText)) return true;
        press("ArrowLeft");
      }
    })()`);
  }

  /** Waits until more has been delivered than now. */
  async untilDelivering(): Promise<void> {
    const before = await this.text("delivered");
    await this.until(
      `document.getElementById("delivered").textContent !== "${before}"`,
    );
  }

  /** Waits until the stream has ended, and checks both sides. */
  async untilEqual(verdict = /^Equal/): Promise<void> {
    await this.untilText("finish", /Start again/);
    assertMatch(await this.text("verdict"), verdict);
    const hash = await this.text("page-hash");
    assertMatch(hash, /^[0-9a-f]{64}$/);
    assertEquals(await this.text("server-hash"), hash);
    const count = await this.text("page-count");
    assertMatch(count, /^[1-9][\d,]* records, [\d,]+ bytes$/);
    assertEquals(await this.text("server-count"), count);
  }

  async finish(verdict?: RegExp): Promise<void> {
    await this.page.click("#finish");
    await this.untilEqual(verdict);
  }
}

/** What a test may use. */
interface Scope {
  readonly tab: Tab;
  readonly openTab: (viewport?: Viewport) => Promise<Tab>;
  readonly server: PageServer;
}

/** A test with the page in a browser. It fails for whatever goes wrong in the page. */
function testPage(
  name: string,
  fn: (scope: Scope) => Promise<void>,
  program: Program = CHROMIUM,
): void {
  testWith(program)(`the page in ${program.command}: ${name}`, async () => {
    await using server = await PageServer.start(0);
    await using browser = await openBrowser(program);
    const tabs: Tab[] = [];
    const openTab = async (viewport?: Viewport) => {
      const tab = await open(browser, server, viewport);
      tabs.push(tab);
      return tab;
    };
    await fn({ tab: await openTab(), openTab, server });
    for (const { problems } of tabs) assertEquals(problems, []);
    // What the driver leaves behind for a moment, such as timers, is not the test's.
  }, { sanitizeOps: false, sanitizeResources: false });
}

async function open(
  browser: Browser,
  { url }: PageServer,
  viewport: Viewport = WIDE,
): Promise<Tab> {
  const tab = new Tab(await browser.newPage(), url);
  await tab.page.setViewport(viewport);
  await tab.page.goto(url);
  await tab.untilDelivering();
  return tab;
}

// -- Each button --

for (
  const [fault, request, status] of [
    ["503", /: 503 after .*; retried after/, /503/],
    ["429", /: 429 after .*; retried after 5\.\d s/, /Retry-After/],
    ["reset", /: connection lost after .*; retried/, /by their keys/],
    ["silence", /: timeout after 3\.\d s; retried/, /does not respond/],
    ["away", /: connection lost after .*; retried/, /is away/],
  ] as const
) {
  testPage(
    `${fault} makes requests fail until Mend, and nothing is lost`,
    async ({ tab }) => {
      await tab.press(fault);
      await tab.untilPressed(fault);
      assertMatch(await tab.text("status"), status);
      await tab.untilRequest(request);
      await tab.untilText("requests", /[1-9]\d* failed/);
      await tab.page.click("#mend");
      await tab.untilPressed(fault, false);
      await tab.untilText("status", /The server is up\. /);
      await tab.untilDelivering();
      await tab.finish(/once and in order/);
      if (fault === "reset") {
        assertMatch(await tab.text("sum"), /[1-9]\d* repeats? recognised/);
      }
    },
  );
}

testPage("a fault is ended by pressing its button again", async ({ tab }) => {
  for (const fault of ["503", "429", "reset", "silence", "away"] as const) {
    await tab.press(fault);
    await tab.untilPressed(fault);
    await tab.press(fault);
    await tab.untilPressed(fault, false);
  }
  await tab.finish(/once and in order/);
});

testPage(
  "Refuse one batch diverts it, and the rest arrives",
  async ({ tab }) => {
    await tab.press("refuse");
    await tab.untilText("diverted-note", /^1 batch/);
    await tab.untilPressed("refuse", false);
    await tab.untilRequest(/: 422 after/);
    await tab.untilDelivering();
    await tab.finish(/all but what was diverted/);
    const [, accepted, stored, diverted] = (await tab.text("sum"))
      .match(/^([\d,]+) bytes accepted = ([\d,]+) stored \+ ([\d,]+) diverted/)!
      .map((text) => Number(text.replaceAll(",", "")));
    assert(diverted! > 0);
    assertEquals(accepted, stored! + diverted!);
  },
);

testPage(
  "faults replace each other, and mixed ones lose nothing",
  async ({ tab }) => {
    for (const fault of ["503", "reset", "away", "silence"] as const) {
      await tab.press(fault);
      await tab.untilPressed(fault);
      assertEquals((await tab.page.$$('[aria-pressed="true"]')).length, 1);
    }
    await tab.page.click("#mend");
    await tab.finish(/once and in order/);
  },
);

testPage("Start again begins a new stream", async ({ tab }) => {
  await tab.finish();
  const first = await tab.text("page-hash");
  await tab.page.click("#finish");
  await tab.untilText("finish", /^Finish/);
  assertEquals(await tab.text("page-hash"), "SHA-256");
  await tab.untilDelivering();
  await tab.finish();
  assert(await tab.text("page-hash") !== first);
});

testPage("Finish waits for a server that is broken", async ({ tab }) => {
  await tab.press("503");
  await tab.untilPressed("503");
  await tab.page.click("#finish");
  await tab.untilText("status", /^Closing/);
  await tab.page.click("#mend");
  await tab.untilEqual(/once and in order/);
});

testPage(
  "Finish accounts for what a broken server did not take",
  async ({ tab }) => {
    await tab.press("away");
    await tab.untilPressed("away");
    await tab.press("503"); // which does not end by itself
    await tab.untilPressed("503");
    await tab.finish(/Nothing is lost: takeUnsent\(\) returned the rest/);
    assertMatch(await tab.text("sum"), /[1-9][\d,]* unsent/);
  },
);

// -- What is shown --

testPage(
  "backpressure shows, and memory stays within its bound",
  async ({ tab }) => {
    await tab.press("503");
    await tab.untilText("writer", /^Backpressure: the generator has waited/);
    await tab.untilText("store-bytes", /^3[12]\.\d of 32 KiB/);
    const accepted = await tab.text("accepted");
    const held = (await tab.text("held")).match(/^(\d+\.\d) KiB$/);
    assert(Number(held![1]) <= 64, `${held}`);
    // What the pointer does is not awaited, and goes to the queue.
    await tab.page.mouse.move(10, 10);
    await tab.page.mouse.move(100, 100, { steps: 5 });
    await tab.untilText("queue-bytes", /^(?!0\.0 )[\d.]+ of 64 KiB/);
    assertEquals(await tab.text("accepted"), accepted);
    await tab.page.click("#mend");
    await tab.untilText("writer", /^No backpressure/);
    await tab.finish();
  },
);

testPage(
  "what the visitor does is written, but not which keys",
  async ({ tab }) => {
    for (
      const [act, event] of [
        [() => tab.page.mouse.move(30, 30), "pointer"],
        [() => tab.page.mouse.down().then(() => tab.page.mouse.up()), "press"],
        [() => tab.page.keyboard.press("q"), "key"],
        [() => tab.page.mouse.wheel({ deltaY: 100 }), "scroll"],
      ] as const
    ) {
      await act();
      await tab.untilText("last", new RegExp(`"event":"${event}"`));
      assert(!(await tab.text("last")).includes("q"));
    }
    await tab.finish();
  },
);

testPage(
  "the generator writes at the rate of the slider and of the number",
  async ({ tab }) => {
    await tab.page.focus("#rate-slider");
    await tab.page.keyboard.press("Home");
    assertEquals(
      await tab.page.$eval("#rate", (e) => (e as HTMLInputElement).value),
      "0",
    );
    await tab.untilText("accepted-rate", /^0 B/);
    await tab.page.keyboard.press("End");
    const slider = await tab.page.$("#rate-slider");
    const spoken = (e: Element) => e.getAttribute("aria-valuetext");
    assertEquals(await slider!.evaluate(spoken), "100,000 per second");
    await tab.untilText("accepted-rate", /MiB/);
    await tab.page.$eval("#rate", (e) => (e as HTMLInputElement).select());
    await tab.page.type("#rate", "2500000");
    await tab.page.keyboard.press("Tab");
    assertEquals(
      await tab.page.$eval("#rate", (e) => (e as HTMLInputElement).value),
      "100000",
    );
    await tab.finish(/once and in order/);
  },
);

testPage("works by keyboard alone", async ({ tab }) => {
  const { keyboard } = tab.page;
  const focused = () =>
    tab.page.evaluate(() =>
      document.activeElement!.id ||
      (document.activeElement as HTMLElement).dataset.fault
    );
  const order: (string | undefined)[] = [];
  const tabTo = async (target: string) => {
    do {
      await keyboard.press("Tab");
      order.push(await focused());
      assert(order.length < 40, `${target} is not reached: ${order}`);
      const outline = await tab.page.evaluate(() =>
        getComputedStyle(document.activeElement!).outlineStyle
      );
      assertEquals(outline, "solid", `focus of ${order.at(-1)} is not visible`);
    } while (order.at(-1) !== target);
  };
  await tabTo("503");
  await keyboard.press("Enter");
  await tab.untilPressed("503");
  await tabTo("mend");
  await keyboard.press("Space");
  await tab.untilPressed("503", false);
  await tabTo("timeline");
  await keyboard.press("ArrowLeft");
  await tab.untilText("detail", /^Batch \d+, attempt \d+/);
  await keyboard.press("Escape");
  await tab.untilText("detail", /^Point at/);
  await keyboard.down("Shift");
  await keyboard.press("Tab");
  await keyboard.up("Shift");
  assertEquals(await focused(), "finish");
  await keyboard.press("Enter");
  await tab.untilEqual();
  assertEquals(order, [
    ...["rate", "rate-slider", "503", "429", "reset", "silence", "refuse"],
    ...["away", "mend", "finish", "timeline"],
  ]);
});

testPage("pointing at a request describes it", async ({ tab }) => {
  const timeline = (await tab.page.$("#timeline"))!;
  await timeline.scrollIntoView();
  const box = await timeline.boundingBox();
  await tab.page.mouse.move(box!.x + box!.width - 20, box!.y + 30);
  await tab.untilText(
    "detail",
    /^Batch \d+, attempt 1, .*: (2xx|in flight) after/,
  );
});

testPage("fits into 360 px", async ({ openTab }) => {
  const tab = await openTab(NARROW);
  const widthOf = () =>
    tab.page.evaluate(() => document.documentElement.scrollWidth);
  const heightsOf = () =>
    tab.page.$$eval(
      "h1, main *, footer",
      (elements) =>
        elements.map((element) => {
          const { id, className, tagName } = element;
          const { height } = element.getBoundingClientRect();
          return `${id || className || tagName}: ${Math.round(height)} px`;
        }),
    );
  assertEquals(await widthOf(), 360);
  await tab.page.mouse.move(10, 10);
  const heights = await heightsOf();
  await tab.press("refuse");
  await tab.untilText("diverted-note", /^1 batch/);
  for (const fault of ["429", "reset", "silence", "away", "503"] as const) {
    await tab.press(fault);
    await tab.untilPressed(fault);
    assertEquals(await heightsOf(), heights, "the layout shifts");
  }
  await tab.untilText("writer", /^Backpressure/);
  assertEquals(await widthOf(), 360);
  assertEquals(await heightsOf(), heights, "the layout shifts");
  await tab.page.click("#mend");
  await tab.finish();
  assertEquals(await widthOf(), 360);
});

for (const scheme of ["light", "dark"]) {
  testPage(`is legible in ${scheme} mode`, async ({ tab }) => {
    await tab.page.emulateMediaFeatures([
      { name: "prefers-color-scheme", value: scheme },
    ]);
    await tab.press("503");
    await tab.untilText("writer", /^Backpressure/);
    const { texts, drawn } = await tab.page.evaluate(measureContrast, DRAWN);
    assert(texts.length > 40, `only ${texts.length} texts`);
    const faint = texts.filter(({ ratio }) => ratio < MIN_TEXT_CONTRAST);
    assertEquals(faint, []);
    assertEquals(drawn.filter(({ ratio }) => ratio < MIN_CONTRAST), []);
    const [{ background }] = texts as [typeof texts[0]];
    assertEquals(background > 0.5, scheme === "light");
  });
}

/** Runs in the page: the contrast of each text, and of each colour of the charts. */
function measureContrast(names: string[]) {
  /** Relative luminance (WCAG 2.2). */
  const luminanceOf = (colour: string) => {
    const [red, green, blue] = colour.match(/[\d.]+/g)!.map((channel) => {
      const value = Number(channel) / 255;
      return value <= 0.04045
        ? value / 12.92
        : ((value + 0.055) / 1.055) ** 2.4;
    }) as [number, number, number];
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const backgroundOf = (element: Element): string => {
    const { backgroundColor } = getComputedStyle(element);
    return backgroundColor === "rgba(0, 0, 0, 0)"
      ? backgroundOf(element.parentElement!)
      : backgroundColor;
  };
  const contrastOf = (colour: string, element: Element) => {
    const background = luminanceOf(backgroundOf(element));
    const lights = [luminanceOf(colour), background].sort((a, b) => b - a);
    return { ratio: (lights[0]! + 0.05) / (lights[1]! + 0.05), background };
  };
  const texts = [...document.body.querySelectorAll("*")]
    .filter((element) =>
      [...element.childNodes].some(({ nodeType, textContent }) =>
        nodeType === Node.TEXT_NODE && textContent?.trim()
      )
    )
    .map((element) => ({
      text: element.textContent,
      ...contrastOf(getComputedStyle(element).color, element),
    }));
  const chart = document.querySelector(".charts section")!;
  const probe = chart.appendChild(document.createElement("i"));
  const drawn = names.map((name) => {
    probe.style.color = `var(--${name})`;
    return { name, ...contrastOf(getComputedStyle(probe).color, chart) };
  });
  probe.remove();
  return { texts, drawn };
}

testPage("moves little if the visitor wants that", async ({ tab }) => {
  await tab.page.emulateMediaFeatures([
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
  await tab.untilDelivering();
  await tab.finish();
});

// -- Several pages --

testPage(
  "a page that is reloaded has sent what it held, and begins anew",
  async ({ tab, server }) => {
    await tab.page.reload();
    await tab.untilText(
      "sum",
      /^The page that was left had ([\d,]+) bytes accepted.* stored \1 of them/,
    );
    assertEquals(server.streamCount, 2);
    await tab.untilDelivering();
    await tab.finish();
  },
);

testPage("two tabs at once do not mix", async ({ tab, openTab }) => {
  const other = await openTab();
  await other.press("503");
  await other.untilPressed("503");
  await other.untilText("requests", /failed/);
  await tab.page.bringToFront();
  await tab.untilDelivering();
  assertEquals((await tab.page.$$('[aria-pressed="true"]')).length, 0);
  assertMatch(await tab.text("requests"), /^\d+ requests?$/);
  await tab.finish(/once and in order/);
  await other.page.bringToFront();
  await other.page.click("#mend");
  await other.finish(/once and in order/);
  assert(await tab.text("page-hash") !== await other.text("page-hash"));
});

testPage("an outage, and both sides agree", async ({ tab }) => {
  await tab.press("503");
  await tab.untilRequest(/: 503 after/);
  await tab.press("reset");
  await tab.untilRequest(/: connection lost after/);
  await tab.page.click("#mend");
  await tab.finish(/once and in order/);
}, FIREFOX);
