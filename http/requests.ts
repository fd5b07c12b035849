/** One request: its headers, its time, and what becomes of it. */
import { check, checkDuration, messageOf } from "../internal/checks.ts";
import { until, within } from "../internal/promises.ts";
import { adviceForStatus, isClosedClient } from "./advice.ts";
import { SendError, type SendErrorOptions } from "./errors.ts";
import { toHeaders } from "./headers.ts";
import type { HeaderFunction, RequestOptions, SendAttempt } from "./options.ts";
import { askToConnect, mayConnect } from "./permissions.ts";
import { PUBLIC_HEADERS, redact, redactError } from "./redaction.ts";
import { readText, type ServerResponse } from "./responses.ts";
import { parseRetryAfter } from "./retry_after.ts";
import { checkUrl } from "./urls.ts";

/** How much of a reply is shown in an error, in characters. */
const MAX_EXCERPT = 200;

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
  readonly onResponse?: () => void;
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

/** Requests that end in time, and errors that show no secret. */
export class Requests {
  /** Where to send to. */
  readonly url: URL;
  readonly #headers: Headers | HeaderFunction;
  readonly #timeout: number;
  readonly #fetch: typeof fetch;
  readonly #client: Deno.HttpClient | undefined;

  constructor(action: string, url: string | URL, options: RequestOptions) {
    check(action, { options }, "an object", "object");
    const {
      headers = {},
      timeout = 30_000,
      fetch = globalThis.fetch,
      client,
    } = options;
    check(action, { client }, "an object", "object");
    checkDuration(action, { timeout }, 1);
    check(action, { fetch }, "a function", "function");
    this.url = checkUrl(action, url);
    this.#headers = typeof headers === "function"
      ? headers
      : toHeaders(headers);
    this.#timeout = timeout;
    this.#fetch = fetch;
    this.#client = client;
  }

  /** One request, which ends when `timeout` has passed at the latest. */
  send(
    request: OutgoingRequest,
    attempt: Attempt,
  ): Promise<ServerResponse | SendError> {
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
    { url = this.url, method, headers: own, body, onResponse }: OutgoingRequest,
    { deadline: _, secrets, ...details }: Attempt,
  ): Promise<ServerResponse | SendError> {
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
        const cause = signal.aborted
          ? signal.reason
          : redactError(error, secrets);
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
      onResponse?.();
      text = await readText(response);
    } catch (error) {
      const cause = signal.aborted
        ? signal.reason
        : redactError(error, secrets);
      const advice = isClosedClient(cause) ? "; is the `client` closed?" : "";
      return fail(messageOf(cause) + advice, { cause });
    }
    const { ok, status } = response;
    return {
      ok,
      status,
      headers: response.headers,
      toError: (advice = adviceForStatus(status)) => {
        const excerpt = redact(text, secrets).slice(0, MAX_EXCERPT);
        return fail(
          `the server answered ${status}${advice}${
            excerpt && `: ${JSON.stringify(excerpt)}`
          }`,
          { status, excerpt, retryAfter: parseRetryAfter(response.headers) },
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
}
