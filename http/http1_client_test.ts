import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError, streamTo } from "../sender.ts";
import { makeCertificate } from "../testing/certificate.ts";
import {
  type Outcome,
  outcomeWithin,
  type Scope,
  start,
} from "../testing/child.ts";
import { freePort } from "../testing/free_port.ts";
import { OPENSSL, testWith } from "../testing/real_servers.ts";
import { deliver, FAST } from "../testing/sending.ts";
import { temporary } from "../testing/temporary.ts";

/** A URL without a server: no service has the port, and only root may take it. */
const NO_SERVER_URL = "https://127.0.0.1:2/";
const ADVICE =
  "; give a `client` that speaks the server's version of HTTP, and no `transport`";
const NO_RETRY = { maxElapsed: 0 };
const ALL_VERSIONS = ["h2", "http/1.1"];

/**
 * A server over HTTPS that offers these versions of HTTP: TLS in front of a server
 * that takes either. It acknowledges everything, uploads over tus too.
 */
class HttpsServer implements AsyncDisposable {
  readonly #resources: AsyncDisposableStack;
  /** Trusts its certificate. */
  readonly client: Deno.HttpClient;
  readonly certificate: string;
  readonly url: string;
  /** The version that each connection agreed on; `undefined` if on none. */
  readonly versions: (string | null | undefined)[] = [];
  /** The method and the body of each request. */
  readonly requests: string[] = [];

  static async start(versions = ALL_VERSIONS): Promise<HttpsServer> {
    await using resources = new AsyncDisposableStack();
    const folder = resources.use(await temporary());
    const paths = await makeCertificate(folder.file(""));
    const cert = await Deno.readTextFile(paths.cert);
    const client = Deno.createHttpClient({ caCerts: [cert] });
    const listener = Deno.listenTls({
      hostname: "127.0.0.1",
      port: freePort(),
      key: await Deno.readTextFile(paths.key),
      cert,
      alpnProtocols: versions,
    });
    const { port } = listener.addr;
    const server = new HttpsServer(port, paths.cert, client, resources.move());
    server.#serve(listener);
    return server;
  }

  private constructor(
    port: number,
    certificate: string,
    client: Deno.HttpClient,
    resources: AsyncDisposableStack,
  ) {
    this.url = `https://127.0.0.1:${port}/ingest`;
    this.certificate = certificate;
    this.client = client;
    this.#resources = resources;
  }

  #serve(listener: Deno.TlsListener): void {
    const plain = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => this.#respond(request),
    );
    const accepting = this.#accept(listener, plain.addr.port);
    this.#resources.defer(async () => {
      this.client.close(); // and with it its connections
      listener.close();
      await accepting;
      await plain.shutdown();
    });
  }

  async #accept(listener: Deno.TlsListener, port: number): Promise<void> {
    const connections: Promise<void>[] = [];
    for await (const connection of listener) {
      connections.push(this.#forward(connection, port));
    }
    await Promise.all(connections);
  }

  async #forward(client: Deno.TlsConn, port: number): Promise<void> {
    let version: string | null;
    try {
      version = (await client.handshake()).alpnProtocol;
    } catch {
      this.versions.push(undefined);
      // Not yet: that may reset the connection before the client has read why.
      this.#resources.defer(() => Promise.resolve(client.close()));
      return;
    }
    this.versions.push(version);
    const server = await Deno.connect({ hostname: "127.0.0.1", port });
    await Promise.allSettled([
      client.readable.pipeTo(server.writable),
      server.readable.pipeTo(client.writable),
    ]);
  }

  async #respond(request: Request): Promise<Response> {
    const { method, headers } = request;
    const body = await request.text();
    this.requests.push(`${method} ${body}`);
    const offset = Number(headers.get("Upload-Offset")) + body.length;
    return new Response(null, {
      status: headers.has("Upload-Length") ? 201 : 204,
      headers: { "Location": this.url, "Upload-Offset": `${offset}` },
    });
  }

  /** Runs `script` in a process that trusts the certificate, until its end. */
  async run(script: (scope: Scope) => unknown): Promise<Outcome> {
    const permissions = ["-A", `--cert=${this.certificate}`];
    await using child = start(this.url, script, { permissions });
    return await outcomeWithin(30_000, child);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#resources.disposeAsync();
  }
}

