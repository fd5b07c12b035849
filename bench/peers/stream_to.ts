/**
 * StreamBuffer with the settings that `docs/loggers.md` advises: records wait for
 * the server however long it is away, and of a batch that is refused only the
 * record at fault is set aside.
 */
import { isolate } from "../../examples/isolate.ts";
import { FetchSender, StreamBuffer } from "../../mod.ts";
import { type Connect, recordOf } from "./peer.ts";

export const connect: Connect = (url, losses) => {
  const recordLines = (bytes: Uint8Array) => {
    const lines = new TextDecoder().decode(bytes).trimEnd();
    if (lines === "") return;
    for (const line of lines.split("\n")) losses.record(JSON.parse(line).n);
  };
  const sender = new FetchSender(url, {
    headers: { "Content-Type": "application/x-ndjson" },
    retry: { maxElapsed: Infinity },
  });
  const out = new StreamBuffer(sender, {
    maxQueuedBytes: 64 * 1024 * 1024,
    oversize: "whole",
    closeTimeout: 15_000,
    deadLetter: isolate(
      sender,
      (record) => Promise.resolve(recordLines(record)),
    ),
  });
  return {
    send(n) {
      out.write(`${JSON.stringify(recordOf(n))}\n`)
        .catch(() => losses.record(n));
    },
    close: () => out.close().catch(() => recordLines(out.takeUnsent())),
  };
};
