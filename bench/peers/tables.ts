/** What is measured, and the tables of `docs/peers.md` that show it. */
import { PEER_NAMES, PEERS, SCENARIO_NAMES, SCENARIOS } from "./scenarios.ts";
import type { ServerReport } from "./server.ts";

/** What became of the records of one program. */
export interface Outcome extends Omit<ServerReport, "lost"> {
  lost: number;
  /** How many of the lost records the program knows of, each by its number. */
  told: number;
  /** How many records it was told are lost, although the server has them. */
  mistold: number;
  /** How often it was told that something is lost, but not what. */
  notices: number;
  /** From the first record to the end of the program. */
  seconds: number;
  /** The largest resident set, in MiB. */
  peak: number;
}

/** What is saved. */
export interface Results {
  cpu: string;
  deno: string;
  node: string;
  versions: Record<string, string>;
  /** By scenario, then by peer. */
  outcomes: Record<string, Record<string, Outcome>>;
}

/** What {@linkcode cellsOf} returns. */
export const COLUMNS = [
  ...["lost", "told", "repeated", "requests", "refused", "delay, s"],
  ...["ended, s", "MiB"],
];

function integer(value: number): string {
  return value.toLocaleString("en");
}

/** What the program was told: records by number, and messages without. */
function told({ told, mistold, notices }: Outcome): string {
  return [
    ...told > 0 || notices === 0 ? [integer(told)] : [],
    ...mistold > 0 ? [`${integer(mistold)} wrongly`] : [],
    ...notices === 1 ? ["1 message"] : [],
    ...notices > 1 ? [`${integer(notices)} messages`] : [],
  ].join(", ");
}

function repeated({ repeated, repeatedPastKey }: Outcome): string {
  return repeatedPastKey === repeated
    ? integer(repeated)
    : `${integer(repeated)}; by key ${integer(repeatedPastKey)}`;
}

/** An outcome, as a row shows it. */
export function cellsOf(outcome: Outcome): string[] {
  const { lost, requests, refused, delay, seconds, peak } = outcome;
  return [
    ...[integer(lost), told(outcome), repeated(outcome)],
    ...[integer(requests), integer(refused), (delay / 1_000).toFixed(2)],
    ...[seconds.toFixed(1), peak.toFixed()],
  ];
}

function table(head: string[], rows: string[][]): string {
  const line = head.map((_, i) => i === 0 ? "---" : "---:");
  return [head, line, ...rows].map((cells) => `| ${cells.join(" | ")} |\n`)
    .join("");
}

/** What stands in `docs/peers.md` between its two marks. */
export function tablesOf(
  { deno, node, cpu, versions, outcomes }: Results,
): string {
  const packages = Object.entries(versions)
    .map(([name, version]) => `\`${name}\` ${version}`);
  const lost = table(
    ["lost", ...SCENARIO_NAMES.map((name) => SCENARIOS[name].short)],
    PEER_NAMES.map((peer) => [
      PEERS[peer].title,
      ...SCENARIO_NAMES.map((name) => integer(outcomes[name]![peer]!.lost)),
    ]),
  );
  const scenarios = SCENARIO_NAMES.map((name) => {
    const { title, text } = SCENARIOS[name];
    const rows = PEER_NAMES.map((peer) => [
      ...[PEERS[peer].title, ...cellsOf(outcomes[name]![peer]!)],
    ]);
    return `### ${title}\n\n${text}\n\n${table(["", ...COLUMNS], rows)}`;
  });
  return [
    lost,
    `One run of each, on ${cpu}: Deno ${deno}, Node ${node}, ${
      packages.join(", ")
    }.\n`,
    ...scenarios,
  ].join("\n");
}
