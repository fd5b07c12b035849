import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { toText } from "@std/streams";
import config from "../deno.json" with { type: "json" };
import { CLI, PERMISSIONS } from "../testing/child.ts";
import { run, SUCCESS } from "../testing/command.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { test } from "../testing/transports.ts";
import {
  help,
  modeOf,
  quantity,
  readMetadata,
  SIZE,
  TIME,
  TIME_OR_FOREVER,
  type Values,
} from "./options.ts";
import { UsageError } from "./errors.ts";

for (
  const [value, kind, expected] of [
    ["0", SIZE, 0],
    ["7", SIZE, 7],
    ["64K", SIZE, 65_536],
    ["1M", SIZE, 1_048_576],
    ["2G", SIZE, 2_147_483_648],
    ["7", TIME, 7],
    ["500ms", TIME, 500],
    ["30s", TIME, 30_000],
    ["2m", TIME, 120_000],
    ["2m", TIME_OR_FOREVER, 120_000],
    ["forever", TIME_OR_FOREVER, Infinity],
  ] as const
) {
  const unit = kind === SIZE ? "bytes" : "ms";
  Deno.test(`quantity() reads ${value} as ${expected} ${unit}`, () => {
    const values: Values = { capacity: value };
    assertEquals(quantity(values, "capacity", kind), { capacity: expected });
  });
}

for (
  const [value, kind] of [
    ...["", "K", "64k", "1.5M", "1 M", "-1", "1s", "1KB"]
      .map((value) => [value, SIZE] as const),
    ...["", "s", "1.5s", "1 s", "-1", "1h", "1K", "1M", "forever"]
      .map((value) => [value, TIME] as const),
    ...["", "1h", "Forever", "toString", "Infinity"]
      .map((value) => [value, TIME_OR_FOREVER] as const),
  ]
) {
  const what = kind === SIZE
    ? "a size"
    : kind === TIME
    ? "a time"
    : "a time or forever";
  Deno.test(`quantity() rejects ${JSON.stringify(value)} as ${what}`, () => {
    assertThrows(
      () => quantity({ timeout: value }, "timeout", kind),
      UsageError,
      `--timeout must be ${kind.description}, received ${
        JSON.stringify(value)
      }`,
    );
  });
}

Deno.test("quantity() is empty without the option, and may have another name", () => {
  assertEquals(quantity({}, "interval", TIME), {});
  assertEquals(
    quantity({ interval: "1s" }, "interval", TIME, "flushInterval"),
    {
      flushInterval: 1_000,
    },
  );
});

for (
  const [values, mode] of [
    [{}, "records"],
    [{ upload: true }, "upload"],
    [{ tus: true }, "tus"],
    [{ resume: true }, "resume"],
  ] as const
) {
  Deno.test(`modeOf() is ${mode} for ${JSON.stringify(values)}`, () => {
    assertEquals(modeOf(values), mode);
  });
}

for (
  const [options, files, fingerprint, expected] of [
    [[], ["dir/a.tar"], "v1", { filename: "a.tar", fingerprint: "v1" }],
    [[], ["dir/a.tar"], undefined, { filename: "a.tar" }],
    [[], ["-"], undefined, {}],
    [[], ["a", "b"], "v1", { fingerprint: "v1" }],
    [["filename=b", "x="], ["a"], undefined, { filename: "b", x: "" }],
    [["fingerprint=x"], ["a", "b"], "v1", { fingerprint: "x" }],
    [["a=b=c\nd"], ["-"], undefined, { a: "b=c\nd" }],
  ] as const
) {
  Deno.test(`readMetadata() is ${JSON.stringify(expected)} for ${JSON.stringify(files)}, ${fingerprint} and ${JSON.stringify(options)}`, () => {
    const info = fingerprint && { fingerprint };
    assertEquals(readMetadata(options, files, info), expected);
  });
}

