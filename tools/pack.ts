/**
 * Makes the npm package: `deno task pack [FOLDER]` writes
 * `stream-buffer-stream-buffer-VERSION.tgz` to FOLDER, the current one by default.
 *
 * `deno pack` makes it: JavaScript and declarations of every entry point, and a
 * `package.json` with `exports`. What npm wants to know besides is added here, and
 * the archive made anew by the system's `tar`.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import config from "../deno.json" with { type: "json" };

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** What `package.json` has besides what `deno pack` puts there. */
const FIELDS = {
  description:
    "Collects many small writes and sends them to a web server in few requests, without losing, reordering or silently dropping a byte",
  keywords: "buffer batch stream http retry backpressure logging telemetry"
    .split(" ").concat("ndjson", "upload", "tus"),
  // Promise.withResolvers, and node:sqlite without a flag.
  engines: { node: ">=22.13" },
  sideEffects: ["./cli/*.js"],
};

/** The command as a program of Node's. An older one cannot load the modules. */
const BIN = "cli/bin.js";
const PROGRAM = `#!/usr/bin/env node
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || major === 22 && minor < 13) {
  console.error(
    \`stream-buffer: needs Node 22.13 or newer, and this is \${process.version}\`,
  );
  process.exit(2);
}
const { main } = await import("./main.js");
const { runProgram } = await import("./program.js");
await runProgram(main);
`;

/** Runs a program, and throws with its output if it fails. */
async function run(program: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  if (!success) {
    throw new Error(
      `${program} ${args[0]} failed: ${new TextDecoder().decode(stderr)}`,
    );
  }
}

/**
 * Makes the package.
 *
 * @param folder Where to; it is created if it does not exist.
 * @returns The path of the archive.
 */
export async function pack(folder: string): Promise<string> {
  const name = config.name.slice(1).replace("/", "-");
  const archive = join(folder, `${name}-${config.version}.tgz`);
  await Deno.mkdir(folder, { recursive: true });
  const work = await Deno.makeTempDir();
  try {
    const packed = join(work, "packed.tgz");
    await run(
      Deno.execPath(),
      ...["pack", "--allow-dirty", "--no-source-maps", "-o", packed],
    );
    await run("tar", "-xzf", packed, "-C", work);
    const path = join(work, "package", "package.json");
    const { exports, dependencies, ...rest } = JSON.parse(
      await Deno.readTextFile(path),
    );
    const { pg, ...others } = dependencies;
    const all = {
      ...rest,
      ...FIELDS,
      dependencies: others,
      // Whoever stores in PostgreSQL installs it.
      peerDependencies: { pg },
      peerDependenciesMeta: { pg: { optional: true } },
      bin: { "stream-buffer": `./${BIN}` },
      exports: { ...exports, "./package.json": "./package.json" },
    };
    await Deno.writeTextFile(path, `${JSON.stringify(all, null, 2)}\n`);
    await Deno.writeTextFile(join(work, "package", BIN), PROGRAM, {
      mode: 0o755,
    });
    await run("tar", "-czf", archive, "-C", work, "package");
  } finally {
    await Deno.remove(work, { recursive: true });
  }
  return archive;
}

if (import.meta.main) {
  console.log(await pack(Deno.args[0] ?? Deno.cwd()));
}
