/**
 * Streams through a proxy, from the environment or from a custom client: with
 * which permissions, and over its restarts. Skipped where tinyproxy is missing.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { undiciTransport } from "../http/undici.ts";
import {
  FetchSender,
  type RequestOptions,
  SendError,
  streamTo,
} from "../sender.ts";
import { makeCertificate } from "../testing/certificate.ts";
import {
  assertReceived,
  line,
  OPENSSL,
  RealServer,
  Receiver,
  Retries,
  type ServerOptions,
  testWith,
  TINYPROXY,
  writeDuring,
} from "../testing/real_servers.ts";
import { CLI } from "../testing/child.ts";
import { isPending } from "../testing/event_loop.ts";
import { freePort, listen } from "../testing/free_port.ts";

const PASSWORD = "correct-horse";
const CONTENT = Array.from({ length: 2_000 }, (_, i) => line(i)).join("");

function proxy(directives = ""): ServerOptions {
  return {
    program: TINYPROXY,
    async configure(folder, port) {
      const path = `${folder}/tinyproxy.conf`;
      await Deno.writeTextFile(
        path,
        `
          Listen 127.0.0.1
          Port ${port}
          LogFile "${folder}/proxy.log"
          LogLevel Connect
          ${directives}
        `,
      );
      return ["-d", "-c", path];
    },
  };
}

const hostOf = ({ port }: { port: number }) => `127.0.0.1:${port}`;

/** Flags with which the command may, and may not, read what names the proxy. */
const WAYS = [[], ["-E"]];

/** Runs the command with `CONTENT` as input; calls `onRetry` at its first retry. */
async function ship(
  url: string,
  net: string,
  env: Record<string, string>,
  { flags = [], onRetry = () => Promise.resolve() }: {
    flags?: string[];
    onRetry?: () => Promise<void>;
  } = {},
): Promise<{ code: number; stderr: string }> {
  const { PATH = "", HOME = "", DENO_DIR } = Deno.env.toObject();
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", "--no-prompt", `-N=${net}`, ...flags, CLI],
      ...["--lines", "--capacity", "16K", url],
    ],
    // Without the proxies that this machine may have configured.
    clearEnv: true,
    env: { PATH, HOME, ...DENO_DIR && { DENO_DIR }, NO_COLOR: "1", ...env },
    stdin: "piped",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const input = new Blob([CONTENT]).stream().pipeTo(process.stdin)
    .catch(() => {}); // it may exit without reading all of its input
  let stderr = "";
  try {
    for await (
      const text of process.stderr.pipeThrough(new TextDecoderStream())
    ) {
      // Its first output is the report of a retry, or the last one.
      if (stderr === "") await onRetry();
      stderr += text;
    }
  } catch (error) {
    process.kill("SIGKILL");
    throw error;
  } finally {
    await input;
    await process.status;
  }
  return { code: (await process.status).code, stderr };
}

function assertShipped(receiver: Receiver): void {
  assertReceived(receiver, new TextEncoder().encode(CONTENT));
}

function viaOf(receiver: Receiver): (string | null)[] {
  return [...new Set(receiver.requests.map((headers) => headers.get("Via")))];
}

const test = testWith(TINYPROXY);

for (
  const [name, flags] of ["HTTP_PROXY", "http_proxy"]
    .flatMap((name) => WAYS.map((flags) => [name, flags] as const))
) {
  test(`${[name, ...flags].join(" ")}: everything goes through the proxy, with permission for the server only`, async () => {
    await using receiver = new Receiver();
    await using server = await RealServer.start(proxy());
    const { code, stderr } = await ship(receiver.url, hostOf(receiver), {
      [name]: `http://${hostOf(server)}`,
    }, { flags });
    assertEquals(code, 0, stderr);
    assertShipped(receiver);
    const [via, ...others] = viaOf(receiver);
    assertMatch(via ?? "", /tinyproxy/);
    assertEquals(others, []);
  });
}

test("HTTP_PROXY: permission for the proxy only is not enough", async () => {
  await using receiver = new Receiver();
  await using server = await RealServer.start(proxy());
  const { code, stderr } = await ship(receiver.url, hostOf(server), {
    HTTP_PROXY: `http://${hostOf(server)}`,
  });
  assertEquals(code, 2);
  assertStringIncludes(stderr, `add --allow-net=${hostOf(receiver)}`);
  assertEquals(receiver.requests, []);
});

test("HTTP_PROXY: a proxy that starts late gets everything", async () => {
  await using receiver = new Receiver();
  await using server = await RealServer.prepare(proxy());
  const { code } = await ship(receiver.url, hostOf(receiver), {
    HTTP_PROXY: `http://${hostOf(server)}`,
  }, { onRetry: () => server.start() });
  assertEquals(code, 0);
  assertShipped(receiver);
  assertMatch(viaOf(receiver).join(), /tinyproxy/);
});

test("HTTP_PROXY: its password is used, and is not shown in errors", async () => {
  await using receiver = new Receiver();
  await using server = await RealServer.start(
    proxy(`BasicAuth user ${PASSWORD}`),
  );
  const through = (password: string) =>
    ship(receiver.url, hostOf(receiver), {
      HTTP_PROXY: `http://user:${password}@${hostOf(server)}`,
    });
  const wrong = await through(`${PASSWORD}-not`);
  assertEquals(wrong.code, 1);
  assertMatch(wrong.stderr, /the server responded with 40[17]/);
  assert(!wrong.stderr.includes(PASSWORD), wrong.stderr);
  assertEquals(receiver.requests, []);
  assertEquals((await through(PASSWORD)).code, 0);
  assertShipped(receiver);
});

