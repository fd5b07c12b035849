/**
 * Turns the command line into a {@linkcode Job} that is ready to run. Everything
 * that can be checked is checked here, before the first byte is read.
 */
import {
  FetchSender,
  type FetchSenderOptions,
  type Sender,
  SendError,
  StreamBuffer,
  type StreamBufferOptions,
} from "../mod.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";
import { dirname } from "node:path";
import { isatty } from "node:tty";
import { inputFiles } from "./append_file.ts";
import {
  absolutePath,
  type InputInfo,
  inspectInput,
  isOtherInput,
} from "./files.ts";
import { readHeaders } from "./headers.ts";
import { InterruptibleSender } from "./interruptible_sender.ts";
import { count, log } from "./log.ts";
import {
  type Mode,
  modeOf,
  quantity,
  readMetadata,
  SIZE,
  TIME,
  TIME_OR_FOREVER,
  type Values,
} from "./options.ts";
import { requestHost } from "./permissions.ts";
import { mayUse } from "./platform.ts";
import { RefusedFile } from "./refused.ts";
import {
  checkSpool,
  requestSpool,
  SpoolFile,
  type SpoolFileOptions,
} from "./spool_file.ts";
import { UnsentFile } from "./unsent.ts";
import { inTermsOfTheCommand } from "./terms.ts";
import { fastTransport } from "./transport.ts";
import { AccessError, UsageError } from "./errors.ts";

const DEFAULT_CAPACITY = 256 * 1024;

/** What to send, and what sends it. */
export interface Job {
  readonly mode: Mode;
  readonly out: StreamBuffer;
  /** What makes the requests: the sender of `out`, or that of `spool`. */
  readonly sender: InterruptibleSender;
  /** What `sender` passes everything on to, with `--tus` and `--resume`. */
  readonly upload: TusSender | undefined;
  /** Paths; `-` is standard input. */
  readonly files: readonly string[];
  /** Where in the object the files begin, in bytes. */
  readonly offset: number;
  /**
   * Where in the object `out` begins, in bytes: after what the server has of a
   * resumed upload, else at 0. Never less than `offset`.
   */
  readonly start: number;
  /** What is known of the input, if anything. */
  readonly info: InputInfo | undefined;
  readonly capacity: number;
  readonly lines: boolean;
  readonly quiet: boolean;
  readonly unsent: UnsentFile | undefined;
  readonly refused: RefusedFile | undefined;
  /** What `out` puts everything into, with `--spool`. */
  readonly spool: SpoolFile | undefined;
  /** The path of the file that is followed into `spool`. */
  readonly follow: string | undefined;
  /** Whether undici makes the requests, and not `fetch`. */
  readonly isFast: boolean;
  /** The URL of the command line. */
  readonly url: string;
  /** The options as they were given. */
  readonly values: Values;
  /** Resolves with the first failure that rejected no pending call on `out`. */
  readonly backgroundFailure: Promise<Error>;
}

/** Options for any of the senders; `FetchSender` ignores `length`. */
type RequestOptions = FetchSenderOptions & { length?: number };

type Connection = Pick<Job, "out" | "sender" | "upload">;

/**
 * Creates a job from the options, and from the positionals: the URL and the files.
 *
 * @throws {UsageError} If one of them is invalid, or a permission is missing.
 * @throws {SendError} If the server cannot be asked where to resume.
 */
