/**
 * The error of a delivery that failed. It imports nothing, so that every file
 * here can use it. Most of its messages are written in `requests.ts`, which knows
 * what was attempted, and `advice.ts`, which knows what helps.
 */

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
