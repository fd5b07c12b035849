/**
 * The rule of who may import whom (docs/architecture.md has the same table, with
 * reasons), and what the package is made of.
 */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { NAME, VERSION } from "../cli/version.ts";
import config from "../deno.json" with { type: "json" };
import { temporary } from "../testing/temporary.ts";

const ROOT = import.meta.resolve("../");
const PUBLIC = Object.values(config.exports).map((path) => path.slice(2));
/** What only tests, benchmarks and programs for maintainers import. */
const ANY_LIBRARY = ["node:", "npm:", "jsr:"];

/** Parts within the folder of another one: who may import them has to name them. */
const SEPARATE = ["http/undici.ts", "internal/node/", "receiver/postgres.ts"];

/**
 * A part is a file at the top level, or a folder, and lists what it may import
 * besides itself: parts, files, or schemes. `type` in front of one restricts it
 * to `import type`. All tests together are a part of their own.
 */
const PARTS: Record<string, string[]> = {
  "mod.ts": ["buffer.ts", "sender.ts"],
  "buffer.ts": ["internal/"],
  "sender.ts": ["buffer.ts", "http/", "internal/"],
  "internal/": [],
  "internal/node/": ["internal/", "type node:"],
  "http/": ["type buffer.ts", "internal/"],
  "http/undici.ts": ["http/", "internal/", "npm:undici@"],
  "senders/": ["type buffer.ts", "http/", "internal/"],
  "spool/": [
    ...["buffer.ts", "sender.ts", "internal/", "internal/node/"],
    "type node:",
  ],
  "receiver/": ["internal/", "internal/node/", "type node:"],
  "receiver/postgres.ts": ["receiver/", "internal/", "npm:pg@"],
  "cli/": [
    ...["mod.ts", "senders/upload.ts", "senders/tus.ts", "http/undici.ts"],
    ...["spool/mod.ts", "receiver/mod.ts", "receiver/postgres.ts", "node:"],
  ],
  "testing/": [...PUBLIC, "examples/receiver.ts", ...ANY_LIBRARY],
  "tools/": [
    ...[...PUBLIC, "testing/", "examples/page/server.ts"],
    ...ANY_LIBRARY,
  ],
  "examples/": [...PUBLIC, ...ANY_LIBRARY],
  "bench/": [...PUBLIC, "examples/isolate.ts", ...ANY_LIBRARY],
  "tests/conformance/suite": ["mod.ts", "senders/upload.ts", "senders/tus.ts"],
  "tests": [
    ...SEPARATE,
    ...["buffer.ts", "sender.ts", "mod.ts", "internal/", "http/", "senders/"],
    ...[
      "spool/",
      "receiver/",
      "cli/",
      "testing/",
      "tools/",
      "bench/",
      "examples/",
      "tests/",
    ],
    ...ANY_LIBRARY,
  ],
};
/** What the conformance suite is made of: it runs on every platform. */
const SUITE = "tests/conformance/suite";
/** Data that anyone may read. */
const DATA = ["deno.json"];

/** An import, by paths from the root, or by the specifier of a library. */
interface Arrow {
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
}

function partOf(file: string): string {
  const separate = SEPARATE.find((part) => file.startsWith(part));
  if (separate !== undefined && !file.endsWith("_test.ts")) return separate;
  if (file.startsWith(SUITE)) return SUITE;
  if (file.endsWith("_test.ts") || file.startsWith("tests/")) return "tests";
  return file.includes("/") ? file.slice(0, file.indexOf("/") + 1) : file;
}

/** The arrows that are not allowed. */
function wrongArrows(arrows: Arrow[]): string[] {
  return arrows.filter(({ from, to, isType }) => {
    const part = partOf(from);
    const allowed = PARTS[part];
    if (allowed === undefined) return true;
    return !DATA.includes(to) && partOf(to) !== part &&
      !allowed.some((name) => {
        const [, type, target] = name.match(/^(type )?(.*)$/)!;
        const matches = SEPARATE.includes(partOf(to))
          ? partOf(to) === target
          : to.startsWith(target!);
        return (isType || !type) && matches;
      });
  }).map(({ from, to, isType }) =>
    `${from} imports ${isType ? "types of " : ""}${to}`
  );
}

/** A chain of imports that leads back to its beginning, or nothing. */
function findCycle(arrows: Arrow[]): string[] | undefined {
  const done = new Set<string>();
  const visit = (file: string, path: string[]): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return;
    for (const { from, to } of arrows) {
      if (from !== file) continue;
      const cycle = visit(to, [...path, file]);
      if (cycle) return cycle;
    }
    done.add(file);
  };
  for (const { from } of arrows) {
    const cycle = visit(from, []);
    if (cycle) return cycle;
  }
}

