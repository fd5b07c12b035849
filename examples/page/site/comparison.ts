/// <reference lib="dom" />
/** What both sides have at the end. */
import { element, show } from "./elements.ts";
import { countOf, formatCount } from "./format.ts";
import type { Ending, Recorder } from "./recorder.ts";
import type { StreamState } from "./remote.ts";

/** Shows that there is nothing to compare yet. */
export function clearComparison(): void {
  show("verdict", "In the end, the SHA-256 of both must be equal.");
  for (const id of ["page", "server"]) {
    show(`${id}-count`, "–");
    show(`${id}-hash`, "SHA-256");
  }
  show("sum", "");
  delete element("verdict").dataset.equal;
}

/** Compares what this page wrote with what the server has stored. */
export function compare(
  recorder: Recorder,
  { error, unsent }: Ending,
  server: StreamState | undefined,
): void {
  const { ledger, stats } = recorder;
  const verdict = element("verdict");
  if (server === undefined) {
    verdict.textContent = "The server does not say what it has stored.";
    return;
  }
  const { bytesAccepted, bytesDiverted } = stats;
  recorder.settle();
  // It may have stored a batch whose response was lost.
  ledger.settle(ledger.position + server.bytes - ledger.bytes);
  const hash = ledger.digest();
  const isEqual = hash === server.sha256 && ledger.bytes === server.bytes &&
    ledger.records === server.records;
  const left = bytesAccepted - bytesDiverted - ledger.bytes;
  show("page-count", countsOf(ledger));
  show("server-count", countsOf(server));
  show("page-hash", hash);
  show("server-hash", server.sha256);
  verdict.dataset.equal = `${isEqual}`;
  verdict.textContent = !isEqual
    ? "Not equal: this should not happen."
    : left > 0
    ? "Equal, as far as the server could be reached. Nothing is lost: takeUnsent() returned the rest."
    : bytesDiverted > 0
    ? "Equal: all but what was diverted arrived, once and in order."
    : "Equal: every byte arrived, once and in order.";
  show(
    "sum",
    `${formatCount(bytesAccepted)} bytes accepted = ${
      formatCount(server.bytes)
    } stored + ${formatCount(bytesDiverted)} diverted + ${
      formatCount(left)
    } unsent. ${countOf(recorder.attemptCount, "request")}, ${
      formatCount(recorder.failureCount)
    } failed; ${countOf(server.repeats, "repeat")} recognised by their keys.${
      unsent > left
        ? ` ${formatCount(unsent - left)} bytes were stored without a response.`
        : ""
    }${error ? ` ${error}.` : ""}`,
  );
}

function countsOf({ records, bytes }: { records: number; bytes: number }) {
  return `${countOf(records, "record")}, ${countOf(bytes, "byte")}`;
}
