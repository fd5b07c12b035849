/**
 * What the senders over HTTP share, and no entry point of its own: requests that
 * end in time, attempts until one succeeds, and errors that show no secret.
 */
import type { SendContext } from "../buffer.ts";
import { check, checkDuration, messageOf } from "../internal/checks.ts";
import { sleep, until, within } from "../internal/promises.ts";

/**
 * How much of a reply is read, in bytes, so that its connection can be used
 * again; a longer one is cancelled, which costs a new connection.
 */
const MAX_REPLY = 64 * 1024;
/** How long a reply may take, in ms, once its status is known. */
const MAX_REPLY_TIME = 5_000;
/** How much of a reply is shown in an error, in characters. */
const MAX_EXCERPT = 200;
/** A shorter word is no secret, and too common to be hidden. */
const MIN_SECRET = 6;
/** So much of a longer one is hidden, too: a server may repeat a piece of it. */
const MAX_PIECE = 8;
/** Headers whose values no error needs to hide. */
const PUBLIC_HEADERS = new Set([
  "content-encoding",
  "content-type",
  "idempotency-key",
]);

/** What a header function is told about the request that it is called for. */
export interface SendAttempt {
  /** The sequence number of the flush. */
  readonly sequence: number;
  /** Position of the flush's first byte in the whole stream, in bytes. */
  readonly offset: number;
  /** 1 for the first attempt to deliver this flush. */
  readonly attempt: number;
  /** Why the attempt before this one failed; `undefined` at the first. */
  readonly failure: SendError | undefined;
  /** Aborted when the attempt's `timeout` has passed, or the buffer ends. */
  readonly signal: AbortSignal;
}

/** When a sender tries again. */
export interface RetryOptions {
  /**
   * Upper bound of the delay before the second attempt, in milliseconds. It
   * doubles at each further one, and the delay is random below it ("full
   * jitter").
   *
   * @default {500}
   */
  initialDelay?: number;
  /**
   * Where that bound stops growing, in milliseconds.
   *
   * @default {30_000}
   */
  maxDelay?: number;
  /**
   * The longest time for all attempts of one flush together, in milliseconds.
   * `0`: one attempt, for as long as `timeout` allows.
   *
   * @default {120_000}
   */
  maxElapsed?: number;
  /**
   * Decides in place of the default, which is: network errors, timeouts, 408,
   * 425, 429, and 5xx but 501 and 505; and, once a flush, 401 and 403 when
   * `headers` is a function.
   */
  shouldRetry?: (failure: SendError) => boolean;
}

type HeaderFunction = (
  attempt: SendAttempt,
) => HeadersInit | Promise<HeadersInit>;

/** Options of every sender that makes HTTP requests. */
export interface RequestOptions {
  /**
   * Headers of each request, or a function that is called for each attempt, and
   * once more with `failure` set after a 401 or 403, to get a fresh token.
   * If the function fails, so does the flush; the `cause` is then a copy of its
   * error without the secrets that are known. `Content-Type` is
   * `application/octet-stream` unless given here.
   */
  headers?:
    | HeadersInit
    | ((attempt: SendAttempt) => HeadersInit | Promise<HeadersInit>);
  /**
   * The longest time for one attempt in milliseconds, header function and reply
   * included.
   *
   * @default {30_000}
   */
  timeout?: number;
  /** When to try again. */
  retry?: RetryOptions;
  /**
   * Called in place of the global `fetch`, with a `Request` of its own for each
   * attempt, and with the `client`, if there is one.
   *
   * @default {fetch}
   */
  fetch?: typeof fetch;
  /**
   * Deno only: certificates, proxy and connection pool. It stays the caller's,
   * who closes it, after the buffer.
   */
  client?: Deno.HttpClient;
  /** Told of each failure that is followed by another attempt, `delay` ms later. */
  onRetry?: (failure: SendError, delay: number) => void;
}

/** What a {@linkcode SendError} is made from. */
export interface SendErrorOptions extends ErrorOptions {
  /** How many attempts were made. */
  attempts: number;
  /** The HTTP status, if the server answered. */
  status?: number | undefined;
  /** What `Retry-After` asked for, in milliseconds from then. */
  retryAfter?: number | undefined;
  /** The beginning of the server's reply. */
  excerpt?: string;
}

