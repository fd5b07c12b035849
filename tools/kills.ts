/**
 * Kills processes that write through a spool, with SIGKILL, at random moments, and
 * starts them again, until there have been as many kills as it is told. The server
 * misbehaves, and stores what it gets by its key. Proves that every record that a
 * fulfilled flush covered arrives, each once, in order, and that no key has two
 * contents. A seed repeats the plan of a run, but not its timing.
 *
 *     deno task kills --count 2000 --seed 42
 *
 * With `--follow`, the processes follow a log that is rotated all the time, and every
 * line of it arrives, each once, in order.
 */
import { assert, assertEquals } from "@std/assert";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Condition } from "../testing/condition.ts";
import {
  type Exchange,
  FaultyServer,
  keyOf,
  randomFrom,
  type RawRequest,
  respond,
  sequenceOf,
} from "../testing/faulty_server.ts";
import type { FollowPlan } from "../testing/follow_child.ts";
import { MIN_RECORD_LIMIT, numbersOf, record } from "../testing/records.ts";
import { RotatedLog } from "../testing/rotated_log.ts";
import {
  type Moment,
  MOMENTS,
  type SpoolPlan,
  type Statement,
} from "../testing/spool_child.ts";
import { temporary } from "../testing/temporary.ts";

/** Spools at a time; each of their processes often waits. */
const CONCURRENCY = 3;
/** How long a process may take to open a spool, or to end by itself, in ms. */
const MAX_TIME = 60_000;
const WRITER = fileURLToPath(import.meta.resolve("../testing/spool_child.ts"));
const FOLLOWER = fileURLToPath(
  import.meta.resolve("../testing/follow_child.ts"),
);

/** What a request that was under way at a kill was waiting for. */
type RequestMoment =
  | "a request"
  | "the time between storing and acknowledgement";

/** What was interrupted by kills, and how often. */
export type Interrupted = Record<
  typeof MOMENTS[Moment] | RequestMoment,
  number
>;

/** Totals over all spools. */
export interface Tally {
  spools: number;
  kills: number;
  /** Processes that ended by themselves. */
  ended: number;
  records: number;
  requests: number;
  /** Requests with a key that was known, which the server acknowledged again. */
  repeated: number;
  /** How often logs were rotated. */
  rotations: number;
  readonly interrupted: Interrupted;
}

/** Where a process is killed. */
type Aim =
  | { at: "start" | "time"; ms: number }
  | { at: "statement"; hold: NonNullable<SpoolPlan["hold"]> }
  | { at: RequestMoment; nth: number };

/** Records that are numbered from 0 on. */
interface Run {
  readonly recordLimit: number;
  /** How many of them must arrive. */
  covered: number;
}

/** A server that misbehaves, stores one body per key, and checks what it gets. */
class Receiver implements AsyncDisposable {
  readonly #random: () => number;
  readonly #server: FaultyServer;
  readonly #stored = new Map<string, string>();
  /** Requests that have been read, and not acknowledged. */
  readonly #waiting = new Set<{ run: number; moment: RequestMoment }>();
  #size = 0;
  #run = 0;
  #next = 0;
  readonly #changes = new Condition();
  /** The number of the process that runs, or has run last. */
  process = -1;
  readonly runs: Run[] = [];
  records = 0;
  repeated = 0;
  /** What is wrong with what has arrived. */
  failure: unknown;
  /** Called when a request of that process is about to be stored or acknowledged. */
  onMoment: (moment: RequestMoment) => void = () => {};

  constructor(seed: number) {
    this.#random = randomFrom(seed);
    this.#server = new FaultyServer([], (exchange) => this.#handle(exchange));
  }

  get url(): string {
    return this.#server.url;
  }

  get requests(): number {
    return this.#stored.size;
  }

  /** What the process is waiting for. */
  get moment(): RequestMoment | undefined {
    return [...this.#waiting].find(({ run }) => run === this.process)?.moment;
  }

  /** Waits until so many records have arrived, or something is wrong with them. */
  received(count: () => number): Promise<void> {
    return this.#changes.wait(
      "all records",
      () => this.failure !== undefined || this.records >= count(),
    );
  }

