/** Who is compared, and where. `server.ts` does what the scenarios say. */

/** By the names of their modules. */
export const PEERS = {
  stream_to: { title: "StreamBuffer", runtime: "Deno", format: "ndjson" },
  fetch: { title: "`fetch`", runtime: "Deno", format: "ndjson" },
  ky: { title: "ky", runtime: "Deno", format: "ndjson" },
  got: { title: "got", runtime: "Node", format: "ndjson" },
  undici: { title: "undici `RetryAgent`", runtime: "Node", format: "ndjson" },
  pino_loki: { title: "pino-loki", runtime: "Node", format: "loki" },
  winston: { title: "winston `Http`", runtime: "Node", format: "winston" },
  opentelemetry: { title: "OpenTelemetry", runtime: "Node", format: "otlp" },
  opentelemetry_default: {
    title: "the same, default queue",
    runtime: "Node",
    format: "otlp",
  },
} as const;

/** By the names that the server knows. */
export const SCENARIOS = {
  healthy: {
    title: "A healthy server",
    short: "healthy",
    rate: 4_000,
    text: "It acknowledges every request.",
  },
  unavailable: {
    title: "503 now and then",
    short: "503",
    rate: 4_000,
    text:
      "One request in 20, beginning with the second, gets a 503 and is not stored. So every program meets at least one, however few requests it makes.",
  },
  reset: {
    title: "Stored, then reset",
    short: "reset",
    rate: 4_000,
    text:
      "The same requests are stored, but the connection is reset before the response.",
  },
  down: {
    title: "Down for 5 seconds",
    short: "down",
    rate: 2_000,
    text:
      "The server is away from 2.5 to 7.5 s. Here 2,000 records are made per second, for 10 s, so that there are some before, during and after the outage.",
  },
  redirected: {
    title: "One redirect",
    short: "302",
    rate: 4_000,
    text:
      "One request at half time gets a 302 to a page that responds with 200 and stores nothing, such as the one where one logs in to a network.",
  },
  limited: {
    title: "429 with `Retry-After`",
    short: "429",
    rate: 4_000,
    text:
      "From 2 to 4 s every request gets a 429 and `Retry-After`, with the seconds that are left.",
  },
  refused: {
    title: "A record that is refused",
    short: "400",
    rate: 4_000,
    text:
      "Any request with the record number 10,000 gets a 400. That record cannot be delivered, so one is always lost.",
  },
  closed: {
    title: "Closed while the server is down",
    short: "closed",
    rate: 4_000,
    text:
      "The server is away from 2.5 s on, and comes back when the program has ended. No program can deliver the rest; the question is whether it learns what was lost.",
  },
} as const;

export type PeerName = keyof typeof PEERS;
export type ScenarioName = keyof typeof SCENARIOS;
export const PEER_NAMES = Object.keys(PEERS) as PeerName[];
export const SCENARIO_NAMES = Object.keys(SCENARIOS) as ScenarioName[];
