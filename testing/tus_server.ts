/**
 * The reference server of the tus project (https://tus.io), with its file store,
 * on 127.0.0.1.
 *
 *     deno run -A testing/tus_server.ts [PORT]
 */
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import { Buffer } from "node:buffer";
import { setTimeout as sleep } from "node:timers/promises";
import { Condition } from "./condition.ts";
import { temporary } from "./temporary.ts";

/** How long a request may lock an upload that another one requests, in ms. */
const LOCK_DRAIN = 10;

/** A request that the server has responded to. */
export interface TusRequest {
  readonly method: string;
  readonly offset: number | undefined;
  readonly status: number;
}

/** A running server. */
export interface TusServer extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
  /** All requests that it has responded to. */
  readonly requests: TusRequest[];
  /** How many bytes of bodies it has received. */
  readonly received: number;
  /** Waits until it has received this many bytes of bodies. */
  receivedBytes(count: number): Promise<void>;
  /** How many uploads it has. */
  uploads(): number;
  /** The bytes that it has of an upload. */
  read(url: string): Uint8Array;
  /** Whether it has all bytes of an upload. */
  isComplete(url: string): boolean;
}

/** Starts a server, on a port that the system chooses unless one is given. */
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
  const changes = new Condition();
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
          changes.notify();
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
    receivedBytes: (count) =>
      changes.wait(`${count} bytes`, () => received >= count),
    uploads: () => [...Deno.readDirSync(directory)].length / 2,
    read: (url) => Deno.readFileSync(fileOf(url)),
    isComplete(url) {
      const { size } = JSON.parse(
        Buffer.from(Deno.readFileSync(`${fileOf(url)}.json`)).toString(),
      );
      return size === Deno.statSync(fileOf(url)).size;
    },
    async [Symbol.asyncDispose]() {
      changes.close(`the tus server was stopped after ${received} bytes`);
      await server.shutdown();
      // It has timers of this length, which cannot be stopped or observed.
      await sleep(2 * LOCK_DRAIN);
      await folder[Symbol.asyncDispose]();
    },
  };
}

if (import.meta.main) {
  const [port = "1080"] = Deno.args;
  if (!/^\d+$/.test(port)) {
    console.error("usage: tus_server.ts [PORT]");
    Deno.exit(2);
  }
  const server = await startTusServer({ port: Number(port) });
  console.log(`${server.url} accepts uploads until interrupted`);
}