/** Every module of the repository, by its path from the root. */
function listModules(folder = ""): string[] {
  return [...Deno.readDirSync(new URL(`./${folder}`, ROOT))]
    .flatMap(({ name, isDirectory }) => {
      if (name.startsWith(".") || name === "node_modules") return [];
      if (isDirectory) return listModules(`${folder}${name}/`);
      return name.endsWith(".ts") ? [`${folder}${name}`] : [];
    });
}

/** Every import in these modules and in what they import, as Deno resolves it. */
async function listArrows(modules: string[]): Promise<Arrow[]> {
  await using folder = await temporary();
  const entry = folder.file(
    "all.ts",
    modules.map((path) => `import ${JSON.stringify(ROOT + path)};`).join("\n"),
  );
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["info", "--json", "--no-remote", "--no-npm"],
      ...["--config", fileURLToPath(new URL("deno.json", ROOT)), entry],
    ],
    stderr: "inherit",
  }).output();
  assert(success, "deno info failed");
  interface Info {
    modules: {
      specifier: string;
      dependencies?: {
        specifier: string;
        code?: { specifier?: string };
        type?: { specifier?: string };
      }[];
    }[];
  }
  const info: Info = JSON.parse(new TextDecoder().decode(stdout));
  return info.modules
    .filter(({ specifier }) => specifier.startsWith(ROOT))
    .flatMap(({ specifier, dependencies = [] }) =>
      dependencies.map(({ specifier: to, code, type }) => ({
        from: specifier.replace(ROOT, ""),
        to: (code?.specifier ?? type?.specifier ?? to).replace(ROOT, ""),
        isType: code === undefined,
      }))
    );
}

Deno.test("no module imports what it must not import", async () => {
  const modules = listModules();
  const arrows = await listArrows(modules);
  assert(arrows.length > modules.length, `only ${arrows.length} imports found`);
  assertEquals(modules.filter((path) => !(partOf(path) in PARTS)), []);
  assertEquals(wrongArrows(arrows), []);
  assertEquals(findCycle(arrows), undefined);
});

for (
  const [from, to, isType, wrong] of [
    ["buffer.ts", "internal/checks.ts", false, false],
    ["buffer.ts", "http/retry.ts", false, true],
    ["buffer.ts", "http/retry.ts", true, true],
    ["buffer.ts", "node:buffer", false, true],
    ["http/retry.ts", "http/errors.ts", false, false],
    ["http/retry.ts", "buffer.ts", true, false],
    ["http/retry.ts", "buffer.ts", false, true],
    ["http/retry.ts", "sender.ts", true, true],
    ["internal/checks.ts", "buffer.ts", true, true],
    ["http/undici.ts", "http/permissions.ts", false, false],
    ["http/undici.ts", "npm:undici@^7.0.0", false, false],
    ["http/undici.ts", "npm:got@1.0.0", false, true],
    ["http/retry.ts", "npm:undici@^7.0.0", false, true],
    ["http/retry.ts", "http/undici.ts", false, true],
    ["sender.ts", "http/undici.ts", false, true],
    ["senders/tus.ts", "http/undici.ts", true, true],
    ["bench/main.ts", "http/undici.ts", false, false],
    ["http/undici_test.ts", "http/undici.ts", false, false],
    ["senders/tus.ts", "sender.ts", false, true],
    ["senders/tus.ts", "testing/child.ts", false, true],
    ["cli/main.ts", "mod.ts", false, false],
    ["spool/spool.ts", "sender.ts", false, false],
    ["internal/node/platform.ts", "node:sqlite", true, false],
    ["internal/node/platform.ts", "node:sqlite", false, true],
    ["internal/node/platform.ts", "internal/checks.ts", false, false],
    ["internal/checks.ts", "internal/node/platform.ts", true, true],
    ["buffer.ts", "internal/node/platform.ts", true, true],
    ["receiver/receive.ts", "internal/node/platform.ts", false, false],
    ["receiver/receive.ts", "buffer.ts", true, true],
    ["receiver/receive.ts", "spool/spool.ts", true, true],
    ["receiver/receive.ts", "npm:pg@^8.0.0", false, true],
    ["receiver/mod.ts", "receiver/postgres.ts", false, true],
    ["receiver/postgres.ts", "npm:pg@^8.0.0", false, false],
    ["receiver/postgres.ts", "npm:undici@^7.0.0", false, true],
    ["receiver/postgres.ts", "receiver/store.ts", false, false],
    ["spool/spool.ts", "http/errors.ts", true, true],
    ["buffer.ts", "spool/spool.ts", true, true],
    ["cli/main.ts", "spool/mod.ts", false, false],
    ["cli/main.ts", "spool/database.ts", false, true],
    ["cli/main.ts", "deno.json", false, false],
    ["cli/main.ts", "internal/checks.ts", false, true],
    ["cli/transport.ts", "http/undici.ts", false, false],
    ["cli/main.ts", "npm:undici@7.0.0", false, true],
    ["examples/demo.ts", "testing/child.ts", false, true],
    ["testing/child.ts", "http/retry.ts", false, true],
    ["http/retry_test.ts", "http/retry.ts", false, false],
    ["tests/conformance/suite.ts", "senders/tus.ts", false, false],
    ["tests/conformance/suite/check.ts", "http/retry.ts", true, true],
    ["tests/conformance/suite/check.ts", "node:fs", false, true],
    ["tests/conformance/server.ts", "tests/conformance/suite.ts", true, false],
    ["attic/old.ts", "mod.ts", false, true],
  ] as const
) {
  const verb = wrong ? "must not" : "may";
  const kind = isType ? "types of " : "";
  Deno.test(`${from} ${verb} import ${kind}${to}`, () => {
    assertEquals(wrongArrows([{ from, to, isType }]).length, wrong ? 1 : 0);
  });
}