  async #handle(exchange: Exchange): Promise<void> {
    const random = this.#random;
    const fault = random();
    if (fault < 0.08) return exchange.close();
    if (fault < 0.11) return exchange.refuse(random() < 0.2 ? 1_000 : 50);
    const request = await exchange.receive();
    if (fault < 0.18) return exchange.close();
    if (fault < 0.28) return await respond(503)(exchange);
    const run = Number(request.headers.get("x-run"));
    const waiting = { run, moment: "a request" as RequestMoment };
    const reach = (moment: RequestMoment) => {
      waiting.moment = moment;
      if (run === this.process) this.onMoment(moment);
    };
    this.#waiting.add(waiting);
    try {
      reach("a request");
      if (fault < 0.34) await exchange.sleep(random() * 50);
      this.#store(request);
      reach("the time between storing and acknowledgement");
      if (fault < 0.42) return exchange.close();
      if (fault < 0.5) await exchange.sleep(random() * 50);
    } finally {
      this.#waiting.delete(waiting);
    }
    await respond(200)(exchange);
  }

  #store(request: RawRequest): void {
    try {
      const key = keyOf(request)!;
      const body = new TextDecoder().decode(request.body);
      const before = this.#stored.get(key);
      if (before === undefined) {
        const place = {
          offset: Number(request.headers.get("x-offset")),
          sequence: sequenceOf(request),
        };
        const end = { offset: this.#size, sequence: this.#stored.size };
        assertEquals(place, end, `the place in the stream of key ${key}`);
        this.#stored.set(key, body);
        this.#size += request.body.length;
        this.#read(body);
      } else {
        this.repeated++;
        assertEquals(body, before, `key ${key} has two contents`);
      }
    } catch (error) {
      this.failure ??= error;
    }
    this.#changes.notify();
  }

  #read(body: string): void {
    const lines = body.split("\n");
    assertEquals(lines.pop(), "", "a request ends within a record");
    for (const line of lines) {
      const { run, number } = numbersOf(line);
      while (this.#run < run) this.#endRun();
      assertEquals({ run, number }, { run: this.#run, number: this.#next });
      const { recordLimit } = this.runs[run]!;
      assertEquals(`${line}\n`, record(run, number, recordLimit));
      this.#next++;
      this.records++;
    }
  }

  #endRun(): void {
    const { covered } = this.runs[this.#run]!;
    assert(
      this.#next >= covered,
      `run ${this.#run}: ${this.#next} of ${covered} covered records arrived`,
    );
    this.#run++;
    this.#next = 0;
  }

  /** Checks that everything that was covered has arrived. */
  finish(): void {
    while (this.#run < this.runs.length) this.#endRun();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#changes.close("the server was stopped");
    return this.#server[Symbol.asyncDispose]();
  }
}

/** How a process is run. */
interface Process {
  readonly program: string;
  readonly plan: SpoolPlan | FollowPlan;
  /** Where it is killed; `undefined` if it is to end by itself. */
  readonly aim: Aim | undefined;
  /** Called with how many records it says are on disk. */
  readonly onCovered?: (count: number) => void;
  /** Its standard input is closed then. */
  readonly until?: Promise<unknown>;
}

/** Runs a program, and kills it. */
async function runProcess(
  { program, plan, aim, onCovered, until }: Process,
  receiver: Receiver,
  tally: Tally,
): Promise<void> {
  receiver.process = plan.run;
  // Without a configuration it starts in half the time.
  const flags = ["-q", "-A", "--no-config", "--no-lock", "--no-npm"];
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", ...flags, program, JSON.stringify(plan)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  const closeInput = () => process.stdin.close().catch(() => {});
  until?.then(closeInput, closeInput);
  const timers: ReturnType<typeof setTimeout>[] = [];
  let isKilled = false;
  let requestMoment: RequestMoment | undefined;
  const kill = () => {
    if (isKilled) return;
    try {
      process.kill("SIGKILL");
    } catch {
      return; // it has ended
    }
    isKilled = true;
    requestMoment = receiver.moment;
  };
  const killAfter = (ms: number) => timers.push(setTimeout(kill, ms));
  let left = aim !== undefined && "nth" in aim ? aim.nth : 1;
  receiver.onMoment = (moment) => {
    if (moment === aim?.at && --left === 0) kill();
  };
  const react = (line: string) => {
    const [word, value] = line.split(" ");
    if (word === "covered") onCovered?.(Number(value));
    else if (word === "held") kill();
    else if (aim?.at === "time") killAfter(aim.ms);
    // What it is aimed at may not happen: the server may be away.
    else if (aim !== undefined) killAfter(300);
  };
  if (aim?.at === "start") killAfter(aim.ms);
  let isLate = false;
  timers.push(setTimeout(() => {
    isLate = true;
    kill();
  }, MAX_TIME));
  const readLines = async () => {
    let rest = "";
    for await (
      const text of process.stdout.pipeThrough(new TextDecoderStream())
    ) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) react(line);
    }
  };
  const [{ code, signal }, stderr] = await Promise.all([
    process.status,
    new Response(process.stderr).text(),
    readLines(),
  ]);
  for (const timer of timers) clearTimeout(timer);
  if (until === undefined) await closeInput();
  const by = isKilled ? "SIGKILL" : null;
  assertEquals({ signal, stderr }, { signal: by, stderr: "" });
  assert(
    !isLate,
    `the process had not ended after ${MAX_TIME} ms, with ${receiver.records} records received: ${
      JSON.stringify(plan)
    }`,
  );
  if (!isKilled) {
    assertEquals(code, 0);
    tally.ended++;
    return;
  }
  tally.kills++;
  if (requestMoment !== undefined) tally.interrupted[requestMoment]++;
  tally.interrupted[MOMENTS[readMoment(plan.momentPath)]]++;
}

