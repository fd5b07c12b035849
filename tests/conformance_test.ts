/**
 * What is recorded of the conformance suite, and the page that shows it. Only Deno
 * runs the suite here; `deno task conformance` runs it everywhere.
 */
import { assert, assertEquals } from "@std/assert";
import { OPENSSL, testWith } from "../testing/real_servers.ts";
import { execute } from "./conformance/execute.ts";
import {
  checksOf,
  compare,
  listRecorded,
  readRecorded,
} from "./conformance/results.ts";
import { RUNS } from "./conformance/runtimes.ts";
import {
  ALLOWED_HEADERS,
  ALLOWED_METHODS,
  EXPOSED_HEADERS,
} from "./conformance/server/cors.ts";
import { setStage } from "./conformance/stage.ts";
import { CHECKS, type Result } from "./conformance/suite.ts";
import { pageWith, readRecords } from "./conformance/tables.ts";

const NAMES = CHECKS.map(({ name }) => name);
const PAGE = Deno.readTextFileSync(
  new URL("../docs/runtimes.md", import.meta.url),
).replaceAll("\r\n", "\n");

testWith(OPENSSL)("Deno conforms, as it is recorded", async () => {
  await using stage = await setStage();
  const { signal } = new AbortController();
  const run = RUNS.find(({ name }) => name === "deno")!;
  const { results } = await execute(run, { stage, signal });
  const { checks } = readRecorded("deno")!;
  assertEquals(compare(checks, checksOf(results)), []);
});

Deno.test("no two checks have the same name", () => {
  assertEquals([...new Set(NAMES)], NAMES);
});

Deno.test("every run is recorded, and nothing else", () => {
  assertEquals(listRecorded(), RUNS.map(({ name }) => name).sort());
});

for (const { name } of RUNS) {
  Deno.test(`${name}: each check is recorded, and none has failed`, () => {
    const { checks } = readRecorded(name)!;
    assertEquals(Object.keys(checks), NAMES);
    const outcomes = Object.values(checks);
    const wrong = outcomes.filter((text) => !/^(passed|refused)\b/.test(text));
    assertEquals(wrong, []);
  });
}

Deno.test("docs/runtimes.md has the tables of what is recorded", () => {
  // How wide a column is, and where a line ends, is up to `deno fmt`.
  const words = (text: string) => text.split(/[\s|]+|-{2,}:?/).filter(Boolean);
  assertEquals(words(PAGE), words(pageWith(PAGE, readRecords())));
});

Deno.test("docs/runtimes.md has the CORS headers with which the checks pass", () => {
  const rows = PAGE.matchAll(/^\| `(Access-Control-[\w-]+)` +\|(.*)/gm);
  const documented = Object.fromEntries(
    [...rows].map(([, header, cells]) => [
      header,
      [...cells!.matchAll(/`([A-Z][\w-]+)`/g)].map(([, name]) => name!),
    ]),
  );
  const list = (names: readonly string[]) =>
    [...new Set(names.map((name) => name.toLowerCase()))].sort();
  assertEquals(Object.keys(documented).length, 3);
  for (
    const [header, names] of [
      ["Access-Control-Allow-Headers", ALLOWED_HEADERS],
      ["Access-Control-Expose-Headers", EXPOSED_HEADERS],
      ["Access-Control-Allow-Methods", ALLOWED_METHODS],
    ] as const
  ) {
    assertEquals(list(documented[header]!), list(names), header);
  }
});

Deno.test("compare() shows what differs", () => {
  const recorded = { "a": "passed", "b": "passed: gzip", "c": "passed" };
  const now = { "a": "passed", "b": "refused: no", "d": "passed" };
  assertEquals(compare(recorded, recorded), []);
  assertEquals(compare(recorded, now), [
    ...["b", "  recorded: passed: gzip", "  now:      refused: no"],
    ...["c", "  recorded: passed", "  now:      it did not run"],
    ...["d", "  recorded: no such check", "  now:      passed"],
  ]);
});

Deno.test("what is recorded does not depend on the port of the server", () => {
  const result = (port: number): Result => ({
    ...{ name: "a", outcome: "refused" },
    detail: `PUT http://127.0.0.1:${port}/ingest/x${port}-1 failed`,
  });
  const [one, another] = [checksOf([result(1)]), checksOf([result(2)])];
  assertEquals(one, { "a": "refused: PUT URL failed" });
  assertEquals(one, another);
});

Deno.test("an observation that is in a table is a check of the suite", () => {
  const records = readRecords();
  const [name] = Object.keys(records);
  const broken = { ...records, [name!]: { version: "1", checks: {} } };
  let message = "";
  try {
    pageWith(PAGE, broken);
  } catch (error) {
    message = String(error);
  }
  assert(message.includes(`${name} has no`), message);
});
