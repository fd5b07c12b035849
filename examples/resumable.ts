/**
 * Uploads a file to a tus server. If the process or the machine stops, the next
 * run resumes the upload:
 *
 *     deno run -N -R -W examples/resumable.ts http://127.0.0.1:1080/files backup.tar
 *
 * Until the upload is complete, its URL is stored beside the file, with what
 * tells whether the file is still the same. If it is not, a new upload begins.
 */
import { StreamBuffer } from "@stream-buffer/stream-buffer/buffer";
import { type SendError, TusSender } from "@stream-buffer/stream-buffer/tus";

/** How much of the file's beginning is part of its identity, in bytes. */
const BEGINNING = 64 * 1024;

const [endpoint, path] = Deno.args;
if (endpoint === undefined || path === undefined) {
  console.error("usage: resumable.ts ENDPOINT FILE");
  Deno.exit(2);
}
const stateFile = `${path}.upload`;

using file = await Deno.open(path);
const identity = await identify();
const { size } = identity;
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
await Deno.remove(stateFile);
report(`${size} bytes are at ${sender.url}`);

/** Describes the file, so that another one or a changed one is recognised. */
async function identify(): Promise<
  { size: number; modified: string | undefined; sha256: string }
> {
  const { size, mtime } = await file.stat();
  const beginning = new Uint8Array(Math.min(size, BEGINNING));
  for (let filled = 0; filled < beginning.length;) {
    const read = await file.read(beginning.subarray(filled));
    if (read === null) throw new Error(`${path} became shorter; run it again`);
    filled += read;
  }
  const digest = await crypto.subtle.digest("SHA-256", beginning);
  const sha256 = new Uint8Array(digest).toHex();
  return { size, modified: mtime?.toISOString(), sha256 };
}

/** Resumes the upload of an earlier run, if it is of this file and still exists. */
async function resumeUpload(): Promise<TusSender | undefined> {
  const url = await readUrl();
  if (url === undefined) return undefined;
  try {
    const sender = await TusSender.resume(url, { length: size });
    report(`Resuming at byte ${sender.offset}`);
    return sender;
  } catch (error) {
    const { status } = error as SendError;
    if (status !== 404 && status !== 410) throw error;
    report("The earlier upload no longer exists; starting a new one");
  }
}

/** Reads the URL of the earlier upload, if that was of this file. */
async function readUrl(): Promise<string | undefined> {
  const text = await Deno.readTextFile(stateFile).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  if (text === undefined) return undefined;
  const url = urlIn(text);
  if (typeof url !== "string") {
    report(`${stateFile} does not describe an upload; starting a new one`);
  } else if (text !== stateOf(url)) {
    report(`${path} is not the file of the earlier upload; starting a new one`);
  } else return url;
}

function urlIn(state: string): unknown {
  try {
    return JSON.parse(state).url;
  } catch {
    return undefined;
  }
}

/** Creates an upload, and stores its URL before anything is sent. */
async function createUpload(): Promise<TusSender> {
  const sender = new TusSender(endpoint!, {
    length: size,
    metadata: { filename: path!.replace(/.*[/\\]/, "") },
  });
  const state = stateOf(await sender.create());
  // Renamed, so that a kill at any moment leaves a whole state.
  await Deno.writeTextFile(`${stateFile}.new`, state);
  await Deno.rename(`${stateFile}.new`, stateFile);
  return sender;
}

function stateOf(url: string): string {
  return JSON.stringify({ url, ...identity });
}

/** Prints without failing or waiting: the terminal may have gone, or hang. */
function report(message: string): void {
  Deno.stdout.write(new TextEncoder().encode(`${message}\n`)).catch(() => {});
}