/** What the database was going through. */
function readMoment(path: string): Moment {
  try {
    return (Deno.readTextFileSync(path) || "-") as Moment;
  } catch {
    return "-"; // it was killed before it wrote anything
  }
}

/** Where the next process is killed; `undefined` to let it end by itself. */
function chooseAim(random: () => number): Aim | undefined {
  const upTo = (max: number) => Math.floor(random() * (max + 1));
  const kind = random();
  if (kind < 0.06) return undefined;
  if (kind < 0.16) return { at: "start", ms: upTo(150) };
  if (kind < 0.5) return { at: "time", ms: upTo(150) };
  if (kind < 0.6) return { at: "a request", nth: 1 + upTo(5) };
  if (kind < 0.7) {
    return {
      at: "the time between storing and acknowledgement",
      nth: 1 + upTo(5),
    };
  }
  const statements: Statement[] = [
    ...["begin", "add", "cut", "delete", "settle", "commit"] as const,
    "checkpoint",
  ];
  const statement = statements[upTo(statements.length - 1)]!;
  const when = random() < 0.5 ? "before" : "after";
  const nth = 1 + upTo(statement === "checkpoint" ? 1 : 8);
  return { at: "statement", hold: { statement, when, nth } };
}

/** Kills the processes that use one spool, one after the other, then drains it. */
async function useSpool(
  seed: number,
  isEnough: () => boolean,
  tally: Tally,
): Promise<void> {
  const random = randomFrom(seed);
  const upTo = (max: number) => Math.floor(random() * (max + 1));
  await using folder = await temporary();
  await using receiver = new Receiver(seed);
  const run = async (aim: Aim | undefined, isLast: boolean) => {
    const number = receiver.runs.length;
    const capacity = MIN_RECORD_LIMIT +
      upTo(random() < 0.5 ? 500 : 64 * 1024);
    const plan: SpoolPlan = {
      path: folder.file("spool"),
      momentPath: folder.file("moment"),
      url: receiver.url,
      run: number,
      seed: upTo(2 ** 31),
      capacity,
      recordLimit: Math.min(capacity, MIN_RECORD_LIMIT + upTo(1_000)),
      durability: random() < 0.8 ? "process" : "power",
      // One request for each commit would take long for a large backlog.
      requestBytes: isLast
        ? 256 * 1024
        : 1 + upTo(random() < 0.5 ? 1_000 : 256 * 1024),
      // A process that is to end by itself must not wait for a large backlog.
      maxBytes: random() < 0.2 && aim !== undefined ? 16 * 1024 : 1024 ** 3,
      records: aim === undefined ? upTo(isLast ? 0 : 200) : null,
      drain: isLast,
      ...aim?.at === "statement" && { hold: aim.hold },
    };
    const run: Run = { recordLimit: plan.recordLimit, covered: 0 };
    receiver.runs.push(run);
    const onCovered = (count: number) => {
      run.covered = Math.max(run.covered, count);
    };
    await runProcess(
      { program: WRITER, plan, aim, onCovered },
      receiver,
      tally,
    );
    if (receiver.failure !== undefined) throw receiver.failure;
  };
  for (let left = 1 + upTo(40); left > 0 && !isEnough(); left--) {
    await run(chooseAim(random), false);
  }
  await run(undefined, true);
  finish(receiver, tally);
}

