/** How an attempt to deliver a flush fails. */

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
