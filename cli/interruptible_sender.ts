/** A sender that learns of an interrupt. */
import type { SendContext, Sender } from "../mod.ts";

/**
 * Passes everything on to another sender, and makes an interrupt look to it as if
 * `close` of the buffer had begun: from then on it sleeps through no chance to
 * deliver, however long it would have waited before the next attempt. The buffer
 * itself must not be closed yet, as the rest of the input is still to be written.
 */
export class InterruptibleSender implements Sender {
  readonly #sender: Sender;
  readonly #interrupt = new AbortController();
  #deadline = Infinity;
  #closing: AbortSignal | undefined;

  constructor(sender: Sender) {
    this.#sender = sender;
  }

  /**
   * Tells the sender.
   *
   * @param deadline Until when it may make attempts, by `performance.now()`.
   */
  interrupt(deadline: number): void {
    this.#deadline = deadline;
    this.#interrupt.abort();
  }

  send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> | void {
    // One for all sends: it lives as long as the signals that it depends on.
    this.#closing ??= AbortSignal.any([
      context.closing,
      this.#interrupt.signal,
    ]);
    const closing = this.#closing;
    const deadline = () => Math.min(context.deadline, this.#deadline);
    return this.#sender.send(bytes, {
      ...context,
      closing,
      get deadline() {
        return deadline();
      },
    });
  }

  close(): Promise<void> | void {
    return this.#sender.close?.();
  }

  abort(reason: unknown): Promise<void> | void {
    return this.#sender.abort?.(reason);
  }

  get lastFailure(): unknown {
    return this.#sender.lastFailure;
  }

  get ordered(): boolean {
    return this.#sender.ordered === true;
  }

  get ended(): boolean {
    return this.#sender.ended === true;
  }
}
