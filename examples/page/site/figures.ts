/// <reference lib="dom" />
/** The figures of a stream. */
import { element, show } from "./elements.ts";
import {
  countOf,
  formatBytes,
  formatCount,
  formatSeconds,
  formatSize,
} from "./format.ts";
import type { Sample } from "./history.ts";
import {
  CAPACITY,
  MAX_QUEUED_BYTES,
  MEMORY_LIMIT,
  type Recorder,
} from "./recorder.ts";

/** A generator that waits for less than this part of the time is not slowed down. */
const MIN_WAITS = 0.05;

/** Shows the figures of a stream, as a sample has them. */
export function showFigures(recorder: Recorder, sample: Sample): void {
  const { records, rejectedRecords, attemptCount, failureCount } = recorder;
  const { divertedBatches } = recorder;
  const { bytesDiverted } = recorder.stats;
  show("accepted", formatBytes(sample.accepted));
  show("held", formatBytes(sample.held));
  show("flight", formatBytes(sample.flight));
  show("delivered", formatBytes(sample.delivered));
  show("diverted", formatBytes(bytesDiverted));
  const rejected = rejectedRecords > 0
    ? `, ${formatCount(rejectedRecords)} rejected`
    : " written";
  show("records", countOf(records, "record") + rejected);
  const failed = failureCount > 0
    ? `, ${formatCount(failureCount)} failed`
    : "";
  show("requests", countOf(attemptCount, "request") + failed);
  show(
    "diverted-note",
    divertedBatches > 0
      ? `${countOf(divertedBatches, "batch", "batches")}, by deadLetter`
      : "refused, taken by deadLetter",
  );

  show("accepted-rate", formatBytes(sample.acceptedRate));
  show("delivered-rate", formatBytes(sample.deliveredRate));
  show("flight-now", formatBytes(sample.flight));
  show("held-now", formatBytes(sample.held - sample.flight));
  show("queued-now", formatBytes(sample.queued));
  show("limit", formatSize(MEMORY_LIMIT));
  showBounds(recorder, sample);
  showBackpressure(recorder, sample);
}

/** What each part of the memory holds, of what it may hold. */
function showBounds({ batches }: Recorder, { held, queued }: Sample): void {
  let batch = 0;
  for (const bytes of batches.values()) batch += bytes;
  const parts = {
    // There may be two when the page was hidden.
    batch: [batch, CAPACITY * Math.max(batches.size, 1)],
    store: [Math.max(held - batch, 0), CAPACITY],
    queue: [queued, MAX_QUEUED_BYTES],
  } as const;
  for (const [name, [bytes, limit]] of Object.entries(parts)) {
    const bar = element(`${name}-bar`);
    bar.style.flexGrow = `${limit}`;
    bar.style.setProperty("--part", `${Math.min(bytes / limit, 1)}`);
    show(
      `${name}-bytes`,
      `${(bytes / 1_024).toFixed(1)} of ${formatSize(limit)}`,
    );
  }
}

/** Whether the generator is slowed down by the buffer, and how much. */
function showBackpressure(
  { waitingSince }: Recorder,
  { waits }: Sample,
): void {
  const wait = performance.now() - (waitingSince ?? Infinity);
  element("writer").dataset.waits = `${waits >= MIN_WAITS}`;
  show(
    "writer",
    waits < MIN_WAITS
      ? "No backpressure: writes do not wait."
      : wait < 1_000
      ? `Backpressure: the generator waits ${
        Math.round(waits * 100)
      } % of the time.`
      : `Backpressure: the generator has waited for ${formatSeconds(wait)}.`,
  );
}
