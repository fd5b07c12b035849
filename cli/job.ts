/** What is to be done. */
import {
  FetchSender,
  type FetchSenderOptions,
  SendError,
  StreamBuffer,
  type StreamBufferOptions,
} from "../mod.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";
import { readHeaders } from "./headers.ts";
import { say } from "./log.ts";
import {
  type Mode,
  modeOf,
  quantity,
  readMetadata,
  SIZE,
  TIME,
  type Values,
} from "./options.ts";
import { openUnsent, type Unsent } from "./unsent.ts";
import { attempt, UsageError } from "./usage.ts";

/** What the command line asks for, ready to begin. */
export interface Job {
  readonly mode: Mode;
  readonly out: StreamBuffer;
  /** In a mode that has one. */
  readonly upload: TusSender | undefined;
  /** How much of the input, and of the object, is not to be sent any more. */
  readonly skip: number;
  readonly start: number;
  /** The size of the object, if it is known. */
  readonly size: number | undefined;
  /** Whose headers they are. */
  readonly origin: string;
  readonly values: Values;
  readonly files: string[];
  readonly capacity: number;
  readonly lines: boolean;
  readonly quiet: boolean;
  readonly unsent: Unsent | undefined;
  /** Fulfils with a failure that no write was waiting for. */
  readonly failed: Promise<Error>;
}

/** Checks everything that can be checked before the first byte is read. */
export async function prepare(
  values: Values,
  [url, ...files]: string[],
): Promise<Job> {
  const mode = modeOf(values);
  if (url === undefined) throw new UsageError("there is no URL");
  if (files.length === 0) files.push("-");
  const headers = await readHeaders(values.header ?? []);
  const { offset = 0 } = quantity(values, "offset", SIZE);
  const size = await sizeOf(files, offset);
  const { capacity = 256 * 1024 } = quantity(values, "capacity", SIZE);
  const lines = values.lines ?? false;
  const quiet = values.quiet ?? false;
  let silent = quiet;
  const { promise: failed, resolve: onError } = Promise.withResolvers<Error>();
  const options: StreamBufferOptions = {
    capacity,
    oversize: lines ? "whole" : "split",
    onError,
    ...quantity(values, "interval", TIME, "flushInterval"),
  };
  const request: FetchSenderOptions & { length?: number } = {
    headers,
    ...quantity(values, "timeout", TIME),
    retry: quantity(values, "retry-for", TIME, "maxElapsed"),
    onRetry: ({ message }) => {
      if (!silent) say(`${message}; trying again`);
      silent = true; // once is enough to know why it takes so long
    },
    ...values.method !== undefined && { method: values.method },
    ...values.compress !== undefined && {
      compression: values.compress as CompressionFormat,
    },
    ...size !== undefined && { length: size },
  };
  let out: StreamBuffer;
  let upload: TusSender | undefined;
  try {
    if (mode === "upload") {
      const sender = new UploadSender(url, request);
      sender.closed.catch(onError); // be it that there is nothing to write
      out = new StreamBuffer(sender, options);
    } else if (mode === "records") {
      out = new StreamBuffer(new FetchSender(url, request), options);
    } else {
      upload = new TusSender(url, {
        ...request,
        metadata: readMetadata(values.metadata ?? [], files),
      });
      out = new StreamBuffer(upload, options);
    }
    await checkNet(new URL(url));
    if (mode === "resume") {
      upload = await TusSender.resume(url, request);
      out = new StreamBuffer(upload, options);
    }
  } catch (error) {
    if (error instanceof SendError) throw error;
    throw new UsageError(
      (error as Error).message.replace(/^Cannot create \w+: /, ""),
    );
  }
  const start = upload?.offset ?? 0;
  if (start < offset) {
    throw new UsageError(
      `the upload has only ${start} bytes, and the input begins at ${offset}`,
    );
  }
  const unsent = values.unsent === undefined
    ? undefined
    : await openUnsent(values.unsent, files, mode);
  return {
    ...{ mode, out, upload, start, size, files, capacity, lines, quiet },
    ...{ unsent, failed, skip: start - offset, values },
    origin: new URL(url).origin,
  };
}

/** Where the input ends in the object, if that is known. */
export async function sizeOf(
  files: string[],
  offset: number,
): Promise<number | undefined> {
  let size: number | undefined = offset;
  for (const file of files) {
    const stat = file === "-" ? undefined : await checkFile(file);
    // Some systems have files that say they are empty, and are not.
    size = size === undefined || !stat?.isFile || stat.size === 0
      ? undefined
      : size + stat.size;
  }
  return size;
}

async function checkFile(file: string): Promise<Deno.FileInfo> {
  const stat = await attempt(`read ${file}`, () => Deno.stat(file));
  if (stat.isDirectory) {
    throw new UsageError(`cannot read ${file}: it is a directory`);
  }
  return stat;
}

async function checkNet(url: URL): Promise<void> {
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  const host = `${url.hostname}:${port}`;
  const { state } = await attempt(
    `connect to ${host}`,
    () => Deno.permissions.request({ name: "net", host }),
  );
  if (state !== "granted") {
    throw new UsageError(`cannot connect to ${host}: add --allow-net=${host}`);
  }
}
