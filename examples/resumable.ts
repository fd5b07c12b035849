/**
 * Uploads a file to a tus server, and goes on where it was when it is started
 * again after it was killed, or the machine was:
 *
 *     deno run -N -R -W examples/resumable.ts http://127.0.0.1:1080/files backup.tar
 *
 * The URL of the upload is kept beside the file until it is complete.
 */
import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
import { type SendError, TusSender } from "@stream-buffer/stream-buffer/tus";

const [endpoint, path] = Deno.args;
if (endpoint === undefined || path === undefined) {
  console.error("usage: resumable.ts ENDPOINT FILE");
  Deno.exit(2);
}
const note = `${path}.upload`;

using file = await Deno.open(path);
const { size } = await file.stat();
const sender = await begun() ?? await begin();
await file.seek(sender.offset, Deno.SeekMode.Start);

const out = new StreamBuffer(sender, { capacity: 1024 * 1024 });
try {
  await out.readFrom(file);
  await out.close();
} catch (error) {
  await out.abort(error); // what is missing stays missing, until the next run
  throw error;
}
await Deno.remove(note);
console.log(`${size} bytes are at ${sender.url}`);

/** The upload of an earlier run, if there was one, and it is still there. */
async function begun(): Promise<TusSender | undefined> {
  const url = await Deno.readTextFile(note).catch(() => undefined);
  if (url === undefined) return undefined;
  try {
    const sender = await TusSender.resume(url, { length: size });
    console.log(`Going on from byte ${sender.offset}`);
    return sender;
  } catch (error) {
    const { status } = error as SendError;
    if (status !== 404 && status !== 410) throw error;
    console.log("The upload that was begun is gone");
  }
}

/** A new upload, whose URL is kept before anything is sent. */
async function begin(): Promise<TusSender> {
  const sender = new TusSender(endpoint!, {
    length: size,
    metadata: { filename: path!.replace(/.*[/\\]/, "") },
  });
  await Deno.writeTextFile(note, await sender.create());
  return sender;
}