test("cli passes its options to the sender", async () => {
  await using server = new FaultyServer([respond(503)]);
  await using folder = await temporary();
  const headers = folder.file(
    "headers",
    "X-One: 1\n\n X-Two : ${TEST_TOKEN}, ${TEST_TOKEN}\r\n",
  );
  const { code, stderr } = await run(
    [
      ...["-X", "PUT", "-H", "X-Zero: a: b", "--header", `@${headers}`],
      ...["--capacity", "1K", "--interval", "0", "--timeout", "5s", "-q"],
      ...["--retry-for", "1m", "--compress", server.url],
    ],
    "x".repeat(5000),
    [...PERMISSIONS, "--allow-env=TEST_TOKEN"],
  );
  assertEquals([code, stderr], [0, ""]);
  assertEquals(server.requests.length, 6);
  const [{ method, headers: sent, body }] = server.requests as [
    (typeof server.requests)[0],
  ];
  assertEquals(method, "PUT");
  assertEquals(sent.get("x-zero"), "a: b");
  assertEquals(sent.get("x-one"), "1");
  assertEquals(sent.get("x-two"), "hunter2, hunter2");
  assertEquals(sent.get("content-encoding"), "gzip");
  const plain = new Blob([body]).stream()
    .pipeThrough(new DecompressionStream("gzip"));
  assertEquals(await toText(plain), "x".repeat(1024));
});

for (const format of ["deflate", "brotli"]) {
  Deno.test(`cli --compress accepts ${format}, and does not consume the URL`, async () => {
    await using server = new FaultyServer();
    for (const args of [["--compress", format], [`--compress=${format}`]]) {
      const { code } = await run([...args, `${server.url}/gzip`], "x");
      assertEquals(code, 0);
    }
    const codings = server.requests.map(({ headers }) =>
      headers.get("content-encoding")
    );
    const coding = format === "brotli" ? "br" : format;
    assertEquals(codings, [coding, coding]);
  });
}

Deno.test("cli --compress defaults to gzip, wherever it appears", async () => {
  await using server = new FaultyServer();
  await using folder = await temporary();
  const input = folder.file("input", "data");
  for (
    const args of [
      [server.url, "--compress"],
      ["--compress", `${server.url}/brotli`],
      ["--compress", "--", server.url, input],
    ]
  ) {
    const { code } = await run(args, "data");
    assertEquals(code, 0);
  }
  const codings = server.requests.map(({ headers }) =>
    headers.get("content-encoding")
  );
  assertEquals(codings, ["gzip", "gzip", "gzip"]);
});

Deno.test("cli sends 256 KiB per request by default, also with --lines", async () => {
  await using folder = await temporary();
  const input = folder.file("input", "x\n".repeat(300_000));
  for (const args of [[], ["--lines"]]) {
    await using server = new FaultyServer();
    const { code } = await run([...args, server.url, input]);
    assertEquals(code, 0);
    const sizes = server.bodies.map(({ length }) => length);
    assertEquals(sizes, [262_144, 262_144, 75_712]);
  }
});

Deno.test("cli parses no options after --", async () => {
  await using server = new FaultyServer();
  for (const args of [[server.url, "--"], ["--", server.url]]) {
    const { code, stderr } = await run([...args, "--compress"]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "cannot read --compress: no such file");
  }
});

Deno.test("help() fits into 80 columns", () => {
  const lines = help("cli/main.ts").split("\n");
  assertEquals(lines.filter((line) => line.length > 80), []);
});

Deno.test("cli --help and --version print to standard output", async () => {
  const shown = await run(["--help"], "", []);
  assertEquals([shown.code, shown.stderr], [0, ""]);
  assertMatch(shown.stdout, /^Sends standard input.*\n\nUsage: /);
  assertStringIncludes(shown.stdout, `: deno run -N -R ${CLI} [options] URL`);
  assertMatch(
    shown.stdout,
    /-R for each FILE, -R -W for --unsent and --refused,\n[^]*-env=/,
  );
  assertStringIncludes(
    shown.stdout,
    "With --ignore-env, or with -E and no\nproxy in the environment,",
  );
  const version = await run(["--version"], "", []);
  assertEquals(version, { ...SUCCESS, stdout: `${config.version}\n` });
});

