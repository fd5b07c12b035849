/**
 * What a user of the package might write: it uses every name that an entry
 * point exports, and nothing that only Deno has. `tests/types_test.ts` compiles
 * it with the types of other platforms; it is never run.
 */
import {
  type AttemptOptions,
  type BatchContext,
  BufferFullError,
  type Compression,
  type DeadLetterContext,
  FetchSender,
  type FetchSenderOptions,
  FlushError,
  type FlushErrorOptions,
  flushOnHide,
  type FlushOnHideOptions,
  type HeaderFunction,
  type HttpClient,
  NoProgressError,
  type Reader,
  type RequestHeaders,
  type RequestOptions,
  type RetryOptions,
  type SendAttempt,
  type SendContext,
  type Sender,
  SendError,
  type SendErrorOptions,
  type Source,
  StreamBuffer,
  type StreamBufferOptions,
  type StreamBufferStats,
  streamTo,
  type Transport,
  type TransportRequest,
  type TransportResponse,
} from "@stream-buffer/stream-buffer";
import {
  type AddResult,
  type Batch,
  BatchRefusedError,
  FileStore,
  type FileStoreOptions,
  MemoryStore,
  type OnBatch,
  type Pruned,
  receive,
  type ReceiveOptions,
  SqliteStore,
  type SqliteStoreOptions,
  type SqliteTransaction,
  type SqliteValue,
  type Store,
  StoreError,
  type StoreErrorCode,
  type StoreErrorOptions,
} from "@stream-buffer/stream-buffer/receiver";
import {
  type PostgresResult,
  PostgresStore,
  type PostgresStoreOptions,
  type PostgresTransaction,
} from "@stream-buffer/stream-buffer/receiver/postgres";
import {
  follow,
  type FollowOptions,
  inspectSpool,
  readSpool,
  type ReadSpoolOptions,
  Spool,
  SpoolError,
  type SpoolErrorCode,
  type SpoolErrorOptions,
  type SpoolInfo,
  type SpoolOptions,
  type SpoolOwner,
  type SpoolStats,
  spoolTo,
} from "@stream-buffer/stream-buffer/spool";
import {
  TusSender,
  type TusSenderOptions,
} from "@stream-buffer/stream-buffer/tus";
import {
  type UndiciTransport,
  undiciTransport,
  type UndiciTransportOptions,
} from "@stream-buffer/stream-buffer/undici";
import {
  UploadSender,
  type UploadSenderOptions,
} from "@stream-buffer/stream-buffer/upload";

const URL_TEXT = "https://example.com/ingest";

export const headersOfEachKind: RequestHeaders[] = [
  { "X-A": "b" },
  [["X-A", "b"]],
  new Map([["X-A", "b"]]),
  new Headers({ "X-A": "b" }),
];

export const headers: HeaderFunction = (
  { attempt, failure, sequence, offset, signal }: SendAttempt,
) => {
  signal.throwIfAborted();
  const token = failure?.status === 401 ? "fresh" : "cached";
  return {
    Authorization: token,
    "X-Batch": `${sequence}/${offset}/${attempt}`,
  };
};

export const retry: RetryOptions = {
  initialDelay: 100,
  maxDelay: 1_000,
  maxElapsed: 10_000,
  shouldRetry: ({ status, retryAfter = 0 }) => status === 503 && retryAfter < 1,
};

export const client: HttpClient = { close() {} };

export const request: RequestOptions = {
  headers,
  client,
  fetch: (input, init) => fetch(input, init),
};

/** A transport of the user's own; a `Response` is a response of one. */
export const transport: Transport = async (
  { url, signal, ...init }: TransportRequest,
): Promise<TransportResponse> => {
  signal.throwIfAborted();
  const keepalive: boolean | undefined = init.keepalive;
  const options: object = { ...init, signal, keepalive, redirect: "manual" };
  return await fetch(url, options);
};
export const undiciOptions: UndiciTransportOptions = {
  ca: ["-----BEGIN CERTIFICATE-----"],
  cert: "-----BEGIN CERTIFICATE-----",
  key: "-----BEGIN PRIVATE KEY-----",
  servername: "example.com",
  rejectUnauthorized: true,
  proxy: new URL("http://proxy.example.com:3128"),
};
export async function byUndici(): Promise<void> {
  await using undici: UndiciTransport = undiciTransport(undiciOptions);
  await streamTo(URL_TEXT, { transport: undici }).close();
  await undici.close();
}
export const transported: RequestOptions = { headers, transport };

export const attempts: AttemptOptions = {
  ...request,
  retry,
  timeout: 5_000,
  onRetry: (failure, delay) => console.log(failure.message, delay),
};

export const compression: Compression = "gzip";

