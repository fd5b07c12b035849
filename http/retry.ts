/**
 * Attempts until one succeeds: which failures are retried, after what delay, and
 * for how long. Every wait between two attempts is here.
 *
 * Three things decide when the next request is made. The backoff grows with each
 * attempt, from one send to the next, and ends at once when the buffer begins to
 * close, or has to send now. What a server has asked for in `Retry-After` is never cut short, by any
 * send. And both must end within the time that is left, or the send fails without
 * waiting.
 *
 * Sends may overlap. Then failures of attempts that overlap are one failure, as far
 * as the backoff is concerned, and a success shows something only if its attempt
 * began after the failure.
 */
import { check, checkDuration, MAX_DURATION } from "../internal/checks.ts";
import { notify } from "../internal/promises.ts";
import { sleep } from "../internal/timers.ts";
import { reword, SendError } from "./errors.ts";
import type { AttemptOptions, BatchContext } from "./options.ts";
import type { Attempt } from "./requests.ts";

/**
 * The longest delay while the buffer is closing, in ms. The server may come back
 * at any moment, and there are not many left.
 */
const MAX_CLOSING_DELAY = 1_000;
/** With less time than this before `closeTimeout`, in ms, no further attempt is made. */
const MIN_CLOSING_TIME = 50;

/** What limits the waits of one send. */
interface Limits {
  readonly context: BatchContext;
  /** When the time for all attempts is over, by `performance.now()`. */
  readonly deadline: number;
  /** Makes that time begin anew. */
  readonly renew: () => void;
}

/** The latest failure with a `Retry-After`. */
interface Pause {
  readonly failure: SendError;
  /** When that has passed, by `performance.now()`. */
  readonly end: number;
}

