/**
 * What the documentation says is there: links, files, tasks, options, and
 * examples that compile. None of it needs a network.
 */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import bench from "../bench/results/bench.json" with { type: "json" };
import results from "../bench/results/curves.json" with { type: "json" };
import peers from "../bench/results/peers.json" with { type: "json" };
import receiver from "../bench/results/receiver.json" with { type: "json" };
import { tablesOf } from "../bench/peers/tables.ts";
import config from "../deno.json" with { type: "json" };
import { BEHAVIOURS } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

const ROOT = new URL("../", import.meta.url);
const MAX_WORDS = 900;
const { ratios } = bench;
const { curves } = results;

/** Every page, by its path in the repository. */
const PAGES = new Map(
  [
    ...["README.md", "CONTRIBUTING.md", "CHANGELOG.md"],
    ...markdownIn("docs/"),
    ...markdownIn(".github/"),
  ].map((path) => [path, read(path)]),
);

function markdownIn(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))]
    .filter(({ name }) => name.endsWith(".md"))
    .map(({ name }) => folder + name)
    .sort();
}

function read(path: string): string {
  // Git may check text out with the line ends of the system.
  return Deno.readTextFileSync(new URL(path, ROOT)).replaceAll("\r\n", "\n");
}

function exists(path: string): boolean {
  try {
    Deno.statSync(new URL(path, ROOT));
    return true;
  } catch {
    return false;
  }
}

/** Runs Deno in the repository, and returns what it printed. */
async function deno(
  args: string[],
): Promise<{ success: boolean; stdout: string; stderr: string }> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: fileURLToPath(ROOT),
    env: { NO_COLOR: "1" },
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { success, stdout: decode(stdout), stderr: decode(stderr) };
}

/** A fenced block of code. */
interface Block {
  /** What stands after the opening fence, such as `ts ignore`. */
  readonly info: string;
  readonly code: string;
  /** The line of the page on which the code begins, from 1. */
  readonly line: number;
}

function blocksOf(markdown: string): Block[] {
  return [...markdown.matchAll(/^```(.+)\n([^]*?)^```$/gm)].map((match) => ({
    info: match[1]!,
    code: match[2]!,
    line: markdown.slice(0, match.index).split("\n").length + 1,
  }));
}

function withoutBlocks(markdown: string): string {
  return markdown.replace(/^```.+\n[^]*?^```$/gm, "");
}

/** The anchor that GitHub gives to each heading. */
function anchorsOf(markdown: string): Set<string> {
  const anchors = new Set<string>();
  for (
    const [, heading] of withoutBlocks(markdown).matchAll(/^#{1,6} +(.+)$/gm)
  ) {
    const anchor = heading!.toLowerCase()
      .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-");
    let name = anchor;
    for (let n = 1; anchors.has(name); n++) name = `${anchor}-${n}`;
    anchors.add(name);
  }
  return anchors;
}

/** The links of a page to files of the repository, by their paths in it. */
function linksOf(
  path: string,
): { target: string; anchor: string | undefined }[] {
  const links = withoutBlocks(PAGES.get(path)!).matchAll(/\]\(([^)\s]+)\)/g);
  return [...links].map((match) => match[1]!)
    .filter((link) => !/^[a-z]+:/.test(link))
    .map((link) => {
      const [file, anchor] = link.split("#");
      const target = file === ""
        ? path
        : new URL(file!, `file:///${path}`).pathname.slice(1);
      return { target, anchor };
    });
}

Deno.test(`README.md has at most ${MAX_WORDS} words`, () => {
  const words = PAGES.get("README.md")!.split(/\s+/).filter(Boolean);
  assert(words.length <= MAX_WORDS, `It has ${words.length}`);
});

