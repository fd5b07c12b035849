/** A sender that keeps what it is given, for checks that need no server. */
import type { SendContext, Sender } from "@stream-buffer/stream-buffer";

/** What a send does, once its bytes have been kept. */
export type Outcome = (
  context: SendContext,
  number: number,
) => Promise<void> | void;

/** Keeps a copy of each send, and notes each call. */
export class Memory implements Sender {
  /** Copies of the bytes of each send. */
  readonly sends: Uint8Array<ArrayBuffer>[] = [];
  readonly contexts: SendContext[] = [];
  /** "send", "close" and "abort", in their order. */
  readonly events: string[] = [];
  readonly #outcome: Outcome;
  readonly ordered?: boolean;

  /** @param outcome By default every send succeeds. */
  constructor(outcome: Outcome = () => {}, ordered = false) {
    this.#outcome = outcome;
    this.ordered = ordered;
  }

  send(
    bytes: Uint8Array<ArrayBuffer>,
    context: SendContext,
  ): Promise<void> | void {
    this.events.push("send");
    this.contexts.push(context);
    return this.#outcome(context, this.sends.push(bytes.slice()));
  }

  close(): void {
    this.events.push("close");
  }

  abort(): void {
    this.events.push("abort");
  }

  /** The sends as text. */
  get texts(): string[] {
    return this.sends.map((bytes) => new TextDecoder().decode(bytes));
  }

  /** All bytes, one send after the other. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return concat(this.sends);
  }
}

/** Arrays one after the other. */
export function concat(
  parts: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const size = parts.reduce((sum, { length }) => sum + length, 0);
  const bytes = new Uint8Array(size);
  let end = 0;
  for (const part of parts) {
    bytes.set(part, end);
    end += part.length;
  }
  return bytes;
}

/** Something that a send waits for. */
export class Gate {
  readonly #opened = Promise.withResolvers<void>();

  readonly opened: Promise<void> = this.#opened.promise;

  open(): void {
    this.#opened.resolve();
  }
}

/** Whether a promise has settled by now. */
export async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const settle = () => void (settled = true);
  promise.then(settle, settle);
  await turn();
  return settled;
}

/** Lets the event loop turn. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
