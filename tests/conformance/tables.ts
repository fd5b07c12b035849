/** The tables of `docs/runtimes.md`, made from what is recorded. */
import type { Front } from "./drivers/driver.ts";
import { fileURLToPath } from "node:url";
import { readRecorded, type Recorded } from "./results.ts";
import { RUNS, RUNTIME_NAMES, type RuntimeName, RUNTIMES } from "./runtimes.ts";

const PAGE = new URL("../../docs/runtimes.md", import.meta.url);

/** A row of a table: what it is called there, and the check that observes it. */
type Row = readonly [label: string, check: string];

/** Who makes a request again whose connection has died. */
const REPEATS: readonly Row[] = [
  ...["POST", "PUT"].map((method): Row => [
    `\`fetch\`: \`${method}\` of bytes`,
    `a ${method} of bytes by fetch, when its connection dies`,
  ]),
  [
    "`fetch`: `POST` without a body",
    "a POST without a body by fetch, when its connection dies",
  ],
  ...["POST", "PUT"].map((method): Row => [
    `\`FetchSender\`: \`${method}\``,
    `a ${method} by FetchSender, when its connection dies`,
  ]),
  [
    "`TusSender`: `POST` that creates an upload",
    "a POST by TusSender, when its connection dies",
  ],
];

/** How an upload in one request is sent. */
const UPLOADS: readonly Row[] = [
  ["without `length`", "UploadSender sends an object of unknown size"],
  ["with `length`", "UploadSender sends an object of known size"],
];

/** What else differs. */
const FEATURES: readonly Row[] = [
  ["version of HTTP", "the version of HTTP that FetchSender speaks"],
  ["`CompressionStream`", "the formats of CompressionStream"],
  [
    "status of a redirect",
    "the status of a redirect that is not followed",
  ],
  ["`crypto`", "the parts of crypto"],
];

/** What the documentation calls a run of a runtime, beside the others. */
const FRONTS: Record<Front, string> = {
  http: "`http:`",
  cors: "CORS",
  https: "`https:`",
};

/** The records of all runs, by their names. */
export type Records = Readonly<Record<string, Recorded>>;

/**
 * Reads all records.
 *
 * @throws If one is missing.
 */
export function readRecords(): Records {
  return Object.fromEntries(RUNS.map(({ name }) => {
    const recorded = readRecorded(name);
    if (recorded === undefined) throw new Error(`${name} is not recorded`);
    return [name, recorded];
  }));
}

/** What stands in the page between the marks, by the name of the mark. */
export function tablesOf(records: Records): Record<string, string> {
  const compare = (rows: readonly Row[]) => {
    const columns = columnsOf(records, rows);
    const cells = rows.map(([label], row) => [
      label,
      ...columns.map(({ cells }) => cells[row]!),
    ]);
    return table(["", ...columns.map(({ title }) => title)], cells);
  };
  return {
    results: resultsOf(records),
    repeats: compare(REPEATS),
    uploads: compare(UPLOADS),
    features: compare(FEATURES),
  };
}

/** How many checks passed, by runtime and connection. */
function resultsOf(records: Records): string {
  const fronts: Front[] = ["http", "https", "cors"];
  const rows = RUNTIME_NAMES.map((runtime) => [
    `${RUNTIMES[runtime].title} ${versionOf(records, runtime)}`,
    ...fronts.map((front) => {
      const run = RUNS.find((run) =>
        run.runtime === runtime && run.front === front
      );
      return run === undefined ? "" : countsOf(records[run.name]!);
    }),
  ]);
  return table(["", ...fronts.map((front) => FRONTS[front])], rows);
}

function countsOf({ checks }: Recorded): string {
  const outcomes = Object.values(checks);
  const refused = outcomes.filter((outcome) => outcome.startsWith("refused"));
  const passed = outcomes.length - refused.length;
  if (refused.length === 0) return `${passed} passed`;
  return `${passed} passed, ${refused.length} refused`;
}

function versionOf(records: Records, runtime: RuntimeName): string {
  const { version } = records[runtime]!;
  return RUNTIMES[runtime].precision === "exact"
    ? version
    : version.split(".")[0]!;
}

/** A runtime, and what it does in each row of a table. */
interface Column {
  readonly title: string;
  readonly cells: readonly string[];
}

/** One for each runtime; one for all its versions, if they do the same. */
function columnsOf(records: Records, rows: readonly Row[]): Column[] {
  const columns = RUNTIME_NAMES.map((runtime) => ({
    title: RUNTIMES[runtime].title,
    version: versionOf(records, runtime).split(".")[0]!,
    cells: rows.map(([, check]) => cellOf(records, runtime, check)),
  }));
  const areAlike = (a: Column, b: Column) =>
    a.cells.every((cell, row) => cell === b.cells[row]);
  return columns.flatMap(({ title, version, cells }, index) => {
    const all = columns.filter((column) => column.title === title);
    if (!all.every((column) => areAlike(column, all[0]!))) {
      return [{ title: `${title} ${version}`, cells }];
    }
    return columns.indexOf(all[0]!) === index ? [{ title, cells }] : [];
  });
}

/** What a check has observed on a runtime, and where, if that depends on it. */
function cellOf(
  records: Records,
  runtime: RuntimeName,
  check: string,
): string {
  const fronts = new Map<string, string[]>();
  for (const { name, front } of RUNS.filter((run) => run.runtime === runtime)) {
    const outcome = records[name]!.checks[check];
    if (outcome === undefined) throw new Error(`${name} has no "${check}"`);
    const value = outcome.startsWith("refused")
      ? "refused"
      : outcome.replace(/^passed: /, "").replace("never repeated", "never");
    fronts.set(value, [...fronts.get(value) ?? [], FRONTS[front]]);
  }
  const values = [...fronts];
  if (values.length === 1) return values[0]![0];
  return values.map(([value, names]) => `${names.join(", ")}: ${value}`)
    .join("; ");
}

function table(head: string[], rows: string[][]): string {
  return [head, head.map(() => "---"), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

/** The page, with the tables of the records. */
export function pageWith(page: string, records: Records): string {
  for (const [name, text] of Object.entries(tablesOf(records))) {
    const marks = new RegExp(
      `(<!-- begin ${name} -->)[^]*(<!-- end ${name} -->)`,
    );
    if (!marks.test(page)) throw new Error(`The page has no marks of ${name}`);
    page = page.replace(
      marks,
      (_, begin, end) => `${begin}\n\n${text}\n${end}`,
    );
  }
  return page;
}

/** Writes the tables to the page. */
export async function writeTables(): Promise<void> {
  const page = await Deno.readTextFile(PAGE);
  await Deno.writeTextFile(PAGE, pageWith(page, readRecords()));
  await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", fileURLToPath(PAGE)],
  }).output();
}
