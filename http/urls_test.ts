import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { FetchSender, streamTo } from "../sender.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";
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

for (const Sender of [FetchSender, UploadSender, TusSender]) {
  Deno.test(`${Sender.name}() rejects a port that fetch blocks, except for a fetch of one's own`, () => {
    for (const url of ["http://a:6000/?secret", "https://a:10080/#secret"]) {
      for (const options of [{}, { fetch }, { fetch: undefined! }]) {
        const error = assertThrows(() => new Sender(url, options), TypeError);
        assertEquals(
          error.message,
          `Cannot create ${Sender.name}: url must not use port ${
            new URL(url).port
          }, which fetch blocks; let the server listen on another one`,
        );
      }
      new Sender(url, { fetch: (...args) => fetch(...args) });
    }
    new Sender("http://a/");
    new Sender("http://a:80/");
    new Sender("https://a:443/");
  });
}

Deno.test({
  name: "FetchSender() rejects exactly the ports that fetch blocks",
  ignore: Deno.version.deno.startsWith("2.8."), // its fetch blocks none
  fn: async () => {
    const rejected: number[] = [];
    for (let port = 0; port <= 65_535; port++) {
      try {
        new FetchSender(`http://127.0.0.1:${port}/`);
      } catch {
        rejected.push(port);
      }
    }
    assertEquals(rejected.length, 83);
    for (const port of rejected) {
      const url = `http://127.0.0.1:${port}/`;
      await assertRejects(() => fetch(url), TypeError, "blocked");
    }
  },
});

for (
  const method of [
    ...["POST", "post", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "a"],
    ...["GET", "get", "HEAD", "head", "CONNECT", "TRACE", "Track", "", "a b"],
    ...["a\n", "é", "a/b", "!#$%&'*+-.^_`|~", "a(b)", "a:b"],
  ]
) {
  Deno.test(`FetchSender() takes the method ${JSON.stringify(method)} if Request does`, () => {
    const create = () => new FetchSender("http://localhost/", { method });
    try {
      new Request("http://localhost/", { method, body: "" });
    } catch {
      return void assertThrows(create, RangeError, "an HTTP method that may");
    }
    create();
  });
}

Deno.test("FetchSender() rejects a method where Request takes any", () => {
  const { Request } = globalThis;
  using cleanup = new DisposableStack();
  cleanup.defer(() => void (globalThis.Request = Request));
  globalThis.Request = class {} as unknown as typeof Request;
  const create = () => new FetchSender("http://localhost/", { method: "GET" });
  assertThrows(create, RangeError, "an HTTP method that may carry a body");
});
