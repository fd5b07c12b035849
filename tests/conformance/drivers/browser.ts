/** Chromium and Firefox: a page runs the suite, and prints the results to its console. */
import type { Browser } from "puppeteer-core";
import { INSECURE_HOST, openBrowser } from "../../../testing/browsers.ts";
import { find, type Program } from "../../../testing/real_servers.ts";
import type { Environment } from "../suite.ts";
import type { Drive, Job } from "./driver.ts";
import { Missing } from "./missing.ts";

/** How long a browser may take to close before it is killed, in ms. */
const CLOSE_TIMEOUT = 5_000;

/** The driver would end this process at once; the signal of the job closes all. */
const SIGNALS = { handleSIGINT: false, handleSIGTERM: false };

/** What the page has (`page/index.html`). */
declare const conformance: (environment: Environment) => Promise<void>;

/** Makes what runs the suite in a page. */
export function driveBrowser(program: Program): Drive {
  return async (job) => {
    if (find(program) === undefined) {
      throw new Missing(
        `${program.command} is not installed (apt-get install ${program.package})`,
      );
    }
    await job.stage.project();
    const browser = await openBrowser(program, SIGNALS);
    try {
      const version = await browser.version();
      await Promise.race([runIn(browser, job), rejectOnAbort(job.signal)]);
      return version.split("/").at(-1)!;
    } finally {
      await close(browser);
    }
  };
}

async function runIn(
  browser: Browser,
  { environment, front, stage: { server }, print }: Job,
): Promise<void> {
  const page = await browser.newPage();
  page.on("console", (message) => print(message.text()));
  page.on("pageerror", (error) => print(String(error)));
  // With CORS, the page is of another origin than the server. Without, it is one that
  // the browser does not trust.
  const place = (url: string) =>
    front === "http" ? url.replace("127.0.0.1", INSECURE_HOST) : url;
  const origin = place(server[front === "cors" ? "http" : front]);
  await page.goto(`${origin}/page/index.html`);
  await page.waitForFunction(() => "conformance" in globalThis);
  await page.evaluate(
    (environment) => conformance(environment),
    {
      ...environment,
      server: place(environment.server),
      tus: place(environment.tus),
    },
  );
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

/** Closes a browser; one that hangs is killed. */
async function close(browser: Browser): Promise<void> {
  const timer = setTimeout(
    () => browser.process()?.kill("SIGKILL"),
    CLOSE_TIMEOUT,
  );
  await browser.close();
  clearTimeout(timer);
}
