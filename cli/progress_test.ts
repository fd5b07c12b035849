import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { StreamBuffer } from "../buffer.ts";
import { CLI } from "../testing/child.ts";
import { leaveInSpool, LIMIT, linesOf } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { stderr } from "./log.ts";
import { duration, progressLine, showProgress, spoolLine } from "./progress.ts";

for (
  const [seconds, text] of [
    [0, "0s"],
    [0.1, "1s"],
    [59, "59s"],
    [59.1, "1m 00s"],
    [61, "1m 01s"],
    [3_599, "59m 59s"],
    [3_599.5, "1h 00m"],
    [3_660, "1h 01m"],
    [360_000, "100h 00m"],
  ] as const
) {
  Deno.test(`duration() is ${text} for ${seconds} seconds`, () => {
    assertEquals(duration(seconds), text);
  });
}

for (
  const [title, size, done, rate, line] of [
    [
      "the time left of a known size",
      ...[5e6, 1e6, 2e6],
      "1.0 MB of 5.0 MB acknowledged, 2.0 MB/s, 2s left",
    ],
    [
      "no time left before anything was sent",
      ...[5e6, 0, 0],
      "0.0 MB of 5.0 MB acknowledged, 0.0 MB/s",
    ],
    [
      "no negative time for a file that has grown",
      ...[1e6, 2e6, 1e6],
      "2.0 MB of 1.0 MB acknowledged, 1.0 MB/s, 0s left",
    ],
    [
      "no time left of an unknown size",
      ...[undefined, 1e6, 2e6],
      "1.0 MB acknowledged, 2.0 MB/s",
    ],
  ] as [string, number | undefined, number, number, string][]
) {
  Deno.test(`progressLine() shows ${title}`, () => {
    const verb = "acknowledged";
    assertEquals(progressLine({ size, done, rate, verb }), line);
  });
}

Deno.test("showProgress() skips a draw while the one before is being written", async () => {
  const { write } = Deno.stderr;
  const { setInterval } = globalThis;
  const { promise: blocked, resolve: unblock } = Promise.withResolvers<void>();
  const lines: string[] = [];
  let tick = () => {};
  Deno.stderr.write = async (p) => {
    lines.push(new TextDecoder().decode(p));
    await blocked;
    return p.length;
  };
  Object.assign(globalThis, { setInterval: (fn: () => void) => tick = fn });
  try {
    await using out = new StreamBuffer(() => {});
    const { stop } = showProgress({
      ...{ out, mode: "records", start: 0, info: undefined, quiet: false },
      spool: undefined,
    }, true);
    for (let i = 0; i < 100; i++) tick();
    stop();
    unblock();
    await stderr.end();
  } finally {
    Deno.stderr.write = write;
    globalThis.setInterval = setInterval;
  }
  assertEquals(lines.length, 3, "the first, the last and the erasing one");
});

Deno.test("spoolLine() shows what is on disk, and what the server has of it", () => {
  assertEquals(
    spoolLine({ spooled: 12e6, settled: 11.2e6, rate: 3.14e6 }),
    "12.0 MB spooled, 11.2 MB delivered, 3.1 MB/s",
  );
});

/** What the command prints on a terminal. */
async function onTerminal(command: string[]): Promise<string> {
  const { stdout } = await new Deno.Command("script", {
    args: ["-qec", command.join(" "), "/dev/null"],
    stdin: "null",
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  return new TextDecoder().decode(stdout);
}

const hasScript = Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v script"] })
    .outputSync().success;

Deno.test("cli shows its progress on a terminal, unless --quiet", {
  ignore: !hasScript,
}, async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const input = folder.file("input", linesOf(100_000));
  const command = [
    ...[Deno.execPath(), "run", "-q", "-N", "-R", CLI],
    ...[server.url, input],
  ];
  const shown = await onTerminal(command);
  assertMatch(
    shown,
    /0.1 MB of 0.1 MB acknowledged, [\d.]+ MB\/s, 0s left/,
  );
  assertMatch(shown, /\d+ bytes acknowledged in 1 request/);
  assertEquals(await onTerminal([...command, "-q"]), "");
  const endless = await onTerminal([...command, "-"]);
  assert(!/ of | left/.test(endless) && endless.includes(" MB acknowledged, "));
  assertEquals(server.requests.length, 3);
  const [program, ...rest] = command;
  const upload = await onTerminal([program!, ...rest, "--upload"]);
  assertStringIncludes(upload, "0.1 MB of 0.1 MB handed over, ");
  assertMatch(upload, /\d+ bytes handed to the connection/);
});

Deno.test(
  "cli --spool on a terminal, without FILE, delivers what an earlier run has left",
  {
    ignore: !hasScript,
  },
  async () => {
    await using server = new FaultyServer();
    await using folder = await temporary();
    const spool = folder.file("spool");
    await leaveInSpool(spool, linesOf(100_000));
    const shown = await onTerminal([
      ...[Deno.execPath(), "run", "-q", "-N", "-R", "-W", CLI],
      ...["--spool", spool, server.url],
    ]);
    assertMatch(shown, /0.1 MB spooled, 0.1 MB delivered, [\d.]+ MB\/s/);
    assertMatch(shown, /\d+ bytes acknowledged in 1 request/);
    assertEquals(server.bodies, [linesOf(100_000)]);
  },
);
