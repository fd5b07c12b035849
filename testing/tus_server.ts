/**
 * The tus server of the tus project, with its file store, on this machine. Run it
 * with
 *
 *     deno run -A testing/tus_server.ts
 */
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { temporary } from "./temporary.ts";

/**
 * How long a request may hold an upload that another one wants, in ms. The server
 * has timers of that length which nothing stops.
 */
const LOCK_DRAIN = 10;

/** A request that the server has answered. */
export interface TusRequest {
  readonly method: string;
  readonly offset: number | undefined;
  readonly status: number;
}

/** A running server. */
export interface TusServer extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
  /** Every request that was answered. */
  readonly requests: TusRequest[];
  /** How many bytes of bodies have reached it. */
  readonly received: number;
  /** How many uploads it has. */
  uploads(): number;
  /** What it has of an upload. */
  read(url: string): Uint8Array;
  /** Whether it has all of it. */
  isComplete(url: string): boolean;
}

/** Starts one. */
export async function startTusServer(
  { port = 0, ...options }: {
    port?: number;
    maxSize?: number;
    relativeLocation?: boolean;
  } = {},
): Promise<TusServer> {
  const folder = await temporary();
  const directory = folder.file("");
  const tus = new Server({
    path: "/files",
    datastore: new FileStore({ directory }),
    lockDrainTimeout: LOCK_DRAIN,
    postReceiveInterval: LOCK_DRAIN,
    ...options,
  });
  const requests: TusRequest[] = [];
  let received = 0;
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port,
    onListen() {},
    onError: () => new Response(null, { status: 500 }),
  }, async (request) => {
    const { method, headers } = request;
    const body = request.body?.pipeThrough(
      new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
          received += chunk.length;
          controller.enqueue(chunk);
        },
      }),
    );
    const counted = body ? new Request(request, { body }) : request;
    const response = await tus.handleWeb(counted);
    const offset = headers.get("Upload-Offset");
    requests.push({
      method,
      offset: offset === null ? undefined : Number(offset),
      status: response.status,
    });
    return response;
  });
  const fileOf = (url: string) => `${directory}${url.split("/").at(-1)}`;
  return {
    port: server.addr.port,
    url: `http://127.0.0.1:${server.addr.port}/files`,
    requests,
    get received() {
      return received;
    },
    uploads: () => [...Deno.readDirSync(directory)].length / 2,
    read: (url) => Deno.readFileSync(fileOf(url)),
    isComplete(url) {
      const { size } = JSON.parse(
        Buffer.from(Deno.readFileSync(`${fileOf(url)}.json`)).toString(),
      );
      return size === Deno.statSync(fileOf(url)).size;
    },
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await sleep(2 * LOCK_DRAIN);
      await folder[Symbol.asyncDispose]();
    },
  };
}

if (import.meta.main) {
  const [port = "1080"] = Deno.args;
  const server = await startTusServer({ port: Number(port) });
  console.log(`${server.url} takes uploads, until it is interrupted`);
}
