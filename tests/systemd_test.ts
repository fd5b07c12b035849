/**
 * The unit that ships a log for good: systemd accepts it, and its command works with
 * exactly the permissions that it grants. No service is started.
 */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { CLI, outcomeWithin, run } from "../testing/child.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";

const UNIT = Deno.readTextFileSync(
  fileURLToPath(import.meta.resolve("../docs/stream-buffer.service")),
);

/** The value of a setting, without line ends. */
function setting(name: string): string {
  const [, value] = UNIT.match(new RegExp(`^${name}=((?:.*\\\\\n)*.*)$`, "m"))!;
  return value!.replace(/\\\n\s*/g, "");
}

const hasSystemd = Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v systemd-analyze"] })
    .outputSync().success;

Deno.test("systemd accepts stream-buffer.service", {
  ignore: !hasSystemd,
}, async () => {
  await using folder = await temporary();
  // It looks for the program that is started, which may be anywhere.
  const [program] = setting("ExecStart").split(" ");
  const unit = folder.file(
    "stream-buffer.service",
    UNIT.replace(program!, "/bin/sh"),
  );
  const { success, stdout, stderr } = await new Deno.Command(
    "systemd-analyze",
    { args: ["verify", "--man=no", unit] },
  ).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals([success, decode(stdout), decode(stderr)], [true, "", ""]);
});

Deno.test(
  "the command of stream-buffer.service ships a log over restarts, with its permissions only",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using folder = await temporary();
    await using server = new FaultyServer();
    const [logs, state] = [folder.file("log"), folder.file("state")];
    Deno.mkdirSync(logs);
    // As DynamicUser makes it.
    Deno.mkdirSync(folder.file("private"));
    Deno.symlinkSync(folder.file("private"), state);
    const [program, verb, ...words] = setting("ExecStart")
      .replaceAll("/var/log", logs)
      .replaceAll("/var/lib/stream-buffer", state)
      .replace("https://example.com/ingest", server.url)
      .replace("example.com:443", `127.0.0.1:${server.port}`)
      .replace("jsr:@stream-buffer/stream-buffer/cli", CLI)
      .split(/ +/);
    assert(program!.endsWith("/deno") && verb === "run");
    assert(words.every((word) => !word.includes("example.com")), `${words}`);
    const log = `${logs}/app.log`;
    const codes = [0, ...setting("SuccessExitStatus").split(" ").map(Number)];
    let all = "";
    for (const lines of ["one\ntwo\n", "three\n"]) {
      await using running = run(words);
      all += lines;
      Deno.writeTextFileSync(log, lines, { append: true });
      await running.waitFor(server.waitFor(
        "the lines",
        () => server.bodies.join("") === all,
      ));
      running.kill(setting("KillSignal") as Deno.Signal);
      const limit = 1_000 * Number(setting("TimeoutStopSec"));
      const { code } = await outcomeWithin(limit, running);
      assert(codes.includes(code), `It exited with ${code}`);
      Deno.renameSync(log, `${log}.${all.length}`);
    }
  },
);