export async function createJob(
  values: Values,
  [url, ...files]: readonly string[],
): Promise<Job> {
  const mode = modeOf(values);
  if (url === undefined) throw new UsageError("missing URL");
  if (!isHttp(url) && files.some(isHttp)) {
    // A format that is none is taken for the first of them.
    const formats = values.compress === undefined
      ? ""
      : ", and --compress takes gzip, deflate or brotli";
    throw new UsageError(`URL must come before FILE${formats}`);
  }
  const { follow } = values;
  if (follow !== undefined && files.length > 0) {
    throw new UsageError("--follow and FILE cannot be used together");
  }
  const hasInput = values.spool === undefined ||
    follow === undefined && !isatty(0);
  if (files.length === 0 && hasInput) files.push("-");
  const headers = await readHeaders(values.header ?? []);
  const { offset = 0 } = quantity(values, "offset", SIZE);
  const info = await inspectInput(files, offset);
  const { capacity = DEFAULT_CAPACITY } = quantity(values, "capacity", SIZE);
  const { drain = Infinity } = quantity(values, "drain", TIME_OR_FOREVER);
  const { lines = false, quiet = false } = values;
  const { promise: backgroundFailure, resolve: onError } = Promise
    .withResolvers<Error>();
  const buffer: StreamBufferOptions = {
    capacity,
    oversize: lines ? "whole" : "split",
    onError,
    ...quantity(values, "interval", TIME, "flushInterval"),
    ...values.refused !== undefined && {
      // It is open by the time that anything is sent.
      deadLetter: (bytes, { cause }, { signal }) =>
        opened.refused!.take(bytes, cause, signal),
    },
  };
  const transport = await fastTransport();
  const request: RequestOptions = {
    headers,
    ...transport !== undefined && { transport },
    ...quantity(values, "timeout", TIME),
    retry: quantity(values, "retry-for", TIME_OR_FOREVER, "maxElapsed"),
    onRetry: reportOnce(quiet),
    ...values.method !== undefined && { method: values.method },
    ...values.compress !== undefined && {
      // The sender rejects other formats.
      compression: values.compress as NonNullable<
        FetchSenderOptions["compression"]
      >,
    },
    ...info !== undefined && { length: info.size },
  };
  const metadata = readMetadata(values.metadata ?? [], files, info);
  const connection = await connect(mode, url, request, metadata, buffer);
  const { upload } = connection;
  const start = upload?.offset ?? 0;
  if (start < offset) {
    throw new UsageError(
      `--offset is ${offset}, but the upload has only ${count(start, "byte")}`,
    );
  }
  const length = upload?.length;
  if (mode === "resume" && info !== undefined) {
    const problem = info.size !== (length ?? info.size)
      ? `the upload is ${count(length!, "byte")} long, and the input ${
        count(info.size, "byte")
      }`
      : offset === 0 && isOtherInput(upload?.metadata.fingerprint, info)
      ? "the input is not the one that the upload began with, or was modified since"
      : undefined;
    if (problem !== undefined) {
      throw new AccessError(
        `cannot resume: ${problem}; give the same files, or begin a new upload with --tus`,
      );
    }
  }
  const inputs = follow === undefined ? files : [follow];
  if (values.spool !== undefined) {
    await prepareSpool(values.spool, inputs, values);
  }
  const opened = await openFiles(values, inputs, mode);
  const spooled = values.spool === undefined
    ? undefined
    : await openSpool(values.spool, connection.sender, buffer, {
      ...{ capacity, drain, refused: opened.refused },
    });
  return {
    ...connection,
    ...opened,
    spool: undefined,
    ...spooled,
    ...{ mode, files, offset, start, info, capacity, lines, quiet, values },
    backgroundFailure,
    isFast: transport !== undefined,
    url,
    follow,
  };
}

/**
 * Finds out whether a spool, and the file that is followed into it, can be used.
 *
 * @param inputs The spool must be none of them, nor the `--refused` file.
 */
async function prepareSpool(
  path: string,
  inputs: readonly string[],
  { follow, refused }: Values,
): Promise<void> {
  await requestSpool(path);
  if (follow !== undefined) await requestFolderOf(follow);
  const others = inputFiles(inputs);
  if (refused !== undefined) {
    others.push({ path: refused, name: "the --refused file" });
  }
  await checkSpool(path, others);
}

/** Opens a spool that delivers by `sender`, and makes a buffer over it. */
async function openSpool(
  path: string,
  sender: Sender,
  { deadLetter: _, ...buffer }: StreamBufferOptions,
  options: SpoolFileOptions,
): Promise<Pick<Job, "spool" | "out">> {
  try {
    const spool = SpoolFile.open(path, sender, options);
    return { spool, out: new StreamBuffer(spool, buffer) };
  } catch (error) {
    await options.refused?.close();
    throw error;
  }
}

