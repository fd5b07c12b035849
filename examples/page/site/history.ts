/** What the charts show: samples, events of the server and times of faults. */
import type { Recorder } from "./recorder.ts";
import type { Fate, Fault, StreamState } from "./remote.ts";

/** How much time the charts show, in ms. */
export const WINDOW = 30_000;
/** How often a sample is taken, in ms. */
export const SAMPLE_INTERVAL = 200;
/** The rates are those of this many samples: one second. */
const RATE_SAMPLES = 5;
const MAX_SAMPLES = WINDOW / SAMPLE_INTERVAL + 2 * RATE_SAMPLES;
const MAX_EVENTS = 5_000;

/** What is measured at one moment. Bytes, and bytes per second. */
export interface Sample {
  readonly time: number;
  readonly accepted: number;
  readonly delivered: number;
  readonly acceptedRate: number;
  readonly deliveredRate: number;
  readonly flight: number;
  /** In flight and waiting. */
  readonly held: number;
  readonly queued: number;
  /** How long the generator has waited, in ms. */
  readonly waited: number;
  /** The part of the time that it waits: 0 to 1. */
  readonly waits: number;
}

/** What became of a batch at the server. */
export interface ServerEvent {
  readonly time: number;
  readonly sequence: number;
  readonly fate: Fate;
}

/** A time in which the server was broken. */
export interface FaultSpan {
  readonly fault: Fault;
  readonly start: number;
  end?: number;
}

/** All times are by `performance.now()`. */
export class History {
  readonly samples: Sample[] = [];
  readonly events: ServerEvent[] = [];
  readonly faults: FaultSpan[] = [];
  sampleCount = 0;
  #end: number | undefined;

  /** Where the charts end: now, or where the stream ended. */
  get now(): number {
    return this.#end ?? performance.now();
  }

  /** The stream has ended: the charts stand still. */
  end(): void {
    this.#end = performance.now();
  }

  /** Takes a sample. */
  sample(recorder: Recorder): Sample {
    const { stats, bytesInFlight } = recorder;
    const time = performance.now();
    const accepted = stats.bytesAccepted;
    const delivered = stats.bytesDelivered;
    const held = accepted - delivered - stats.bytesDiverted - stats.bytesAhead;
    const before = this.samples.at(-RATE_SAMPLES) ?? this.samples[0];
    const { waited } = recorder;
    const seconds = before ? (time - before.time) / 1_000 : 1;
    const sample = {
      ...{ time, accepted, delivered, held },
      acceptedRate: (accepted - (before?.accepted ?? 0)) / seconds,
      deliveredRate: (delivered - (before?.delivered ?? 0)) / seconds,
      flight: Math.min(held, bytesInFlight),
      queued: stats.bytesQueued,
      waited,
      waits: (waited - (before?.waited ?? 0)) / seconds / 1_000,
    };
    this.sampleCount++;
    this.samples.push(sample);
    if (this.samples.length > MAX_SAMPLES) this.samples.shift();
    return sample;
  }

  /** Adds what the server reports. */
  add({ fault, latest }: StreamState): void {
    const now = performance.now();
    for (const { age, ...event } of latest) {
      this.events.push({ ...event, time: now - age });
    }
    this.events.splice(0, this.events.length - MAX_EVENTS);
    const last = this.faults.at(-1);
    const current = last?.end === undefined ? last : undefined;
    if (current?.fault === (fault ?? undefined)) return;
    if (current) current.end = now;
    if (fault) this.faults.push({ fault, start: now });
  }
}
