/** Why a request is refused. */

/** Options of a {@linkcode Refusal}. */
interface RefusalOptions extends ErrorOptions {
  readonly headers?: Record<string, string>;
}

/** Thrown where a request cannot be accepted: it becomes the response. */
export class Refusal extends Error {
  readonly status: number;
  readonly #headers: Record<string, string> | undefined;

  /** @param message For the client: it reveals nothing about the receiver. */
  constructor(status: number, message: string, options: RefusalOptions = {}) {
    const { headers, ...rest } = options;
    super(message, rest);
    this.status = status;
    this.#headers = headers;
  }

  /** The client should retry in a second. */
  static busy(message: string): Refusal {
    return new Refusal(503, message, { headers: { "Retry-After": "1" } });
  }

  /** The response that says so. */
  toResponse(): Response {
    return new Response(`${this.message}\n`, {
      status: this.status,
      headers: {
        "Content-Type": "text/plain; charset=utf-8",
        ...this.#headers,
      },
    });
  }
}