/** Opens the files that are appended to. */
async function openFiles(
  values: Values,
  inputs: readonly string[],
  mode: Mode,
): Promise<Pick<Job, "unsent" | "refused">> {
  const unsent = values.unsent === undefined
    ? undefined
    : await UnsentFile.open(values.unsent, inputs, mode);
  try {
    const refused = values.refused === undefined
      ? undefined
      : await RefusedFile.open(values.refused, inputs, values.unsent);
    return { unsent, refused };
  } catch (error) {
    await unsent?.close(false);
    throw error;
  }
}

function isHttp(text: string): boolean {
  return /^https?:/i.test(text);
}

/** Reports the first retry only: that is enough to explain the delay. */
function reportOnce(quiet: boolean): (error: SendError) => void {
  let isReported = quiet;
  return ({ message }) => {
    if (!isReported) log(`${message}; retrying`);
    isReported = true;
  };
}

/**
 * Creates the buffer and its sender. All options are checked before the
 * permission is requested, and both happen before the first HTTP request.
 */
async function connect(
  mode: Mode,
  url: string,
  request: RequestOptions,
  metadata: Record<string, string>,
  buffer: StreamBufferOptions,
): Promise<Connection> {
  try {
    if (mode === "resume") return await resume(url, request, buffer);
    const connection = build(mode, url, request, metadata, buffer);
    await requestNet(new URL(url));
    return connection;
  } catch (error) {
    if (error instanceof SendError || error instanceof UsageError) throw error;
    throw new UsageError(inTermsOfTheCommand((error as Error).message));
  }
}

function build(
  mode: Exclude<Mode, "resume">,
  url: string,
  request: RequestOptions,
  metadata: Record<string, string>,
  buffer: StreamBufferOptions,
): Connection {
  switch (mode) {
    case "records": {
      return bufferFor(new FetchSender(url, request), buffer);
    }
    case "upload": {
      const sender = new UploadSender(url, request);
      // The upload may fail while no write is pending that could reject.
      sender.closed.catch((error) => buffer.onError?.(error));
      return bufferFor(sender, buffer);
    }
    case "tus": {
      const upload = new TusSender(url, { ...request, metadata });
      return { ...bufferFor(upload, buffer), upload };
    }
  }
}

function bufferFor(target: Sender, options: StreamBufferOptions): Connection {
  const sender = new InterruptibleSender(target);
  const out = new StreamBuffer(sender, options);
  return { out, sender, upload: undefined };
}

async function resume(
  url: string,
  request: RequestOptions,
  buffer: StreamBufferOptions,
): Promise<Connection> {
  checkOptions(url, request, buffer);
  await requestNet(new URL(url));
  // Whether its size is that of the input is for createJob() to say.
  const { length: _, ...rest } = request;
  const upload = await TusSender.resume(url, rest);
  return { ...bufferFor(upload, buffer), upload };
}

/**
 * Throws if an option of a resumed upload is invalid. `TusSender.resume` would find
 * that too late: it makes a request as soon as it is called. Constructors make
 * none, and what they create here owns nothing that has to be closed.
 */
function checkOptions(
  url: string,
  request: RequestOptions,
  buffer: StreamBufferOptions,
): void {
  new StreamBuffer(new TusSender(url, request), buffer);
}

/** Requests the permission to connect, unless it has been granted. */
async function requestNet({ protocol, hostname, port }: URL): Promise<void> {
  const host = `${hostname}:${port || (protocol === "https:" ? 443 : 80)}`;
  await requestHost("connect to", host);
}

/**
 * Requests the permission to read the folder of a file that is followed: that is where
 * it is sought after it was renamed.
 */
async function requestFolderOf(file: string): Promise<void> {
  const path = dirname(absolutePath(file));
  if (!await mayUse({ name: "read", path })) {
    throw new AccessError(`cannot follow ${file}: add --allow-read=${path}`);
  }
}
