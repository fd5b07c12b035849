import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError, streamTo } from "../sender.ts";
import { close, FaultyServer, respond } from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { deliver, FAST, printed, URL_OF_NOBODY } from "../testing/sending.ts";

Deno.test("no header value and no query shows in any error", async () => {
  const port = freePort();
  await using server = new FaultyServer([], async (exchange) => {
    // A server that repeats what it was sent.
    const { path, headers } = exchange.request;
    const echo = `${path}\n${headers.get("authorization")} ${
      headers.get("x-api-key")
    }`;
    if (path.includes("close")) return await close(exchange);
    await respond(400, { "x-echo": "hunter2" }, echo)(exchange);
  });
  for (
    const url of [
      `${server.url}?token=hunter2&x=1`,
      `${server.url}/close?token=hunter2`,
      `http://127.0.0.1:${port}/?token=hunter2`,
      "http://nobody.invalid/?a=hunter2",
    ]
  ) {
    for (const asFunction of [false, true]) {
      const headers = {
        Authorization: "Bearer hunter2",
        "X-Api-Key": "hunter2-key",
      };
      const failures: unknown[] = [];
      const out = streamTo(url, {
        headers: asFunction ? () => headers : headers,
        retry: { ...FAST, maxElapsed: 20 },
        onRetry: (failure) => failures.push(failure),
      });
      await out.write("kept");
      failures.push(await assertRejects(() => out.close(), FlushError));
      for (const failure of failures) {
        const text = printed(failure);
        assert(!text.includes("hunter2"), text);
        assertStringIncludes(text, new URL(url).host);
      }
      assert(!printed(out).includes("hunter2"), printed(out));
    }
  }
});

for (
  const [title, query, headers, echo] of [
    [
      "a part of another",
      "v=in2024",
      { "x-a": "in2024SECRET" },
      "in2024SECRET",
    ],
    ["signs that patterns use", "", { "x-a": "(SECRET+$1*" }, "(SECRET+$1*"],
    [
      "all the signs that patterns use",
      "",
      { "x-a": "^$.*+?()[a]b{2}|\\SECRET" },
      "^$.*+?()[a]b{2}|\\SECRET",
    ],
    ["a secret, twice", "", { "x-a": "mySECRET" }, "mySECRET, mySECRET"],
    ["a value of short words", "", { "x-a": "S E C R E T" }, "S E C R E T"],
    ["a query value as it was sent", "t=ab%2FSECRET&b=1", {}, "ab%2FSECRET"],
    ["a query value decoded", "t=ab%2FSECRET&b=1", {}, "ab/SECRET"],
    ["a query without a name", "SECRET&b=1", {}, "SECRET"],
    [
      "a token without its scheme",
      "",
      { authorization: "Bearer SECRET" },
      "token SECRET",
    ],
    ["a password without its user", "", { "x-a": "me:SECRET" }, "SECRET"],
    ["one of several cookies", "", { cookie: "a=1; id=SECRET; b=2" }, "SECRET"],
    ["a piece in other case", "", { "x-keys": "k1,mySecret" }, "MYSECRET"],
    ["the beginning of one", "", { "x-a": "MySECRETSECRET" }, "MySECRET..."],
    [
      "a piece between other signs",
      "",
      { "x-a": 'v1."MySECRET"' },
      "MySECRET/",
    ],
    ["one on two lines", "", { "x-a": "my own SECRET" }, "my\n own\tSECRET"],
  ] as const
) {
  Deno.test(`no error repeats a server's echo of ${title}`, async () => {
    await using server = new FaultyServer([respond(400, {}, `bad: ${echo}!`)]);
    const error = await assertRejects(
      () => deliver(`${server.url}?${query}`, { headers: { ...headers } }),
      SendError,
    );
    const text = printed(error).toUpperCase().replaceAll(" ", "");
    assert(!text.includes("SECRET"), error.message);
    assertMatch(error.excerpt, /^bad: .*!$/);
  });
}

Deno.test("no error repeats the beginning of a secret that its excerpt would cut", async () => {
  const before = "x".repeat(194);
  await using server = new FaultyServer([respond(400, {}, `${before}hunter2`)]);
  const error = await assertRejects(
    () => deliver(server.url, { headers: { authorization: "Bearer hunter2" } }),
    SendError,
  );
  assertEquals(error.excerpt, `${before}***`);
});

