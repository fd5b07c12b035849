/**
 * Streams through nginx, as most servers on the web are reached: over reloads,
 * restarts, limits and outages, the server behind it gets exactly what was
 * written. Skipped where nginx or openssl is missing.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { equals } from "@std/bytes";
import {
  FlushError,
  StreamBuffer,
  type StreamBufferOptions,
} from "../buffer.ts";
import { undiciTransport } from "../http/undici.ts";
import {
  type FetchSenderOptions,
  type RequestOptions,
  SendError,
  streamTo,
} from "../sender.ts";
import { TusSender } from "../senders/tus.ts";
import { UploadSender } from "../senders/upload.ts";
import { makeCertificate } from "../testing/certificate.ts";
import {
  assertReceived,
  NGINX,
  OPENSSL,
  poll,
  RealServer,
  Receiver,
  Retries,
  run,
  testWith,
  writeDuring,
  writeLines,
} from "../testing/real_servers.ts";
import { over, overEach } from "../testing/transports.ts";
import { startTusServer } from "../testing/tus_server.ts";

const MIB = 2 ** 20;
const RELOADS = 5;
const RESTARTS = 3;

/** HTTP/2 implies TLS, because Deno speaks it over TLS only. */
const PROTOCOLS = [
  "HTTP/1.1",
  "HTTP/2.0",
  "HTTP/1.1 with TLS [undici]",
] as const;

interface Settings {
  protocol: (typeof PROTOCOLS)[number];
  /** Directives of `http` and of `server`. */
  http?: string;
  server?: string;
}

/** One line of the access log. */
interface Request {
  worker: string;
  connection: string;
  protocol: string;
  status: number;
}

/** nginx in front of a receiver, and options by which senders trust it. */
class Site implements AsyncDisposable {
  readonly #resources: AsyncDisposableStack;
  readonly receiver: Receiver;
  readonly nginx: RealServer;
  readonly retries = new Retries();
  readonly url: string;
  readonly over: RequestOptions;

  static async start(settings: Settings): Promise<Site> {
    await using resources = new AsyncDisposableStack();
    const receiver = resources.use(new Receiver());
    const nginx = resources.use(
      await RealServer.start({
        program: NGINX,
        configure: (folder, port) =>
          configure(folder, port, receiver.port, settings),
      }),
    );
    const over: RequestOptions = {};
    const ca = () => nginx.read("cert.pem");
    if (settings.protocol === "HTTP/2.0") {
      over.client = resources.use(
        Deno.createHttpClient({ caCerts: [await ca()] }),
      );
    } else if (settings.protocol.endsWith("[undici]")) {
      over.transport = resources.use(undiciTransport({ ca: await ca() }));
    }
    const scheme = settings.protocol === "HTTP/1.1" ? "http" : "https";
    const url = `${scheme}://127.0.0.1:${nginx.port}/ingest`;
    return new Site(receiver, nginx, url, over, resources.move());
  }

  private constructor(
    receiver: Receiver,
    nginx: RealServer,
    url: string,
    over: RequestOptions,
    resources: AsyncDisposableStack,
  ) {
    this.receiver = receiver;
    this.nginx = nginx;
    this.url = url;
    this.over = over;
    this.#resources = resources;
  }

  at(path: string): string {
    return new URL(path, this.url).href;
  }

  /** Opens a stream to it, in many small requests by default. */
  stream(options: StreamBufferOptions & FetchSenderOptions = {}): StreamBuffer {
    return streamTo(this.url, {
      capacity: 4 * 1024,
      ...this.retries.options,
      ...this.over,
      ...options,
    });
  }

  /** Does something, and waits for a request through a new worker. */
  async newWorker(work: () => Promise<void>): Promise<void> {
    const worker = (headers: Headers) => headers.get("X-Worker");
    const known = new Set(this.receiver.requests.map(worker));
    await work();
    await this.receiver.saw((headers) => !known.has(worker(headers)));
  }

