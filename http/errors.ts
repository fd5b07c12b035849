/**
 * The error of a delivery that failed, and which failures are worth another
 * attempt. Most of its messages are written in `requests.ts`, which knows what was
 * attempted, and `advice.ts`, which knows what helps.
 */
import {
  isClosedClient,
  isClosedTransport,
  isPermissionError,
  isVersionRefused,
} from "./platform_errors.ts";

/**
 * Statuses below 500 after which the same request may succeed later: Request
 * Timeout, Too Early and Too Many Requests, and the temporary redirects, by which
 * a server, or the network before it, answers for the time being.
 */
const RETRYABLE_STATUSES = new Set([302, 303, 307, 408, 425, 429]);
/**
 * Statuses from 500 on after which it may not: Not Implemented and HTTP Version
 * Not Supported.
 */
const PERMANENT_STATUSES = new Set([501, 505]);
/**
 * Statuses that are about the content of this request, so that another one may
 * well be accepted: Bad Request, Content Too Large and Unprocessable Content.
 */
const REFUSED_STATUSES = new Set([400, 413, 422]);

/** Options of a {@linkcode SendError}. */
export interface SendErrorOptions extends ErrorOptions {
  /** The number of attempts made. */
  attempts: number;
  /** The HTTP status; `undefined` without a response. */
  status?: number | undefined;
  /** The delay that `Retry-After` asked for, in milliseconds from then on. */
  retryAfter?: number | undefined;
  /**
   * The beginning of the response's body.
   *
   * @default {""}
   */
  excerpt?: string;
  /**
   * Whether the same request may succeed later.
   *
   * @default {as `RetryOptions.shouldRetry` describes it}
   */
  retryable?: boolean | undefined;
  /**
   * Whether the content of the batch is at fault.
   *
   * @default {whether `status` is 400, 413 or 422}
   */
  refused?: boolean | undefined;
  /** The `Idempotency-Key` of the batch; `undefined` if it had none. */
  key?: string | undefined;
}

/**
 * An attempt to deliver a batch failed.
 *
 * **It shows no secrets**: neither the query of the URL nor the values of
 * headers. If a server repeats them, any secret word of six or more characters is
 * replaced by `***`, and so is any run of eight characters from a longer one.
 */
export class SendError extends Error {
  /** The name of the error. */
  override readonly name = "SendError";
  /** The number of attempts made to deliver this batch. */
  readonly attempts: number;
  /** The HTTP status; `undefined` if there was no response. */
  readonly status: number | undefined;
  /**
   * The delay that `Retry-After` asked for, in milliseconds from when the
   * response arrived; `undefined` if it asked for none.
   */
  readonly retryAfter: number | undefined;
  /** The beginning of the response's body, at most 200 characters. */
  readonly excerpt: string;
  /**
   * Whether the same request may succeed later: after a network error, a timeout,
   * or a status that says so. `RetryOptions.shouldRetry` has the list.
   */
  readonly retryable: boolean;
  /**
   * Whether the server refuses the content of the batch (400, 413 and 422), so
   * that another batch may be accepted. `deadLetter` of a `StreamBuffer` is
   * offered such a batch. It is never so for a part of a larger object.
   */
  readonly refused: boolean;
  /** The `Idempotency-Key` of the batch; `undefined` if it had none. */
  readonly key: string | undefined;

  /**
   * Constructs a new instance.
   *
   * @param message What failed, and what to do about it.
   * @param options The details.
   */
  constructor(message: string, options: SendErrorOptions) {
    const {
      attempts,
      status,
      retryAfter,
      excerpt = "",
      retryable = isRetryable(status, options.cause),
      refused = REFUSED_STATUSES.has(status!),
      key,
      ...rest
    } = options;
    super(message, rest);
    this.attempts = attempts;
    this.status = status;
    this.retryAfter = retryAfter;
    this.excerpt = excerpt;
    this.retryable = retryable;
    this.refused = refused;
    this.key = key;
  }
}

/** The same failure, with more to say. */
export function reword(
  error: SendError,
  message: string,
  changes: Partial<SendErrorOptions> = {},
): SendError {
  const { attempts, status, retryAfter, excerpt } = error;
  const { retryable, refused, key, cause } = error;
  return new SendError(message, {
    ...{ attempts, status, retryAfter, excerpt },
    ...{ retryable, refused, key, cause },
    ...changes,
  });
}

function isRetryable(status: number | undefined, cause: unknown): boolean {
  if (status === undefined) {
    return !isPermissionError(cause) && !isClosedClient(cause) &&
      !isClosedTransport(cause) &&
      !isVersionRefused(cause);
  }
  return RETRYABLE_STATUSES.has(status) ||
    (status >= 500 && status < 600 && !PERMANENT_STATUSES.has(status));
}
