/**
 * Receivers that share a PostgreSQL, behind nginx, and senders with spools, all of them
 * killed and started again: every record is stored once, and in order.
 */
import { assert, assertEquals } from "@std/assert";
import { basename, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { inspectSpool } from "../spool/mod.ts";
import { type Child, outcomeWithin, run } from "../testing/child.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import { POSTGRES, Postgres } from "../testing/postgres.ts";
import {
  NGINX,
  poll,
  type Program,
  RealServer,
  testWith,
} from "../testing/real_servers.ts";
import type { SpoolPlan } from "../testing/spool_child.ts";
import { temporary } from "../testing/temporary.ts";

const SENDERS = 8;
/** How many more batches are to be stored before the next kill. */
const PROGRESS = 20;
/** How long a sender may take to deliver what it has, in ms. */
const MAX_TIME = 60_000;
const RECEIVER = path("../examples/receiver_postgres.ts");
const SENDER = path("../testing/spool_child.ts");

function path(file: string): string {
  return fileURLToPath(import.meta.resolve(file));
}

const DENO: Program = {
  command: basename(Deno.execPath()),
  folders: [dirname(Deno.execPath())],
  package: "deno",
};

/** Starts the example, which keeps its port. */
function startReceiver(database: string): Promise<RealServer> {
  return RealServer.start({
    program: DENO,
    configure: (_, port) => [
      ...["run", "-q", "--no-prompt", "--cached-only"],
      ...["-N=127.0.0.1", "--ignore-env", RECEIVER, database, `${port}`],
    ],
  });
}

/** Makes a request straight to a receiver; returns the status of its response. */
async function post(
  { port }: RealServer,
  key: string,
  body: string,
): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${port}/`, {
    method: "POST",
    headers: { "Idempotency-Key": JSON.stringify(key) },
    body,
  });
  await response.body?.cancel();
  return response.status;
}

/** One of the senders: a stream, which several processes write one after the other. */
class Sender implements AsyncDisposable {
  readonly #plan: Omit<SpoolPlan, "run" | "seed" | "records" | "drain">;
  readonly #random: () => number;
  #process: Child | undefined;
  /** For each of its processes, how many records it said are on disk. */
  readonly covered: number[] = [];

  constructor(folder: string, number: number, url: string, seed: number) {
    this.#random = randomFrom(seed);
    this.#plan = {
      path: `${folder}/${number}.spool`,
      momentPath: `${folder}/${number}.moment`,
      url,
      capacity: 2_000,
      recordLimit: 200,
      durability: "process",
      requestBytes: 8_000,
      // Writers wait for the server: there is little to deliver in the end.
      maxBytes: 32_000,
    };
  }

  /** The id of its stream. */
  get id(): string {
    return inspectSpool(this.#plan.path).id;
  }

  start(isLast = false): void {
    const plan: SpoolPlan = {
      ...this.#plan,
      run: this.covered.length,
      seed: Math.floor(this.#random() * 2 ** 31),
      records: isLast ? 20 : null,
      drain: isLast,
    };
    this.covered.push(0);
    const flags = ["-A", "--no-config", "--no-lock", "--no-npm"];
    this.#process = run([...flags, SENDER, JSON.stringify(plan)]);
  }

  async kill(): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    await process[Symbol.asyncDispose]();
    this.#readCovered(process.output.stdout);
  }

  /** Writes some more, waits until everything is delivered, and ends. */
  async finish(): Promise<void> {
    this.start(true);
    const { code, stdout, stderr } = await outcomeWithin(
      MAX_TIME,
      this.#process!,
    );
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    this.#readCovered(stdout);
  }

  #readCovered(output: string): void {
    const counts = [...output.matchAll(/^covered (\d+)\n/gm)];
    this.covered[this.covered.length - 1] = Number(counts.at(-1)?.[1] ?? 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process?.[Symbol.asyncDispose]();
  }
}

/** All servers. */
class Site implements AsyncDisposable {
  readonly #resources: AsyncDisposableStack;

  private constructor(
    readonly postgres: Postgres,
    readonly receivers: RealServer[],
    readonly nginx: RealServer,
    resources: AsyncDisposableStack,
  ) {
    this.#resources = resources;
  }

  static async start(): Promise<Site> {
    await using resources = new AsyncDisposableStack();
    const postgres = resources.use(await Postgres.start());
    const receivers = [
      resources.use(await startReceiver(postgres.url)),
      resources.use(await startReceiver(postgres.url)),
    ];
    const ports = receivers.map(({ port }) => port);
    const nginx = resources.use(
      await RealServer.start({
        program: NGINX,
        configure: (folder, port) => configure(folder, port, ports),
      }),
    );
    return new Site(postgres, receivers, nginx, resources.move());
  }

  get url(): string {
    return `http://127.0.0.1:${this.nginx.port}/`;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#resources.disposeAsync();
  }
}

/**
 * A request that a receiver does not respond to goes to the other one, although it is a
 * POST. A receiver that was away is tried at once.
 */
async function configure(
  folder: string,
  port: number,
  upstreams: number[],
): Promise<string[]> {
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `
      daemon off;
      # One process, which nothing of survives SIGKILL.
      master_process off;
      pid nginx.pid;
      ${Deno.uid() === 0 ? "user root;" : ""}
      events {}
      http {
        ${folders.map((name) => `${name}_temp_path ${name};`).join("\n")}
        log_format short '$status $upstream_status';
        access_log access.log short;
        upstream receivers {
          ${
      upstreams.map((port) => `server 127.0.0.1:${port} max_fails=0;`).join(
        "\n",
      )
    }
          keepalive 16;
        }
        server {
          listen 127.0.0.1:${port};
          client_max_body_size 16m;
          location / {
            proxy_pass http://receivers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout non_idempotent;
          }
        }
      }
    `,
  );
  return ["-p", folder, "-c", "nginx.conf", "-e", "error.log"];
}

