import { assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { StreamBuffer } from "../buffer.ts";
import { FetchSender, type FetchSenderOptions } from "../sender.ts";
import { UploadSender } from "../senders/upload.ts";
import { readSpool, Spool, SpoolError } from "../spool/mod.ts";
import { FaultyServer, respond } from "../testing/faulty_server.ts";
import { NO_SERVER_URL } from "../testing/sending.ts";
import { temporary } from "../testing/temporary.ts";
import { inTermsOfTheCommand } from "./terms.ts";

/** The message of what `fn` throws. */
async function messageOf(fn: () => unknown): Promise<string> {
  try {
    await fn();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("Nothing was thrown");
}

/** What the library reports after sending four bytes. */
async function failureOf(status: number): Promise<string> {
  await using server = new FaultyServer([], respond(status, {}, "oh"));
  const out = new StreamBuffer(new FetchSender(server.url));
  await out.write("data");
  const message = await messageOf(() => out.flush());
  await out.abort();
  return message.replace(/.*responded/, "responded");
}

function upload(options: { length: number }): Promise<string> {
  const sender = new UploadSender(NO_SERVER_URL, options);
  return messageOf(() => sender.close());
}

const create = (options: FetchSenderOptions, url = NO_SERVER_URL) => () =>
  new FetchSender(url, options);

for (
  const [title, message, expected] of [
    [
      "an invalid option",
      () => messageOf(create({ retry: { maxElapsed: -1 } })),
      "--retry-for must be an integer from 0 to 2147483647, or forever, received -1",
    ],
    [
      "an invalid URL",
      () => messageOf(create({}, "http://a:b@c/")),
      'URL must not carry credentials, send them in --header; received "***@c/"',
    ],
    [
      "a port that fetch blocks",
      () => messageOf(() => new FetchSender("http://a:6000/")),
      "URL must not use port 6000, which fetch blocks; add --ignore-env to deno run, or let the server listen on another one",
    ],
    [
      "an invalid capacity",
      () => messageOf(() => new StreamBuffer(() => {}, { capacity: 0 })),
      "--capacity must be an integer from 1 to 2147483647, received 0",
    ],
    [
      "a 401",
      () => failureOf(401),
      'responded with 401; check the credentials in --header: "oh"',
    ],
    [
      "a 413",
      () => failureOf(413),
      'responded with 413; make --capacity smaller: "oh"',
    ],
    [
      "an upload that is shorter than its file",
      () => upload({ length: 3 }),
      "PUT http://127.0.0.1:2/ingest failed: the upload has only 0 bytes, but the size of the input is 3",
    ],
  ] as const
) {
  Deno.test(`inTermsOfTheCommand() speaks of options for ${title}`, async () => {
    assertEquals(inTermsOfTheCommand(await message()), expected);
  });
}

Deno.test("inTermsOfTheCommand() speaks of --export for damage in a spool", async () => {
  await using folder = await temporary();
  const path = folder.file("spool");
  const away = () => Promise.reject(new Error("the server is away"));
  const spool = new Spool(path, away, { drainTimeout: 0 });
  const out = new StreamBuffer(spool);
  await out.write("one\n");
  await out.close();
  const database = new DatabaseSync(path);
  database.exec("update batch set bytes = x'00000000'");
  database.close();
  const { message } = assertThrows(() => [...readSpool(path)], SpoolError);
  assertEquals(
    inTermsOfTheCommand(message),
    `The spool ${path} is damaged: the bytes at offset 0 are not those that were added; spool FILE --export writes the rest`,
  );
});

Deno.test("inTermsOfTheCommand() keeps what a server wrote", () => {
  const message = 'the server responded with 400: "capacity must be 5"';
  assertEquals(inTermsOfTheCommand(message), message);
});