  /** Makes nginx reload its configuration, which replaces its workers. */
  async reload(): Promise<void> {
    await run(NGINX, [...argsFor(this.nginx.folder), "-s", "reload"]);
  }

  /** Stops nginx, and returns its complete log. */
  async log(): Promise<Request[]> {
    await this.nginx.stop("SIGQUIT");
    const lines = (await this.nginx.read("access.log")).trimEnd().split("\n");
    return lines.map((line) => {
      const [worker, connection, protocol, status] = line.split(" ");
      return {
        worker: worker!,
        connection: connection!,
        protocol: protocol!,
        status: Number(status),
      };
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#resources.disposeAsync();
  }
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

function argsFor(folder: string): string[] {
  return ["-p", folder, "-c", "nginx.conf", "-e", "error.log"];
}

async function configure(
  folder: string,
  port: number,
  upstream: number,
  { protocol, http = "", server = "" }: Settings,
): Promise<string[]> {
  let flags = "";
  if (protocol !== "HTTP/1.1") {
    await makeCertificate(folder);
    flags = protocol === "HTTP/2.0" ? " ssl http2" : " ssl";
    server += "ssl_certificate cert.pem; ssl_certificate_key key.pem;";
  }
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `
      daemon off;
      pid nginx.pid;
      # Started as root, its workers run as a user without access to the folder.
      ${Deno.uid() === 0 ? "user root;" : ""}
      events {}
      http {
        ${folders.map((name) => `${name}_temp_path ${name};`).join("\n")}
        log_format short '$pid $connection $server_protocol $status';
        access_log access.log short;
        ${http}
        server {
          listen 127.0.0.1:${port}${flags};
          ${server}
          location / {
            proxy_pass http://127.0.0.1:${upstream};
            proxy_set_header X-Worker $pid;
          }
        }
      }
    `,
  );
  return argsFor(folder);
}

const test = testWith(NGINX, OPENSSL);

for (const protocol of PROTOCOLS) {
  test(`nginx, ${protocol}: ${RELOADS} reloads during a stream lose nothing`, async () => {
    await using site = await Site.start({ protocol });
    await using out = site.stream();
    const written = await writeDuring(out, async () => {
      await site.receiver.next();
      for (let reload = 0; reload < RELOADS; reload++) {
        await site.newWorker(() => site.reload());
      }
    });
    assertReceived(site.receiver, written);
    const log = await site.log();
    assertEquals(new Set(log.map(({ worker }) => worker)).size, RELOADS + 1);
    const [spoken] = protocol.split(" ");
    assertEquals([...new Set(log.map((entry) => entry.protocol))], [spoken]);
  });

  for (const signal of ["SIGTERM", "SIGQUIT"] as const) {
    test(`nginx, ${protocol}: ${RESTARTS} restarts (${signal}) during a stream lose nothing`, async () => {
      await using site = await Site.start({ protocol });
      await using out = site.stream();
      const written = await writeDuring(out, async () => {
        await site.receiver.next();
        for (let restart = 0; restart < RESTARTS; restart++) {
          await site.newWorker(async () => {
            await site.nginx.stop(signal);
            await site.retries.next();
            await site.nginx.start();
          });
        }
      });
      assertReceived(site.receiver, written);
    });
  }

  test(`nginx, ${protocol}: a request of 1 MiB is within its default limit`, async () => {
    await using site = await Site.start({ protocol });
    await using out = site.stream({ capacity: MIB });
    const bytes = pseudoRandom(3 * MIB);
    await out.write(bytes);
    await out.close();
    assertReceived(site.receiver, bytes);
    assertEquals([out.stats.sends, site.retries.failures], [3, []]);
  });

  for (
    const [name, size] of [["1 MiB and a byte", MIB + 1], [
      "8 MiB",
      8 * MIB,
    ]] as const
  ) {
    test(`nginx, ${protocol}: a request of ${name} fails with a 413 and advice, and its bytes are kept`, async () => {
      await using site = await Site.start({ protocol });
      const out = site.stream({ capacity: size });
      const bytes = pseudoRandom(size);
      await out.write(bytes);
      const { cause } = await assertRejects(() => out.close(), FlushError);
      assertInstanceOf(cause, SendError);
      assertEquals([cause.status, cause.attempts], [413, 1]);
      assertStringIncludes(cause.message, "make `capacity` smaller");
      assertStringIncludes(cause.excerpt, "Request Entity Too Large");
      assertEquals(out.takeUnsent(), bytes);
      assertEquals(site.receiver.requests, []);
    });
  }

  test(`nginx, ${protocol}: limit_req delays a stream, and nothing is lost`, async () => {
    await using site = await Site.start({
      protocol,
      http: "limit_req_zone $server_port zone=all:64k rate=50r/s;",
      server: "limit_req zone=all; limit_req_status 429;",
    });
    await using out = site.stream();
    const written = await writeLines(out, 500);
    assertReceived(site.receiver, written);
    assertEquals(site.retries.statuses, [429]);
    assertEquals(
      (await site.log()).filter(({ status }) => status === 429).length,
      site.retries.failures.length,
    );
  });

  test(`nginx, ${protocol}: a server behind it that stops and restarts gets everything`, async () => {
    await using site = await Site.start({ protocol });
    await using out = site.stream();
    const written = await writeDuring(out, async () => {
      await site.receiver.next();
      await site.receiver.stop();
      for (let failure = 0; failure < 3; failure++) await site.retries.next();
      site.receiver.start();
      await site.receiver.next();
    });
    assertReceived(site.receiver, written);
    assertEquals(site.retries.statuses, [502]);
  });

  test(`nginx, ${protocol}: a server behind it that exceeds its timeout gets everything once`, async () => {
    await using site = await Site.start({
      protocol,
      server: "proxy_read_timeout 50ms;",
    });
    await using out = site.stream();
    const written = await writeDuring(out, async () => {
      await site.receiver.next();
      site.receiver.hold();
      for (let failure = 0; failure < 3; failure++) await site.retries.next();
      // It now stores the requests that timed out, as well.
      site.receiver.release();
      await site.receiver.next();
    });
    assertReceived(site.receiver, written);
    assert(site.retries.statuses.includes(504));
  });

  test(`nginx, ${protocol}: connections that it keeps closing lose nothing`, async () => {
    await using site = await Site.start({
      protocol,
      server: "keepalive_requests 3; keepalive_timeout 4ms;",
    });
    await using out = site.stream();
    const lines = await writeLines(out, 2_500, async (number) => {
      // Delays from 0 to 7 ms, so that requests begin before, while and after
      // nginx closes the connection. It does not report when it does.
      if (number % 25 !== 0) return;
      await out.flush();
      await new Promise((resolve) => setTimeout(resolve, number / 25 % 8));
    });
    assertReceived(site.receiver, lines);
    const log = await site.log();
    const connections = new Set(log.map(({ connection }) => connection));
    assert(connections.size >= log.length / 3, `${connections.size}`);
  });

  test(`nginx, ${protocol}: compressed requests arrive unchanged`, async () => {
    await using site = await Site.start({ protocol });
    await using out = site.stream({ compression: "gzip" });
    assertReceived(site.receiver, await writeLines(out, 500));
    const codings = site.receiver.requests.map((headers) =>
      headers.get("Content-Encoding")
    );
    assertEquals([...new Set(codings)], ["gzip"]);
  });
}

/** Accepts uploads by WebDAV, one object each. */
const DAV = (limit: string) => `
  location /objects/ {
    root .;
    dav_methods PUT;
    create_full_put_path on;
    client_max_body_size ${limit};
  }`;
const OBJECT = new Uint8Array(10 * MIB).map((_, i) => i ^ (i >> 8) ^ (i >> 16));

for (const protocol of PROTOCOLS) {
  for (const length of [undefined, OBJECT.length]) {
    test(`nginx, ${protocol}: an upload of length ${length} becomes one WebDAV object`, async () => {
      await using site = await Site.start({ protocol, server: DAV("0") });
      const out = new StreamBuffer(
        new UploadSender(site.at("/objects/a/b.bin"), {
          ...site.over,
          ...length && { length },
        }),
      );
      for (let at = 0; at < OBJECT.length; at += 100_000) {
        await out.write(OBJECT.subarray(at, at + 100_000));
      }
      await out.close();
      const path = `${site.nginx.folder}/objects/a/b.bin`;
      assert(equals(Deno.readFileSync(path), OBJECT), "the object differs");
      assertEquals((await site.log()).map(({ status }) => status), [201]);
    });

    test(`nginx, ${protocol}: an upload of length ${length} above the limit fails with a 413, and leaves no object`, async () => {
      await using site = await Site.start({ protocol, server: DAV("1m") });
      const out = new StreamBuffer(
        new UploadSender(site.at("/objects/b.bin"), {
          ...site.over,
          ...length && { length },
        }),
      );
      const error = await assertRejects(async () => {
        for (let i = 0; i < 10; i++) await out.write(OBJECT);
        await out.close();
      }, FlushError);
      await out.abort();
      assertMatch(error.message, /responded with 413; the object is larger/);
      assert(!await exists(`${site.nginx.folder}/objects/b.bin`));
    });
  }

  test(`nginx, ${protocol}: an aborted upload leaves no object`, async () => {
    await using site = await Site.start({ protocol, server: DAV("0") });
    const out = new StreamBuffer(
      new UploadSender(site.at("/objects/c.bin"), {
        ...site.over,
      }),
    );
    await out.write(OBJECT);
    await out.flush();
    await out.abort();
    await site.log(); // after it has exited, nothing changes any more
    assert(!await exists(`${site.nginx.folder}/objects/c.bin`));
  });
}

overEach(test)(
  `nginx: ${RESTARTS} restarts during a resumable upload lose nothing`,
  async () => {
    await using tus = await startTusServer({ relativeLocation: true });
    await using site = await Site.start({
      protocol: "HTTP/1.1",
      server: `
      location /files {
        proxy_pass http://127.0.0.1:${tus.port};
        proxy_request_buffering off;
        proxy_http_version 1.1;
      }`,
    });
    const sender = new TusSender(site.at("/files"), over(site.retries.options));
    const out = new StreamBuffer(sender, { capacity: 16 * 1024 });
    const written = await writeDuring(out, async () => {
      for (let restart = 0; restart < RESTARTS; restart++) {
        const { offset } = sender;
        await poll("the upload to continue", () => sender.offset > offset);
        await site.nginx.stop("SIGTERM");
        await site.retries.next();
        await site.nginx.start();
      }
    });
    assert(equals(tus.read(sender.url!), written), "the object differs");
    assert(tus.isComplete(sender.url!));
  },
);

overEach(test)(
  "nginx: an untrusted certificate is reported, and the bytes are kept",
  async () => {
    await using site = await Site.start({ protocol: "HTTP/2.0" });
    const out = streamTo(site.url, over({ retry: { maxElapsed: 0 } }));
    await out.write("secret");
    const { cause } = await assertRejects(() => out.close(), FlushError);
    assertInstanceOf(cause, SendError);
    assertEquals(cause.status, undefined);
    assertMatch(cause.message, /certificate/i);
    assertEquals(new TextDecoder().decode(out.takeUnsent()), "secret");
    assertEquals(site.receiver.requests, []);
  },
);

/** Bytes that do not compress, and are not text. */
function pseudoRandom(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let state = 1;
  for (let i = 0; i < size; i++) {
    state = Math.imul(state, 1_664_525) + 1_013_904_223;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
