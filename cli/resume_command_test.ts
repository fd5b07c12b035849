import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { CLI, PERMISSIONS } from "../testing/child.ts";
import {
  after,
  fillTheDisk,
  linesOf,
  run,
  runLastLine,
  start,
  startRefusingTusServer,
  uploaded,
} from "../testing/command.ts";
import {
  type Behaviour,
  FaultyServer,
  respond,
} from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { currentTransport, test } from "../testing/transports.ts";
import {
  deliverCommand,
  resumeCommand,
  type Undelivered,
  type UnfinishedUpload,
} from "./resume_command.ts";

/** An upload of one file, nothing of which is saved. */
const UPLOAD: UnfinishedUpload = {
  program: "cli/main.ts",
  url: "https://example.com/files/1",
  origin: "https://example.com",
  isFast: false,
  values: {},
  files: ["backup.tar"],
  offset: 0,
  info: { size: 10, fingerprint: "v1-0a" },
  currentInfo: { size: 10, fingerprint: "v1-0a" },
  saved: undefined,
};
const RESUME = "deno run -N -R cli/main.ts --resume";
const STDIN = { files: ["-"], info: undefined, currentInfo: undefined };

for (
  const [title, upload, expected] of [
    [
      "the same files",
      { files: ["a.tar", "b/c.tar"] },
      `to resume, run:\n${RESUME} https://example.com/files/1 a.tar b/c.tar`,
    ],
    [
      "the program that runs",
      { program: "jsr:@scope/name@1.2.3/cli" },
      "to resume, run:\ndeno run -N -R jsr:@scope/name@1.2.3/cli --resume https://example.com/files/1 backup.tar",
    ],
    [
      "--ignore-env after requests by undici",
      { isFast: true },
      "to resume, run:\ndeno run -N -R --ignore-env cli/main.ts --resume https://example.com/files/1 backup.tar",
    ],
    [
      "a program whose path has to be quoted",
      { program: "C:\\my files\\main.ts" },
      "to resume, run:\ndeno run -N -R 'C:\\my files\\main.ts' --resume https://example.com/files/1 backup.tar",
    ],
    [
      "options, as they were given",
      {
        values: {
          ...{ "retry-for": "forever", timeout: "5s", interval: "0" },
          ...{ capacity: "1M", unsent: "rest", quiet: true, tus: true },
          metadata: ["a=b"],
        },
      },
      `to resume, run:\n${RESUME} --capacity 1M --interval 0 --timeout 5s --retry-for forever https://example.com/files/1 backup.tar`,
    ],
    [
      "words that a shell would read otherwise in quotes",
      {
        url: "https://example.com/files/1?a=b&c=d",
        files: ["it's one", "$HOME", "two;", "*", "", "ä"],
      },
      `to resume, run:\n${RESUME} 'https://example.com/files/1?a=b&c=d' 'it'\\''s one' '$HOME' 'two;' '*' '' 'ä'`,
    ],
    [
      "-- before files that begin with a dash",
      { files: ["a", "-b"] },
      `to resume, run:\n${RESUME} -- https://example.com/files/1 a -b`,
    ],
    [
      "--allow-env for variables in headers, each once",
      {
        values: {
          header: [
            "Authorization: Bearer ${TOKEN}",
            "X-A: ${A}",
            "x-b:${TOKEN}",
          ],
        },
      },
      "to resume, run:\ndeno run -N -R --allow-env=TOKEN --allow-env=A cli/main.ts --resume -H 'Authorization: Bearer ${TOKEN}' -H 'X-A: ${A}' -H 'x-b:${TOKEN}' https://example.com/files/1 backup.tar",
    ],
    [
      "a file of headers",
      { values: { header: ["@my headers"] } },
      `to resume, run:\n${RESUME} -H '@my headers' https://example.com/files/1 backup.tar`,
    ],
    [
      "no value of a header that may be secret",
      {
        values: {
          header: [
            "X-A: hunter2",
            "X-B: ${B} hunter2",
            "X-C: hunter2\n hunter2",
            "X-D: Digest ${B}",
          ],
        },
      },
      "to resume, fill in the header values (...) and run:\ndeno run -N -R --allow-env=B cli/main.ts --resume -H 'X-A: ...' -H 'X-B: ...' -H 'X-C: ...' -H 'X-D: ...' https://example.com/files/1 backup.tar",
    ],
    [
      "no headers to another origin",
      {
        url: "https://other.example.com/files/1",
        values: { header: ["X-A: hunter2", "X-B: ${B}", "@headers"] },
      },
      `to resume, run:\n${RESUME} https://other.example.com/files/1 backup.tar`,
    ],
    [
      "no headers to another port",
      {
        url: "https://example.com:8443/files/1",
        values: { header: ["@headers"] },
      },
      `to resume, run:\n${RESUME} https://example.com:8443/files/1 backup.tar`,
    ],
    [
      "where in the object the files begin",
      { offset: 30_000 },
      `to resume, run:\n${RESUME} --offset 30000 https://example.com/files/1 backup.tar`,
    ],
    [
      "the files, even if the rest of them was saved",
      { saved: { path: "rest", offset: 5 } },
      `to resume, run:\n${RESUME} https://example.com/files/1 backup.tar`,
    ],
    [
      "what was saved in place of standard input",
      { ...STDIN, saved: { path: "rest", offset: 5 } },
      `to resume, run:\n${RESUME} --offset 5 https://example.com/files/1 rest`,
    ],
    [
      "what was saved from the beginning",
      { ...STDIN, saved: { path: "-rest", offset: 0 } },
      `to resume, run:\n${RESUME} -- https://example.com/files/1 -rest`,
    ],
    [
      "what was saved in place of files and standard input",
      { ...STDIN, files: ["a", "-"], saved: { path: "rest", offset: 5 } },
      `to resume, run:\n${RESUME} --offset 5 https://example.com/files/1 rest`,
    ],
    [
      "standard input again, if nothing was saved",
      STDIN,
      `to resume, give the same input and run:\n${RESUME} https://example.com/files/1 -`,
    ],
    [
      "standard input again, and header values",
      { ...STDIN, offset: 7, values: { header: ["X-A: hunter2"] } },
      `to resume, give the same input, fill in the header values (...), and run:\n${RESUME} -H 'X-A: ...' --offset 7 https://example.com/files/1 -`,
    ],
    [
      "nothing if the input has changed",
      { currentInfo: { size: 10, fingerprint: "v1-0b" } },
      undefined,
    ],
    ["nothing if the input is lost", { currentInfo: undefined }, undefined],
    [
      "the command if nothing was known of the input",
      { info: undefined },
      `to resume, run:\n${RESUME} https://example.com/files/1 backup.tar`,
    ],
  ] as [string, Partial<UnfinishedUpload>, string | undefined][]
) {
  Deno.test(`resumeCommand() gives ${title}`, () => {
    assertEquals(resumeCommand({ ...UPLOAD, ...upload }), expected);
  });
}

