import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { gzipSync } from "node:zlib";
import { SendError } from "../sender.ts";
import { fakeTime } from "../testing/fake_time.ts";
import {
  type Behaviour,
  FaultyServer,
  head,
  respond,
} from "../testing/faulty_server.ts";
import {
  BYTES,
  context,
  deliver,
  FAST,
  NO_SERVER_URL,
  stallInBody,
} from "../testing/sending.ts";
import { FetchSender, streamTo, test } from "../testing/transports.ts";

const BODIES: Record<string, Behaviour> = {
  "that stalls": stallInBody,
  "that never ends": async ({ receive, write }) => {
    await receive();
    await write(head(200, { "transfer-encoding": "chunked" }));
    const chunk = `1000\r\n${"x".repeat(0x1000)}\r\n`;
    for (;;) await write(chunk);
  },
  "of 10 MB": respond(200, {}, "x".repeat(10_000_000)),
  "that is cut short": async ({ receive, write, close }) => {
    await receive();
    await write(head(200, { "content-length": "100" }) + "some");
    close();
  },
  "that is empty": respond(204),
  "after a 103": async (exchange) => {
    await exchange.write(head(103, { link: "</a>" }));
    await respond(200)(exchange);
  },
};

for (const [title, behaviour] of Object.entries(BODIES)) {
  test(`a 2xx with a body ${title} is one delivery`, async () => {
    await using server = new FaultyServer([behaviour]);
    const timeout = title === "that stalls" ? 1_000 : 30_000;
    await using out = streamTo(server.url, { timeout, retry: FAST });
    await out.write("once");
    await out.flush();
    assertEquals(server.bodies, ["once"]);
    await out.write("more");
    await out.close();
    assertEquals(server.bodies, ["once", "more"]);
  });
}

Deno.test("a body that stalls is cancelled after 5 seconds", async () => {
  using time = fakeTime();
  await using server = new FaultyServer([stallInBody]);
  const settled = Promise.withResolvers<void>();
  const sent = deliver(server.url, {
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      setImmediate(settled.resolve);
      return response;
    },
  });
  await settled.promise;
  let given = false;
  void sent.then(() => given = true);
  await time.tickAsync(4_999);
  assertEquals(given, false);
  await time.tickAsync(1);
  await sent;
  assertEquals(time.countTimers(), 0);
});

test("an endless body is cancelled because of its size, without a timer", async () => {
  using _time = fakeTime();
  const cut = Promise.withResolvers<void>();
  await using server = new FaultyServer([async (exchange) => {
    try {
      await BODIES["that never ends"]!(exchange);
    } finally {
      cut.resolve();
    }
  }]);
  await deliver(server.url, {});
  // Its connection is closed, or the server would continue.
  await cut.promise;
  assertEquals(server.requests.length, 1);
});

test("the head of a response may be of 200 KB", async () => {
  const headers = Object.fromEntries(
    Array.from({ length: 20 }, (_, i) => [`x-${i}`, "x".repeat(10_000)]),
  );
  await using server = new FaultyServer([respond(200, headers)]);
  await new FetchSender(server.url, { retry: { maxElapsed: 0 } })
    .send(BYTES, context());
});

test("a server that responds with what it receives gets all of it", async () => {
  const size = 1024 * 1024;
  const received = Promise.withResolvers<number>();
  await using server = Deno.serve({ port: 0, onListen() {} }, ({ body }) => {
    let count = 0;
    const end = () => received.resolve(count);
    const counter = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        count += chunk.length;
        controller.enqueue(chunk);
      },
      flush: end,
      cancel: end,
    });
    return new Response(body!.pipeThrough(counter));
  });
  const sender = new FetchSender(`http://localhost:${server.addr.port}/`);
  await sender.send(new Uint8Array(size), context());
  assertEquals(await received.promise, size);
});