/**
 * An attempt to deliver a flush failed. It does not show the URL's query or
 * header values. Where a server repeats them, words of six characters or more
 * are hidden, and eight characters in a row of longer ones.
 */
export class SendError extends Error {
  /** The name of the error. */
  override readonly name = "SendError";
  /** How many attempts were made to deliver this flush. */
  readonly attempts: number;
  /** The HTTP status, or `undefined` if there was no answer. */
  readonly status: number | undefined;
  /** What `Retry-After` asked for, in milliseconds from then. */
  readonly retryAfter: number | undefined;
  /** The beginning of the server's reply, at most 200 characters of it. */
  readonly excerpt: string;

  /**
   * Constructs a new instance.
   *
   * @param message What failed, and what to do about it.
   * @param options The details.
   */
  constructor(message: string, options: SendErrorOptions) {
    const { attempts, status, retryAfter, excerpt = "", ...rest } = options;
    super(message, rest);
    this.attempts = attempts;
    this.status = status;
    this.retryAfter = retryAfter;
    this.excerpt = excerpt;
  }
}

/**
 * A request as a sender wants it; what the caller's options say is added.
 */
export interface OutgoingRequest {
  /** @default {the URL given to the sender} */
  readonly url?: URL;
  readonly method: string;
  /** Win over the caller's. */
  readonly headers?: Record<string, string>;
  readonly body?: BufferSource | Blob | ReadableStream<Uint8Array>;
  /** Called as soon as the server has answered, before its reply is read. */
  readonly onAnswer?: () => void;
}

/**
 * What the server answered; the reply has been read.
 */
export interface Reply {
  readonly ok: boolean;
  readonly status: number;
  readonly headers: Headers;
  /** The error to fail with, and what the caller can do about it. */
  refuse(advice?: string): SendError;
}

/**
 * An attempt, and what all attempts of one delivery share.
 */
export interface Attempt extends SendAttempt {
  /** When the time for all attempts is over, on the clock of `Date.now()`. */
  readonly deadline: number;
  /** What no error may show. */
  readonly secrets: Set<string>;
}

/**
 * What the senders over HTTP share: requests that end in time, attempts until
 * one succeeds, and errors that show no secret.
 */
export class Requests {
  /** Where to send to. */
  readonly url: URL;
  readonly #headers: Headers | HeaderFunction;
  readonly #timeout: number;
  readonly #initialDelay: number;
  readonly #maxDelay: number;
  readonly #maxElapsed: number;
  readonly #shouldRetry: ((failure: SendError) => boolean) | undefined;
  readonly #fetch: typeof fetch;
  readonly #client: Deno.HttpClient | undefined;
  readonly #onRetry: RequestOptions["onRetry"];
  /** Why the newest attempt failed, if it did. */
  lastFailure: SendError | undefined;

  constructor(action: string, url: string | URL, options: RequestOptions) {
    check(action, { options }, "an object", "object");
    const {
      headers = {},
      timeout = 30_000,
      retry = {},
      fetch = globalThis.fetch,
      client,
      onRetry,
    } = options;
    check(action, { retry, client }, "an object", "object");
    const {
      initialDelay = 500,
      maxDelay = 30_000,
      maxElapsed = 120_000,
      shouldRetry,
    } = retry;
    checkDuration(action, { timeout }, 1);
    checkDuration(action, { initialDelay, maxDelay, maxElapsed }, 0);
    check(action, { shouldRetry, fetch, onRetry }, "a function", "function");
    this.url = checkUrl(action, url);
    this.#headers = typeof headers === "function"
      ? headers
      : toHeaders(headers);
    this.#timeout = timeout;
    this.#initialDelay = initialDelay;
    this.#maxDelay = maxDelay;
    this.#maxElapsed = maxElapsed;
    this.#shouldRetry = shouldRetry;
    this.#fetch = fetch;
    this.#client = client;
    this.#onRetry = onRetry;
  }

