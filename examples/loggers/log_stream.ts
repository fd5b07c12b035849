/**
 * What the loggers in this folder write to: a stream that nobody awaits, and
 * that loses no record in silence. Copy it along with the file of your logger.
 */
import {
  FetchSender,
  type FetchSenderOptions,
  type RequestHeaders,
  type Sender,
  StreamBuffer,
  type StreamBufferOptions,
} from "@stream-buffer/stream-buffer";

/** The shortest time between two reports of losses, in ms. */
const REPORT_INTERVAL = 10_000;
/** As it was before `console.ts` replaced it. */
const { error: print } = console;

type Bytes = Uint8Array<ArrayBuffer>;

/** What is not going to arrive. */
export interface Loss {
  /** How many records were not accepted since the last report. */
  readonly records: number;
  /** What was accepted, but not delivered at the end, as a body; else empty. */
  readonly unsent: Bytes;
  /** Why; of several reasons the latest. */
  readonly error: unknown;
}

/** Options of `streamTo`, with defaults that suit a logger. */
export interface LogStreamOptions
  extends StreamBufferOptions, FetchSenderOptions {
  /**
   * Called at the first loss, then at most every ten seconds, and at the end. It
   * is not awaited, and what it throws is ignored.
   *
   * @default {prints to the console}
   */
  onLoss?: (loss: Loss) => unknown;
}

/** How records are put into a request. */
export interface Format {
  readonly type: string;
  readonly bodyOf: (records: Bytes) => Bytes;
}

/** Records that are lines. */
const NDJSON: Format = {
  type: "application/x-ndjson",
  bodyOf: (records) => records,
};

/** Takes records. `write` never throws or waits, and `close` never rejects. */
export class LogStream implements AsyncDisposable {
  readonly #out: StreamBuffer;
  readonly #bodyOf: Format["bodyOf"];
  readonly #closeTimeout: number;
  readonly #onLoss: (loss: Loss) => unknown;
  #closing: Promise<void> | undefined;
  #lost = 0;
  #error: unknown;
  #nextReport = 0;

  /**
   * @param format How a request is made: its type, and its body from the records
   *   of a batch.
   */
  constructor(
    url: string | URL,
    options: LogStreamOptions = {},
    { type, bodyOf }: Format = NDJSON,
  ) {
    const { headers = {}, retry, deadLetter } = options;
    const { closeTimeout = 30_000, onLoss = printLoss } = options;
    const http = new FetchSender(url, {
      ...options,
      headers: typeof headers === "function"
        ? async (attempt) => withType(type, await headers(attempt))
        : withType(type, headers),
      // However long the server is away, records wait for it.
      retry: { maxElapsed: Infinity, ...retry },
    });
    const sender: Sender = {
      send: (records, context) => http.send(bodyOf(records), context),
      close: () => http.close(),
      abort: () => http.abort(),
      get lastFailure() {
        return http.lastFailure;
      },
    };
    this.#out = new StreamBuffer(sender, {
      maxQueuedBytes: 64 * 1024 * 1024,
      oversize: "whole", // a record is never cut
      ...options,
      closeTimeout,
      ...deadLetter && {
        deadLetter: (records, error, context) =>
          deadLetter(bodyOf(records), error, context),
      },
    });
    this.#bodyOf = bodyOf;
    this.#closeTimeout = closeTimeout;
    this.#onLoss = onLoss;
  }

  /** Takes one record, in the form in which it is sent. */
  write(record: string): void {
    if (this.#lost > 0) this.#reportSoon();
    this.#out.write(record).catch((error) => {
      this.#lost++;
      this.#error = error;
      this.#reportSoon();
    });
  }

  /**
   * Resolves when everything written so far has been delivered. Rejects if that
   * takes longer than `closeTimeout`; then it is still kept and sent.
   */
  async flush(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<never>((_, reject) => {
      const message = `Cannot flush within ${this.#closeTimeout} ms`;
      const error = new DOMException(message, "TimeoutError");
      timer = setTimeout(() => reject(error), this.#closeTimeout);
    });
    await Promise.race([this.#out.flush(), timeout])
      .finally(() => clearTimeout(timer));
  }

  /**
   * Sends the rest, for at most `closeTimeout`. It never rejects, because a log
   * that cannot be sent should not change how a program ends: see `onLoss`.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#nextReport = Infinity; // what is lost from here on is one report
    try {
      await this.#out.close();
      if (this.#lost > 0) this.#report();
    } catch (error) {
      this.#error = error;
      const unsent = this.#out.takeUnsent();
      this.#report(unsent.length > 0 ? this.#bodyOf(unsent) : unsent);
    }
    this.#nextReport = 0; // what is written after the end is lost, too
  }

  #reportSoon(): void {
    const now = performance.now();
    if (now < this.#nextReport) return;
    // What is written after the end is lost, too, and reported each time.
    if (this.#closing === undefined) this.#nextReport = now + REPORT_INTERVAL;
    // After all that failed together.
    queueMicrotask(() => {
      if (this.#lost > 0) this.#report();
    });
  }

  #report(unsent: Bytes = new Uint8Array()): void {
    const loss = { records: this.#lost, unsent, error: this.#error };
    this.#lost = 0;
    // Whatever becomes of the report, logging goes on.
    new Promise((resolve) => resolve(this.#onLoss(loss))).catch(() => {});
  }
}

/** The caller's headers, with a `Content-Type` if they have none. */
function withType(type: string, headers: RequestHeaders): RequestHeaders {
  const entries = Symbol.iterator in headers
    ? [...headers]
    : Object.entries(headers);
  return entries.some(([name]) => name?.toLowerCase() === "content-type")
    ? entries
    : [["Content-Type", type], ...entries];
}

function printLoss({ records, unsent, error }: Loss): void {
  const losses = [
    ...records > 0 ? [`${records} log records not accepted`] : [],
    ...unsent.length > 0 ? [`${unsent.length} bytes not delivered`] : [],
  ];
  print(`${losses.join(", ")}: ${error}`);
}
