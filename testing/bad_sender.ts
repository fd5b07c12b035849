/** A sender that follows a script and records its calls. */
import type { SendContext, Sender } from "../buffer.ts";

/** Handles one call of `send`. */
export type Step = (context: SendContext) => Promise<void> | void;

/** Acknowledges immediately. */
export const accept: Step = () => {};

/** Rejects with `reason`. */
export function refuse(reason: unknown): Step {
  return () => Promise.reject(reason);
}

/** Stays pending until it is aborted. */
export const stall: Step = ({ signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });

/** Stays pending forever, and ignores an abort. */
export const ignore: Step = () => new Promise(() => {});

/** A step that stays pending until the test resolves or rejects it. */
export function gate(): PromiseWithResolvers<void> & { step: Step } {
  const resolvers = Promise.withResolvers<void>();
  return { ...resolvers, step: () => resolvers.promise };
}

/** One call of `send`. */
export interface Attempt {
  readonly sequence: number;
  readonly offset: number;
  readonly text: string;
  /** The key that the context had, if any. */
  readonly key?: string;
}

/** Handles each call with the next step of its script, then `otherwise`. */
export class BadSender implements Sender {
  readonly #script: Step[];
  readonly #otherwise: Step;
  /** All calls, acknowledged or not. */
  readonly attempts: Attempt[] = [];
  /** Calls that were acknowledged. */
  readonly deliveries: Attempt[] = [];
  /** `send 0`, `ack 0`, `fail 0`, `close`, `abort`, in order. */
  readonly events: string[] = [];
  signal: AbortSignal | undefined;

  constructor(script: Step[] = [], otherwise: Step = accept) {
    this.#script = [...script];
    this.#otherwise = otherwise;
  }

  /** The acknowledged bytes, as text. */
  get text(): string {
    return this.deliveries.map(({ text }) => text).join("");
  }

  /** The text of every call. */
  get sends(): string[] {
    return this.attempts.map(({ text }) => text);
  }

  async send(bytes: Uint8Array, context: SendContext): Promise<void> {
    const { sequence, offset, key } = context;
    const text = new TextDecoder().decode(bytes);
    const attempt = {
      ...{ sequence, offset, text },
      ...(key === undefined ? {} : { key }),
    };
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
      throw new Error(`The bytes of send ${sequence} changed in flight`);
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