Deno.test("no error repeats the token of an attempt before", async () => {
  await using server = new FaultyServer(
    [respond(401)],
    respond(400, {}, "old-token"),
  );
  const error = await assertRejects(
    () =>
      deliver(server.url, {
        headers: ({ failure }) => ({
          Authorization: failure ? "new-token" : "old-token",
        }),
      }),
    SendError,
  );
  assertEquals(error.excerpt, "***");
});

for (
  const reply of [
    "no application/octet-stream here",
    "no deflate here",
    'no "stream-1-0" here',
    "no value of 5 characters: short",
  ]
) {
  Deno.test(`an error repeats what is no secret: ${reply}`, async () => {
    await using server = new FaultyServer([respond(415, {}, reply)]);
    const options = {
      compression: "deflate",
      idempotencyKey: "stream-1",
      headers: { "X-A": "short", "X-B": "secret|e" },
    } as const;
    const error = await assertRejects(
      () => deliver(server.url, options),
      SendError,
    );
    assertEquals(error.excerpt, reply);
  });
}

// -- What was thrown --

Deno.test("a header function that fails cannot show a token in its stack", async () => {
  const bug = new Error("no token");
  bug.stack = "Error: no token\n    at f (https://a/b.ts?key=hunter2:1:1)";
  const error = await assertRejects(
    () => deliver(URL_OF_NOBODY, { headers: () => Promise.reject(bug) }),
    SendError,
  );
  assertStringIncludes(printed(error), "at f (https://a/b.ts)");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("a header function that fails cannot show where it asks for a token", async () => {
  const url = "https://auth.invalid/token?client_secret=hunter2";
  const error = await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        headers: async () => (await fetch(url)).headers,
      }),
    SendError,
    "could not get the headers",
  );
  assertStringIncludes(error.message, "https://auth.invalid/token");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("what fetch throws is shown with its cause, but no secret", async () => {
  const why = new Error(
    "of Bearer hunter2, see http://a/b?q=1#c (d) or http://e/f#g, http://h ok? yes",
  );
  const error = await assertRejects(
    () =>
      deliver(URL_OF_NOBODY, {
        headers: { Authorization: "Bearer hunter2" },
        retry: { maxElapsed: 0 },
        fetch: () => Promise.reject(new RangeError("failed", { cause: why })),
      }),
    SendError,
    "(attempt 1): failed: of ***, see http://a/b (d) or http://e/f http://h ok? yes",
  );
  assertInstanceOf(error.cause, Error);
  assertEquals(error.cause.name, "RangeError");
  assertEquals(
    error.cause.message,
    "failed: of ***, see http://a/b (d) or http://e/f http://h ok? yes",
  );
  assert(!printed(error).includes("hunter2"));
});

for (
  const [title, cause, message] of [
    ["nothing", null, "failed: null"],
    ["a text", "no", 'failed: "no"'],
    [
      "one after another",
      new Error("b", { cause: new Error("c", { cause: undefined }) }),
      "failed: b: c",
    ],
    ["itself", undefined, "failed: failed: failed: failed: failed"],
  ] as const
) {
  Deno.test(`what fetch throws may be caused by ${title}`, async () => {
    const thrown: Error = new Error("failed", { cause });
    if (cause === undefined) thrown.cause = thrown;
    const error = await assertRejects(
      () =>
        deliver(URL_OF_NOBODY, {
          retry: { maxElapsed: 0 },
          fetch: () => Promise.reject(thrown),
        }),
      SendError,
    );
    assertEquals((error.cause as Error).message, message);
  });
}

Deno.test("a query with a parenthesis does not show in what fetch throws", async () => {
  const port = freePort();
  const error = await assertRejects(
    () =>
      deliver(`http://127.0.0.1:${port}/?t=(some)hunter2`, {
        retry: { maxElapsed: 0 },
      }),
    SendError,
  );
  assertStringIncludes(error.message, `http://127.0.0.1:${port}/`);
  assert(!printed(error).includes("hunter2"), printed(error));
});
