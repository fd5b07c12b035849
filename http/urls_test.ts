import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { FetchSender, streamTo } from "../sender.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { BYTES, context, printed } from "../testing/sending.ts";

for (
  const [url, message] of [
    ["nonsense", 'url must be an absolute URL, received "nonsense"'],
    ["", 'url must be an absolute URL, received ""'],
    ["/ingest", "url must be an absolute URL"],
    ["ftp://example.com/x?secret", 'received "ftp://example.com/x"'],
    ["file:///etc/passwd", "url must begin with http:// or https://"],
    ["http://me:secret@example.com/", 'received "***@example.com/"'],
    ["http://secret@example.com/", "url must not carry credentials"],
    ["http://:secret@example.com/", "url must not carry credentials"],
    ["httpx://example.com/", "url must begin with http:// or https://"],
    ["me:secret@example.com", 'received "***@example.com"'],
    ["http://me:sec/ret@example.com", 'received "***@example.com"'],
    ["http://me:secret#1@example.com", 'received "***"'],
    ["http://me:secret?1@example.com/", 'received "***"'],
    ["http://me:secret\n1@example.com/", 'received "***@example.com/"'],
    ["ftp://example.com/x?1\nsecret", 'received "ftp://example.com/x"'],
    ["ftp://example.com/x#secret", 'received "ftp://example.com/x"'],
    ["example.com/?mail=me@example.com&token=secret", 'received "***"'],
    ["http://me@example.com/?to=you@secret", 'received "***"'],
  ] as const
) {
  Deno.test(`FetchSender() rejects the URL "${url}"`, () => {
    for (const make of [FetchSender, streamTo] as const) {
      const error = assertThrows(
        () => make === FetchSender ? new FetchSender(url) : streamTo(url),
        TypeError,
        message,
      );
      assertMatch(error.message, /^Cannot create FetchSender: url must /);
      assert(!printed(error).includes("secret"), error.message);
    }
  });
}

Deno.test("FetchSender() accepts http and https, and copies the URL", async () => {
  new FetchSender("https://example.com/");
  await using server = new FaultyServer();
  const url = new URL(server.url);
  const sender = new FetchSender(url);
  url.pathname = "/changed";
  await sender.send(BYTES, context());
  assertEquals(server.requests[0]!.path, "/ingest");
});