test("cli --tus prints a command that resumes with the same files", async () => {
  await using tus = await startRefusingTusServer(3);
  await using folder = await temporary();
  const text = linesOf(50_000);
  const files = [folder.file("it's one", text), folder.file("two", text)];
  const { code, stderr } = await run(
    [
      ...["--tus", "--capacity", "10000", "-H", "X-A: ${TEST_TOKEN}"],
      ...["-H", "X-Secret: hunter2", tus.url, ...files],
    ],
    "",
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals(code, 1);
  const { url, text: first, isComplete } = uploaded(tus.server, stderr);
  assertEquals([first, isComplete], [text.slice(0, 30_000), false]);
  assert(!/hunter2|--unsent/.test(stderr), stderr);
  const ignored = currentTransport() === undefined ? "" : "--ignore-env ";
  assertStringIncludes(
    stderr,
    `\nstream-buffer: to resume, fill in the header values (...) and run:\ndeno run -N -R ${ignored}--allow-env=TEST_TOKEN ${CLI} --resume --capacity 10000 -H 'X-A: \${TEST_TOKEN}' -H 'X-Secret: ...' ${url} '`,
  );
  tus.recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assert(found.isComplete && found.text === text + text);
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
});

test("cli --tus resumes from what --unsent saved of standard input, twice", async () => {
  await using tus = await startRefusingTusServer(3);
  await using folder = await temporary();
  const text = linesOf(200_000);
  const unsent = folder.file("rest");
  const first = await run(
    ["--tus", "--capacity", "10000", "--unsent", unsent, tus.url],
    text,
  );
  assertEquals(first.code, 1);
  assertStringIncludes(first.stderr, `${text.length - 30_000} bytes saved to`);
  assert(Deno.readTextFileSync(unsent) === text.slice(30_000));
  const second = await runLastLine(first.stderr);
  assertEquals(second.code, 1);
  const command = first.stderr.trimEnd().split("\n").at(-1)!;
  assertStringIncludes(command, " --offset 30000 ");
  assert(
    second.stderr.endsWith(`to resume, run:\n${command}\n`),
    second.stderr,
  );
  tus.recover();
  assertEquals(await runLastLine(second.stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, first.stderr);
  assert(found.isComplete && found.text === text);
});

test("cli --tus resumes when only the end of standard input was refused", async () => {
  await using tus = await startRefusingTusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object");
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /9 bytes acknowledged.*\n.* saving undelivered bytes to .*\n.* to resume, run:\n/,
  );
  tus.recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  const found = uploaded(tus.server, stderr);
  assertEquals([found.text, found.isComplete], ["an object", true]);
});

test("cli --tus does not offer an incomplete --unsent file for resuming", async () => {
  await using tus = await startRefusingTusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  const args = ["--tus", "--capacity", "3", "--unsent", unsent, tus.url];
  const { code, stderr } = await run(args, "an object", after(fillTheDisk));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `cannot write ${unsent}: the disk is full`);
  assertMatch(stderr, /to resume, give the same input and run:\n.* -\n$/);
  assert(!/--offset/.test(stderr), stderr);
});

