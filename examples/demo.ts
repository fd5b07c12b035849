/**
 * Streams a file to a receiver on loopback, whole and cut into records: through a
 * StreamBuffer, over `fetch` and over undici, and with plain `fetch`. Both ends
 * hash the bytes.
 *
 *     deno task demo [FILE]
 */
import { createHash } from "node:crypto";
import { streamTo, type Transport } from "@stream-buffer/stream-buffer";
import { undiciTransport } from "@stream-buffer/stream-buffer/undici";

const RECORD = 64;
/** One request per record is slow, so only a sample of records is sent. */
const SAMPLE = 5_000;

interface Receipt {
  bytes: number;
  requests: number;
  sha256: string;
}

if (self.name === "receiver") serve();
else await demo();

/** Runs the receiver, in a worker: a server would not share our thread. */
function serve(): void {
  let hash = createHash("sha256");
  let bytes = 0;
  let requests = 0;
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async ({ body }) => {
      requests++;
      // Part by part: collecting a body of any size would slow the receiver down.
      for await (const part of body ?? []) {
        hash.update(part);
        bytes += part.length;
      }
      return new Response(null, { status: 201 });
    },
  );
  const scope = self as unknown as Worker;
  scope.onmessage = () => {
    scope.postMessage({ bytes, requests, sha256: hash.digest("hex") });
    hash = createHash("sha256");
    bytes = requests = 0;
  };
  scope.postMessage(server.addr.port);
}

async function demo(): Promise<void> {
  const [path = Deno.execPath()] = Deno.args;
  const data = await Deno.readFile(path);
  const worker = new Worker(import.meta.url, {
    type: "module",
    name: "receiver",
  });
  const url = `http://127.0.0.1:${await messageFrom<number>(worker)}/`;
  console.log(`${path} (${data.length} bytes) to a receiver at ${url}\n`);

  await using transport = undiciTransport();
  const sendFile = async (options: { transport?: Transport }) => {
    await using out = streamTo(url, { capacity: 2 ** 20, ...options });
    using file = await Deno.open(path);
    await out.readFrom(file);
  };
  const sendRecords = async (options: { transport?: Transport }) => {
    await using out = streamTo(url, options);
    for (let at = 0; at < data.length; at += RECORD) {
      await out.write(data.subarray(at, at + RECORD));
    }
  };
  const methods: Record<string, [Uint8Array, () => Promise<void>]> = {
    "file through a StreamBuffer": [data, () => sendFile({})],
    "file through a StreamBuffer, over undici": [
      data,
      () => sendFile({ transport }),
    ],
    "file as one streaming fetch": [data, async () => {
      await post(url, (await Deno.open(path)).readable);
    }],
    [`${RECORD} B records through a StreamBuffer`]: [
      data,
      () => sendRecords({}),
    ],
    [`${RECORD} B records through a StreamBuffer, over undici`]: [
      data,
      () => sendRecords({ transport }),
    ],
    [`${RECORD} B records, one fetch each (sample)`]: [
      data.subarray(0, SAMPLE * RECORD),
      async () => {
        for (let at = 0; at < Math.min(SAMPLE * RECORD, data.length);) {
          await post(url, data.slice(at, at += RECORD));
        }
      },
    ],
  };

  const table = [
    ["", "bytes", "requests", "seconds", "MB/s", "SHA-256", "", "match"],
    ["", "", "", "", "", "sent", "received", ""],
  ];
  let wrong = 0;
  for (const [name, [sent, send]] of Object.entries(methods)) {
    const expected = createHash("sha256").update(sent).digest("hex");
    let row: string[] = [];
    // Twice, because the first run compiles the code.
    for (const run of [1, 2]) {
      await Deno.stdout.write(
        new TextEncoder().encode(`${name}, ${run} of 2 ... `),
      );
      const start = performance.now();
      await send();
      const seconds = (performance.now() - start) / 1_000;
      console.log(`${seconds.toFixed(2)} s`);
      worker.postMessage("report");
      const { bytes, requests, sha256 } = await messageFrom<Receipt>(worker);
      const match = expected === sha256 && bytes === sent.length;
      if (!match) wrong++;
      row = [
        name,
        `${bytes}`,
        `${requests}`,
        seconds.toFixed(2),
        (bytes / seconds / 1e6).toPrecision(3),
        expected.slice(0, 12),
        sha256.slice(0, 12),
        match ? "yes" : "NO",
      ];
    }
    table.push(row);
  }
  worker.terminate();

  const widths = table[0]!.map((_, column) =>
    Math.max(...table.map((row) => row[column]!.length))
  );
  console.log();
  for (const [name, ...cells] of table) {
    const rest = cells.map((cell, i) => cell.padStart(widths[i + 1]!));
    console.log([name!.padEnd(widths[0]!), ...rest].join("  ").trimEnd());
  }
  console.log("\nTo watch a stream, and break its server: deno task page");
  if (wrong > 0) Deno.exit(1);
}

async function post(url: string, body: BodyInit): Promise<void> {
  const response = await fetch(url, { method: "POST", body });
  await response.body?.cancel();
  if (!response.ok) {
    throw new Error(`The receiver responded with ${response.status}`);
  }
}

function messageFrom<T>(worker: Worker): Promise<T> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = reject;
  });
}
