/**
 * Runs a deno command whose code uses `@std`: the real one from JSR if it can
 * be had, from the cache or the registry, else the stand-ins in `testing/std`.
 *
 *     deno run -A tools/with_std.ts test -A
 */
import config from "../deno.json" with { type: "json" };
import { runWatched } from "./watchdog.ts";

/** How long JSR may take to answer, in ms. */
const PATIENCE = 5_000;

const names = Object.keys(config.imports).filter((name) =>
  name.startsWith("@std/")
);

async function haveStd(): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("JSR is slow")), PATIENCE);
  });
  try {
    await Promise.race([Promise.all(names.map((name) => import(name))), late]);
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

const [command = "test", ...args] = Deno.args;
const flags: string[] = [];
if (await haveStd()) {
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