export const fetchOptions: FetchSenderOptions = {
  ...attempts,
  method: "PUT",
  compression,
  idempotencyKey: "stream-1",
  keepalive: false,
};

export const bufferOptions: StreamBufferOptions = {
  concurrency: 2,
  capacity: 1024,
  flushInterval: 500,
  closeTimeout: 5_000,
  maxQueuedBytes: 4096,
  oversize: "whole",
  onError: (error) => console.error(error.unsentBytes, error.acceptedBytes),
  deadLetter: (bytes, error, { key }: DeadLetterContext) =>
    Promise.resolve(bytes.length < 10 && error.cause !== key),
};

/** A sender of the user's own. */
export class MemorySender implements Sender {
  readonly sends: [sequence: number, bytes: Uint8Array][] = [];
  readonly ended = false;
  readonly ordered = false;

  retryNow(): void {}

  send(
    bytes: Uint8Array<ArrayBuffer>,
    { sequence, signal, closing, deadline }: SendContext,
  ): void {
    signal.throwIfAborted();
    if (closing.aborted) console.error(deadline - performance.now());
    this.sends.push([sequence, bytes.slice()]);
  }
}

export class ZeroReader implements Reader {
  #left = 10;

  read(p: Uint8Array): Promise<number | null> {
    const size = Math.min(p.length, this.#left);
    this.#left -= size;
    return Promise.resolve(size > 0 ? size : null);
  }
}

export async function copy(): Promise<StreamBufferStats> {
  await using out = new StreamBuffer(new MemorySender(), bufferOptions);
  const response = await fetch(URL_TEXT);
  const stream: ReadableStream<Uint8Array> | null = response.clone().body;
  const sources: Source[] = [new ZeroReader(), new Blob(["x"]), response];
  if (stream !== null) sources.push(stream);
  for (const source of sources) {
    const read: number = await out.readFrom(source);
    await out.write(`${read}\n`);
  }
  await out.write(new Uint8Array(8));
  await out.flush();
  const writer: WritableStreamDefaultWriter<string | Uint8Array> = out.writable
    .getWriter();
  await writer.close();
  return out.stats;
}

export async function post(): Promise<Uint8Array<ArrayBuffer>> {
  await using sender = new FetchSender(new URL(URL_TEXT), fetchOptions);
  const out = new StreamBuffer(sender);
  try {
    await out.write("a line\n");
    await out.close();
  } catch (error) {
    if (error instanceof BufferFullError) throw error;
    if (error instanceof NoProgressError) throw error;
    if (error instanceof FlushError && error.cause instanceof SendError) {
      const { attempts, status, retryAfter, excerpt } = error.cause;
      console.error(attempts, status, retryAfter, excerpt, sender.lastFailure);
      const { retryable, refused, key } = error.cause;
      console.error(retryable, refused, key);
    }
  }
  const part: BatchContext = {
    sequence: 0,
    offset: 0,
    signal: new AbortController().signal,
    key: "stream-1/0-3",
  };
  await sender.send(new Uint8Array(3), part);
  const both = streamTo(URL_TEXT, { ...bufferOptions, ...fetchOptions });
  await both.abort(new Error("enough"));
  return out.takeUnsent();
}

export async function onPage(): Promise<void> {
  const controller = new AbortController();
  const out = streamTo(URL_TEXT, { keepalive: true });
  const options: FlushOnHideOptions = { signal: controller.signal };
  flushOnHide(out, options);
  out.sendNow();
  await out.close();
  controller.abort();
}

export async function upload(): Promise<string | undefined> {
  const options: UploadSenderOptions = { ...request, length: 8 };
  const once = new UploadSender(URL_TEXT, options);
  await new StreamBuffer(once).close();
  await once.closed;
  const tusOptions: TusSenderOptions = {
    ...attempts,
    metadata: { filename: "dump.sql", digest: new Uint8Array(4) },
    length: 8,
    checksum: false,
    terminate: true,
  };
  const resumable = new TusSender(URL_TEXT, tusOptions);
  const resumed = await TusSender.resume(await resumable.create(), attempts);
  const filename: Uint8Array | undefined = resumed.metadata.filename;
  console.log(resumed.offset, resumed.length, filename, resumed.lastFailure);
  return resumed.url;
}

export const spoolOptions: SpoolOptions = {
  durability: "process",
  requestBytes: 65_536,
  maxBytes: 1_000_000,
  drainTimeout: 0,
  onError: (error) => console.error(error.unsentBytes),
  deadLetter: (bytes, error, { key }: DeadLetterContext) =>
    bytes.length < 10 && error.cause !== key,
};

export async function spooled(): Promise<SpoolStats> {
  const sender = new FetchSender(URL_TEXT, fetchOptions);
  const spool = new Spool("app.spool", sender, spoolOptions);
  await using out = new StreamBuffer(spool);
  await out.write("a line\n");
  await out.flush();
  await spool.drained();
  const { lastError, oldestAge }: SpoolStats = spool.stats;
  console.log(lastError?.unsentBytes, oldestAge, spool.ended);
  return spool.stats;
}

export async function spooledInOneCall(): Promise<void> {
  const options = { ...bufferOptions, ...fetchOptions, ...spoolOptions };
  const out = spoolTo(new URL("file:///var/app.spool"), URL_TEXT, options);
  await out.close();
}

export async function followed(spool: Spool): Promise<void> {
  const options: FollowOptions = {
    signal: AbortSignal.timeout(60_000),
    capacity: 65_536,
    pollInterval: 1_000,
    quietTime: 10_000,
    onError: (error) => console.error(error.message),
  };
  await follow("/var/log/app.log", spool, options);
}

export const spoolErrorOptions: SpoolErrorOptions = {
  code: "damaged",
  cause: new Error("why"),
};

export function look(): SpoolErrorCode | undefined {
  try {
    const info: SpoolInfo = inspectSpool("app.spool");
    const owner: SpoolOwner | undefined = info.owner;
    console.log(info.id, info.bytesWaiting, info.oldest?.getTime());
    console.log(owner?.pid, owner?.host, owner?.updated.getTime());
    const options: ReadSpoolOptions = {
      onDamage: (error) => console.error(error.code),
    };
    for (const bytes of readSpool("app.spool", options)) {
      console.log(bytes.length);
    }
  } catch (error) {
    if (error instanceof SpoolError) return error.code;
    throw error;
  }
}

/** A store of one's own is one class of two methods. */
class CountingStore implements Store<undefined> {
  readonly #keys = new Set<string>();

