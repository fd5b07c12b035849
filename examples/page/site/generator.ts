/** Writes records at a given rate, and slows down when the buffer makes it wait. */
import type { Recorder } from "./recorder.ts";

/** How often it writes, in ms. */
const TICK = 50;
/** A page that was hidden does not make up for more than this, in ms. */
const MAX_LAG = 250;

/** The records of one recorder's generator. */
export class Generator {
  readonly #recorder: Recorder;
  readonly #rate: () => number;
  #stopped = false;
  #count = 0;

  /** @param rate How many records a second, asked for all the time. */
  constructor(recorder: Recorder, rate: () => number) {
    this.#recorder = recorder;
    this.#rate = rate;
  }

  /** Writes until it is stopped. */
  async run(): Promise<void> {
    let due = 0;
    let last = performance.now();
    while (!this.#stopped) {
      await new Promise((resolve) => setTimeout(resolve, TICK));
      const now = performance.now();
      due += this.#rate() * Math.min(now - last, MAX_LAG) / 1_000;
      last = now;
      for (; due >= 1 && !this.#stopped; due--) {
        // This is where backpressure acts: nothing is written while it waits.
        await this.#write();
      }
      // Time spent waiting is not made up for.
      if (performance.now() - now > MAX_LAG) last = performance.now();
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  async #write(): Promise<void> {
    const record = {
      event: "generator",
      number: this.#count++,
      time: Math.round(performance.now()),
    };
    // Rejects when the queue is full, and counts as rejected.
    await this.#recorder.writeAwaited(record).catch(() => {});
  }
}

/** The slider has as many steps. */
export const MAX_POSITION = 100;
export const MAX_RATE = 100_000;

/** The rate at a position of the slider: 0, then 1 to 100,000, logarithmically. */
export function rateAt(position: number): number {
  if (position === 0) return 0;
  const exponent = (position - 1) / (MAX_POSITION - 1) * Math.log10(MAX_RATE);
  return Number((10 ** exponent).toPrecision(2));
}

/** The position of the slider for a rate. */
export function positionOf(rate: number): number {
  if (rate < 1) return 0;
  const part = Math.log10(rate) / Math.log10(MAX_RATE);
  return Math.round(1 + part * (MAX_POSITION - 1));
}