/** Makes the attempts of one sender, and remembers why the latest one failed. */
export class RetryLoop {
  readonly #initialDelay: number;
  readonly #maxDelay: number;
  readonly #maxElapsed: number;
  readonly #shouldRetry: ((failure: SendError) => boolean) | undefined;
  readonly #onRetry: AttemptOptions["onRetry"];
  /** A header function may have a fresh token after a 401 or 403. */
  readonly #canRefresh: boolean;
  /** The wait that a server has asked for, if it has. */
  #pause: Pause | undefined;
  /**
   * The failures after which there was no time for another attempt at a batch before
   * its buffer had to be closed.
   */
  readonly #final = new WeakMap<BatchContext, SendError>();
  /** How many attempts have begun. */
  #attempts = 0;
  /** How many there were when the latest failure was counted; 0 if `#failures` is. */
  #failedAttempt = 0;
  /** How often a backoff was needed since a batch, or a part of one, was delivered. */
  #failures = 0;
  /** Why the latest attempt failed, of each send under way whose latest one did. */
  readonly #failing = new Map<Limits, SendError>();
  /** Why the latest send failed, if none has succeeded since. */
  #sendFailure: SendError | undefined;
  /** Ends the backoffs under way. Those that begin later have another one. */
  #wake = new AbortController();

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
    checkDuration(action, { initialDelay, maxDelay }, 0);
    check(
      action,
      { maxElapsed },
      `an integer from 0 to ${MAX_DURATION}, or Infinity`,
      "number",
      (value) =>
        value === Infinity ||
        Number.isInteger(value) && value >= 0 && value <= MAX_DURATION,
    );
    check(action, { shouldRetry, onRetry }, "a function", "function");
    this.#initialDelay = initialDelay;
    this.#maxDelay = maxDelay;
    this.#maxElapsed = maxElapsed;
    this.#shouldRetry = shouldRetry;
    this.#onRetry = onRetry;
    this.#canRefresh = typeof headers === "function";
  }

  /** Why the latest attempt failed, if it did. */
  get lastFailure(): SendError | undefined {
    return [...this.#failing.values()].at(-1) ?? this.#sendFailure;
  }

  /** Ends every backoff under way. A `Retry-After` is not cut short. */
  retryNow(): void {
    const wake = this.#wake;
    this.#wake = new AbortController();
    wake.abort();
  }

  /**
   * Makes attempts until one does not return a failure, or another would be
   * pointless. What an attempt throws ends the loop at once.
   *
   * @throws {SendError} The failure of the last attempt.
   * @throws The reason of `signal`, if that is aborted first.
   */
  async run(
    context: BatchContext,
    attempt: (attempt: Attempt) => Promise<unknown>,
  ): Promise<void> {
    let start = performance.now();
    const maxElapsed = this.#maxElapsed;
    const limits = {
      context,
      get deadline() {
        return start + maxElapsed;
      },
      renew: () => void (start = performance.now()),
    };
    try {
      await this.#makeAttempts(limits, attempt);
      this.#sendFailure = undefined;
    } finally {
      const failure = this.#failing.get(limits);
      this.#failing.delete(limits);
      this.#sendFailure = failure ?? this.#sendFailure;
    }
  }

  async #makeAttempts(
    limits: Limits,
    attempt: (attempt: Attempt) => Promise<unknown>,
  ): Promise<void> {
    const { context } = limits;
    const { sequence, offset, signal } = context;
    const maxElapsed = this.#maxElapsed;
    const common = {
      ...{ sequence, offset, signal, secrets: new Set<string>() },
      onProgress: () => {
        limits.renew();
        this.#failures = this.#failedAttempt = 0;
      },
    };
    // close() sends a batch once more, and the failure before says more than one
    // attempt that has no time to succeed. It says nothing of another batch.
    const final = this.#final.get(context);
    if (final !== undefined) throw final;
    // Not awaited without need: a page that is left may have no time for a microtask.
    if (this.#pause !== undefined) await this.#obeyServer(this.#pause, limits);
    limits.renew(); // the attempts begin now
    let failure: SendError | undefined;
    let refreshed = false;
    for (let number = 1;; number++) {
      signal.throwIfAborted();
      const previous: SendError | undefined = failure;
      const begun = ++this.#attempts;
      const outcome = await attempt({
        ...common,
        ...{ attempt: number, failure },
        get deadline() {
          return maxElapsed === 0 ? Infinity : limits.deadline;
        },
      });
      failure = outcome instanceof SendError ? outcome : undefined;
      if (!signal.aborted) this.#remember(limits, failure);
      if (failure === undefined) {
        if (begun > this.#failedAttempt) {
          this.#failures = this.#failedAttempt = 0;
        }
        return;
      }
      signal.throwIfAborted();
      if (failure.retryAfter !== undefined) {
        const end = performance.now() + failure.retryAfter;
        if (end > (this.#pause?.end ?? 0)) this.#pause = { failure, end };
      }
      const refresh: boolean = this.#canRefresh && !refreshed &&
        (failure.status === 401 || failure.status === 403);
      refreshed ||= refresh;
      const retry = this.#shouldRetry?.(failure) ??
        (refresh || failure.retryable);
      if (!retry) throw failure;
      if (
        failure.status === undefined && previous !== undefined &&
        performance.now() >= limits.deadline
      ) throw cutShort(previous, number, maxElapsed);
      const backoff = refresh ? 0 : this.#backoff(begun);
      await this.#wait(backoff, failure, limits);
      // Only a `Retry-After` while the buffer is closing may take longer.
      if (context.closing?.aborted && performance.now() >= limits.deadline) {
        limits.renew();
      }
    }
  }

  /** Remembers how the latest attempt of a send has ended. */
  #remember(limits: Limits, failure: SendError | undefined): void {
    this.#failing.delete(limits); // so that it becomes the last one
    if (failure !== undefined) this.#failing.set(limits, failure);
  }

  /** Waits until the `Retry-After` of an earlier send has passed. */
  async #obeyServer({ failure, end }: Pause, limits: Limits): Promise<void> {
    const left = end - performance.now();
    if (left > 0) await this.#wait(0, remind(failure, left), limits, false);
  }

  /**
   * Waits before the next attempt. A close that begins meanwhile ends the backoff,
   * as `retryNow()` does. From a close on only `closeTimeout` limits a `Retry-After`.
   *
   * @param failure What to throw if there is not enough time.
   * @param isRetry Whether the wait follows an attempt of this send, and is to be
   *   reported.
   */
  async #wait(
    backoff: number,
    failure: SendError,
    { context, deadline }: Limits,
    isRetry = true,
  ): Promise<void> {
    const { signal, closing } = context;
    for (;;) {
      const now = performance.now();
      const obeyed = this.#pause;
      const pause = Math.max((obeyed?.end ?? now) - now, 0);
      const limit = closing?.aborted && pause > 0 ? Infinity : deadline;
      const left = Math.min(limit, context.deadline ?? Infinity) - now;
      if (closing?.aborted) {
        // Of what is left, half at most: so the attempts come closer and closer
        // to the deadline, and the last one still has time to succeed.
        backoff = Math.min(backoff, MAX_CLOSING_DELAY, left / 2);
        if (left < MIN_CLOSING_TIME) {
          this.#final.set(context, failure);
          throw failure;
        }
      }
      const delay = Math.max(backoff, pause);
      if (delay >= left) throw failure;
      // Before anyone is told, who may close the buffer.
      const wakes = closing === undefined || closing.aborted
        ? [this.#wake.signal]
        : [this.#wake.signal, closing];
      if (isRetry && this.#onRetry) notify(this.#onRetry, failure, delay);
      if (!isRetry && delay === 0) return; // it was a backoff that has been ended
      await sleep(delay, signal, ...wakes);
      backoff = 0;
      isRetry = false;
      if (wakes.some(({ aborted }) => aborted)) continue;
      // Another send may have been asked to wait for longer meanwhile.
      if (this.#pause === obeyed) {
        this.#pause = undefined;
        return;
      }
    }
  }

  /**
   * A delay in ms, random below a bound that doubles with each failure.
   *
   * @param begun Which of all attempts it was that failed.
   */
  #backoff(begun: number): number {
    if (begun > this.#failedAttempt) {
      this.#failedAttempt = this.#attempts;
      this.#failures++;
    }
    const doublings = Math.min(this.#failures - 1, 31); // 2 ** 1024 is infinite, and 0 * Infinity is NaN
    const bound = this.#initialDelay * 2 ** doublings;
    return Math.random() * Math.min(bound, this.#maxDelay);
  }
}

/**
 * The error of a send whose time was over during an attempt. That attempt has
 * shown nothing, so the failure before it is the one to report.
 */
function cutShort(
  failure: SendError,
  attempts: number,
  maxElapsed: number,
): SendError {
  return reword(
    failure,
    `${failure.message}; attempt ${attempts} was cut short by maxElapsed of ${maxElapsed} ms`,
    { attempts, retryAfter: undefined }, // it has passed
  );
}

/**
 * A failure whose `Retry-After` still has `left` ms to go. It may be that of another
 * batch: only that one was refused, and has that key.
 */
function remind(failure: SendError, left: number): SendError {
  const until = new Date(Date.now() + left);
  // A year that `Date` does not have is not shown.
  const date = Number.isNaN(until.getTime()) ? "" : ` until ${until.toJSON()}`;
  return reword(
    failure,
    `${failure.message}; no request is made${date} (${
      Math.ceil(left / 1_000)
    } s left)`,
    { retryAfter: left, refused: false, key: undefined },
  );
}