Deno.test("a cycle of imports is found, even one of types", () => {
  const arrow = (from: string, to: string, isType = false): Arrow => ({
    ...{ from, to, isType },
  });
  const line = [arrow("a", "b"), arrow("b", "c"), arrow("a", "c")];
  assertEquals(findCycle(line), undefined);
  assertEquals(findCycle([...line, arrow("c", "b", true)]), ["b", "c", "b"]);
});

/** What users of a module install. */
const INSTALLED: Record<string, RegExp> = {
  "http/undici.ts": /^npm:undici@\^7\./,
  "receiver/postgres.ts": /^npm:pg@\^8\./,
};

Deno.test("the library imports nothing but itself, the command only node: besides, one transport undici, and one store pg", async () => {
  const isAllowed = ({ from, to, isType }: Arrow) =>
    from in INSTALLED ? INSTALLED[from]!.test(to) : to.startsWith("node:") &&
      (from.startsWith("cli/") ||
        isType && /^(spool|receiver|internal\/node)\//.test(from));
  for (const path of PUBLIC) {
    const outside = (await listArrows([path]))
      .filter(({ to }) => to.includes(":") && !to.startsWith(ROOT));
    assertEquals(outside.filter((arrow) => !isAllowed(arrow)), [], path);
  }
});

Deno.test("the package has every module that its entry points import, and no test", async () => {
  const { stderr, success } = await new Deno.Command(Deno.execPath(), {
    args: ["publish", "--dry-run", "--allow-dirty", "--no-check"],
    cwd: fileURLToPath(ROOT),
    env: { NO_COLOR: "1" },
    stdout: "null",
  }).output();
  assert(success, "deno publish --dry-run failed");
  const published = new TextDecoder().decode(stderr).split("\n")
    .flatMap((line) => line.match(/^\s+(file:\S+) \(/)?.[1] ?? [])
    .map((url) => url.replace(ROOT, ""));
  const needed = new Set(
    (await listArrows(PUBLIC)).flatMap(({ from, to }) => [from, to])
      .filter((path) => !path.includes(":")),
  );
  // Examples are published to be read: no entry point imports them.
  const modules = published.filter((path) =>
    path.endsWith(".ts") && !/^examples\/(?!.*_test)/.test(path)
  );
  assertEquals(
    modules.sort(),
    [...needed].filter((path) => path.endsWith(".ts")).sort(),
  );
});

Deno.test("the command has the name and the version of the package", () => {
  assertEquals([NAME, VERSION], [config.name, config.version]);
});

Deno.test("only what belongs in no folder stands at the top level", () => {
  const allowed = [
    ...["mod.ts", "buffer.ts", "sender.ts", "buffer_test.ts", "sender_test.ts"],
    ...["deno.json", "deno.lock", "README.md", "CHANGELOG.md", "LICENSE"],
    "CONTRIBUTING.md",
  ];
  const files = [...Deno.readDirSync(new URL(ROOT))]
    .filter(({ name, isFile }) => isFile && !name.startsWith("."))
    .map(({ name }) => name);
  assertEquals(files.filter((name) => !allowed.includes(name)), []);
});

Deno.test("every npm package has one exact version, except those that users install", () => {
  for (const [name, specifier] of Object.entries(config.imports)) {
    // Users install them, and get their fixes; the lock pins what is tested.
    if (name === "undici" || name === "pg") continue;
    const exact = /^npm:(@\w+\/)?[\w-]+@\d+\.\d+\.\d+$/;
    assert(
      exact.test(specifier) || specifier.startsWith("jsr:@std/"),
      specifier,
    );
  }
});
