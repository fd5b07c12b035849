/**
 * A project outside of the checkout, as a user has it: the packed package, installed
 * by npm, and beside it the suite in JavaScript.
 */
import { transformSync } from "amaro";
import { dirname, join } from "node:path/posix";
import config from "../../deno.json" with { type: "json" };
import { pack } from "../../tools/pack.ts";
import { npm } from "./installed.ts";

/** Where the suite is. */
const HERE = new URL("./", import.meta.url);

/** A module of JavaScript. */
export interface Module {
  /** Its path, from which its imports are resolved. */
  readonly name: string;
  readonly code: string;
}

/** What runs the suite. */
export interface Project {
  readonly dir: string;
  /** The program that runs the suite in Node and Bun. */
  readonly client: string;
  /** The suite and the package, for what resolves no names of packages. */
  readonly modules: readonly Module[];
}

/**
 * Makes the project.
 *
 * @param dir Where to. The server finds a page in `page/`, and the package in
 *   `package/`.
 */
export async function makeProject(dir: string): Promise<Project> {
  await Deno.writeTextFile(`${dir}/package.json`, '{ "type": "module" }');
  await npm(dir, "install", await pack(dir));
  const home = `${dir}/node_modules/${config.name}`;
  await Deno.symlink(home, `${dir}/package`);
  const exports = await readExports(home);
  const suite = await readSuite();
  const page = [...suite, { name: "index.html", code: pageOf(exports) }];
  for (const { name, code } of page) {
    const path = `${dir}/page/${name}`;
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, code);
  }
  return {
    dir,
    client: `${dir}/page/client.ts`,
    modules: [
      ...suite.filter(({ name }) => name !== "client.ts"),
      ...aliases(exports),
      ...await readPackage(dir, Object.values(exports)),
    ],
  };
}

/** The files of the package's entry points, by the names that they are imported by. */
async function readExports(home: string): Promise<Record<string, string>> {
  const text = await Deno.readTextFile(`${home}/package.json`);
  const { exports } = JSON.parse(text);
  return Object.fromEntries(
    [".", "./upload", "./tus", "./receiver"].map((name) => [
      config.name + name.slice(1),
      join("package", exports[name].default),
    ]),
  );
}

/** The suite and its client, without types. Their names stay, and so do the imports. */
async function readSuite(): Promise<Module[]> {
  const names = ["client.ts", "suite.ts"];
  for await (const { name } of Deno.readDir(new URL("suite/", HERE))) {
    names.push(`suite/${name}`);
  }
  return names.map((name) => {
    const source = Deno.readTextFileSync(new URL(name, HERE));
    return { name, code: transformSync(source, { mode: "strip-only" }).code };
  });
}

/** workerd resolves a name like a path: from the folder of the module that imports it. */
function aliases(exports: Record<string, string>): Module[] {
  return ["", "suite/"].flatMap((folder) =>
    Object.entries(exports).map(([name, path]) => ({
      name: folder + name,
      code: `export * from "/${path}";`,
    }))
  );
}

/** Modules of the package, and all that they import. */
async function readPackage(dir: string, paths: string[]): Promise<Module[]> {
  const modules = new Map<string, string>();
  for (const name of paths) await read(name);
  return [...modules].map(([name, code]) => ({ name, code }));

  async function read(name: string): Promise<void> {
    if (modules.has(name)) return;
    const code = await Deno.readTextFile(`${dir}/${name}`);
    modules.set(name, code);
    for (const [, path] of code.matchAll(/ from "(\.[^"]+)"/g)) {
      await read(join(dirname(name), path!));
    }
  }
}

/** The page that runs the suite. */
function pageOf(exports: Record<string, string>): string {
  const imports = Object.fromEntries(
    Object.entries(exports).map(([name, path]) => [name, `/${path}`]),
  );
  return `<!doctype html>
<meta charset="utf-8">
<title>Conformance</title>
<script type="importmap">${JSON.stringify({ imports })}</script>
<script type="module">
  import { run } from "./suite.ts";
  globalThis.conformance = async (environment) => {
    await run(environment, (result) => console.log(JSON.stringify(result)));
  };
</script>
`;
}
