/** A sender that does what a test tells it to, and remembers what it was given. */
import type { SendContext, Sender } from "../buffer.ts";

/** What becomes of one call of `send`. */
export type Step = (context: SendContext) => Promise<void> | void;

/** Acknowledges at once. */
export const accept: Step = () => {};

/** Rejects with `reason`. */
export function refuse(reason: unknown): Step {
  return () => Promise.reject(reason);
}

/** Neither acknowledges nor fails, until it is aborted. */
export const stall: Step = ({ signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });

/** Neither acknowledges nor fails, ever, and takes no notice of an abort. */
export const ignore: Step = () => new Promise(() => {});

/** A step that a test ends by hand. */
export function gate(): PromiseWithResolvers<void> & { step: Step } {
  const resolvers = Promise.withResolvers<void>();
  return { ...resolvers, step: () => resolvers.promise };
}

/** One call of `send`. */
export interface Attempt {
  readonly sequence: number;
  readonly offset: number;
  readonly text: string;
}

/** Takes one step of its script a call, and then `otherwise`. */
export class BadSender implements Sender {
  readonly #script: Step[];
  readonly #otherwise: Step;
  /** Every call, whatever became of it. */
  readonly attempts: Attempt[] = [];
  /** The calls that were acknowledged. */
  readonly deliveries: Attempt[] = [];
  /** `send 0`, `ack 0`, `fail 0`, `close`, `abort`, in order. */
  readonly events: string[] = [];
  signal: AbortSignal | undefined;

  constructor(script: Step[] = [], otherwise: Step = accept) {
    this.#script = [...script];
    this.#otherwise = otherwise;
  }

  /** What was acknowledged, as text. */
  get text(): string {
    return this.deliveries.map(({ text }) => text).join("");
  }

  /** The text of every call. */
  get sends(): string[] {
    return this.attempts.map(({ text }) => text);
  }

  async send(bytes: Uint8Array, context: SendContext): Promise<void> {
    const { sequence, offset } = context;
    const text = new TextDecoder().decode(bytes);
    const attempt = { sequence, offset, text };
    this.signal = context.signal;
    this.attempts.push(attempt);
    this.events.push(`send ${sequence}`);
    try {
      await (this.#script.shift() ?? this.#otherwise)(context);
    } catch (error) {
      this.events.push(`fail ${sequence}`);
      throw error;
    }
    if (new TextDecoder().decode(bytes) !== text) {
      throw new Error(`The bytes of send ${sequence} changed on the way`);
    }
    this.events.push(`ack ${sequence}`);
    this.deliveries.push(attempt);
  }

  close(): void {
    this.events.push("close");
  }

  abort(_reason: unknown): void {
    this.events.push("abort");
  }
}
