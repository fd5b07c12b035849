/**
 * Sets aside the records that a server refuses, one by one, and delivers all
 * others: a batch that was refused is cut in halves at its lines until the record
 * that is at fault stands alone.
 *
 *     deno run -N -R -W examples/isolate.ts http://127.0.0.1:8000/ records.ndjson refused.ndjson
 */
import {
  FetchSender,
  SendError,
  StreamBuffer,
  type StreamBufferOptions,
} from "@stream-buffer/stream-buffer";

const NEWLINE = 10;

/**
 * Makes a `deadLetter`. It sends the parts of a batch through `sender`, each under
 * a key made from the batch's own, so that a server that honours keys recognises
 * a part that is sent again after a failure. A record that is refused on its own
 * is given to `save`, which may be called for it again in that case.
 */
export function isolate(
  sender: FetchSender,
  save: (record: Uint8Array, reason: SendError) => Promise<void>,
): NonNullable<StreamBufferOptions["deadLetter"]> {
  return async (bytes, { cause }, context) => {
    const deliver = async (from: number, to: number) => {
      const part = bytes.subarray(from, to);
      const key = `${context.key}/${from}-${to}`;
      try {
        await sender.send(part, {
          ...context,
          key,
          get deadline() { // it changes when the buffer begins to close
            return context.deadline;
          },
        });
      } catch (error) {
        // Whatever else happens: the batch is kept, and all of this begins again.
        if (!(error instanceof SendError && error.refused)) throw error;
        await divide(from, to, error);
      }
    };
    const divide = async (from: number, to: number, reason: SendError) => {
      const middle = cutBetweenLines(bytes, from, to);
      if (middle === undefined) return save(bytes.subarray(from, to), reason);
      await deliver(from, middle);
      await deliver(middle, to);
    };
    await divide(0, bytes.length, cause as SendError);
    return true;
  };
}

/**
 * Where to cut between two lines: behind the last newline before the middle, else
 * behind the first one after it; `undefined` if there is only one line.
 */
function cutBetweenLines(
  bytes: Uint8Array,
  from: number,
  to: number,
): number | undefined {
  const middle = (from + to) >> 1;
  const before = bytes.subarray(from, middle).lastIndexOf(NEWLINE) + 1;
  if (before > 0) return from + before;
  const after = bytes.subarray(middle, to - 1).indexOf(NEWLINE) + 1;
  return after > 0 ? middle + after : undefined;
}

if (import.meta.main) {
  const [url, path, refused] = Deno.args;
  if (url === undefined || path === undefined || refused === undefined) {
    console.error("usage: isolate.ts URL FILE REFUSED");
    Deno.exit(2);
  }
  const sender = new FetchSender(url, {
    headers: { "Content-Type": "application/x-ndjson" },
  });
  await using out = new StreamBuffer(sender, {
    oversize: "whole", // a record larger than a store stays in one piece
    deadLetter: isolate(
      sender,
      (record) => Deno.writeFile(refused, record, { append: true }),
    ),
  });
  const text = await Deno.readTextFile(path);
  for (const record of text.split(/(?<=\n)/)) await out.write(record);
}
