/**
 * Records reach two databases that ingest over HTTP, ClickHouse and InfluxDB 1,
 * over restarts too. Neither honours an `Idempotency-Key`, so each table is one
 * in which a repeated record replaces itself. Skipped where they are missing.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError } from "../sender.ts";
import {
  CLICKHOUSE,
  INFLUXDB,
  poll,
  type Program,
  RealServer,
  Retries,
  testWith,
  writeDuring,
} from "../testing/real_servers.ts";
import { overEach, streamTo } from "../testing/transports.ts";

/** A database, and how to count and sum what it has stored. */
interface Database {
  readonly name: string;
  readonly program: Program;
  /** Signals that stop it during a stream. */
  readonly stops: Deno.Signal[];
  /** Writes the configuration; returns the arguments. */
  configure(folder: string, port: number): Promise<string[]>;
  /** Creates the table or database for the records. */
  prepare(origin: string): Promise<void>;
  readonly path: string;
  record(number: number): string;
  /** Over all records: the count, the sum of the ids, the sum of the checks. */
  totals(origin: string): Promise<number[]>;
  readonly malformed: string;
  /** The error message for it, and the status. */
  readonly complaint: string;
  readonly status: number;
}

/** The payload of a record; small, so that sums are exact. */
function checkOf(id: number): number {
  return id * 7_919 % 10_007;
}

const clickhouse: Database = {
  name: "ClickHouse",
  program: CLICKHOUSE,
  // After a SIGTERM it serves its open connections for another half minute, and
  // responds at the end that there is no such table.
  stops: ["SIGKILL"],
  async configure(folder, port) {
    const path = `${folder}/config.xml`;
    await Deno.writeTextFile(
      path,
      `<yandex>
        <logger>
          <level>warning</level>
          <log>${folder}/server.log</log>
          <errorlog>${folder}/error.log</errorlog>
        </logger>
        <listen_host>127.0.0.1</listen_host>
        <http_port>${port}</http_port>
        <path>${folder}/</path>
        <tmp_path>${folder}/tmp/</tmp_path>
        <keep_alive_timeout>1</keep_alive_timeout>
        <shutdown_wait_unfinished>1</shutdown_wait_unfinished>
        <mark_cache_size>1048576</mark_cache_size>
        <default_database>default</default_database>
        <users_config>config.xml</users_config>
        <default_profile>default</default_profile>
        <profiles><default></default></profiles>
        <quotas><default></default></quotas>
        <users>
          <default>
            <password></password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
          </default>
        </users>
      </yandex>`,
    );
    return [`--config-file=${path}`];
  },
  async prepare(origin) {
    await post(
      `${origin}/`,
      `CREATE TABLE records (id UInt64, check UInt64)
        ENGINE = ReplacingMergeTree ORDER BY id`,
    );
  },
  path: `/?query=${
    encodeURIComponent("INSERT INTO records FORMAT JSONEachRow")
  }`,
  record: (id) => JSON.stringify({ id, check: checkOf(id) }) + "\n",
  async totals(origin) {
    const text = await post(
      `${origin}/`,
      "SELECT count(), sum(id), sum(check) FROM records FINAL",
    );
    return text.split("\t").map(Number);
  },
  malformed: '{"id": "seven"}\n',
  complaint: "Cannot parse input",
  status: 500, // newer versions respond with 400
};

const influxdb: Database = {
  name: "InfluxDB",
  program: INFLUXDB,
  stops: ["SIGTERM", "SIGKILL"],
  async configure(folder, port) {
    const path = `${folder}/influxdb.conf`;
    await Deno.writeTextFile(
      path,
      `
        reporting-enabled = false
        bind-address = "127.0.0.1:0"
        [meta]
        dir = "${folder}/meta"
        [data]
        dir = "${folder}/data"
        wal-dir = "${folder}/wal"
        [monitor]
        store-enabled = false
        [http]
        bind-address = "127.0.0.1:${port}"
      `,
    );
    return ["-config", path];
  },
  async prepare(origin) {
    const query = new URLSearchParams({ q: "CREATE DATABASE records" });
    await post(`${origin}/query?${query}`);
  },
  path: "/write?db=records",
  record: (id) => `record id=${id}i,check=${checkOf(id)}i ${id + 1}\n`,
  async totals(origin) {
    const query = new URLSearchParams({
      db: "records",
      q: "SELECT count(id), sum(id), sum(check) FROM record",
    });
    const response = JSON.parse(await post(`${origin}/query?${query}`));
    return response.results[0].series?.[0].values[0].slice(1) ?? [0, 0, 0];
  },
  malformed: "record id=seven 8\n",
  complaint: "unable to parse 'record id=seven 8'",
  status: 400,
};

async function post(url: string, body = ""): Promise<string> {
  const response = await fetch(url, { method: "POST", body });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${text}`);
  return text;
}

/** Starts a database, ready for records. */
async function start(
  database: Database,
): Promise<{ server: RealServer; origin: string }> {
  const server = await RealServer.start(database);
  const origin = `http://127.0.0.1:${server.port}`;
  await database.prepare(origin);
  return { server, origin };
}

/** The totals of this many records. */
function expected(count: number): number[] {
  let [sum, checks] = [0, 0];
  for (let id = 0; id < count; id++) {
    sum += id;
    checks += checkOf(id);
  }
  return [count, sum, checks];
}

for (const database of [clickhouse, influxdb]) {
  const test = overEach(testWith(database.program));
  const { name, path, record } = database;

  test(`${name} has every record once and unchanged`, async () => {
    const { server, origin } = await start(database);
    await using _ = server;
    await using out = streamTo(origin + path, { capacity: 16 * 1024 });
    for (let id = 0; id < 20_000; id++) await out.write(record(id));
    await out.close();
    assertEquals(await database.totals(origin), expected(20_000));
  });

  for (const signal of database.stops) {
    test(`${name} has every record after restarts (${signal}) during a stream`, async () => {
      const { server, origin } = await start(database);
      await using _ = server;
      const retries = new Retries();
      await using out = streamTo(origin + path, {
        capacity: 4 * 1024,
        ...retries.options,
      });
      let count = 0;
      await writeDuring(out, async () => {
        for (let restart = 0; restart < 2; restart++) {
          const { sends } = out.stats;
          await poll(`${name} to store records`, () => out.stats.sends > sends);
          await server.stop(signal);
          await retries.next();
          await server.start();
        }
      }, (id) => {
        count = id + 1;
        return record(id);
      });
      assertEquals(await database.totals(origin), expected(count));
    });
  }

  test(`${name} rejects a malformed record with its own message, and the record is kept`, async () => {
    const { server, origin } = await start(database);
    await using _ = server;
    const { malformed, complaint, status } = database;
    const out = streamTo(origin + path, {
      // A 5xx would be retried, although this one is permanent.
      retry: { shouldRetry: ({ excerpt }) => !excerpt.includes(complaint) },
    });
    await out.write(malformed);
    const { cause } = await assertRejects(() => out.close(), FlushError);
    assertInstanceOf(cause, SendError);
    assertEquals([cause.status, cause.attempts], [status, 1]);
    assertStringIncludes(cause.excerpt, complaint);
    assertStringIncludes(cause.message, complaint);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), malformed);
  });
}
