/**
 * Runs a `deno` command on code that imports `@std`: with the packages from JSR,
 * cached or downloaded, or with the stand-ins in `testing/std` if JSR cannot be
 * reached.
 *
 *     deno run -A tools/with_std.ts test -A
 *
 * The npm packages are those of `deno.lock`, which no command here changes.
 */
import { fileURLToPath } from "node:url";
import config from "../deno.json" with { type: "json" };
import { runWatched } from "./watchdog.ts";

/** How long JSR may take to respond, in ms. */
const TIMEOUT = 5_000;
const ROOT = new URL("../", import.meta.url);

const names = Object.keys(config.imports).filter((name) =>
  name.startsWith("@std/")
);

/**
 * Whether the packages can be had from JSR. Asked in a process of its own: in this
 * one, an import would add them to `deno.lock`.
 */
async function canImportStd(): Promise<boolean> {
  const imports = names.map((name) => `import("${name}")`).join(", ");
  const probe = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-lock", `await Promise.all([${imports}])`],
    cwd: ROOT,
    stdout: "null",
    stderr: "null",
  }).spawn();
  const timer = setTimeout(() => probe.kill(), TIMEOUT);
  const { success } = await probe.status;
  clearTimeout(timer);
  return success;
}

/** Flags for the packages from JSR, and a copy of the lock to which they are added. */
function useJsr(): string[] {
  const lock = Deno.makeTempFileSync({ suffix: ".lock" });
  addEventListener("unload", () => Deno.removeSync(lock));
  Deno.copyFileSync(new URL("deno.lock", ROOT), lock);
  return [`--lock=${lock}`];
}

/** Flags for the stand-ins. The lock has everything else, so it must not change. */
function useStandIns(): string[] {
  const imports: Record<string, string> = { ...config.imports };
  // What deno.json implies, a plain import map has to say.
  for (const [name, specifier] of Object.entries(config.imports)) {
    imports[`${name}/`] = `${specifier.replace(":", ":/")}/`;
  }
  for (const name of names) {
    const file = `testing/std/${name.slice("@std/".length)}.ts`;
    imports[name] = new URL(file, ROOT).href;
  }
  const map = encodeURIComponent(JSON.stringify({ imports }));
  return [
    `--import-map=data:application/json,${map}`,
    `--lock=${fileURLToPath(new URL("deno.lock", ROOT))}`,
    "--frozen",
  ];
}

const [command = "test", ...args] = Deno.args;
const isReachable = await canImportStd();
console.log(
  isReachable
    ? `Using ${names.join(", ")} from JSR.`
    : `Using the stand-ins in testing/std for ${
      names.join(", ")
    }, as JSR cannot be reached.`,
);
const flags = isReachable ? useJsr() : useStandIns();
const all = [command, ...flags, ...args];
const code = command === "test"
  ? await runWatched(all)
  : (await new Deno.Command(Deno.execPath(), { args: all }).spawn().status)
    .code;
Deno.exit(code);
