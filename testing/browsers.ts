/** Real browsers for tests: installed programs, driven over their own protocols. */
import puppeteer, { type Browser, type LaunchOptions } from "puppeteer-core";
import { find, type Program, testWith } from "./real_servers.ts";

export const CHROMIUM: Program = {
  command: "chromium",
  aliases: ["chromium-browser", "google-chrome"],
  package: "chromium",
};
export const FIREFOX: Program = {
  command: "firefox-esr",
  aliases: ["firefox"],
  package: "firefox-esr",
};

/**
 * A name of 127.0.0.1 in browsers, and one that they do not trust: pages that it
 * serves by `http:` lack what is reserved to secure contexts, such as
 * `crypto.subtle`.
 */
export const INSECURE_HOST = "page.test";

/** Arguments of Chromium: it may run as root, and makes no requests of its own. */
const CHROMIUM_ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  `--host-resolver-rules=MAP ${INSECURE_HOST} 127.0.0.1`,
];

/**
 * Starts a browser without a window, with a profile of its own that is removed when
 * it is closed.
 *
 * @param options Of the driver, besides those that are set here.
 */
export async function openBrowser(
  program: Program,
  options: LaunchOptions = {},
): Promise<Browser & AsyncDisposable> {
  const isChromium = program === CHROMIUM;
  const browser = await puppeteer.launch({
    browser: isChromium ? "chrome" : "firefox",
    executablePath: find(program)!,
    args: isChromium ? CHROMIUM_ARGUMENTS : [],
    extraPrefsFirefox: { "network.dns.localDomains": INSECURE_HOST },
    headless: true,
    acceptInsecureCerts: true,
    ...options,
  });
  return Object.assign(browser, {
    [Symbol.asyncDispose]: () => browser.close(),
  });
}

/**
 * `testWith` for each browser, with one that is opened for the test. What the driver
 * leaves behind for a moment, such as timers, is not the test's.
 */
export function testInBrowsers(
  name: string,
  fn: (browser: Browser, t: Deno.TestContext) => Promise<void>,
): void {
  for (const program of [CHROMIUM, FIREFOX]) {
    testWith(program)(`${program.command}: ${name}`, async (t) => {
      await using browser = await openBrowser(program);
      await fn(browser, t);
    }, { sanitizeOps: false, sanitizeResources: false });
  }
}
