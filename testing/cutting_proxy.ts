/** An unreliable network: a proxy that forwards connections and cuts them. */
import { listen } from "./free_port.ts";

/** The number of bytes, per direction, after which a connection is cut. */
export interface Cut {
  /** From the client to the server. */
  readonly up: number;
  /** From the server to the client. */
  readonly down: number;
}

/** A connection that is not cut. */
export const NO_CUT: Cut = { up: Infinity, down: Infinity };

/** Forwards connections to a server on 127.0.0.1. */
export class CuttingProxy implements AsyncDisposable {
  readonly #listener = listen();
  readonly #target: number;
  readonly #next: () => Cut;
  readonly #connections = new Set<Deno.Conn>();
  readonly #serving: Promise<void>;
  readonly port = this.#listener.addr.port;
  /** How many connections were cut. */
  cuts = 0;

  /**
   * @param target The server's port.
   * @param next Returns where to cut the next connection.
   */
  constructor(target: number, next: () => Cut) {
    this.#target = target;
    this.#next = next;
    this.#serving = this.#serve();
  }

  async #serve(): Promise<void> {
    const handlers = new Set<Promise<void>>();
    for await (const client of this.#listener) {
      const handler = this.#handle(client)
        .finally(() => handlers.delete(handler));
      handlers.add(handler);
    }
    await Promise.all(handlers);
  }

  async #handle(client: Deno.Conn): Promise<void> {
    this.#connections.add(client);
    const { up, down } = this.#next();
    const server = await Deno.connect({
      hostname: "127.0.0.1",
      port: this.#target,
    });
    this.#connections.add(server);
    const close = () => {
      for (const connection of [client, server]) {
        this.#connections.delete(connection);
        try {
          connection.close();
        } catch {
          // Closed by the other direction.
        }
      }
    };
    await Promise.all([
      this.#forward(client, server, up).finally(close),
      this.#forward(server, client, down).finally(close),
    ]);
  }

  async #forward(from: Deno.Conn, to: Deno.Conn, left: number): Promise<void> {
    const chunk = new Uint8Array(16 * 1024);
    try {
      while (left > 0) {
        const size = await from.read(chunk);
        if (size === null) return;
        const passed = Math.min(size, left);
        for (let at = 0; at < passed;) {
          at += await to.write(chunk.subarray(at, passed));
        }
        left -= passed;
      }
      this.cuts++;
    } catch {
      // Cut in the other direction, or closed by either side.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#connections) {
      try {
        connection.close();
      } catch {
        // Closed already.
      }
    }
    await this.#serving;
  }
}