test("NO_PROXY: hosts that it lists are reached without the proxy", async () => {
  await using receiver = new Receiver();
  const { code } = await ship(receiver.url, hostOf(receiver), {
    HTTP_PROXY: `http://127.0.0.1:${freePort()}`,
    NO_PROXY: "example.com,127.0.0.1",
  });
  assertEquals(code, 0);
  assertShipped(receiver);
  assertEquals(viaOf(receiver), [null]);
});

const BY: Record<string, (url: string) => RequestOptions & Disposable> = {
  "a client": (url) => {
    const client = Deno.createHttpClient({ proxy: { url } });
    return { client, [Symbol.dispose]: () => client.close() };
  },
  "undici": (proxy) => {
    const transport = undiciTransport({ proxy });
    return { transport, [Symbol.dispose]: () => void transport.close() };
  },
};

for (const [by, make] of Object.entries(BY)) {
  test(`a proxy that restarts, and one that cannot reach the server, lose nothing, by ${by}`, async () => {
    await using receiver = new Receiver();
    await using server = await RealServer.start(proxy());
    const retries = new Retries();
    using over = make(`http://${hostOf(server)}`);
    await using out = streamTo(receiver.url, {
      capacity: 4 * 1024,
      ...over,
      ...retries.options,
    });
    const written = await writeDuring(out, async () => {
      await receiver.next();
      await server.stop();
      await retries.next();
      await server.start();
      await receiver.next();
      await receiver.stop();
      await retries.next();
      receiver.start();
      await receiver.next();
    });
    assertReceived(receiver, written);
    assertMatch(viaOf(receiver).join(), /^[^,]*tinyproxy[^,]*$/);
  });
}

test("undici: the password of a proxy is used, and is not shown in errors", async () => {
  await using receiver = new Receiver();
  await using server = await RealServer.start(
    proxy(`BasicAuth user ${PASSWORD}`),
  );
  const through = async (url: string, password: string) => {
    const proxy = `http://user:${password}@${hostOf(server)}`;
    await using transport = undiciTransport({ proxy });
    const sender = new FetchSender(url, {
      transport,
      retry: { maxElapsed: 0 },
    });
    const { signal } = new AbortController();
    const bytes = new TextEncoder().encode("data");
    await sender.send(bytes, { sequence: 0, offset: 0, signal });
  };
  // By a tunnel, as the proxy closes other requests before it has read them,
  // and the system may then drop its response.
  const error = await assertRejects(
    () => through(receiver.url.replace("http:", "https:"), `${PASSWORD}-not`),
    SendError,
  );
  assertMatch(error.message, /no tunnel: the proxy responded with 40[17]$/);
  assert(!Deno.inspect(error).includes(PASSWORD));
  assertEquals(receiver.requests, []);
  await through(receiver.url, PASSWORD);
  assertEquals(receiver.requests.length, 1);
});

testWith(TINYPROXY, OPENSSL)(
  "undici: https goes through a tunnel, and is encrypted from end to end",
  async () => {
    await using server = await RealServer.start(proxy());
    const files = await makeCertificate(server.folder);
    const cert = await Deno.readTextFile(files.cert);
    const key = await Deno.readTextFile(files.key);
    await using receiver = new Receiver({ key, cert });
    await using transport = undiciTransport({
      proxy: `http://${hostOf(server)}`,
      ca: cert,
    });
    {
      await using out = streamTo(receiver.url, { transport, capacity: 4_096 });
      await out.write(CONTENT);
    }
    assertShipped(receiver);
    assertEquals(viaOf(receiver), [null]); // it cannot add a header
    const log = await server.read("proxy.log");
    assertEquals(log.match(/CONNECT \S+/g)?.length, 1);
    assertStringIncludes(log, `CONNECT ${hostOf(receiver)}`);
  },
);

test("undici: an abort while a tunnel is being made ends it", async () => {
  using listener = listen(); // a proxy that does not respond
  await using transport = undiciTransport({
    proxy: `http://127.0.0.1:${listener.addr.port}`,
  });
  const out = streamTo("https://127.0.0.1:1/", { transport });
  await out.write("data");
  const flush = out.flush();
  const connection = await listener.accept();
  await out.abort(new Error("enough"));
  await assertRejects(() => flush, Error, "enough");
  const closed = connection.readable.pipeTo(new WritableStream());
  assert(!await isPending(closed), "the connection is still there");
});

for (const flags of WAYS) {
  testWith(TINYPROXY, OPENSSL)(
    `${
      ["HTTPS_PROXY", ...flags].join(" ")
    }: everything goes through a tunnel, with permission for the server only`,
    async () => {
      await using server = await RealServer.start(proxy());
      const { key, cert } = await makeCertificate(server.folder);
      await using receiver = new Receiver({
        key: await Deno.readTextFile(key),
        cert: await Deno.readTextFile(cert),
      });
      const { code, stderr } = await ship(receiver.url, hostOf(receiver), {
        HTTPS_PROXY: `http://${hostOf(server)}`,
        DENO_CERT: cert,
      }, { flags });
      assertEquals(code, 0, stderr);
      assertShipped(receiver);
      assertStringIncludes(
        await server.read("proxy.log"),
        `CONNECT ${hostOf(receiver)}`,
      );
    },
  );
}
