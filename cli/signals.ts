/**
 * What happens on SIGINT, SIGTERM and SIGHUP (on Windows: SIGINT and SIGBREAK).
 *
 * The first signal ends the input: what has been read is still sent, for up to
 * {@linkcode SEND_GRACE}, and no retry sleeps through that. A second signal, or
 * the end of that time, gives up: the run fails, and main.ts saves what was not
 * acknowledged.
 */
import process from "node:process";
import { log } from "./log.ts";

/**
 * How long sending may continue after a first interrupt, in ms. Docker allows 10 s
 * between SIGTERM and SIGKILL by default; the rest is for saving.
 */
export const SEND_GRACE = 5_000;
/**
 * How long reading may continue after a first interrupt, in ms. Bytes may be on
 * their way from the kernel, such as the last ones of a program that writes into
 * the same pipeline and received the same SIGINT from the terminal.
 */
export const READ_GRACE = 100;

const SIGNALS = process.platform === "win32"
  ? ["SIGINT", "SIGBREAK"] as const
  : ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** What an interrupt does to a run. */
export interface InterruptHandlers {
  /**
   * Sends what there is without waiting any longer than it must. Called once.
   *
   * @param deadline When to give up, by `performance.now()`.
   */
  hurry(deadline: number): void;
  /** Ends the input. Called once. */
  stopReading(): void;
  /** Ends the run at once. May be called more than once. */
  giveUp(): void;
}

/** Handles the signals until it is disposed. */
export class Interrupts implements Disposable {
  readonly #handlers: InterruptHandlers;
  readonly #consequence: string;
  readonly #timers: ReturnType<typeof setTimeout>[] = [];
  #received = false;

  /**
   * @param handlers Called at signals.
   * @param consequence What happens after the first one, for the message.
   */
  constructor(
    handlers: InterruptHandlers,
    consequence = "sending what was read",
  ) {
    this.#handlers = handlers;
    this.#consequence = consequence;
    for (const signal of SIGNALS) {
      process.on(signal, this.#interrupt);
    }
  }

  /** Whether there has been a signal. */
  get received(): boolean {
    return this.#received;
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const signal of SIGNALS) {
      process.off(signal, this.#interrupt);
    }
  }

  readonly #interrupt = (): void => {
    const { hurry, stopReading, giveUp } = this.#handlers;
    if (this.#received) return giveUp();
    this.#received = true;
    hurry(performance.now() + SEND_GRACE);
    this.#timers.push(
      setTimeout(giveUp, SEND_GRACE),
      setTimeout(stopReading, READ_GRACE),
    );
    log(
      `interrupted: ${this.#consequence} (interrupt again to stop at once)`,
    );
  };
}
