/**
 * What it costs to store each batch exactly once. Both sides store the same bytes in the
 * same folder, which must not be in memory.
 */
import { join } from "node:path";
import { undiciTransport } from "../http/undici.ts";
import { FetchSender, StreamBuffer } from "../mod.ts";
import { receive, SqliteStore } from "../receiver/mod.ts";
import { Spool } from "../spool/mod.ts";
import { type Kind, openTable, startReceiver } from "./receiver_server.ts";
import type { Sides } from "./spool.ts";
import { RECORD } from "./workloads.ts";

type Post = (request: Request) => Promise<Response>;

/** Sends batches of `size` bytes, some at a time, each with a key of its own. */
function sending(
  send: Post,
  url: string,
  size: number,
  atOnce: number,
): (count: number) => Promise<unknown> {
  const bytes = new Uint8Array(size).fill(65);
  let sequence = 0;
  return async (count) => {
    const end = sequence + count;
    const sendSome = async () => {
      while (sequence < end) {
        const headers = { "Idempotency-Key": `"bench-${sequence++}"` };
        const init = { method: "POST", body: bytes, headers };
        const response = await send(new Request(url, init));
        await response.body?.cancel();
        if (!response.ok) throw new Error(`The status is ${response.status}`);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, sendSome));
  };
}

/**
 * Batches through a handler to a `SqliteStore`, in this process, and as many rows
 * inserted by hand, one after another.
 */
export function sqliteBatches(
  folder: string,
  size: number,
  atOnce: number,
): Sides {
  const store = new SqliteStore(join(folder, "store"));
  const handler = receive({ store });
  const table = openTable(join(folder, "table"));
  const bytes = new Uint8Array(size).fill(65);
  return {
    ours: sending(handler, "http://localhost/", size, atOnce),
    peer: (count) => {
      for (let i = 0; i < count; i++) table.insert(bytes);
      return Promise.resolve();
    },
    [Symbol.asyncDispose]: async () => {
      await store.close();
      table.close();
    },
  };
}

/** Batches over HTTP to two kinds of servers. */
export async function postedBatches(
  folder: string,
  kinds: readonly [ours: Kind, peer: Kind],
  size: number,
  atOnce: number,
): Promise<Sides> {
  await using stack = new AsyncDisposableStack();
  const start = async (kind: Kind, name: string) => {
    const { url } = stack.use(await startReceiver(kind, join(folder, name)));
    return sending(fetch, url, size, atOnce);
  };
  const ours = await start(kinds[0], "ours");
  const peer = await start(kinds[1], "peer");
  const owned = stack.move();
  return { ours, peer, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/**
 * Records through a spool to a receiver that has a `SqliteStore`, and one request and
 * one row for each.
 */
export async function receivedRecords(folder: string): Promise<Sides> {
  await using stack = new AsyncDisposableStack();
  const start = async (kind: Kind) =>
    stack.use(await startReceiver(kind, join(folder, kind)));
  const { url } = await start("sqlite");
  const { url: peerUrl } = await start("insert");
  const transport = stack.use(undiciTransport()); // as the command does
  const sender = new FetchSender(url, { transport });
  const spool = new Spool(join(folder, "spool"), sender);
  const out = stack.use(new StreamBuffer(spool));
  const post = async (request: Request) => await fetch(request);
  const owned = stack.move();
  return {
    ours: async (count) => {
      for (let i = 0; i < count; i++) await out.write(RECORD);
      await out.flush();
      await spool.drained();
    },
    peer: sending(post, peerUrl, RECORD.length, 1),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