function finish(receiver: Receiver, tally: Tally): void {
  receiver.finish();
  tally.spools++;
  tally.records += receiver.records;
  tally.requests += receiver.requests;
  tally.repeated += receiver.repeated;
}

/** Kills the processes that follow one log, one after the other, then drains it. */
async function followLog(
  seed: number,
  isEnough: () => boolean,
  tally: Tally,
): Promise<void> {
  const random = randomFrom(seed);
  const upTo = (max: number) => Math.floor(random() * (max + 1));
  await using folder = await temporary();
  await using receiver = new Receiver(seed);
  const recordLimit = MIN_RECORD_LIMIT + upTo(1_000);
  const lines: Run = { recordLimit, covered: 0 };
  receiver.runs.push(lines);
  const rotation = (["rename", "copytruncate", "both"] as const)[upTo(2)]!;
  const path = folder.file("app.log");
  await using log: RotatedLog = new RotatedLog(path, {
    ...{ rotation, recordLimit, random: randomFrom(seed + 1) },
    read: () => receiver.records,
    allRead: (): Promise<void> => receiver.received(() => log.lines),
  });
  const run = async (aim: Aim | undefined, until?: Promise<unknown>) => {
    const plan: FollowPlan = {
      path: folder.file("spool"),
      momentPath: folder.file("moment"),
      url: receiver.url,
      run: receiver.process + 1,
      log: path,
      capacity: recordLimit + upTo(4_096),
      pollInterval: 1 + upTo(50),
      quietTime: 200 + upTo(300),
      durability: random() < 0.8 ? "process" : "power",
      requestBytes: 1 + upTo(256 * 1024),
      ...aim?.at === "statement" && { hold: aim.hold },
    };
    await runProcess(
      { program: FOLLOWER, plan, aim, ...until && { until } },
      receiver,
      tally,
    );
    if (receiver.failure !== undefined) throw receiver.failure;
  };
  for (let left = 10 + upTo(40); left > 0 && !isEnough(); left--) {
    const aim = chooseAim(random);
    await run(aim, aim === undefined ? sleep(upTo(300)) : undefined);
  }
  await log.stop();
  lines.covered = log.lines;
  await run(undefined, receiver.received(() => log.lines));
  finish(receiver, tally);
  tally.rotations += log.rotations;
}

/** What {@linkcode checkKills} does with the processes. */
export interface KillOptions {
  /** Of what is random. */
  seed?: number | undefined;
  /** Whether they follow a log. */
  follow?: boolean | undefined;
}

/** Kills `count` processes, or a few more. */
export async function checkKills(
  count: number,
  { seed = Date.now() & 0xfffffff, follow = false }: KillOptions = {},
): Promise<Tally> {
  const interrupted = Object.fromEntries(
    [
      ...Object.values(MOMENTS),
      "a request",
      "the time between storing and acknowledgement",
    ].map((moment) => [moment, 0]),
  ) as Interrupted;
  const tally = {
    ...{ spools: 0, kills: 0, ended: 0, records: 0, requests: 0, repeated: 0 },
    rotations: 0,
    interrupted,
  };
  console.log(`Spools with seeds from ${seed} on`);
  const use = follow ? followLog : useSpool;
  let next = seed;
  let hasFailed = false;
  const isEnough = () => hasFailed || tally.kills >= count;
  await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
    while (!isEnough()) {
      const seed = next++;
      try {
        await use(seed, isEnough, tally);
      } catch (error) {
        hasFailed = true;
        throw new Error(`The spool with seed ${seed} failed`, { cause: error });
      }
    }
  }));
  const { spools, kills, ended, records, requests, repeated, rotations } =
    tally;
  console.log(
    `${kills} kills of ${
      kills + ended
    } processes with ${spools} spools: ${records} records in ${requests} requests, ${repeated} repeated${
      follow ? `, over ${rotations} rotations` : ""
    }; they interrupted`,
  );
  for (const [moment, times] of Object.entries(interrupted)) {
    console.log(`${`${times}`.padStart(7)} ${moment}`);
  }
  return tally;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      count: { type: "string", default: "1000" },
      seed: { type: "string" },
      follow: { type: "boolean" },
    },
  });
  const { count, seed, follow } = values;
  await checkKills(Number(count), {
    seed: seed === undefined ? undefined : Number(seed),
    follow,
  });
}
