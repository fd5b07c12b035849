/**
 * One HTTP request: the caller's options and what a sender adds to them, sent
 * within a time limit, and then either a response or an error without secrets.
 * Whether another request follows is decided in `retry.ts`.
 */
import {
  check,
  checkDuration,
  countOf,
  messageOf,
} from "../internal/checks.ts";
import { until, within } from "../internal/promises.ts";
import { adviceForCause, adviceForStatus } from "./advice.ts";
import { SendError, type SendErrorOptions } from "./errors.ts";
import { fetchTransport } from "./fetch_transport.ts";
import { toHeaders, toRecord } from "./headers.ts";
import type {
  AttemptOptions,
  HeaderFunction,
  SendAttempt,
  Transport,
  TransportRequest,
  TransportResponse,
} from "./options.ts";
import {
  addSecrets,
  addSecretsOfHeaders,
  addSecretsOfUrl,
  redact,
  redactError,
  type Secrets,
} from "./redaction.ts";
import {
  checkResponse,
  isSuccess,
  readText,
  type ServerResponse,
} from "./responses.ts";
import { parseRetryAfter } from "./retry_after.ts";
import { checkUrl, isBlocked } from "./urls.ts";

/** How much of a response's body an error shows, in characters. */
const MAX_EXCERPT = 200;

/** A request as a sender wants it; the caller's headers are added. */
export interface OutgoingRequest {
  /** @default {the URL given to the sender} */
  readonly url?: URL;
  readonly method: string;
  /** Override the caller's. */
  readonly headers?: Record<string, string>;
  readonly body?: TransportRequest["body"];
  /** It is to outlive its page. */
  readonly keepalive?: boolean;
  /** Its body is a batch that the server may refuse without harm to others. */
  readonly standsAlone?: boolean;
  /** Statuses after which it may succeed later, besides the usual ones. */
  readonly alsoRetryable?: readonly number[];
  /** Called when the status is known, before the response's body is read. */
  readonly onResponse?: () => void;
}

/** One attempt of a delivery, and what all its attempts share. */
export interface Attempt extends SendAttempt {
  /** When the time for all attempts is over, by `performance.now()`. */
  readonly deadline: number;
  /** Renews that time. Called when a part of the batch has been delivered. */
  readonly onProgress: () => void;
  /** What no error may show: a server may repeat the token of an earlier attempt. */
  readonly secrets: Secrets;
}

/** Makes the requests of one sender. */
export class Requests {
  /** The URL given to the sender. */
  readonly url: URL;
  readonly #origin: string;
  readonly #headers: Record<string, string> | HeaderFunction;
  /** Those of the URL and the headers given to the sender. */
  readonly #secrets: Secrets = new Set();
  readonly #timeout: number;
  readonly #transport: Transport;
  /** The requests are made by the platform's own `fetch`, which blocks some ports. */
  readonly #blocksPorts: boolean;

  /**
   * Constructs a new instance.
   *
   * @param action What cannot be done with invalid options: "Cannot create X".
   * @throws {TypeError} If the URL is invalid, is not http(s), carries
   *   credentials or has a port that `fetch` blocks, or an option has the wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(action: string, url: string | URL, options: AttemptOptions) {
    check(action, { options }, "an object", "object");
    const {
      headers = {},
      timeout = 30_000,
      fetch,
      client,
      transport,
    } = options;
    check(action, { client }, "an object", "object");
    checkDuration(action, { timeout }, 1);
    check(action, { fetch, transport }, "a function", "function");
    if (transport !== undefined && (fetch ?? client) !== undefined) {
      throw new TypeError(
        `${action}: transport replaces ${
          fetch === undefined ? "client" : "fetch"
        }, so give only one of them`,
      );
    }
    // A certificate or a proxy that is silently not used would be worse. A `fetch` of
    // the caller's is given the client, and may know it.
    if (
      client !== undefined && fetch === undefined && !("Deno" in globalThis)
    ) {
      throw new TypeError(
        `${action}: client is an option for Deno alone; give a fetch or a transport instead`,
      );
    }
    this.#transport = transport ?? fetchTransport(fetch, client);
    this.#blocksPorts = transport === undefined &&
      (fetch ?? globalThis.fetch) === globalThis.fetch;
    this.url = checkUrl(action, url, this.#blocksPorts);
    this.#headers = typeof headers === "function"
      ? headers
      : toRecord(toHeaders(headers));
    this.#timeout = timeout;
    this.#origin = this.url.origin;
    addSecretsOfUrl(this.#secrets, this.url);
    if (typeof this.#headers === "object") {
      addSecretsOfHeaders(this.#secrets, this.#headers);
    }
  }

  /** Whether requests to this URL fail, because `fetch` blocks its port. */
  blocks(url: URL): boolean {
    return this.#blocksPorts && isBlocked(url);
  }