for (const [status, more] of [[200, 20], [400, 0]] as const) {
  Deno.test(`the body of a ${status} is read up to 64 KiB and ${more} bytes after a request of 10, and a longer one is cancelled`, async () => {
    const sizes = [64 * 1024 - 1, ...Array<number>(1 + more).fill(1), 1];
    let cancels = 0;
    const body = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(sizes.shift()!)),
      cancel: () => void cancels++,
    }, { highWaterMark: 0 });
    const fetch = () => Promise.resolve(new Response(body, { status }));
    await deliver(NO_SERVER_URL, { fetch }).catch(() => {});
    assertEquals(sizes, [1]);
    assertEquals(cancels, 1);
  });
}

for (
  const [title, cancel] of [
    ["cannot be cancelled", () => Promise.reject(new Error("no"))],
    ["hangs when it is cancelled", () => new Promise<void>(() => {})],
  ] as const
) {
  Deno.test(`a 2xx with a body that ${title} is a delivery`, async () => {
    const body = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(100_000)),
      cancel,
    });
    const fetch = () => Promise.resolve(new Response(body));
    await deliver(NO_SERVER_URL, { fetch });
  });
}

test("short bodies are read to the end, so that a connection serves many batches", async () => {
  await using server = new FaultyServer([], respond(200, {}, "x".repeat(9999)));
  await using out = streamTo(server.url, { capacity: 4 });
  for (let i = 0; i < 20; i++) await out.write("abcd");
  await out.close();
  assertEquals(server.requests.length, 20);
  assertEquals(server.connections, 1);
});

Deno.test("send() goes by the status when fetch has already read the body", async () => {
  await using server = new FaultyServer([respond(200, {}, "read")]);
  await deliver(server.url, {
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      assertEquals(await response.text(), "read");
      return response;
    },
  });
  assertEquals(server.requests.length, 1);
});

// -- Excerpts --

Deno.test("an error shows a body that arrives in pieces, cut within a character", async () => {
  const bytes = new TextEncoder().encode("no €, thanks");
  const body = ReadableStream.from(Array.from(bytes, (byte) => [byte]))
    .pipeThrough(
      new TransformStream<number[], Uint8Array<ArrayBuffer>>({
        transform: (chunk, stream) => stream.enqueue(new Uint8Array(chunk)),
      }),
    );
  const fetch = () => Promise.resolve(new Response(body, { status: 400 }));
  const error = await assertRejects(
    () => deliver(NO_SERVER_URL, { fetch }),
    SendError,
  );
  assertEquals(error.excerpt, "no €, thanks");
});

test("an error shows the beginning of the body, on one line", async () => {
  const text = `\x1b[31mtoo\r\n\tbad\x9b ${"x".repeat(1000)}`;
  await using server = new FaultyServer([async ({ receive, write }) => {
    await receive();
    const body = new TextEncoder().encode(text);
    await write(head(400, { "content-length": `${body.length}` }));
    await write(body);
  }]);
  const error = await assertRejects(() => deliver(server.url, {}), SendError);
  assertEquals(error.excerpt.length, 200);
  assertMatch(error.excerpt, /^\[31mtoo bad x+$/);
  assertStringIncludes(error.message, `responded with 400: "[31mtoo bad xxx`);
});

Deno.test("a small body that becomes large when decompressed is cancelled", async () => {
  const bomb = gzipSync(new Uint8Array(50_000_000));
  await using server = new FaultyServer([async ({ receive, write, closed }) => {
    await receive();
    const length = `${bomb.length}`;
    const headers = { "content-encoding": "gzip", "content-length": length };
    await write(head(400, headers));
    await write(bomb);
    await closed();
  }]);
  let size = 0;
  const counter = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      size += chunk.length;
      controller.enqueue(chunk);
    },
  });
  await assertRejects(
    () =>
      deliver(server.url, {
        fetch: async (input, init) => {
          const response = await fetch(input, init);
          return new Response(response.body!.pipeThrough(counter), response);
        },
      }),
    SendError,
    "responded with 400",
  );
  assert(size >= 64 * 1024 && size < 1_000_000, `${size} bytes were read`);
});