// First, as the others would already have created what it looks for.
Deno.test({
  name: "a sender to an https: URL leaks no resource of a test",
  sanitizeResources: true,
  sanitizeOps: true,
  async fn() {
    const out = streamTo(NO_SERVER_URL, { retry: NO_RETRY });
    await out.write("data");
    await assertRejects(() => out.close(), FlushError);
  },
});

const test = testWith(OPENSSL);

test("by default https: URLs are requested over HTTP/1.1, all senders share connections, and the process ends", async () => {
  await using server = await HttpsServer.start();
  const outcome = await server.run(
    async ({ StreamBuffer, streamTo, UploadSender, TusSender, url }) => {
      for (
        const create of [
          () => streamTo(url),
          () => streamTo(url),
          () => new StreamBuffer(new UploadSender(url)),
          () => new StreamBuffer(new UploadSender(url, { length: 4 })),
          () => new StreamBuffer(new TusSender(url)),
        ]
      ) {
        await using out = create();
        await out.write("data");
      }
    },
  );
  assertEquals([outcome.code, outcome.stderr], [0, ""]);
  assertEquals(server.versions, ["http/1.1"]);
  assertEquals(
    server.requests.filter((request) => request.endsWith("data")),
    ["POST data", "POST data", "PUT data", "PUT data", "PATCH data"],
  );
});

test("a given client decides about the version of HTTP", async () => {
  await using server = await HttpsServer.start();
  await deliver(server.url, { client: server.client, retry: NO_RETRY });
  assertEquals(server.versions, ["h2"]);
});

Deno.test("a given fetch is called without a client", async () => {
  const inits: unknown[] = [];
  await deliver(NO_SERVER_URL, {
    retry: NO_RETRY,
    fetch: (_, init) => {
      inits.push(init);
      return Promise.resolve(new Response());
    },
  });
  assertEquals(inits, [undefined]);
});

test("a server that speaks HTTP/2 only gets each batch once, in its first attempt", async () => {
  await using server = await HttpsServer.start(["h2"]);
  const outcome = await server.run(async ({ streamTo, url }) => {
    await using out = streamTo(url, { retry: { maxElapsed: 0 } });
    for (const data of ["one", "two", "three"]) {
      await out.write(data);
      await out.flush();
    }
  });
  assertEquals([outcome.code, outcome.stderr], [0, ""]);
  // It refuses HTTP/1.1 once.
  assertEquals(server.versions, [undefined, "h2"]);
  assertEquals(server.requests, ["POST one", "POST two", "POST three"]);
});

test("a server that speaks HTTP/2 only fails an upload, with advice", async () => {
  await using server = await HttpsServer.start(["h2"]);
  const { stdout } = await server.run(
    async ({ StreamBuffer, UploadSender, url }) => {
      const out = new StreamBuffer(new UploadSender(url));
      await out.write("data");
      await out.close().catch((error) => console.log(error.message));
    },
  );
  assertStringIncludes(stdout, ADVICE);
  assertEquals([server.versions, server.requests], [[undefined], []]);
});

test("a client that does not speak the server's version of HTTP fails at once, with advice", async () => {
  await using server = await HttpsServer.start(["h2"]);
  using client = Deno.createHttpClient({
    http2: false,
    caCerts: [await Deno.readTextFile(server.certificate)],
  });
  const error = await assertRejects(
    () =>
      deliver(server.url, { client, retry: { ...FAST, maxElapsed: 1_000 } }),
    SendError,
    ADVICE,
  );
  assertEquals([error.attempts, error.retryable], [1, false]);
  assertEquals([server.versions, server.requests], [[undefined], []]);
});

Deno.test({
  name:
    "certificates of the environment that cannot be read fail a send, and no import",
  ignore: Deno.build.os === "windows", // its shell is another
  async fn() {
    await using child = start(NO_SERVER_URL, async ({ streamTo, url }) => {
      const out = streamTo(url, { retry: { maxElapsed: 0 } });
      await out.write("data");
      await out.close().catch((error) => console.log(error.message));
    }, { shell: "export DENO_CERT=/does/not/exist" });
    // Deno never releases a body that it cannot send, so this may not end.
    await child.waitForOutput("Failed opening CA file");
  },
});
