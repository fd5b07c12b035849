/** Cloudflare's workerd: a Worker runs the suite within one request. */
import { install } from "../installed.ts";
import type { Module } from "../project.ts";
import type { Drive, Job } from "./driver.ts";
import { start } from "./process.ts";

/** What the Worker may use (https://developers.cloudflare.com/workers/configuration/compatibility-dates/). */
const COMPATIBILITY_DATE = "2026-04-01";

/** It prints each result, as the response could only come at the end. */
const WORKER = `
import { run } from "./suite.ts";
export default {
  async fetch(request) {
    const environment = await request.json();
    await run(environment, (result) => console.log(JSON.stringify(result)));
    return new Response();
  },
};`;

/**
 * Makes what runs the suite in a Worker.
 *
 * @param version That of the npm package `workerd`.
 */
export function driveWorkerd(version: string): Drive {
  return async (job) => {
    const { environment, stage, print, signal } = job;
    const { modules } = await stage.project();
    const worker = await startWorker({
      modules: [{ name: "worker.js", code: WORKER }, ...modules],
      certificates: [stage.server.certificate],
      ...{ version, print, signal },
    });
    await using _ = worker;
    const response = await fetch(worker.url, {
      method: "POST",
      body: JSON.stringify(environment),
      signal,
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`the Worker failed: ${text}`);
    return version;
  };
}

/** A Worker that serves requests. */
export interface Worker extends AsyncDisposable {
  readonly url: string;
}

/** Starts a Worker, and waits until it takes requests. */
export async function startWorker(
  { version, modules, certificates, print, signal }:
    & Pick<Job, "print" | "signal">
    & {
      /** That of the npm package `workerd`. */
      readonly version: string;
      /** The first is the Worker. */
      readonly modules: readonly Module[];
      /** Those that the Worker trusts, in PEM. */
      readonly certificates: readonly string[];
    },
): Promise<Worker> {
  const program = await install("workerd", version);
  const config = await Deno.makeTempFile({ suffix: ".capnp" });
  try {
    await Deno.writeTextFile(config, configOf(modules, certificates));
    const listening = Promise.withResolvers<number>();
    const process = start(program, {
      args: ["serve", "--control-fd=1", config],
      signal,
      print: (line) => {
        const port = portOf(line);
        if (port === undefined) print(line);
        else listening.resolve(port);
      },
    });
    process.ended.catch(listening.reject);
    const port = await listening.promise;
    return Object.assign(process, { url: `http://127.0.0.1:${port}/` });
  } finally {
    await Deno.remove(config);
  }
}

/** The port of a line like `{"event":"listen","socket":"http","port":46275}`. */
function portOf(line: string): number | undefined {
  if (!line.startsWith('{"event":"listen"')) return;
  return JSON.parse(line).port;
}

/** The configuration, in the text format of Cap'n Proto. */
function configOf(
  modules: readonly Module[],
  certificates: readonly string[],
): string {
  // Its strings are those of C, of which JSON has a part.
  const list = modules.map(({ name, code }) =>
    `(name = ${JSON.stringify(name)}, esModule = ${JSON.stringify(code)})`
  );
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "worker", worker = (
      compatibilityDate = "${COMPATIBILITY_DATE}",
      globalOutbound = "network",
      modules = [${list.join(",\n")}],
    )),
    (name = "network", network = (
      allow = ["private"],
      tlsOptions = (trustedCertificates = ${JSON.stringify(certificates)}),
    )),
  ],
  sockets = [
    (name = "http", address = "127.0.0.1:0", http = (), service = "worker"),
  ],
);`;
}
