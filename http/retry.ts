/** Attempts until one succeeds, and which failures a further one helps against. */
import type { SendContext } from "../buffer.ts";
import { check, checkDuration } from "../internal/checks.ts";
import { sleep } from "../internal/promises.ts";
import { isClosedClient } from "./advice.ts";
import { SendError } from "./errors.ts";
import type { RequestOptions } from "./options.ts";
import { isPermissionError } from "./permissions.ts";
import type { Attempt } from "./requests.ts";

/** Attempts until one succeeds. */
export class RetryLoop {
  readonly #initialDelay: number;
  readonly #maxDelay: number;
  readonly #maxElapsed: number;
  readonly #shouldRetry: ((failure: SendError) => boolean) | undefined;
  readonly #onRetry: RequestOptions["onRetry"];
  readonly #refreshes: boolean;
  /** Why the newest attempt failed, if it did. */
  lastFailure: SendError | undefined;

  constructor(action: string, options: RequestOptions) {
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
    this.#refreshes = typeof headers === "function";
  }

  /**
   * Makes attempts until one does not return a failure, or there is no point in
   * another. What an attempt throws ends it at once.
   *
   * @param alsoRetryable Statuses that a retry may help against, besides the usual.
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
      const refresh: boolean = !refreshed &&
        this.#refreshes &&
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

  /** A delay in ms, random below a bound that doubles at each attempt. */
  #backoff(attempt: number): number {
    const doublings = Math.min(attempt - 1, 31); // 2 ** 1024 is infinite
    const bound = this.#initialDelay * 2 ** doublings;
    return Math.random() * Math.min(bound, this.#maxDelay);
  }
}

/** Whether the same request may succeed later. */
export function isRetryable({ status, cause }: SendError): boolean {
  if (status === undefined) {
    return !isPermissionError(cause) && !isClosedClient(cause);
  }
  return status === 408 || status === 425 || status === 429 ||
    (status >= 500 && status < 600 && status !== 501 && status !== 505);
}
