/**
 * Each logger with its library: as a process whose server goes away, and in this
 * process with a server that misbehaves.
 */
import { configure, dispose, drain, getLogger } from "@logtape/logtape";
import {
  BatchLogRecordProcessor,
  LoggerProvider,
  type LogRecordProcessor,
  SimpleLogRecordProcessor,
} from "@opentelemetry/sdk-logs";
import { assertEquals, assertStrictEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { pino } from "pino";
import { createLogger } from "winston";
import { outcomeWithin, run } from "../../testing/child.ts";
import { roundTrips } from "../../testing/event_loop.ts";
import {
  BEHAVIOURS,
  deduplicate,
  FaultyServer,
  held,
  type RawRequest,
  respond,
} from "../../testing/faulty_server.ts";
import { captureConsole } from "./console.ts";
import type { LogStreamOptions } from "./log_stream.ts";
import { logTapeSink } from "./logtape.ts";
import { otlpLogExporter } from "./opentelemetry.ts";
import { pinoDestination } from "./pino.ts";
import { StreamTransport } from "./winston.ts";

const decoder = new TextDecoder();

interface Kind {
  /** What the example needs to run. */
  readonly permissions: string[];
  /** Logs these messages with the library, and ends it as the library does. */
  log(
    url: string,
    options: LogStreamOptions,
    messages: string[],
  ): Promise<void>;
  /** The messages in one batch. */
  read(body: string): string[];
}

/** Reads NDJSON. */
function lines(messageOf: (record: Json) => string) {
  return (body: string) =>
    body.trimEnd().split("\n").map((line) => messageOf(JSON.parse(line)));
}

// deno-lint-ignore no-explicit-any
type Json = any;

/** The provider of an exporter, which waits for what OpenTelemetry holds itself. */
async function logByOpenTelemetry(
  processor: LogRecordProcessor,
  messages: string[],
): Promise<void> {
  const provider = new LoggerProvider({ processors: [processor] });
  const logger = provider.getLogger("test");
  for (const body of messages) logger.emit({ body });
  await provider.shutdown();
}

function readOtlp(body: string): string[] {
  const { resourceLogs, ...rest } = JSON.parse(body);
  assertEquals(rest, {});
  return resourceLogs.flatMap((resource: Json) =>
    resource.scopeLogs.flatMap((scope: Json) =>
      scope.logRecords.map((record: Json) => record.body.stringValue)
    )
  );
}

const KINDS: Record<string, Kind> = {
  "console.ts": {
    permissions: ["-N"],
    async log(url, options, messages) {
      const { debug } = console;
      console.debug = () => {};
      try {
        await using _ = captureConsole(url, options);
        for (const message of messages) console.debug(message);
      } finally {
        console.debug = debug;
      }
    },
    read: lines((record) => record.message),
  },
  "logtape.ts": {
    permissions: ["-N"],
    async log(url, options, messages) {
      await configure({
        reset: true,
        sinks: { server: logTapeSink(url, options) },
        loggers: [
          { category: "test", sinks: ["server"] },
          { category: ["logtape", "meta"], sinks: [] },
        ],
      });
      for (const line of messages) getLogger("test").info("{line}", { line });
      await dispose();
    },
    read: lines((record) => record.properties.line),
  },
  "opentelemetry.ts": {
    permissions: ["-N", "-E"],
    async log(url, options, messages) {
      const exporter = otlpLogExporter(url, options);
      const processor = new SimpleLogRecordProcessor({ exporter });
      await logByOpenTelemetry(processor, messages);
    },
    read: readOtlp,
  },
  "pino.ts": {
    permissions: ["-N", "-E", "-S"],
    async log(url, options, messages) {
      await using destination = pinoDestination(url, options);
      const logger = pino({}, destination);
      for (const message of messages) logger.info(message);
    },
    read: lines((record) => record.msg),
  },
  "winston.ts": {
    permissions: ["-N", "-E"],
    async log(url, options, messages) {
      const transports = [new StreamTransport(url, options)];
      const logger = createLogger({ transports });
      for (const message of messages) logger.info(message);
      const finished = new Promise((resolve) => logger.on("finish", resolve));
      logger.end();
      await finished;
    },
    read: lines((record) => record.message),
  },
};

function numbered(from: number, to: number): string[] {
  return Array.from({ length: to - from }, (_, i) => `record ${from + i}`);
}

/** What a server that honours the keys has, in the order of the stream. */
function messagesIn(requests: RawRequest[], { read }: Kind): string[] {
  return deduplicate(requests).flatMap((body) => read(decoder.decode(body)));
}

// -- A server that goes away --

/** How long, in ms. This is what the test is about, so it takes that long. */
const AWAY = 5_000;
/** When a process that has not ended is killed, in ms: it takes a quarter of that. */
const PATIENCE = 90_000;

/** Logs 20,000 records in a process whose server goes away twice. */
async function logThroughOutages(
  file: string,
  kind: Kind,
  away: "refuses connections" | "responds with 503",
): Promise<void> {
  let back = 0;
  await using server = new FaultyServer([], (exchange) => {
    if (performance.now() >= back) return respond(200)(exchange);
    // A connection that was in use is still there.
    if (away === "refuses connections") return exchange.close();
    return respond(503)(exchange);
  });
  const goAway = () => {
    back = performance.now() + AWAY;
    if (away === "refuses connections") server.refuse(AWAY);
  };
  const path = fileURLToPath(import.meta.resolve(`./${file}`));
  await using child = run([...kind.permissions, path, server.url]);
  const outcome = outcomeWithin(PATIENCE, child);
  outcome.catch(() => {}); // what waits for the child below rejects first
  const log = (from: number, to: number) =>
    child.write(`${numbered(from, to).join("\n")}\n`);
  const stored = (message: string) =>
    child.waitFor(server.waitFor(
      message,
      () => decoder.decode(server.stored.at(-1)?.body).includes(`${message}"`),
    ));

  await log(0, 7_000);
  await stored("record 10");
  goAway();
  await log(7_000, 14_000);
  await stored("record 13999");
  goAway();
  await log(14_000, 20_000);
  await child.end();
  const { code, stderr } = await outcome;

  assertEquals([code, stderr], [0, ""]);
  assertEquals(messagesIn(server.stored, kind), numbered(0, 20_000));
}

Deno.test("the loggers deliver 20,000 records although the server is away in the middle and at the end", async (t) => {
  // All at once, because each takes as long as its server is away.
  const step = (name: string, fn: () => Promise<void>) =>
    t.step({
      name,
      fn,
      sanitizeExit: false,
      sanitizeOps: false,
      sanitizeResources: false,
    });
  const steps = Object.entries(KINDS).map(([file, kind]) => {
    const away = file === "winston.ts"
      ? "responds with 503"
      : "refuses connections";
    return step(
      `${file}: the server ${away}`,
      () => logThroughOutages(file, kind, away),
    );
  });
  await Promise.all(steps);
});

// -- A server that misbehaves --

for (const [file, kind] of Object.entries(KINDS)) {
  Deno.test(`${file} waits for a Retry-After, repeats what was reset, and goes on after a batch that is refused`, async () => {
    await using server = new FaultyServer([
      respond(200),
      respond(429, { "retry-after": "1" }),
      BEHAVIOURS["close within the body"]!,
      respond(400, {}, "no\n"),
    ]);
    const refused: string[] = [];
    await kind.log(server.url, {
      capacity: 4096,
      deadLetter(bytes) {
        refused.push(...kind.read(decoder.decode(bytes)));
        return true;
      },
      onLoss: ({ error }) => {
        throw error;
      },
    }, numbered(0, 200));

    const [first, late, bad, ...rest] = server.requests as [
      RawRequest,
      RawRequest,
      RawRequest,
      ...RawRequest[],
    ];
    assertEquals(server.incomplete.length, 1);
    assertEquals(late.body, bad.body); // they are attempts at the same batch
    assertEquals(server.stored, [first, ...rest]);
    assertEquals(kind.read(decoder.decode(bad.body)), refused);
    const messages = [first, bad, ...rest]
      .flatMap(({ body }) => kind.read(decoder.decode(body)));
    assertEquals(messages, numbered(0, 200));
  });
}

// -- What only one library has --

Deno.test("pinoDestination() calls back after logger.flush()", async () => {
  await using server = new FaultyServer([respond(200), respond(401)]);
  await using destination = pinoDestination(server.url);
  const logger = pino({}, destination);
  const results: (string | undefined)[] = [];
  for (const message of ["one", "two"]) {
    logger.info(message);
    logger.flush((error) => results.push(error?.name));
    assertEquals(results.length, server.requests.length);
    await roundTrips();
  }
  assertEquals(results, [undefined, "FlushError"]);
});

Deno.test("pinoDestination().flush() without a callback cannot end the process", async () => {
  await using server = new FaultyServer([], respond(401));
  await using destination = pinoDestination(server.url, { onLoss() {} });
  destination.write("x\n");
  destination.flush(); // an unhandled rejection would fail the test
  await server.received(1);
  await roundTrips();
});

Deno.test("StreamTransport delivers what is in it when the logger removes it", async () => {
  await using server = new FaultyServer();
  // Nothing but close() sends anything.
  const transport = new StreamTransport(server.url, { flushInterval: 0 });
  const logger = createLogger({ transports: [transport] });
  logger.info("one");
  logger.remove(transport);
  await roundTrips();
  assertEquals(server.stored.length, 1);
});

Deno.test("StreamTransport finishes although the server refuses everything", async () => {
  await using server = new FaultyServer([], respond(401));
  const losses: unknown[] = [];
  const onLoss = ({ unsent }: { unsent: Uint8Array }) =>
    losses.push(...KINDS["winston.ts"]!.read(decoder.decode(unsent)));
  await KINDS["winston.ts"]!.log(server.url, { onLoss }, ["one", "two"]);
  assertEquals(losses, ["one", "two"]);
});

Deno.test("logTapeSink() has delivered everything after drain()", async () => {
  await using server = new FaultyServer();
  await configure({
    reset: true,
    sinks: {
      server: logTapeSink(server.url, {
        formatter: ({ rawMessage }) => `${rawMessage}\n`,
      }),
    },
    loggers: [
      { category: "test", sinks: ["server"] },
      { category: ["logtape", "meta"], sinks: [] },
    ],
  });
  getLogger("test").info("one");
  await drain();
  assertEquals(server.bodies, ["one\n"]);
  await dispose();
});

Deno.test("otlpLogExporter() sends one valid request per batch, whatever the processor", async () => {
  await using server = new FaultyServer();
  const exporter = otlpLogExporter(server.url, { capacity: 4096 });
  const provider = new LoggerProvider({
    processors: [new BatchLogRecordProcessor({ exporter })],
  });
  const logger = provider.getLogger("test");
  for (const body of numbered(0, 600)) logger.emit({ body });
  await provider.forceFlush();
  assertEquals(
    messagesIn(server.stored, KINDS["opentelemetry.ts"]!),
    numbered(0, 600),
  );
  const [type] = server.requests.map((r) => r.headers.get("content-type"));
  assertEquals(type, "application/json");
  await provider.shutdown();
});

Deno.test("otlpLogExporter() ends although the server is away", async () => {
  const { release, behaviour } = held(respond(503));
  await using server = new FaultyServer([behaviour], respond(503));
  const unsent: string[] = [];
  const exporter = otlpLogExporter(server.url, {
    closeTimeout: 10,
    onLoss: (loss) => unsent.push(...readOtlp(decoder.decode(loss.unsent))),
  });
  const processor = new BatchLogRecordProcessor({ exporter });
  await logByOpenTelemetry(processor, ["one", "two"]);
  release();
  assertEquals(unsent, ["one", "two"]);
});

Deno.test("otlpLogExporter() makes no request for no records", async () => {
  await using server = new FaultyServer();
  const exporter = otlpLogExporter(server.url);
  const results: unknown[] = [];
  exporter.export([], (result) => results.push(result));
  await exporter.shutdown();
  assertEquals([results, server.requests], [[{ code: 0 }], []]);
});

Deno.test("captureConsole() prints as before, and restores the console", async () => {
  const { log, warn } = console;
  const printed: unknown[][] = [];
  const fake = (...args: unknown[]) => void printed.push(args);
  console.log = fake;
  const later = () => {};
  try {
    await using server = new FaultyServer();
    const capture = captureConsole(server.url);
    console.log("%s is %d", "one", 1, { two: 2 });
    console.warn = later; // by someone else
    await capture.close();
    console.log("not sent");
    assertEquals(printed, [["%s is %d", "one", 1, { two: 2 }], ["not sent"]]);
    assertStrictEquals(console.log, fake);
    assertStrictEquals(console.warn, later);
    const { time: _, ...record } = JSON.parse(server.bodies.join(""));
    assertEquals(record, { level: "log", message: "one is 1 { two: 2 }" });
  } finally {
    Object.assign(console, { log, warn });
  }
});

Deno.test("captureConsole() sends what cannot be printed, and survives what cannot be formatted", async () => {
  const { log } = console;
  console.log = () => {
    throw new Error("the terminal has gone");
  };
  try {
    await using server = new FaultyServer();
    {
      await using _ = captureConsole(server.url);
      console.log("one");
      console.log({
        [Symbol.for("nodejs.util.inspect.custom")]() {
          throw new Error("mine");
        },
      });
      console.log("three");
    }
    await roundTrips();
    assertEquals(
      KINDS["console.ts"]!.read(server.bodies.join("")),
      ["one", "a value that cannot be printed", "three"],
    );
  } finally {
    console.log = log;
  }
});
