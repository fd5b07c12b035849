import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError } from "../sender.ts";
import { close, FaultyServer, respond } from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { deliver, FAST, NO_SERVER_URL, printed } from "../testing/sending.ts";
import { addSecretsOfHeaders } from "./redaction.ts";
import { streamTo, test } from "../testing/transports.ts";

test("no error shows a header value or the query", async () => {
  const port = freePort();
  await using server = new FaultyServer([], async (exchange) => {
    // A server that echoes what it receives.
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
      "a secret that is part of another",
      "v=in2024",
      { "x-a": "in2024SECRET" },
      "in2024SECRET",
    ],
    [
      "characters that patterns use",
      "",
      { "x-a": "(SECRET+$1*" },
      "(SECRET+$1*",
    ],
    [
      "all characters that patterns use",
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
    ["a piece in another case", "", { "x-keys": "k1,mySecret" }, "MYSECRET"],
    [
      "the beginning of a secret",
      "",
      { "x-a": "MySECRETSECRET" },
      "MySECRET...",
    ],
    [
      "a piece between other characters",
      "",
      { "x-a": 'v1."MySECRET"' },
      "MySECRET/",
    ],
    [
      "a secret on two lines",
      "",
      { "x-a": "my own SECRET" },
      "my\n own\tSECRET",
    ],
  ] as const
) {
  test(`no error repeats what a server echoes: ${title}`, async () => {
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

test("an excerpt that ends inside a secret does not show its beginning", async () => {
  const before = "x".repeat(194);
  await using server = new FaultyServer([respond(400, {}, `${before}hunter2`)]);
  const error = await assertRejects(
    () => deliver(server.url, { headers: { authorization: "Bearer hunter2" } }),
    SendError,
  );
  assertEquals(error.excerpt, `${before}***`);
});

test("no error shows the token of an earlier attempt", async () => {
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
  const text of [
    "no application/octet-stream here",
    "no deflate here",
    'no "stream-1-0" here',
    "no value of 5 characters: short",
  ]
) {
  test(`an error shows what is not a secret: ${text}`, async () => {
    await using server = new FaultyServer([respond(415, {}, text)]);
    const options = {
      compression: "deflate",
      idempotencyKey: "stream-1",
      headers: { "X-A": "short", "X-B": "secret|e" },
    } as const;
    const error = await assertRejects(
      () => deliver(server.url, options),
      SendError,
    );
    assertEquals(error.excerpt, text);
  });
}

// -- What was thrown --

test("the stack of a failed header function shows no token", async () => {
  const bug = new Error("no token");
  bug.stack = "Error: no token\n    at f (https://a/b.ts?key=hunter2:1:1)";
  const error = await assertRejects(
    () => deliver(NO_SERVER_URL, { headers: () => Promise.reject(bug) }),
    SendError,
  );
  assertStringIncludes(printed(error), "at f (https://a/b.ts)");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("the URL at which a header function asks for a token is shown without its query", async () => {
  const url = "https://auth.invalid/token?client_secret=hunter2";
  const error = await assertRejects(
    () =>
      deliver(NO_SERVER_URL, {
        headers: async () => (await fetch(url)).headers,
      }),
    SendError,
    "could not get the headers",
  );
  assertStringIncludes(error.message, "https://auth.invalid/token");
  assert(!printed(error).includes("hunter2"), printed(error));
});

Deno.test("an error thrown by fetch is shown with its cause, without secrets", async () => {
  const why = new Error(
    "of Bearer hunter2, see http://a/b?q=1#c (d) or http://e/f#g, http://h ok? yes",
  );
  const error = await assertRejects(
    () =>
      deliver(NO_SERVER_URL, {
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
    ["null", null, "failed: null"],
    ["a string", "no", 'failed: "no"'],
    [
      "a chain of errors",
      new Error("b", { cause: new Error("c", { cause: undefined }) }),
      "failed: b: c",
    ],
    ["itself", undefined, "failed: failed: failed: failed: failed"],
  ] as const
) {
  Deno.test(`an error thrown by fetch may be caused by ${title}`, async () => {
    const thrown: Error = new Error("failed", { cause });
    if (cause === undefined) thrown.cause = thrown;
    const error = await assertRejects(
      () =>
        deliver(NO_SERVER_URL, {
          retry: { maxElapsed: 0 },
          fetch: () => Promise.reject(thrown),
        }),
      SendError,
    );
    assertEquals((error.cause as Error).message, message);
  });
}

Deno.test("a query with a parenthesis is not shown when fetch fails", async () => {
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

Deno.test("secrets that a header function makes up for each attempt do not add up", () => {
  const secrets = new Set<string>();
  for (let i = 0; i < 1_000; i++) {
    const headers = { authorization: "Bearer always", "x-nonce": `nonce ${i}` };
    addSecretsOfHeaders(secrets, headers);
  }
  assertEquals(secrets.size, 100);
  assert(secrets.has("Bearer always"));
  assert(secrets.has("nonce 999"));
});
