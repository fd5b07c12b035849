/**
 * The server of the conformance suite, a process of its own:
 *
 *     deno run -A tests/conformance/server.ts [--files FOLDER]
 *
 * It prints a line of JSON, a {@linkcode ServerInfo}, and ends when its standard
 * input does, so that nothing is left when the parent is killed. FOLDER is served
 * below `/page/` and `/package/`, from the folders with these names in it.
 * `suite/control.ts` says what else it responds to.
 */
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { makeCertificate } from "../../testing/certificate.ts";
import { temporary } from "../../testing/temporary.ts";
import { preflightOf, respondToPreflight, share } from "./server/cors.ts";
import { serveFile } from "./server/files.ts";
import { type Connection, Forwarder, type Front } from "./server/fronts.ts";
import { Receiver } from "./server/receiver.ts";
import { Uploads } from "./server/uploads.ts";
import { Bytes } from "./suite/bytes.ts";

/** Where the server is. */
export interface ServerInfo {
  /** An origin that shares nothing with others: HTTP/1.1. */
  readonly http: string;
  /** HTTP/1.1, for pages of other origins too. */
  readonly cors: string;
  /** HTTP/2 and HTTP/1.1, for pages of other origins too. */
  readonly https: string;
  /** The tus server at each of them. */
  readonly tus: {
    readonly http: string;
    readonly cors: string;
    readonly https: string;
  };
  /** That of `https`, in PEM. */
  readonly certificate: string;
}

/** How many bytes are hashed at a time. */
const PIECE = 1024 * 1024;

const { values: { files } } = parseArgs({
  options: { files: { type: "string" } },
});
await using folder = await temporary();
Deno.mkdirSync(folder.file("uploads"));
const uploads = new Uploads(folder.file("uploads"));
const receivers = new Map<string, Receiver>();

/** Handles a request of a check, whatever its connection. */
async function handle(
  request: Request,
  connection: Connection,
): Promise<Response> {
  const { pathname } = new URL(request.url);
  const [, what = "", id = ""] = pathname.split("/");
  if (files !== undefined && (what === "page" || what === "package")) {
    return await serveFile(files, pathname);
  }
  let receiver = receivers.get(id);
  if (receiver === undefined) receivers.set(id, receiver = new Receiver());
  const { cors } = connection.front;
  const { disallow = [], hide = [] } = receiver.script;
  const asked = preflightOf(request);
  if (asked !== undefined) {
    receiver.addPreflight(asked);
    return cors ? respondToPreflight(disallow) : new Response();
  }
  const response = await route(request, connection, what, id, receiver);
  return share(response, cors, hide);
}

async function route(
  request: Request,
  connection: Connection,
  what: string,
  id: string,
  receiver: Receiver,
): Promise<Response> {
  const { searchParams } = new URL(request.url);
  const number = (name: string) => Number(searchParams.get(name));
  switch (`${request.method} ${what}`) {
    case "POST control":
      receiver.script = await request.json();
      return new Response();
    case "DELETE control":
      receivers.delete(id);
      return new Response();
    case "POST release":
      receiver.release();
      return new Response();
    case "GET record":
      return Response.json(
        await receiver.record(number("begun"), number("ended")),
      );
    case "GET digest":
      return new Response(digestOf(number("seed"), number("size")));
  }
  if (what === "ingest") {
    return await receiver.handle(request, connection, undefined);
  }
  if (what === "tus") {
    return await receiver.handle(
      request,
      connection,
      (body) =>
        uploads.handle(request, body, `/tus/${id}`, (name) => {
          receiver.upload = () => uploads.read(name);
        }),
    );
  }
  return new Response("not found", { status: 404 });
}

function digestOf(seed: number, size: number): string {
  const source = new Bytes(seed);
  const hash = createHash("sha256");
  for (let left = size; left > 0; left -= PIECE) {
    hash.update(source.next(Math.min(left, PIECE)));
  }
  return hash.digest("hex");
}

const server: Deno.HttpServer<Deno.NetAddr> = Deno.serve({
  hostname: "127.0.0.1",
  port: 0,
  onListen() {},
  // A connection was lost while it was read; the default logs a stack.
  onError: () => new Response(null, { status: 500 }),
}, (request, info) => handle(request, forwarder.find(info)));
const forwarder = new Forwarder(server.addr.port);

const address = { hostname: "127.0.0.1", port: 0 };
const { key, cert } = await makeCertificate(folder.file(""));
const certificate = Deno.readTextFileSync(cert);
const fronts = {
  http: { cors: false, listener: Deno.listen(address) },
  cors: { cors: true, listener: Deno.listen(address) },
  https: {
    cors: true,
    listener: Deno.listenTls({
      ...address,
      cert: certificate,
      key: Deno.readTextFileSync(key),
      alpnProtocols: ["h2", "http/1.1"],
    }),
  },
} satisfies Record<string, Front>;
for (const front of Object.values(fronts)) void forwarder.serve(front);

const [http, cors, https] = [fronts.http, fronts.cors, fronts.https]
  .map(({ listener: { addr: { port } } }) => `127.0.0.1:${port}`);
const info: ServerInfo = {
  http: `http://${http}`,
  cors: `http://${cors}`,
  https: `https://${https}`,
  tus: {
    http: `http://${http}/tus`,
    cors: `http://${cors}/tus`,
    https: `https://${https}/tus`,
  },
  certificate,
};
console.log(JSON.stringify(info));
const interrupted = Promise.withResolvers<void>();
Deno.addSignalListener("SIGINT", interrupted.resolve);
await Promise.race([
  Deno.stdin.readable.pipeTo(new WritableStream()),
  interrupted.promise,
]);
await folder[Symbol.asyncDispose]();
Deno.exit();
