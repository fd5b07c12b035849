/**
 * What clients connect to: sockets that are forwarded to one HTTP server, and can
 * be closed at any point of a request, by whoever handles it. TLS ends here, so
 * that it is known which version of HTTP a connection speaks.
 */

import { ResetCodes } from "./resets.ts";

/** What a client has connected to. */
export interface Front {
  /** Another origin may send requests to it. */
  readonly cors: boolean;
  readonly listener: Deno.Listener<Deno.Conn>;
}

/** One connection of a client. */
export class Connection {
  readonly front: Front;
  readonly version: "HTTP/1.1" | "HTTP/2";
  readonly #client: Deno.Conn;
  readonly #closed = Promise.withResolvers<void>();

  constructor(
    front: Front,
    version: "HTTP/1.1" | "HTTP/2",
    client: Deno.Conn,
  ) {
    this.front = front;
    this.version = version;
    this.#client = client;
  }

  /** Resolves when either side has closed it. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Closes it, whatever is under way. */
  cut(): void {
    this.#closed.resolve();
    try {
      this.#client.close();
    } catch {
      // The client was faster.
    }
  }
}

/** Forwards connections to an HTTP server on 127.0.0.1. */
export class Forwarder {
  /** By the port from which each is forwarded. */
  readonly #connections = new Map<number, Connection>();
  readonly #port: number;

  /** @param port That of the HTTP server. */
  constructor(port: number) {
    this.#port = port;
  }

  /** The connection that a request has come by. */
  find({ remoteAddr }: Deno.ServeHandlerInfo<Deno.NetAddr>): Connection {
    const connection = this.#connections.get(remoteAddr.port);
    if (connection === undefined) throw new Error("A direct connection");
    return connection;
  }

  /** Accepts connections until the listener is closed. */
  async serve(front: Front): Promise<void> {
    for (;;) {
      try {
        const client = await front.listener.accept();
        void this.#forward(front, client).catch(() => {});
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return;
        // A connection that was closed before it was accepted.
      }
    }
  }

  async #forward(front: Front, client: Deno.Conn): Promise<void> {
    using server = await Deno.connect({
      hostname: "127.0.0.1",
      port: this.#port,
    });
    const { port } = server.localAddr as Deno.NetAddr;
    try {
      const version = await versionOf(client);
      this.#connections.set(port, new Connection(front, version, client));
      const sent = version === "HTTP/2"
        ? client.readable.pipeThrough(new ResetCodes())
        : client.readable;
      // Either side may close first, and that ends both.
      await Promise.race([
        sent.pipeTo(server.writable),
        server.readable.pipeTo(client.writable),
      ]);
    } finally {
      this.#connections.get(port)?.cut();
      this.#connections.delete(port);
    }
  }
}

async function versionOf(client: Deno.Conn): Promise<"HTTP/1.1" | "HTTP/2"> {
  if (!("handshake" in client)) return "HTTP/1.1";
  const { alpnProtocol } = await (client as Deno.TlsConn).handshake();
  return alpnProtocol === "h2" ? "HTTP/2" : "HTTP/1.1";
}
