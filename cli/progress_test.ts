import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { CLI } from "../testing/child.ts";
import { linesOf } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

async function onTerminal(command: string[]): Promise<string> {
  const { stdout } = await new Deno.Command("script", {
    args: ["-qec", command.join(" "), "/dev/null"],
    stdin: "null",
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
  assertMatch(shown, /\d+ bytes acknowledged in 1 requests/);
  assertEquals(await onTerminal([...command, "-q"]), "");
  const endless = await onTerminal([...command, "-"]);
  assert(!/ of | left/.test(endless) && endless.includes(" MB acknowledged, "));
  assertEquals(server.requests.length, 3);
  const [program, ...rest] = command;
  const upload = await onTerminal([program!, ...rest, "--upload"]);
  assertStringIncludes(upload, "0.1 MB of 0.1 MB handed over, ");
  assertMatch(upload, /\d+ bytes handed to the connection/);
});
