/** A client that sends what no proper one would: its bytes are the test's own. */
import { concat } from "@std/bytes";

/** A response, read to its end. */
export interface RawResponse {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

/** A connection to a server on this machine. */
export class RawClient implements Disposable {
  readonly #connection: Deno.TcpConn;
  #isClosed = false;
  /** What was read, and belongs to no response yet; each byte is a character. */
  #read = "";

  private constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
  }

  /** Connects to a port of 127.0.0.1. */
  static async connect(port: number): Promise<RawClient> {
    return new RawClient(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  /** Sends text or bytes, unchanged. */
  async write(data: string | Uint8Array): Promise<void> {
    let rest = typeof data === "string" ? new TextEncoder().encode(data) : data;
    while (rest.length > 0) {
      rest = rest.subarray(await this.#connection.write(rest));
    }
  }

  /** Sends no more, and can still read. */
  async end(): Promise<void> {
    await this.#connection.closeWrite();
  }

  /**
   * Reads a response over HTTP/1.1 with a `Content-Length`, or without a body.
   *
   * @returns `undefined` if the server closes the connection before.
   */
  async response(): Promise<RawResponse | undefined> {
    const headEnd = "\r\n\r\n";
    while (!this.#read.includes(headEnd)) if (!await this.#more()) return;
    const [head] = this.#read.split(headEnd) as [string];
    const [first, ...lines] = head.split("\r\n") as [string, ...string[]];
    const headers = new Headers(
      lines.map((line) => line.split(/:\s*(.*)/, 2) as [string, string]),
    );
    const start = head.length + headEnd.length;
    const end = start + Number(headers.get("Content-Length"));
    while (this.#read.length < end) if (!await this.#more()) return;
    const body = this.#read.slice(start, end);
    this.#read = this.#read.slice(end);
    return { status: Number(first.split(" ")[1]), headers, body };
  }

  /** Closes the connection. Doing that again does nothing. */
  [Symbol.dispose](): void {
    if (!this.#isClosed) this.#connection.close();
    this.#isClosed = true;
  }

  async #more(): Promise<boolean> {
    const buffer = new Uint8Array(16_384);
    const size = await this.#connection.read(buffer).catch(() => null);
    if (size === null) return false;
    this.#read += String.fromCharCode(...buffer.subarray(0, size));
    return true;
  }
}

/** What begins a connection of HTTP/2 (RFC 9113, section 3.4). */
export const HTTP2_PREFACE: Uint8Array = concat([
  new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  frame(4, 0, 0, new Uint8Array()),
]);

/** The headers of an HTTP/2 request, each shorter than 127 characters. */
export function http2Head(
  stream: number,
  headers: Record<string, string>,
): Uint8Array {
  const all = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/",
    ...headers,
  };
  // Literal fields with a new name (RFC 7541, section 6.2.2).
  const fields = Object.entries(all).flatMap(([name, value]) => [
    new Uint8Array([0, name.length]),
    new TextEncoder().encode(name),
    new Uint8Array([value.length]),
    new TextEncoder().encode(value),
  ]);
  return frame(1, 4, stream, concat(fields));
}

/** A part of the body of an HTTP/2 request. */
export function http2Data(
  stream: number,
  data: string,
  isLast = false,
): Uint8Array {
  return frame(0, isLast ? 1 : 0, stream, new TextEncoder().encode(data));
}

/** The reset of an HTTP/2 stream, with an error code (RFC 9113, section 7). */
export function http2Reset(stream: number, code: number): Uint8Array {
  return frame(3, 0, stream, new Uint8Array([0, 0, 0, code]));
}

/** A frame (RFC 9113, section 4.1), shorter than 65,536 bytes. */
function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(9 + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(1, payload.length);
  view.setUint8(3, type);
  view.setUint8(4, flags);
  view.setUint32(5, stream);
  bytes.set(payload, 9);
  return bytes;
}
