/**
 * Runs a `deno` command on code that imports `@std`: with the packages from JSR,
 * cached or downloaded, or with the stand-ins in `testing/std` if JSR cannot be
 * reached.
 *
 *     deno run -A tools/with_std.ts test -A
 */
import config from "../deno.json" with { type: "json" };
import { runWatched } from "./watchdog.ts";

/** How long JSR may take to respond, in ms. */
const TIMEOUT = 5_000;

const names = Object.keys(config.imports).filter((name) =>
  name.startsWith("@std/")
);

async function canImportStd(): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timedOut = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("JSR is slow")), TIMEOUT);
  });
  try {
    await Promise.race([
      Promise.all(names.map((name) => import(name))),
      timedOut,
    ]);
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

const [command = "test", ...args] = Deno.args;
const flags: string[] = [];
if (await canImportStd()) {
  console.log(`Using ${names.join(", ")} from JSR.`);
} else {
  console.log(
    `Using the stand-ins in testing/std for ${
      names.join(", ")
    }, as JSR cannot be reached.`,
  );
  const imports: Record<string, string> = { ...config.imports };
  for (const name of names) {
    const file = `../testing/std/${name.slice("@std/".length)}.ts`;
    imports[name] = new URL(file, import.meta.url).href;
  }
  const map = encodeURIComponent(JSON.stringify({ imports }));
  flags.push(`--import-map=data:application/json,${map}`);
}
const all = [command, ...flags, ...args];
if (command === "test") Deno.exit(await runWatched(all));
const { code } = await new Deno.Command(Deno.execPath(), { args: all })
  .spawn().status;
Deno.exit(code);