test("cli --tus resumes only from the whole input after an interrupt", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await startRefusingTusServer(1);
  await using folder = await temporary();
  const unsent = folder.file("rest");
  await using running = start([
    ...["--tus", "--capacity", "4", "--retry-for", "0", "--unsent", unsent],
    tus.url,
  ]);
  await running.write("one,");
  await running.waitForOutput("the upload is at");
  await running.write("two, and");
  await running.waitForOutput("saving undelivered bytes");
  running.kill("SIGINT");
  const { code, stderr } = await running.outcome;
  assertEquals([code, Deno.readTextFileSync(unsent)], [1, "two, and"]);
  assertMatch(stderr, /to resume, give the same input and run:\n.* -\n$/);
});

test("cli --tus resumes with a file whose name begins with a dash", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await startRefusingTusServer(0);
  await using folder = await temporary();
  folder.file("-x", "an object");
  const shell = `cd ${folder.file("")}`;
  const args = ["--tus", tus.url, "--", "-x"];
  await using running = start(args, PERMISSIONS, shell);
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  assert(stderr.endsWith("/-x\n"), stderr);
  tus.recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  assert(uploaded(tus.server, stderr).isComplete);
});

test("cli --tus prints a command that resumes in another directory", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await startRefusingTusServer(0);
  await using folder = await temporary();
  folder.file("input", "an object");
  folder.file("headers", "X-A: b");
  const shell = `cd ${folder.file("")}`;
  const args = ["--tus", "-H", "@headers", tus.url, "input"];
  await using running = start(args, PERMISSIONS, shell);
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  const { url } = uploaded(tus.server, stderr);
  assertMatch(stderr, / -H @\/\S*\/headers http:\S+ \/\S*\/input\n$/);
  tus.recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  assert(tus.server.isComplete(url!));
});

test("cli --tus prints the absolute path of what --unsent saved", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using tus = await startRefusingTusServer(0);
  await using folder = await temporary();
  const shell = `cd ${folder.file("")}`;
  const args = ["--tus", "--unsent", "rest", tus.url];
  await using running = start(args, PERMISSIONS, shell);
  await running.write("an object");
  await running.end();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 1);
  assertMatch(stderr, / http:\S+ \/\S*\/rest\n$/);
  tus.recover();
  assertEquals(await runLastLine(stderr), { code: 0, stderr: "" });
  assert(uploaded(tus.server, stderr).isComplete);
});

test("cli --tus prints no headers for another server", async () => {
  await using other = new FaultyServer([respond(400)]);
  const location = `http://127.0.0.1:${other.port}/files/1`;
  await using server = new FaultyServer([
    respond(204),
    respond(201, { location }),
  ]);
  await using folder = await temporary();
  const input = folder.file("input", "an object");
  const { code, stderr } = await run(
    [
      ...["--tus", "-H", "Authorization: Bearer ${TEST_TOKEN}"],
      ...[server.url, input],
    ],
    "",
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals(code, 1);
  assertStringIncludes(stderr, `--resume ${location} ${input}\n`);
  assertEquals(other.requests[0]!.headers.get("authorization"), null);
});

test("cli --tus reports that its input has changed, instead of how to resume", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "an object");
  for (
    const change of [
      () => Deno.writeTextFile(input, "AN OBJECT"), // of the same size
      () => Deno.truncate(input, 3),
      () => Deno.remove(input),
    ]
  ) {
    const refuse: Behaviour = async (exchange) => {
      await change();
      await respond(400)(exchange);
    };
    await using server = new FaultyServer([
      respond(204),
      respond(201, { location: "/files/1" }),
      refuse,
    ]);
    const { code, stderr } = await run(["--tus", server.url, input]);
    assertEquals(code, 1);
    assertMatch(stderr, /\n.*the input has changed.*\n$/);
  }
});