  /**
   * Makes attempts until one does not return a failure, or there is no point in
   * another. What an attempt throws ends it at once.
   *
   * @param passing Statuses that a retry may help against, besides the usual.
   */
  async retry(
    { sequence, offset, signal }: SendContext,
    attempt: (attempt: Attempt) => Promise<unknown>,
    passing: readonly number[] = [],
  ): Promise<void> {
    const start = Date.now();
    const deadline = this.#maxElapsed === 0
      ? Infinity
      : start + this.#maxElapsed;
    const secrets = new Set<string>();
    let failure: SendError | undefined;
    let refreshed = false;
    for (let number = 1;; number++) {
      signal.throwIfAborted();
      const details = { sequence, offset, attempt: number, failure, signal };
      const outcome = await attempt({ ...details, deadline, secrets });
      failure = outcome instanceof SendError ? outcome : undefined;
      if (!signal.aborted) this.lastFailure = failure;
      if (failure === undefined) return;
      signal.throwIfAborted();
      const refresh: boolean = !refreshed &&
        typeof this.#headers === "function" &&
        (failure.status === 401 || failure.status === 403);
      refreshed ||= refresh;
      const delay = Math.max(
        failure.retryAfter ?? 0,
        refresh ? 0 : this.#backoff(number),
      );
      const retry = this.#shouldRetry?.(failure) ??
        (refresh || isTransient(failure) || passing.includes(failure.status!));
      if (!retry || Date.now() - start + delay >= this.#maxElapsed) {
        throw failure;
      }
      this.#onRetry?.(failure, delay);
      await sleep(delay, signal);
    }
  }

  /** One request, which ends when `timeout` has passed at the latest. */
  send(request: OutgoingRequest, attempt: Attempt): Promise<Reply | SendError> {
    const left = Math.max(attempt.deadline - Date.now(), 1);
    const timeout = Math.min(this.#timeout, left);
    return within(
      timeout,
      attempt.signal,
      (signal) => this.exchange(request, { ...attempt, signal }),
    );
  }

  /** One request; a failure if there is no answer. It throws without headers. */
  async exchange(
    { url = this.url, method, headers: own, body, onAnswer }: OutgoingRequest,
    { deadline: _, secrets, ...details }: Attempt,
  ): Promise<Reply | SendError> {
    const { attempt: attempts, signal } = details;
    const isStream = body !== undefined && !("byteLength" in body);
    const size = body === undefined || isStream
      ? ""
      : ` ${body.byteLength} bytes to`;
    const target = `${url.origin}${url.pathname}`;
    const fail = (
      problem: string,
      options: Omit<SendErrorOptions, "attempts">,
    ) =>
      new SendError(
        `Cannot ${method}${size} ${target} (attempt ${attempts}): ${problem}`,
        { attempts, ...options },
      );
    secrets.add(url.search.slice(1));
    url.searchParams.forEach((value) => secrets.add(value));

    let headers = new Headers();
    // Another origin gets the bytes that are meant for it, and no credentials.
    if (url.origin === this.url.origin) {
      try {
        headers = await until(signal, this.#headersFor(details));
      } catch (error) {
        const cause = signal.aborted ? signal.reason : scrub(error, secrets);
        throw fail(`there are no headers to send: ${messageOf(cause)}`, {
          cause,
        });
      }
    }
    for (const [name, value] of headers) {
      if (!PUBLIC_HEADERS.has(name)) secrets.add(value);
    }
    if (body !== undefined && !headers.has("Content-Type")) {
      headers.set("Content-Type", "application/octet-stream");
    }
    for (const [name, value] of Object.entries(own ?? {})) {
      headers.set(name, value);
    }
    const request = new Request(url, {
      method,
      headers,
      body,
      redirect: "manual",
      signal,
      duplex: "half",
    } as RequestInit);
    // Deno sends a body again by itself when a pooled connection dies after the
    // request was read, unless it is a stream. This makes it one, and it keeps
    // its Content-Length. But one that Deno may not send it never lets go: the
    // process would not end.
    if (mayConnect(url)) void request.body;
    const fetch = this.#fetch; // as a method call, that of browsers refuses
    const client = this.#client;
    let response: Response;
    let text: string;
    try {
      if (isStream) await askToConnect(url);
      response = await until(signal, fetch(request, client && { client }));
      onAnswer?.();
      text = await settle(response);
    } catch (error) {
      const cause = signal.aborted ? signal.reason : scrub(error, secrets);
      const advice = isClosedClient(cause) ? "; is the `client` closed?" : "";
      return fail(messageOf(cause) + advice, { cause });
    }
    const { ok, status } = response;
    return {
      ok,
      status,
      headers: response.headers,
      refuse: (advice = adviceOn(status)) => {
        const excerpt = hide(text, secrets).slice(0, MAX_EXCERPT);
        return fail(
          `the server answered ${status}${advice}${
            excerpt && `: ${JSON.stringify(excerpt)}`
          }`,
          { status, excerpt, retryAfter: retryAfter(response.headers) },
        );
      },
    };
  }

  async #headersFor(details: SendAttempt): Promise<Headers> {
    const given = this.#headers;
    return toHeaders(
      typeof given === "function" ? await given(details) : given,
    );
  }

  /** A delay in ms, random below a bound that doubles at each attempt. */
  #backoff(attempt: number): number {
    const doublings = Math.min(attempt - 1, 31); // 2 ** 1024 is infinite
    const bound = this.#initialDelay * 2 ** doublings;
    return Math.random() * Math.min(bound, this.#maxDelay);
  }
}

/**
 * Reads a reply to its end or to a bound, which frees its connection. Whatever
 * becomes of it, the status stands: a 2xx with a broken reply is a delivery.
 */
async function settle({ body }: Response): Promise<string> {
  // A `fetch` of the caller's may have read it already.
  if (body === null || body.locked) return "";
  const reader = body.getReader();
  const cancel = () => reader.cancel().catch(() => {});
  const timer = setTimeout(cancel, MAX_REPLY_TIME);
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (let size = 0; size < MAX_REPLY;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      text += decoder.decode(value, { stream: true });
    }
  } catch {
    // Reset, cut short, or out of time.
  } finally {
    clearTimeout(timer);
    void cancel(); // it may hang, and nothing depends on it
  }
  return text;
}

