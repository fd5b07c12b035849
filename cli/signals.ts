/**
 * What happens on SIGINT, SIGTERM and SIGHUP (on Windows SIGINT and SIGBREAK).
 *
 * The first one ends the input: what was read is still sent, for a while. The
 * second one, or the end of that while, gives up: what was read and not
 * acknowledged is saved, if there is an `--unsent`.
 */
import { log } from "./log.ts";

/**
 * How long after a first interrupt what was read may take to be sent, in ms. Half
 * of what orchestrators usually allow between SIGTERM and SIGKILL, so that there
 * is time to save the rest.
 */
export const SEND_GRACE = 5_000;
/**
 * How long after an interrupt bytes still count as read, in ms. They may be in a
 * pipe by then, written by a program that got the same SIGINT from the terminal.
 */
export const READ_GRACE = 100;

const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP"];

/** What an interrupt makes of a run. */
export interface InterruptHandlers {
  /** The input is to end here. Called once. */
  stopReading(): void;
  /** The run is to end now. May be called more than once. */
  giveUp(): void;
}

/** Handles the signals until it is disposed. */
export class Interrupts implements Disposable {
  readonly #handlers: InterruptHandlers;
  readonly #timers: ReturnType<typeof setTimeout>[] = [];
  #received = false;

  constructor(handlers: InterruptHandlers) {
    this.#handlers = handlers;
    for (const signal of SIGNALS) {
      Deno.addSignalListener(signal, this.#interrupt);
    }
  }

  /** Whether there has been one. */
  get received(): boolean {
    return this.#received;
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const signal of SIGNALS) {
      Deno.removeSignalListener(signal, this.#interrupt);
    }
  }

  readonly #interrupt = (): void => {
    const { stopReading, giveUp } = this.#handlers;
    if (this.#received) return giveUp();
    this.#received = true;
    this.#timers.push(
      setTimeout(giveUp, SEND_GRACE),
      setTimeout(stopReading, READ_GRACE),
    );
    log("interrupted: sending what was read (interrupt again to stop at once)");
  };
}
