/**
 * The library from a clone, as README.md says: a project whose deno.json has
 * `links` to the checkout, so that no registry has to resolve its imports.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { FaultyServer } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { startTusServer } from "../testing/tus_server.ts";

const ROOT = new URL("../", import.meta.url);
const LINK = `"../stream-buffer"`;

/** Sends something through each entry point that it imports. */
const CONSUMER = `
import { streamTo, type StreamBufferOptions } from "@stream-buffer/stream-buffer";
import { StreamBuffer } from "jsr:@stream-buffer/stream-buffer";
import { TusSender } from "jsr:@stream-buffer/stream-buffer/tus";
import { UploadSender } from "jsr:@stream-buffer/stream-buffer/upload";

const [url, tusUrl] = Deno.args as [string, string];
const options: StreamBufferOptions = { capacity: 1024 };
{
  await using out = streamTo(url, options);
  for (let id = 0; id < 3; id++) await out.write(JSON.stringify({ id }) + "\\n");
}
const upload = new UploadSender(url);
const tus = new TusSender(tusUrl);
for (const sender of [upload, tus]) {
  const out = new StreamBuffer(sender, options);
  await ReadableStream.from(["an ", "object"]).pipeTo(out.writable);
}
console.log(tus.url);
`;

/** The deno.json that README.md shows, with links from a folder to this checkout. */
function configOfReadme(folder: string): string {
  const readme = Deno.readTextFileSync(new URL("README.md", ROOT));
  const [, config] = readme.match(/^```json\r?\n([^]*?)^```/m) ?? [];
  assert(config !== undefined && config.includes(LINK), "It has no links");
  // Deno 2.8 takes only relative paths.
  const checkout = relative(folder, fileURLToPath(ROOT));
  return config.replace(LINK, JSON.stringify(checkout));
}

/** Runs Deno in a project, with a registry that cannot be reached. */
async function deno(cwd: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd,
    env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" },
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim();
}

Deno.test("a project with links to a clone type-checks, and delivers through each sender", async () => {
  await using server = new FaultyServer();
  await using tus = await startTusServer();
  await using project = await temporary();
  project.file("deno.json", configOfReadme(project.file("")));
  const consumer = project.file("main.ts", CONSUMER);
  const cwd = project.file("");

  await deno(cwd, "check", consumer);
  const net = `-N=127.0.0.1:${server.port},127.0.0.1:${tus.port}`;
  const url = await deno(cwd, "run", net, consumer, server.url, tus.url);

  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals(
    server.requests.map(({ method, body }) => `${method} ${decode(body)}`),
    ['POST {"id":0}\n{"id":1}\n{"id":2}\n', "PUT an object"],
  );
  assertEquals(decode(tus.read(url)), "an object");
});

Deno.test("a project with links to a clone gets the types", async () => {
  await using project = await temporary();
  project.file("deno.json", configOfReadme(project.file("")));
  const wrong = project.file(
    "wrong.ts",
    `import { streamTo } from "@stream-buffer/stream-buffer";
    streamTo("https://example.com", { capacity: "large" });`,
  );
  await assertRejects(
    () => deno(project.file(""), "check", wrong),
    Error,
    "TS2322",
  );
});