/**
 * `text` on one line, and with `***` in place of whatever it has in common with
 * a secret, in whatever case.
 */
function hide(text: string, secrets: Set<string>): string {
  const pieces = new Set<string>();
  for (const secret of secrets) {
    const line = lowerCase(onOneLine(secret));
    for (const word of [line, ...line.split(/[ ,;:=&]+/)]) {
      const size = Math.min(word.length, MAX_PIECE);
      for (let i = 0; size >= MIN_SECRET && i + size <= word.length; i++) {
        pieces.add(word.slice(i, i + size));
      }
    }
  }
  const line = onOneLine(text);
  const lower = lowerCase(line);
  let shown = "";
  let hidden = 0; // up to here
  for (let i = 0; i < line.length; i++) {
    for (let size = MIN_SECRET; size <= MAX_PIECE; size++) {
      if (!pieces.has(lower.slice(i, i + size))) continue;
      if (i > hidden || hidden === 0) shown += `${line.slice(hidden, i)}***`;
      hidden = Math.max(hidden, i + size);
    }
  }
  return shown + line.slice(hidden);
}

/** Of ASCII, which leaves each character in its place. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

function onOneLine(text: string): string {
  return text.replace(/[\p{Cc}\s]+/gu, " ").trim();
}

/**
 * What `fetch` or a header function threw, in an error of our own: its message,
 * those of its causes and where it comes from, without URL queries, which
 * `fetch` repeats, and without the secrets.
 */