for (const [path, markdown] of PAGES) {
  Deno.test(`${path} has no broken link`, () => {
    const broken = linksOf(path).filter(({ target, anchor }) => {
      if (!exists(target)) return true;
      if (anchor === undefined) return false;
      return !anchorsOf(PAGES.get(target) ?? read(target)).has(anchor);
    });
    assertEquals(broken, []);
  });

  Deno.test(`${path} names files and tasks that exist`, () => {
    const commands = blocksOf(markdown)
      .filter(({ info }) => info === "sh")
      .flatMap(({ code }) => code.split(/\s+/));
    const inline = [...withoutBlocks(markdown).matchAll(/`([^`\n]+)`/g)]
      .map((match) => match[1]!);
    // Others, such as `app.log`, are the reader's own.
    const ours =
      /^(\.ci|\.github|bench|cli|docs|examples|http|internal|senders|spool|testing|tests|tools)\/|^[a-z_]+\.ts$|^[A-Z]+\.md$/;
    const files = [...commands, ...inline].filter((word) => ours.test(word));
    assertEquals(files.filter((file) => !exists(file)), []);

    const tasks = [...markdown.matchAll(/\b(?:deno|deno@2) task ([\w:]+)/g)]
      .map((match) => match[1]!);
    assertEquals(tasks.filter((task) => !(task in config.tasks)), []);
  });
}

/** What each page quotes of the benchmarks, and of what the tests do. */
const FACTS: Record<string, string[]> = {
  "README.md": [
    `against ${Object.keys(BEHAVIOURS).length} server behaviours`,
    `${
      (ratios.records_vs_fetch.ours / 1e6).toFixed(1)
    } million 64-byte records`,
    `${quoted(ratios.records_vs_fetch.ratio)} times as many`,
    `An awaited \`write\` of 64 bytes takes ${awaitedWrite64()} ns`,
    `is only ${ratios.memory_growth_mib.ours.toFixed()} MiB higher`,
  ],
  "docs/performance.md": [
    `a \`write\` of 64 B takes ${awaitedWrite64()} ns`,
    `raises the peak by ${ratios.memory_growth_mib.ours.toFixed()} MiB`,
    `by at most ${ratios.memory_growth_stalled_mib.ours.toFixed()} MiB`,
    ...Object.entries(ratios).flatMap(([name, ratio]) => {
      // The first are not in the table, the others not on this page.
      return /^memory|spool/.test(name) ? [] : cellsOf(ratio);
    }),
  ],
  "docs/receiver.md": Object.values(receiver.ratios).flatMap(cellsOf),
};

/** What a table has of a pair. */
function cellsOf(
  pair: { ours: number; peer: number; ratio: number; min: number; max: number },
): string[] {
  const { ours, peer, ratio, min, max } = pair;
  return [
    ...[ours, peer, ratio].map((value) => `${quoted(value)} `),
    `${quoted(min)} to ${quoted(max)} |`,
  ];
}

/** A number as tables have it. */
function quoted(value: number): string {
  return value >= 1_000
    ? Math.round(value).toLocaleString("en")
    : `${Number(value.toPrecision(3))}`;
}

/** What a write of 64 B takes in ns if it is awaited, by the curves. */
function awaitedWrite64(): string {
  const name = "size of a write, to a sender that does nothing";
  const { rate } = curves[name].find(({ x }) => x === 64)!;
  return (1e3 * 64 / rate).toFixed();
}

for (const [path, facts] of Object.entries(FACTS)) {
  Deno.test(`${path} quotes what was measured and counted`, () => {
    const text = PAGES.get(path)!.replace(/\s+/g, " ");
    assertEquals(facts.filter((fact) => !text.includes(fact)), []);
  });
}

Deno.test("docs/peers.md has the tables of what was measured", () => {
  // How wide a column is, and where a line ends, is up to `deno fmt`.
  const words = (text: string) => text.split(/[\s|]+|-{2,}:?/).filter(Boolean);
  const page = PAGES.get("docs/peers.md")!;
  const [, tables] = page.match(/<!-- begin.*-->([^]*)<!-- end/)!;
  assertEquals(words(tables!), words(tablesOf(peers)));
});

Deno.test("the package has what its pages link to, except tests and tools", () => {
  const { include } = config.publish;
  const missing = [...PAGES.keys()]
    .filter((path) => !path.startsWith("."))
    .flatMap((path) => linksOf(path).map(({ target }) => target))
    .filter((target) => !/^(testing|tests|tools)\/|_test\.ts$/.test(target))
    .filter((target) =>
      !include.some((name) =>
        name.endsWith("/") ? target.startsWith(name) : target === name
      )
    );
  assertEquals(missing, []);
});

Deno.test("docs/options.md has every option of the public interfaces, and no other", async () => {
  const entries = Object.values(config.exports);
  const { stdout } = await deno(["doc", "--json", ...entries]);
  const { nodes } = JSON.parse(stdout) as {
    nodes: Record<string, {
      symbols: {
        name: string;
        declarations: { def?: { properties?: { name: string }[] } }[];
      }[];
    }>;
  };
  const options = new Set<string>();
  for (const { symbols } of Object.values(nodes)) {
    for (const { name, declarations } of symbols) {
      // Those of an error are what it is made from.
      if (!/(?<!Error)Options$/.test(name)) continue;
      const prefix = name === "RetryOptions" ? "retry." : "";
      for (const { def } of declarations) {
        for (const { name } of def?.properties ?? []) {
          options.add(prefix + name);
        }
      }
    }
  }
  options.delete("retry"); // its own options stand in its place
  const rows = PAGES.get("docs/options.md")!.matchAll(/^\| `([\w.]+)` +\|/gm);
  const documented = new Set([...rows].map((match) => match[1]!));
  assertEquals([...documented].sort(), [...options].sort());
});

/** What examples leave to the reader; it makes a module of each, too. */
const READERS = "declare const events: AsyncIterable<unknown>;\nexport {};\n";

Deno.test("examples that cannot run here compile", async () => {
  await using folder = await temporary();
  const origins: string[] = [];
  const files: string[] = [];
  for (const [path, markdown] of PAGES) {
    for (const { info, code, line } of blocksOf(markdown)) {
      // What comes from a registry would need a network.
      if (info !== "ts ignore" || code.includes("jsr:@std/")) continue;
      const name = `${files.length}.ts`;
      files.push(folder.file(name, code + READERS));
      origins.push(`${name} is in ${path}, line ${line}`);
    }
  }
  assert(files.length > 10, `There are only ${files.length}`);
  const configFile = fileURLToPath(new URL("deno.json", ROOT));
  const { success, stderr } = await deno([
    "check",
    `--config=${configFile}`,
    ...files,
  ]);
  assert(success, `${stderr}\n${origins.join("\n")}`);
});
