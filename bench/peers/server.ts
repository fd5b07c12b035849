/**
 * A web server that stores records, counts each by its number, and misbehaves as
 * a scenario says. It runs in Node.
 *
 *     node bench/peers/server.ts SCENARIO FORMAT COUNT RATE
 *
 * It prints its port. The scenario begins with `GET /start`. When its input ends,
 * it prints a {@linkcode ServerReport}, and exits.
 */
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import process from "node:process";

/** What the server has seen. */
export interface ServerReport {
  /** The records that it has not stored. */
  lost: number[];
  /** How many copies it has stored besides the first of each record. */
  repeated: number;
  /** The same if it dropped each request whose Idempotency-Key it knows. */
  repeatedPastKey: number;
  requests: number;
  /** The requests that it did not acknowledge. */
  refused: number;
  /** From when a record was due to its arrival in ms, the median. */
  delay: number;
}

/** How records are put into a request. */
export type Format = keyof typeof FORMATS;

const FORMATS = {
  ndjson: (body: string): number[] =>
    body.trimEnd().split("\n").map((line) => JSON.parse(line).n),
  winston: (body: string): number[] => [JSON.parse(body).n],
  loki(body: string): number[] {
    const { streams }: { streams: { values: [string, string][] }[] } = JSON
      .parse(body);
    return streams.flatMap(({ values }) =>
      values.map(([, line]) => JSON.parse(line).n)
    );
  },
  otlp(body: string): number[] {
    interface Request {
      resourceLogs: {
        scopeLogs: {
          logRecords: { attributes: { value: { intValue: number } }[] }[];
        }[];
      }[];
    }
    const { resourceLogs }: Request = JSON.parse(body);
    return resourceLogs.flatMap(({ scopeLogs }) =>
      scopeLogs.flatMap(({ logRecords }) =>
        logRecords.map(({ attributes }) =>
          Number(attributes[0]!.value.intValue)
        )
      )
    );
  },
};

/** What the server does to a request that brings records. */
type Behaviour = (
  records: number[],
  response: ServerResponse,
  store: () => void,
) => void;

const [scenario, format] = process.argv.slice(2) as [string, Format];
const [count, rate] = process.argv.slice(4).map(Number) as [number, number];
/** How long the program makes records, in ms. */
const duration = 1_000 * count / rate;
/** One request in so many meets a failure, the second one first. */
const EVERY = 20;
/** How long the server refuses every request with a 429, in ms. */
const LIMITED = 2_000;

const copies = new Uint32Array(count);
const arrivals: number[] = [];
const keys = new Set<string>();
let repeatedPastKey = 0;
let requests = 0;
let refused = 0;
let redirected = false;
let start = 0;

const elapsed = () => performance.now() - start;

function acknowledge(response: ServerResponse): void {
  response.writeHead(200, { "Content-Type": "application/json" }).end("{}");
}

function refuse(
  response: ServerResponse,
  status: number,
  headers: Record<string, string | number> = {},
): void {
  refused++;
  response.writeHead(status, headers).end();
}

const healthy: Behaviour = (_, response, store) => {
  store();
  acknowledge(response);
};
const isDue = () => requests % EVERY === 2;

const BEHAVIOURS: Record<string, Behaviour> = {
  healthy,
  unavailable(records, response, store) {
    if (isDue()) refuse(response, 503);
    else healthy(records, response, store);
  },
  reset(records, response, store) {
    if (!isDue()) return healthy(records, response, store);
    store();
    refused++;
    response.socket!.resetAndDestroy();
  },
  down: healthy,
  redirected(records, response, store) {
    if (redirected || elapsed() < duration / 2) {
      return healthy(records, response, store);
    }
    redirected = true;
    refuse(response, 302, { Location: "/elsewhere" });
  },
  limited(records, response, store) {
    const rest = duration * 0.4 + LIMITED - elapsed();
    if (rest > LIMITED || rest <= 0) return healthy(records, response, store);
    refuse(response, 429, { "Retry-After": Math.ceil(rest / 1_000) });
  },
  refused(records, response, store) {
    if (records.includes(count / 2)) refuse(response, 400);
    else healthy(records, response, store);
  },
  closed: healthy,
};

function store(records: number[], key: string | undefined): void {
  const isKnown = key !== undefined && keys.has(key);
  if (key !== undefined) keys.add(key);
  for (const n of records) {
    if (copies[n]! > 0 && !isKnown) repeatedPastKey++;
    if (copies[n] === 0) arrivals.push(elapsed() - 1_000 * n / rate);
    copies[n]!++;
  }
}

async function handle(
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (request.url === "/start") {
    begin();
    return acknowledge(response);
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of request) chunks.push(chunk);
  // Where a redirect leads to, nothing is stored.
  if (request.url === "/elsewhere") return acknowledge(response);
  requests++;
  const records = FORMATS[format](Buffer.concat(chunks).toString());
  const key = request.headers["idempotency-key"] as string | undefined;
  BEHAVIOURS[scenario]!(records, response, () => store(records, key));
}

function listen(port: number): Server {
  const server = createServer((request, response) => {
    // A connection that dies with a request is the scenario's doing.
    handle(request, response).catch((error) => {
      if (error.code !== "ECONNRESET") throw error;
    });
  });
  server.keepAliveTimeout = 60_000; // idle connections are not what is compared
  return server.listen(port, "127.0.0.1");
}

let server = listen(0);

function begin(): void {
  start = performance.now();
  const leave = () => {
    server.close();
    server.closeAllConnections();
  };
  const { port } = server.address() as AddressInfo;
  if (scenario === "down") {
    setTimeout(leave, duration / 4);
    setTimeout(() => server = listen(port), duration * 3 / 4);
  } else if (scenario === "closed") {
    setTimeout(leave, duration / 2);
  }
}

function report(): ServerReport {
  const lost = [...copies.keys()].filter((n) => copies[n] === 0);
  const stored = copies.reduce((sum, copies) => sum + copies, 0);
  return {
    lost,
    repeated: stored - (count - lost.length),
    repeatedPastKey,
    requests,
    refused,
    delay: arrivals.toSorted((a, b) => a - b)[arrivals.length >> 1] ?? 0,
  };
}

server.once("listening", () => {
  console.log((server.address() as AddressInfo).port);
});
process.stdin.resume().once("end", () => {
  process.stdout.write(JSON.stringify(report()), () => process.exit());
});