  async add(batch: Batch, onBatch?: OnBatch<undefined>): Promise<AddResult> {
    if (this.#keys.has(batch.key)) return "known";
    await onBatch?.(batch, undefined);
    this.#keys.add(batch.key);
    return batch.digest.length === 32 ? "stored" : "conflict";
  }

  read(id: string): ReadableStream<Uint8Array<ArrayBuffer>> {
    const code: StoreErrorCode = "io";
    const options: StoreErrorOptions = { code };
    throw new StoreError(`Cannot read ${id}`, options);
  }
}

export const receiveOptions: ReceiveOptions<undefined> = {
  store: new CountingStore(),
  maxBytes: 1_000_000,
  maxPendingBytes: 8_000_000,
  bodyTimeout: 10_000,
  storeTimeout: 10_000,
  requireKey: false,
  onBatch({ key, id, epoch, sequence, part, from, bytes, headers, received }) {
    const type: string | null = headers.get("Content-Type");
    console.log(key, id, epoch, sequence, part, from, received, type);
    if (bytes.length === 0) throw new BatchRefusedError("it is empty");
  },
  onError: (error, request) => console.error(error, request.url),
};

export async function received(request: Request): Promise<Response> {
  const options: SqliteStoreOptions & FileStoreOptions = {
    durability: "process",
  };
  await using file = new FileStore(new URL("file:///var/log"), options);
  await using store = new SqliteStore("received.db", options);
  const insert = (db: SqliteTransaction, value: SqliteValue) =>
    db.run("insert into line values (?)", value);
  const handler = receive({
    store,
    onBatch: ({ bytes }, db) => insert(db, bytes),
  });
  const count = store.transaction((db) => db.all("select 1").length);
  const pruned: Pruned = await store.prune(86_400_000);
  await new MemoryStore().prune(count + pruned.batches + pruned.bytes);
  console.log(await new Response(file.read("id")).text());
  await receive(receiveOptions)(request.clone());
  return await handler(request);
}

export const postgresOptions: PostgresStoreOptions = {
  maxConnections: 4,
  schema: "logs",
  timeout: 5_000,
};

export async function receivedByMany(request: Request): Promise<Response> {
  const url = new URL("postgres://app@db.example.com/app");
  await using store = new PostgresStore(url, postgresOptions);
  const count = async (db: PostgresTransaction, id: string) => {
    const { rows, rowCount }: PostgresResult = await db.query(
      "update stream set batches = batches + 1 where id = $1",
      [id],
    );
    console.log(rows.length, rowCount);
  };
  const handler = receive({ store, onBatch: ({ id }, db) => count(db, id) });
  console.log(await store.prune(0), store.read("id").locked);
  return await handler(request);
}

export const flushErrorOptions: FlushErrorOptions = {
  unsentBytes: 8,
  acceptedBytes: 0,
  cause: new Error("why"),
};
export const sendErrorOptions: SendErrorOptions = {
  attempts: 1,
  status: undefined,
  retryable: true,
  refused: false,
  key: "stream-1-0",
  cause: new Error("why"),
};
