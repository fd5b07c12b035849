/**
 * A receiver whose callers have bearer tokens (RFC 6750), and each of them streams of
 * its own. What else the internet asks for is in docs/receiver.md: TLS, and limits.
 *
 *     deno run -N -R -W examples/receiver_auth.ts callers.txt received.db 8000
 *
 * Each line of callers.txt has a name, and the SHA-256 digest of a token. As the digest
 * is a plain one, the token has to be random:
 *
 *     token=$(openssl rand -hex 32)
 *     echo "alice $(printf %s "$token" | sha256sum | cut -c1-64)" >> callers.txt
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { receive, SqliteStore, type Store } from "../receiver/mod.ts";

/** Who may send. */
export interface Caller {
  /** Letters, digits, `_` and `-`. */
  readonly name: string;
  /** The SHA-256 digest of its token. Who reads it cannot send. */
  readonly digest: Uint8Array;
}

/** Reads the lines of a file of callers. */
export function parseCallers(text: string): Caller[] {
  return text.split("\n").map((line) => line.trim()).filter(Boolean)
    .map((line, index) => {
      const [, name, hex] = line.match(/^([\w-]+)\s+([\da-f]{64})$/) ?? [];
      if (name === undefined || hex === undefined) {
        throw new TypeError(
          `Caller ${
            index + 1
          } must be a name and a SHA-256 digest in hexadecimal`,
        );
      }
      return { name, digest: Uint8Array.fromHex(hex) };
    });
}

/**
 * The part of a store that is one caller's. Nobody else can guess or learn an id and add
 * to that stream, since the ids in the store begin with the name: "alice:ID".
 */
export function storeOf<Transaction>(
  store: Store<Transaction>,
  name: string,
): Store<Transaction> {
  const own = (text: string) => `${name}:${text}`;
  return {
    add: (batch, onBatch) =>
      store.add(
        { ...batch, id: own(batch.id), key: own(batch.key) },
        onBatch,
      ),
    read: (id) => store.read(own(id)),
  };
}

/** Makes a handler that receives from those who have a token, and from nobody else. */
export function receiveFrom<Transaction>(
  callers: readonly Caller[],
  store: Store<Transaction>,
): (request: Request) => Promise<Response> {
  // A receiver for each: none can take up the memory of the others.
  const receivers = callers.map(({ name, digest }) => ({
    digest,
    handle: receive({ store: storeOf(store, name) }),
  }));
  return async (request) => {
    const token = tokenOf(request.headers.get("Authorization"));
    if (token === undefined) return unauthorized("");
    const given = createHash("sha256").update(token).digest();
    // Each comparison takes the same time, and none is left out. That tells nothing
    // about the tokens, and of digests nobody can choose the first bytes anyway.
    const [known] = receivers.filter(({ digest }) =>
      timingSafeEqual(digest, given)
    );
    if (known === undefined) return unauthorized(', error="invalid_token"');
    return await known.handle(request);
  };
}

function tokenOf(header: string | null): string | undefined {
  return header?.match(/^Bearer +([\w.~+/-]+=*)$/i)?.[1];
}

function unauthorized(error: string): Response {
  return new Response("a token is needed\n", {
    status: 401,
    headers: { "WWW-Authenticate": `Bearer realm="receiver"${error}` },
  });
}

if (import.meta.main) {
  const [list = "callers.txt", path = "received.db", port = "8000"] = Deno.args;
  const callers = parseCallers(await Deno.readTextFile(list));
  // Nothing closes it: a receiver may be killed at any time. What has no response by
  // then is sent again.
  const store = new SqliteStore(path);
  Deno.serve({
    hostname: "127.0.0.1", // what ends TLS is on this machine
    port: Number(port),
    onListen: ({ port }) => console.log(`http://127.0.0.1:${port}/`),
  }, receiveFrom(callers, store));
}
