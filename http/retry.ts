/**
 * Attempts until one succeeds: which failures are retried, after what delay, and
 * for how long. Every wait between two attempts is here.
 */
import type { SendContext } from "../buffer.ts";
import { check, checkDuration } from "../internal/checks.ts";
import { sleep } from "../internal/promises.ts";
import { SendError } from "./errors.ts";
import type { AttemptOptions } from "./options.ts";
import { isClosedClient, isPermissionError } from "./platform_errors.ts";
import type { Attempt } from "./requests.ts";

/**
 * Statuses below 500 after which the same request may succeed later: Request
 * Timeout, Too Early and Too Many Requests.
 */
const RETRYABLE_STATUSES = new Set([408, 425, 429]);
/**
 * Statuses from 500 on after which it may not: Not Implemented and HTTP Version
 * Not Supported.
 */
const PERMANENT_STATUSES = new Set([501, 505]);

/** Makes the attempts of one sender, and remembers why the latest one failed. */
export class RetryLoop {
  readonly #initialDelay: number;
  readonly #maxDelay: number;
  readonly #maxElapsed: number;
  readonly #shouldRetry: ((failure: SendError) => boolean) | undefined;
  readonly #onRetry: AttemptOptions["onRetry"];
  /** A header function may have a fresh token after a 401 or 403. */
  readonly #canRefresh: boolean;
  /** Why the latest attempt failed, if it did. */
  lastFailure: SendError | undefined;

  /**
   * Constructs a new instance.
   *
   * @param action What cannot be done with invalid options: "Cannot create X".
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(action: string, options: AttemptOptions) {
    const { headers, retry = {}, onRetry } = options;
    check(action, { retry }, "an object", "object");
    const {
      initialDelay = 500,
      maxDelay = 30_000,
      maxElapsed = 120_000,
      shouldRetry,
    } = retry;
    checkDuration(action, { initialDelay, maxDelay, maxElapsed }, 0);
    check(action, { shouldRetry, onRetry }, "a function", "function");
    this.#initialDelay = initialDelay;
    this.#maxDelay = maxDelay;
    this.#maxElapsed = maxElapsed;
    this.#shouldRetry = shouldRetry;
    this.#onRetry = onRetry;
    this.#canRefresh = typeof headers === "function";
  }

  /**
   * Makes attempts until one does not return a failure, or another would be
   * pointless. What an attempt throws ends the loop at once.
   *
   * @param alsoRetryable Statuses to retry besides the usual ones.
   * @throws {SendError} The failure of the last attempt.
   * @throws The reason of `signal`, if that is aborted first.
   */
  async run(
    { sequence, offset, signal }: SendContext,
    attempt: (attempt: Attempt) => Promise<unknown>,
    alsoRetryable: readonly number[] = [],
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
      const refresh: boolean = this.#canRefresh && !refreshed &&
        (failure.status === 401 || failure.status === 403);
      refreshed ||= refresh;
      const delay = Math.max(
        failure.retryAfter ?? 0,
        refresh ? 0 : this.#backoff(number),
      );
      const retry = this.#shouldRetry?.(failure) ??
        (refresh || isRetryable(failure) ||
          alsoRetryable.includes(failure.status!));
      if (!retry || Date.now() - start + delay >= this.#maxElapsed) {
        throw failure;
      }
      this.#onRetry?.(failure, delay);
      await sleep(delay, signal);
    }
  }

  /** A delay in ms, random below a bound that doubles with each attempt. */
  #backoff(attempt: number): number {
    const doublings = Math.min(attempt - 1, 31); // 2 ** 1024 is infinite, and 0 * Infinity is NaN
    const bound = this.#initialDelay * 2 ** doublings;
    return Math.random() * Math.min(bound, this.#maxDelay);
  }
}

/** Whether the same request may succeed later. */
export function isRetryable({ status, cause }: SendError): boolean {
  if (status === undefined) {
    return !isPermissionError(cause) && !isClosedClient(cause);
  }
  return RETRYABLE_STATUSES.has(status) ||
    (status >= 500 && status < 600 && !PERMANENT_STATUSES.has(status));
}
