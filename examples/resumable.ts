/**
 * Uploads a file to a tus server. If the process or the machine stops, the next
 * run resumes the upload:
 *
 *     deno run -N -R -W examples/resumable.ts http://127.0.0.1:1080/files backup.tar
 *
 * The URL of the upload is stored beside the file until the upload is complete.
 */
import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
import { type SendError, TusSender } from "@stream-buffer/stream-buffer/tus";

const [endpoint, path] = Deno.args;
if (endpoint === undefined || path === undefined) {
  console.error("usage: resumable.ts ENDPOINT FILE");
  Deno.exit(2);
}
const urlFile = `${path}.upload`;

using file = await Deno.open(path);
const { size } = await file.stat();
const sender = await resumeUpload() ?? await createUpload();
await file.seek(sender.offset, Deno.SeekMode.Start);

const out = new StreamBuffer(sender, { capacity: 1024 * 1024 });
try {
  await out.readFrom(file);
  await out.close();
} catch (error) {
  await out.abort(error); // leaves the upload incomplete, for the next run
  throw error;
}
await Deno.remove(urlFile);
console.log(`${size} bytes are at ${sender.url}`);

/** Resumes the upload of an earlier run, if it still exists. */
async function resumeUpload(): Promise<TusSender | undefined> {
  const url = await Deno.readTextFile(urlFile).catch(() => undefined);
  if (url === undefined) return undefined;
  try {
    const sender = await TusSender.resume(url, { length: size });
    console.log(`Resuming at byte ${sender.offset}`);
    return sender;
  } catch (error) {
    const { status } = error as SendError;
    if (status !== 404 && status !== 410) throw error;
    console.log("The earlier upload no longer exists; starting a new one");
  }
}

/** Creates an upload, and stores its URL before anything is sent. */
async function createUpload(): Promise<TusSender> {
  const sender = new TusSender(endpoint!, {
    length: size,
    metadata: { filename: path!.replace(/.*[/\\]/, "") },
  });
  await Deno.writeTextFile(urlFile, await sender.create());
  return sender;
}