/**
 * Each record is a line that begins with `RUN:NUMBER:`. What there is of each run of
 * each stream, in the order of the stream.
 */
const RECORDS = `
  with line as (
    select id, sequence, epoch, part_from, place, line,
      split_part(line, ':', 1)::int as run,
      split_part(line, ':', 2)::int as number
    from stream_buffer.batch,
      string_to_table(rtrim(convert_from(bytes, 'UTF8'), E'\\n'), E'\\n')
        with ordinality as part(line, place)
  ), numbered as (
    select *,
      row_number() over (partition by id, run order by sequence, epoch, part_from, place) - 1
        as expected,
      lag(run) over (partition by id order by sequence, epoch, part_from, place) as run_before
    from line
  )
  select id, run, count(*)::int as records,
    bool_and(number = expected and run >= coalesce(run_before, 0)) as is_in_order
  from numbered group by id, run`;

const test = testWith(POSTGRES, NGINX);

test("two receivers: a key at the same time at both is stored once, and both say that it is", async () => {
  await using site = await Site.start();
  const { postgres, receivers } = site;
  for (const [i, receiver] of receivers.entries()) {
    assertEquals(await post(receiver, `before-${i}`, "x"), 204);
  }
  // Both are adding it, until the lock is released.
  await using connection = await postgres.connect();
  await connection.query(
    "begin; lock table stream_buffer.batch in exclusive mode",
  );
  const posting = Promise.all(
    receivers.map((receiver) => post(receiver, "same-0", "one")),
  );
  await poll("both to wait", async () => {
    const waiting = await postgres.query(
      "select from pg_stat_activity where wait_event_type = 'Lock'",
    );
    return waiting.length === receivers.length;
  });
  await connection.query("commit");
  const statuses = await posting;
  assertEquals(statuses, [204, 204]);
  const rows = await postgres.query(
    "select convert_from(bytes, 'UTF8') as text from stream_buffer.batch where id = 'same'",
  );
  assertEquals(rows, [{ text: "one" }]);
  const other = await Promise.all(
    receivers.map((receiver) => post(receiver, "same-0", "two")),
  );
  assertEquals(other, [422, 422]);
});

test(`two receivers behind nginx, ${SENDERS} senders and PostgreSQL, all killed and started again: every record once, in order`, async () => {
  const seed = Math.floor(2 ** 31 * Math.random());
  console.log(`The seed of the kills is ${seed}`);
  const random = randomFrom(seed);
  await using folder = await temporary();
  await using site = await Site.start();
  await using resources = new AsyncDisposableStack();
  const senders = Array.from({ length: SENDERS }, (_, number) =>
    resources.use(
      new Sender(folder.file("."), number, site.url, seed + number),
    ));
  for (const sender of senders) sender.start();

  /** Waits until more is stored. At first there are no tables. */
  const progress = async () => {
    await using connection = await site.postgres.connect();
    let first: number | undefined;
    await poll("more batches to be stored", async () => {
      const [row] = await connection.query(
        "select count(*)::int from stream_buffer.batch",
      ).catch(() => []);
      const count = row?.count as number | undefined;
      first ??= count;
      return count !== undefined && count >= first! + PROGRESS;
    });
  };
  const kills = [
    ...senders.map((sender) => async () => {
      await sender.kill();
      sender.start();
    }),
    ...[...site.receivers, ...site.receivers].map((receiver) => async () => {
      await receiver.stop("SIGKILL");
      // The other one is enough.
      await progress();
      await receiver.start();
    }),
    ...[1, 2].map(() => async () => {
      await site.postgres.crash();
      await site.postgres.start();
    }),
    ...[1, 2].map(() => async () => {
      await site.nginx.stop("SIGKILL");
      await site.nginx.start();
    }),
  ];
  await progress();
  for (const kill of shuffled(kills, random)) {
    await kill();
    await progress();
  }
  for (const sender of senders) await sender.kill();
  await Promise.all(senders.map((sender) => sender.finish()));

  const rows = await site.postgres.query(RECORDS);
  let total = 0;
  for (const { id, covered } of senders) {
    for (const [run, least] of covered.entries()) {
      const found = rows.find((row) => row.id === id && row.run === run);
      const { records, is_in_order } = found ??
        { records: 0, is_in_order: true };
      assert(is_in_order, `seed ${seed}: ${id}, run ${run} is not in order`);
      assert(
        records as number >= least,
        `seed ${seed}: ${id}, run ${run} has ${records} of ${least} records`,
      );
      total += records as number;
    }
  }
  const found = rows.reduce((sum, { records }) => sum + Number(records), 0);
  assertEquals(total, found, `seed ${seed}: some records are of nobody`);
  const log = (await site.nginx.read("access.log")).split("\n");
  const repeated = log.filter((line) => line.includes(", ")).length;
  console.log(
    `${total} records; of ${log.length} requests, nginx repeated ${repeated}`,
  );
});

function shuffled<T>(list: T[], random: () => number): T[] {
  return list.map((item) => ({ item, place: random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ item }) => item);
}
