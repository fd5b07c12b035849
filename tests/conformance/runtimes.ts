/** What the suite runs on, and over which connections. */
import type { Drive, Front } from "./drivers/driver.ts";
import { driveBrowser } from "./drivers/browser.ts";
import { driveProgram } from "./drivers/program.ts";
import { driveWorkerd } from "./drivers/workerd.ts";
import { BUN } from "./installed.ts";
import { CHROMIUM, FIREFOX } from "../../testing/browsers.ts";

/** A platform with one implementation of what the library uses. */
export interface Runtime {
  /** What the documentation calls it. */
  readonly title: string;
  /** How much of its version the documentation gives. */
  readonly precision: "exact" | "major";
  readonly drive: Drive;
  readonly fronts: readonly Front[];
}

/** One run of the suite. Its results are in `results/NAME.json`. */
export interface Run {
  readonly name: string;
  readonly runtime: RuntimeName;
  readonly front: Front;
}

/** The version of the npm package `workerd`. */
export const WORKERD = "1.20260426.1";

const PROGRAM_FRONTS = ["http", "https"] as const;
const PAGE_FRONTS = ["http", "cors", "https"] as const;

/**
 * All of them. Those that npm has are pinned to one version; Deno is the one that
 * runs this, and the browsers are those of the system.
 *
 * Node 20 is none of them: it has no `Promise.withResolvers`.
 */
export const RUNTIMES = {
  "deno": {
    title: "Deno",
    precision: "exact",
    drive: driveProgram({ program: "deno" }),
    fronts: PROGRAM_FRONTS,
  },
  "node-22": {
    title: "Node",
    precision: "exact",
    drive: driveProgram({ program: "node", version: "22.23.3" }),
    fronts: PROGRAM_FRONTS,
  },
  "node-24": {
    title: "Node",
    precision: "exact",
    drive: driveProgram({ program: "node", version: "24.21.0" }),
    fronts: PROGRAM_FRONTS,
  },
  "bun": {
    title: "Bun",
    precision: "exact",
    drive: driveProgram({ program: "bun", version: BUN }),
    fronts: PROGRAM_FRONTS,
  },
  "workerd": {
    title: "Workers",
    precision: "exact",
    drive: driveWorkerd(WORKERD),
    fronts: PROGRAM_FRONTS,
  },
  "chromium": {
    title: "Chromium",
    precision: "major",
    drive: driveBrowser(CHROMIUM),
    fronts: PAGE_FRONTS,
  },
  "firefox": {
    title: "Firefox",
    precision: "major",
    drive: driveBrowser(FIREFOX),
    fronts: PAGE_FRONTS,
  },
} as const satisfies Record<string, Runtime>;

/** The name of a runtime. */
export type RuntimeName = keyof typeof RUNTIMES;

/** Their names. */
export const RUNTIME_NAMES = Object.keys(RUNTIMES) as RuntimeName[];

/** All runs. */
export const RUNS: readonly Run[] = RUNTIME_NAMES.flatMap((runtime) =>
  RUNTIMES[runtime].fronts.map((front) => ({
    name: front === "http" ? runtime : `${runtime}-${front}`,
    runtime,
    front,
  }))
);

/**
 * Runtimes that may be missing on an operating system, with the reason. One that is
 * missing elsewhere is a failure.
 */
export const EXCUSED: Partial<
  Record<typeof Deno.build.os, Partial<Record<RuntimeName, string>>>
> = {
  darwin: {
    chromium: "the browsers of macOS are not on the path",
    firefox: "the browsers of macOS are not on the path",
  },
};