/** Starts an upload of `content` from a file, which the server interrupts. */
async function interruptedUpload(content: string, options: string[] = []) {
  const tus = await startRefusingTusServer(1);
  const folder = await temporary();
  const input = folder.file("input", content);
  const { code, stderr } = await run(
    ["--tus", "--capacity", "10", ...options, tus.url, input],
  );
  assertEquals(code, 1);
  tus.recover();
  return {
    input,
    server: tus.server,
    url: uploaded(tus.server, stderr).url,
    async [Symbol.asyncDispose]() {
      await tus[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const CONTENT = linesOf(100_000);

for (
  const [title, change] of [
    ["has other content of the same size", async (input) => {
      const { mtime } = await Deno.stat(input);
      await Deno.writeTextFile(input, CONTENT.replaceAll("line", "LINE"));
      await Deno.utime(input, mtime!, mtime!);
    }],
    ["was modified beyond its beginning", async (input) => {
      using file = await Deno.open(input, { write: true });
      await file.seek(90_000, Deno.SeekMode.Start);
      await file.write(new Uint8Array(1));
      // Whatever the clock of the file system ticks in.
      await Deno.utime(input, new Date(1), new Date(1));
    }],
  ] as [string, (input: string) => Promise<void>][]
) {
  test(`cli --resume rejects an input that ${title}, and sends nothing`, async () => {
    await using upload = await interruptedUpload(CONTENT);
    const { input, server, url } = upload;
    await change(input);
    const { received } = server;
    const { code, stderr } = await run(["--resume", url, input]);
    assertEquals([code, server.received], [2, received]);
    assertMatch(
      stderr,
      /^stream-buffer: cannot resume: the input is not the one that .*\n$/,
    );
  });
}

test("cli --resume compares nothing but files from the beginning of the object", async () => {
  for (const how of ["the file", "standard input", "the rest"]) {
    await using upload = await interruptedUpload(CONTENT);
    const { input, server, url } = upload;
    const rest = `${input}-rest`;
    await Deno.writeTextFile(rest, CONTENT.slice(10));
    const args = {
      "the file": [url, input],
      "standard input": [url],
      "the rest": ["--offset", "10", url, rest],
    }[how]!;
    const { code } = await run(["--resume", ...args], CONTENT);
    assertEquals([how, code, server.isComplete(url)], [how, 0, true]);
  }
});

test("cli --resume compares no fingerprint that it did not make", async () => {
  for (const value of ["", "0a", "v1", `v2-${"0".repeat(64)}`]) {
    await using upload = await interruptedUpload(CONTENT, [
      ...["--metadata", `fingerprint=${value}`],
    ]);
    const { input, server, url } = upload;
    await Deno.utime(input, new Date(1), new Date(1));
    const { code } = await run(["--resume", url, input]);
    assertEquals([code, server.isComplete(url)], [0, true]);
  }
});

const DELIVER = "deno run -N -R -W cli/main.ts --spool /var/app.spool";

const DELIVERIES: [string, Partial<Undelivered>, string][] = [
  [
    "the spool, and nothing of the input",
    { values: { lines: true, interval: "0", follow: "app.log", drain: "0" } },
    `to deliver them, run:\n${DELIVER} https://example.com/ingest </dev/null`,
  ],
  [
    "options for the requests, as they were given",
    {
      isFast: true,
      values: {
        ...{ method: "PUT", capacity: "1M", timeout: "5s", compress: "gzip" },
        ...{ "retry-for": "1m", refused: "/var/it's refused" },
      },
    },
    `to deliver them, run:\n${
      DELIVER.replace("-W", "-W --ignore-env")
    } --method PUT --capacity 1M --compress gzip --timeout 5s --retry-for 1m --refused '/var/it'\\''s refused' https://example.com/ingest </dev/null`,
  ],
  [
    "headers without secrets",
    { values: { header: ["Authorization: Bearer ${TOKEN}", "@/h", "A: b"] } },
    `to deliver them, fill in the header values (...) and run:\n${
      DELIVER.replace("-W", "-W --allow-env=TOKEN")
    } -H 'Authorization: Bearer \${TOKEN}' -H @/h -H 'A: ...' https://example.com/ingest </dev/null`,
  ],
  [
    "no query of the URL, which may hold a secret",
    { url: "https://example.com/ingest?key=hunter2" },
    `to deliver them, fill in the query of the URL (...) and run:\n${DELIVER} 'https://example.com/ingest?...' </dev/null`,
  ],
];

for (const [title, undelivered, expected] of DELIVERIES) {
  Deno.test(`deliverCommand() has ${title}`, () => {
    const command = deliverCommand({
      program: "cli/main.ts",
      url: "https://example.com/ingest",
      isFast: false,
      path: "/var/app.spool",
      values: {},
      ...undelivered,
    });
    assertEquals(command, expected);
  });
}