function scrub(error: unknown, secrets: Set<string>): Error {
  if (isPermissionError(error)) return error;
  // The secrets first: a query that is cut at its ")" is none of them any more.
  const clean = (text: string) =>
    hide(text, secrets).replace(/\b(\w+:\/\/[^\s?#]*)[?#][^\s)]*/g, "$1");
  const messages = [messageOf(error)];
  for (
    let link = error;
    link instanceof Error && link.cause !== undefined && messages.length < 5;
    link = link.cause
  ) messages.push(messageOf(link.cause));
  const cause = new Error(clean(messages.join(": ")));
  if (error instanceof Error) {
    cause.name = error.name;
    const frames = String(error.stack).match(/^ +at .*/gm) ?? [];
    cause.stack = [`${cause}`, ...frames.map((line) => `    ${clean(line)}`)]
      .join("\n");
  }
  return cause;
}

/** Whether the same request may succeed later. */
export function isTransient({ status, cause }: SendError): boolean {
  if (status === undefined) {
    return !isPermissionError(cause) && !isClosedClient(cause);
  }
  return status === 408 || status === 425 || status === 429 ||
    (status >= 500 && status < 600 && status !== 501 && status !== 505);
}

/** Whether `fetch` goes ahead without asking the user; only Deno asks. */
function mayConnect(url: URL): boolean {
  try {
    const query = permissionFor(url);
    const status = globalThis.Deno?.permissions?.querySync?.(query);
    return status === undefined || status.state === "granted";
  } catch {
    return false; // no host that it knows of
  }
}

/** Asks as `fetch` does, and fails as it does, before there is a body to send. */
async function askToConnect(url: URL): Promise<void> {
  if (mayConnect(url)) return;
  const permission = permissionFor(url);
  const { state } = await Deno.permissions.request(permission);
  if (state === "granted") return;
  throw new Deno.errors.NotCapable(
    `Requires net access to "${permission.host}", run again with the --allow-net flag`,
  );
}

function permissionFor({ protocol, hostname, port }: URL) {
  const host = `${hostname}:${port || (protocol === "https:" ? 443 : 80)}`;
  return { name: "net", host } as const;
}

/** Deno's error for a permission that was not granted. */
function isPermissionError(error: unknown): error is Error {
  return error instanceof Error && error.name === "NotCapable";
}

/** Deno's error for an `HttpClient` that has been closed. */
function isClosedClient(error: unknown): boolean {
  return error instanceof Error && error.name === "BadResource";
}

function adviceOn(status: number): string {
  if (status === 413) return "; make `capacity` smaller";
  if (status === 401 || status === 403) {
    return "; check the credentials in `headers`";
  }
  // Browsers hide a redirect behind status 0.
  return [0, 301, 302, 303, 307, 308].includes(status)
    ? "; redirects are not followed, so give the final URL"
    : "";
}

/** `Retry-After` in ms from now (RFC 9110, section 10.2.3). */
function retryAfter(headers: Headers): number | undefined {
  const value = headers.get("Retry-After");
  if (value === null) return undefined;
  // Sent twice, it arrives as a list.
  if (/^\d+(, *\d+)*$/.test(value)) {
    return 1_000 * Math.max(...value.split(",").map(Number));
  }
  // `Date.parse` takes "-5" for a date too; and asctime's has no time zone.
  if (!/^[A-Z][a-z]+,? .*\d\d:\d\d:\d\d/.test(value)) return undefined;
  const date = Date.parse(value.replace(/( GMT)?$/, " GMT"));
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

function toHeaders(init: HeadersInit): Headers {
  if (typeof init !== "object" || init === null) {
    throw new TypeError(
      `Cannot use headers: they must be an object, received ${
        init === null ? "null" : `a ${typeof init}`
      }`,
    );
  }
  try {
    return new Headers(init);
  } catch {
    // The platform's own error repeats the value, which may be a secret.
    throw new TypeError(
      "Cannot use headers: they must be names and values that HTTP allows (is there a line break in one?)",
    );
  }
}

/**
 * A URL that requests may go to.
 */
export function checkUrl(action: string, url: string | URL): URL {
  const text = String(url);
  // What is before an @ may be a password, and what is after a ? a token; with
  // a ? before an @ nobody can tell where either of them ends.
  const shown = JSON.stringify(
    /[?#].*@/s.test(text)
      ? "***"
      : text.replace(/^.*@/s, "***@").replace(/[?#].*/s, ""),
  );
  if (!URL.canParse(text)) {
    throw new TypeError(
      `${action}: url must be an absolute URL, received ${shown}`,
    );
  }
  const parsed = new URL(text);
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") {
    throw new TypeError(
      `${action}: url must begin with http:// or https://, received ${shown}`,
    );
  }
  if (parsed.username !== "" || parsed.password !== "") {
    throw new TypeError(
      `${action}: url must not carry credentials, send them in headers; received ${shown}`,
    );
  }
  return parsed;
}

/**
 * Refuses a method that may not carry a body.
 */
export function checkMethod(action: string, method: string): void {
  check(
    action,
    { method },
    "an HTTP method that may carry a body",
    "string",
    mayCarryBody,
  );
}

function mayCarryBody(method: string): boolean {
  try {
    new Request("http://localhost", { method, body: "" });
    return true;
  } catch {
    return false;
  }
}
