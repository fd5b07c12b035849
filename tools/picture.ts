/**
 * Draws `docs/page.webp`, the picture of `deno task page`: an outage, the recovery, and
 * both sides at the end. It needs Chromium.
 *
 *     deno task picture [FILE]
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PageServer } from "../examples/page/server.ts";
import { CHROMIUM, openBrowser } from "../testing/browsers.ts";

/** What happens, and how long it lasts, in ms: what the charts have room for. */
const STORY: readonly [selector: string | undefined, duration: number][] = [
  [undefined, 8_000],
  ['[data-fault="503"]', 6_000],
  ["#mend", 6_000],
  ['[data-fault="reset"]', 4_000],
  ["#mend", 4_000],
  ["#finish", 1_000],
];

const [path = "docs/page.webp"] = Deno.args;
await using server = await PageServer.start(0);
await using browser = await openBrowser(CHROMIUM);
const page = await browser.newPage();
await page.setViewport({ width: 1200, height: 900 });
await page.goto(server.url);
for (const [selector, duration] of STORY) {
  if (selector !== undefined) await page.click(selector);
  await sleep(duration);
}
const picture = await page.screenshot({
  fullPage: true,
  type: "webp",
  quality: 90,
});
await Deno.writeFile(path, picture);
console.log(`${path}: ${picture.length} bytes`);