  /**
   * Makes one request, which ends after `timeout` or at the deadline of all
   * attempts, whichever comes first.
   *
   * @returns As {@linkcode Requests.exchange}.
   */
  send(
    request: OutgoingRequest,
    attempt: Attempt,
  ): Promise<ServerResponse | SendError> {
    // An attempt that starts too late gets 1 ms, and so fails as a timeout.
    const left = Math.max(attempt.deadline - performance.now(), 1);
    const timeout = Math.min(this.#timeout, Math.ceil(left));
    return within(
      timeout,
      attempt.signal,
      (signal) => this.exchange(request, attempt, signal),
    );
  }

  /**
   * Makes one request, without a time limit.
   *
   * @param signal Ends it; by default that of the attempt.
   * @returns The response, whatever its status; a failure if there was none.
   * @throws {SendError} If the headers could not be obtained, so that no request
   *   was made.
   */
  async exchange(
    {
      url = this.url,
      method,
      headers: ownHeaders = {},
      body,
      keepalive = false,
      standsAlone = false,
      alsoRetryable = [],
      onResponse,
    }: OutgoingRequest,
    attempt: Attempt,
    signal: AbortSignal = attempt.signal,
  ): Promise<ServerResponse | SendError> {
    const { attempt: attempts, secrets } = attempt;
    // A structured field string, without its quotes.
    const key = ownHeaders["Idempotency-Key"]?.slice(1, -1);
    const fail = (
      problem: string,
      options: Omit<SendErrorOptions, "attempts" | "key">,
    ) => {
      const size = body instanceof Uint8Array
        ? ` of ${countOf(body.length)} to`
        : "";
      const what = `${method}${size} ${url.origin}${url.pathname}`;
      return new SendError(
        `${what} failed (attempt ${attempts}): ${problem}`,
        { attempts, key, ...options },
      );
    };
    const causeOf = (thrown: unknown) =>
      signal.aborted ? signal.reason : redactError(thrown, secrets);

    addSecrets(secrets, this.#secrets);
    if (url !== this.url) addSecretsOfUrl(secrets, url);
    const headers: Record<string, string> = {};
    if (body !== undefined) {
      headers["content-type"] = "application/octet-stream";
    }
    // Another origin gets the bytes that are meant for it, and none of the
    // caller's headers, as they may hold credentials.
    if (url === this.url || url.origin === this.#origin) {
      let given = this.#headers;
      if (typeof given === "function") {
        const { sequence, offset, failure } = attempt;
        const details = { sequence, offset, attempt: attempts, failure };
        try {
          const promise = call(given, { ...details, signal });
          given = toRecord(toHeaders(await until(signal, promise)));
        } catch (error) {
          const cause = causeOf(error);
          throw fail(`could not get the headers: ${messageOf(cause)}`, {
            cause,
            retryable: false,
          });
        }
        addSecretsOfHeaders(secrets, given);
      }
      Object.assign(headers, given);
    }
    for (const [name, value] of Object.entries(ownHeaders)) {
      headers[name.toLowerCase()] = value;
    }

    let response: TransportResponse;
    let text: string;
    try {
      const request = { url, method, headers, body, signal, keepalive };
      response = await this.#respond(request);
      onResponse?.();
      const size = body instanceof Uint8Array ? body.length : 0;
      text = await readText(response, size, signal);
    } catch (error) {
      const cause = causeOf(error);
      return fail(messageOf(cause) + adviceForCause(cause), { cause });
    }
    const { status } = response;
    return {
      ok: isSuccess(status),
      status,
      headers: response.headers,
      toError: (advice = adviceForStatus(status)) => {
        const excerpt = redact(text, secrets).slice(0, MAX_EXCERPT);
        const retryAfter = parseRetryAfter(response.headers);
        const wait = retryAfter
          ? `; it asks to wait ${Math.ceil(retryAfter / 1_000)} s`
          : "";
        return fail(
          `the server responded with ${status}${advice}${wait}${
            excerpt && `: ${JSON.stringify(excerpt)}`
          }`,
          {
            status,
            excerpt,
            retryAfter,
            retryable: alsoRetryable.includes(status) || undefined,
            refused: standsAlone ? undefined : false,
          },
        );
      },
    };
  }

  /**
   * Gets the response to a request, or rejects as soon as the signal is aborted.
   * A transport that does not obey that is not waited for; no one reads what it
   * resolves to later, so that is cancelled.
   */
  async #respond(request: TransportRequest): Promise<TransportResponse> {
    const { signal } = request;
    const transport = this.#transport; // a plain function, without a `this`
    const response = call(transport, request);
    try {
      const received = await until(signal, response);
      checkResponse(received);
      return received;
    } catch (error) {
      if (signal.aborted) {
        void response.then(({ body }) => body?.cancel()).catch(() => {});
      }
      throw error;
    }
  }
}

/** Calls a function of the caller's. If it throws, the promise rejects. */
async function call<T, R>(
  given: (argument: T) => R | Promise<R>,
  argument: T,
): Promise<R> {
  return await given(argument);
}
