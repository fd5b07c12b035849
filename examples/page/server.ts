/**
 * Serves the page and what it imports, and receives its streams. What the browser
 * gets is what is in this repository, without the types, and two npm packages.
 *
 * | request                        | response                                     |
 * | ------------------------------ | -------------------------------------------- |
 * | `GET /`, `/site/`              | the page                                     |
 * | `GET /library/`, `/packages/`  | the library, and the packages                |
 * | `PUT /streams/ID`              | makes a stream                               |
 * | `GET /streams/ID?since=EVENTS` | what was stored of it, and how it is broken  |
 * | `PUT /streams/ID/fault`        | breaks it, or mends it if the body is empty  |
 * | `POST /streams/ID/records`     | stores a batch                               |
 */
import { transformSync } from "amaro";
import sha256 from "js-sha256/build/sha256.min.mjs" with { type: "text" };
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { extname } from "node:path/posix";
import { text } from "node:stream/consumers";
import uplot from "uplot/dist/uPlot.esm.js" with { type: "text" };
import uplotStyle from "uplot/dist/uPlot.min.css" with { type: "text" };
import { type Fault, FAULTS, ReceivedStream } from "./stream.ts";

/** A stream that nobody has asked for as long as this is forgotten, in ms. */
const MAX_IDLE = 10 * 60_000;
/** How many streams there may be; then the one that was idle longest is forgotten. */
const MAX_STREAMS = 1_000;

const PACKAGES: Readonly<Record<string, string>> = {
  "uplot.js": uplot,
  "uplot.css": uplotStyle,
  "sha256.js": sha256,
};
const ROOT = new URL("../../", import.meta.url);
/** What may be read, by its path in the URL. */
const FOLDERS: readonly [RegExp, URL][] = [
  [/^\/library\/((?:(?:http|internal)\/)?\w+\.ts)$/, ROOT],
  [/^\/site\/(\w+\.(?:ts|css|svg))$/, new URL("./site/", import.meta.url)],
];
const INDEX = new URL("./site/index.html", import.meta.url);
const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".ts": "text/javascript",
};
const HEADERS = {
  // No request to another host. The import map stands in the page.
  "Content-Security-Policy":
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
};

/** The page and its receiver, on a port of 127.0.0.1. */
export class PageServer implements AsyncDisposable {
  readonly #server: Server;
  /** The one that was idle longest first. */
  readonly #streams = new Map<
    string,
    { stream: ReceivedStream; used: number }
  >();
  readonly url: string;

  private constructor(server: Server) {
    this.#server = server;
    const { port } = server.address() as AddressInfo;
    this.url = `http://127.0.0.1:${port}/`;
    server.on("request", (request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
  }

  /**
   * Starts it.
   *
   * @param port 0 for any that is free.
   */
  static start(port: number): Promise<PageServer> {
    return new Promise((resolve, reject) => {
      const server = createServer();
      server.once("error", reject);
      server.listen(port, "127.0.0.1", () => resolve(new PageServer(server)));
    });
  }

  /** How many streams it knows. */
  get streamCount(): number {
    return this.#streams.size;
  }

  async #handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    for (const [name, value] of Object.entries(HEADERS)) {
      response.setHeader(name, value);
    }
    const { pathname, searchParams } = new URL(request.url!, this.url);
    const [, id, part = ""] =
      pathname.match(/^\/streams\/([0-9a-f]{32})(\/\w+)?$/) ?? [];
    if (id === undefined) return await serveFile(pathname, response);
    const what = `${request.method} ${part}`;
    if (what === "PUT ") this.#make(id);
    const stream = this.#find(id);
    if (stream === undefined) {
      request.resume();
      return send(response, 404, "this stream is not known, or forgotten\n");
    }
    if (what === "POST /records") return stream.receive(request, response);
    if (what === "PUT /fault") {
      const fault = await text(request);
      if (fault !== "" && !FAULTS.includes(fault as Fault)) {
        return send(response, 400, `there is no fault ${fault}\n`);
      }
      stream.setFault(fault === "" ? undefined : fault as Fault);
      return send(response, 204);
    }
    request.resume();
    if (what === "PUT ") return send(response, 201);
    if (what !== "GET ") {
      return send(response, 405, "this method is not allowed\n");
    }
    const since = Number(searchParams.get("since"));
    send(response, 200, JSON.stringify(stream.getState(since)), ".json");
  }

  #make(id: string): void {
    if (this.#streams.has(id)) return;
    const stream = new ReceivedStream(id);
    this.#streams.set(id, { stream, used: performance.now() });
    for (const [other, { used }] of this.#streams) {
      const isIdle = performance.now() - used > MAX_IDLE;
      if (!isIdle && this.#streams.size <= MAX_STREAMS) break;
      this.#forget(other);
    }
  }

  #find(id: string): ReceivedStream | undefined {
    const found = this.#streams.get(id);
    if (found === undefined) return;
    // It becomes the last one.
    this.#streams.delete(id);
    this.#streams.set(id, { ...found, used: performance.now() });
    return found.stream;
  }

  #forget(id: string): void {
    this.#streams.get(id)?.stream.end();
    this.#streams.delete(id);
  }

  /** Stops it, and cuts the connections that are open. */
  [Symbol.asyncDispose](): Promise<void> {
    for (const id of [...this.#streams.keys()]) this.#forget(id);
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }
}

async function serveFile(
  pathname: string,
  response: ServerResponse,
): Promise<void> {
  const [, name = ""] = pathname.match(/^\/packages\/([\w.]+)$/) ?? [];
  if (Object.hasOwn(PACKAGES, name)) {
    return send(response, 200, PACKAGES[name]!, extname(name));
  }
  const file = pathname === "/" ? INDEX : findFile(pathname);
  const content = file && await Deno.readTextFile(file).catch(() => undefined);
  if (content === undefined) return send(response, 404, "not found\n");
  const type = extname(file!.pathname);
  const body = type === ".ts"
    ? transformSync(content, { mode: "strip-only" }).code
    : content;
  send(response, 200, body, type);
}

function findFile(pathname: string): URL | undefined {
  for (const [pattern, folder] of FOLDERS) {
    const [, path] = pathname.match(pattern) ?? [];
    if (path !== undefined) return new URL(path, folder);
  }
}

function send(
  response: ServerResponse,
  status: number,
  body = "",
  type?: string,
): void {
  response.statusCode = status;
  response.setHeader("Content-Type", TYPES[type ?? ""] ?? "text/plain");
  response.end(body);
}