/** Arguments that are invalid, and what is reported. */
const INVALID: [string[], string][] = [
  [[], "missing URL"],
  [["app.log", "URL"], "URL must come before FILE\n"],
  [
    ["a:b", "-", "HTTPS://me:hunter2@127.0.0.1/"],
    "URL must come before FILE\n",
  ],
  [["nonsense"], 'URL must be an absolute URL, received "nonsense"'],
  [
    ["http://me:hunter2@127.0.0.1/"],
    "URL must not carry credentials, send them in --header; received",
  ],
  [["ftp://127.0.0.1/"], "URL must begin with http"],
  [["URL", "--capcity", "1"], "unknown option --capcity\n"],
  [["URL", "--bogus=1"], "unknown option --bogus\n"],
  [["-h"], "unknown option -h\n"],
  [["URL", "-qz"], "unknown option -z\n"],
  [["URL", "--capacity"], "Option '--capacity <value>' argument missing"],
  [
    ["URL", "--capacity", "0"],
    "stream-buffer: --capacity must be an integer from 1",
  ],
  [["URL", "--capacity", "1X"], 'like 64K or 1M, received "1X"'],
  [["URL", "--capacity", "3G"], "received 3221225472"],
  [["URL", "--capacity", "3000M"], "received 3145728000"],
  [["URL", "--capacity", "3000000K"], "received 3072000000"],
  [["URL", "--timeout", "40000m"], "received 2400000000"],
  [["URL", "--timeout", "2500000s"], "received 2500000000"],
  [["URL", "--timeout", "2500000000ms"], "received 2500000000"],
  [["URL", "--interval", "40000m"], "--interval must be an integer from 0"],
  [["URL", "--interval=-1"], "--interval must be a time"],
  [["URL", "--interval", "1.5s"], "--interval must be a time"],
  [["URL", "--timeout", "1h"], 'like 500ms, 30s or 2m, received "1h"'],
  [
    ["URL", "--timeout", "0"],
    "stream-buffer: --timeout must be an integer from 1",
  ],
  [["URL", "--retry-for", "40000m"], "--retry-for must be an integer from 0"],
  [
    ["URL", "--retry-for", "x"],
    '--retry-for must be a time like 500ms, 30s or 2m, or forever, received "x"',
  ],
  [["URL", "--timeout", "forever"], "--timeout must be a time like 500ms"],
  [["URL", "--compress=zip"], '--compress must be "gzip"'],
  [
    ["URL", "-X", "GET"],
    '--method must be an HTTP method that may carry a body, received "GET"',
  ],
  [["URL", "-H", "hunter2"], '--header must be "Name: value"\n'],
  [["URL", "-H", "a b: hunter2"], 'the name or value of "a b" is invalid'],
  [
    ["URL", "--upload", "--tus"],
    "--upload and --tus cannot be used together",
  ],
  [
    ["URL", "--resume", "--tus"],
    "--tus and --resume cannot be used together",
  ],
  [
    ["URL", "--upload", "--unsent", "x"],
    "--unsent cannot be used with --upl",
  ],
  [
    ["URL", "--upload", "--retry-for", "1"],
    "--retry-for cannot be used with",
  ],
  [["URL", "--upload", "--lines"], "--lines cannot be used with --upload"],
  [["URL", "--tus", "--compress"], "--compress cannot be used with --tus"],
  [["URL", "--tus", "-X", "PUT"], "--method cannot be used with --tus"],
  [
    ["URL", "--resume", "--metadata", "a=b"],
    "--metadata cannot be used with",
  ],
  [["URL", "--metadata", "a=b"], "--metadata requires --tus"],
  [["URL", "--offset", "1"], "--offset requires --resume"],
  [["URL", "--drain", "1s"], "--drain requires --spool"],
  [["URL", "--follow", "x"], "--follow requires --spool"],
  [["URL", "--spool", "x", "--upload"], "--spool cannot be used with --upload"],
  [["URL", "--spool", "x", "--tus"], "--spool cannot be used with --tus"],
  [["URL", "--spool", "x", "--resume"], "--spool cannot be used with --res"],
  [
    ["URL", "--spool", "x", "--unsent", "y"],
    "--spool and --unsent cannot be used together",
  ],
  [
    ["URL", "--spool", "x", "--follow", "y", "--lines"],
    "--follow and --lines cannot be used together",
  ],
  [
    ["URL", "--spool", "x", "--follow", "y", "--interval", "1s"],
    "--follow and --interval cannot be used together",
  ],
  [
    ["URL", "--spool", "x", "--follow", "y", "z"],
    "--follow and FILE cannot be used together",
  ],
  [
    ["URL", "--spool", "x", "--drain", "1h"],
    '--drain must be a time like 500ms, 30s or 2m, or forever, received "1h"',
  ],
  [
    ["URL", "--spool", "/no/such/file", "--drain", "40000m"],
    "--drain must be an integer from 0 to 2147483647, or forever, received 2400000000",
  ],
  [["URL", "--spool", ""], "the path of a spool is empty"],
  [["URL", "--export"], "--export requires spool FILE"],
  [["spool"], "spool must be followed by one FILE"],
  [["spool", "x", "URL"], "spool must be followed by one FILE"],
  [["spool", "x", "--quiet"], "--quiet cannot be used with spool"],
  [["spool", "x", "--drain", "1s"], "--drain cannot be used with spool"],
  [["URL", "--resume", "--offset", "x"], 'like 64K or 1M, received "x"'],
  [["URL", "--tus", "--metadata", "a"], 'must be NAME=VALUE, received "a"'],
  [
    ["URL", "--tus", "--metadata", "a b=c"],
    "a name in --metadata must be printable ASCII without",
  ],
  [["URL", "--upload", "-X", "GET"], 'may carry a body, received "GET"'],
  [["nonsense", "--tus"], 'URL must be an absolute URL, received "nonsense"'],
  [["nonsense", "--resume"], "URL must be an absolute URL"],
  [
    ["URL", "--resume", "--timeout", "0"],
    "stream-buffer: --timeout must be an integer from",
  ],
  [
    ["URL", "--resume", "--capacity", "0"],
    "stream-buffer: --capacity must be an integer fr",
  ],
];
/** Arguments that name something that cannot be used, and what is reported. */
const INACCESSIBLE: [string[], string][] = [
  [["http://a;b/"], "cannot connect to a;b:80: "],
  [["URL", "/no/such/file"], "cannot read /no/such/file: no such file"],
  [["URL", "/"], "cannot read /: it is a directory"],
  [["URL", "-H", "@/no/such"], "cannot read headers from /no/such: no"],
  [["URL", "--unsent", "/no/such/file"], "cannot write /no/such/file: no"],
  [
    ["URL", "--spool", "/no/such/file"],
    "cannot open the spool /no/such/file: there is no folder /no/such\n",
  ],
  [["URL", "--spool", "/"], "cannot open the spool /: it is a folder\n"],
  [["URL", "-H", "A: ${TEST_TOKEN}"], "add --allow-env=TEST_TOKEN"],
];

for (
  const [args, message, advice] of [
    ...INVALID.map((row) => [...row, "Try --help.\n"] as const),
    ...INACCESSIBLE.map((row) => [...row, ""] as const),
  ]
) {
  Deno.test(`cli rejects ${args.join(" ") || "no arguments"}`, async () => {
    await using server = new FaultyServer();
    const { code, stdout, stderr } = await run(
      args.map((arg) => arg === "URL" ? server.url : arg),
      "data",
    );
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, message);
    assertMatch(stderr, /^stream-buffer: .*\n/);
    assertEquals(stderr.replace(/.*\n/, ""), advice);
    assert(!stderr.includes("hunter2"), stderr);
    assert(!/\w+Sender/.test(stderr), stderr);
    assertEquals(server.connections, 0);
  });
}
