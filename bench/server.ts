/**
 * A web server that discards what it receives, for benchmarks. It uses raw TCP
 * and reads only the framing of the requests, so that the sender is what is
 * measured.
 *
 * `GET /report` responds with the {@linkcode Report} since the last one.
 *
 *     deno run -N bench/server.ts DELAY STALL
 *
 * DELAY is the delay of each response in milliseconds, STALL the time in
 * milliseconds before it reads the first body.
 */

/** What the server has received since the last report. */
export interface Report {
  bytes: number;
  /** When the body of each request was complete, by {@linkcode clock}. */
  arrivals: number[];
}

/** Milliseconds since 1970, with fractions, comparable between processes. */
export function clock(): number {
  return performance.timeOrigin + performance.now();
}

/** A server in its own process. */
export interface Server extends AsyncDisposable {
  readonly url: string;
  report(): Promise<Report>;
}

/**
 * Starts a server that delays each response by `delay` ms, and waits `stall` ms
 * before it reads the first body.
 */
export async function startServer(delay = 0, stall = 0): Promise<Server> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "-N", import.meta.url, `${delay}`, `${stall}`],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = process.stdout.getReader();
  const { value } = await reader.read();
  if (value === undefined) throw new Error("The server did not start");
  const url = new TextDecoder().decode(value).trim();
  return {
    url,
    report: async () => await (await fetch(`${url}report`)).json(),
    [Symbol.asyncDispose]: async () => {
      await process.stdin.close();
      await reader.cancel();
      await process.status;
    },
  };
}

const NEWLINE = 10;
const totals: Report = { bytes: 0, arrivals: [] };
let stall = 0;

function report(): string {
  const json = JSON.stringify(totals);
  totals.bytes = 0;
  totals.arrivals = [];
  return `HTTP/1.1 200 OK\r\nContent-Length: ${json.length}\r\n\r\n${json}`;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function serve(connection: Deno.TcpConn, delay: number): Promise<void> {
  const input = new Uint8Array(2 ** 20);
  let start = 0;
  let end = 0;

  const fill = async () => {
    if (start === end) start = end = 0;
    const size = await connection.read(input.subarray(end));
    if (size === null) throw new Error("The connection was closed");
    end += size;
  };
  const line = async (): Promise<string> => {
    for (;;) {
      const at = input.subarray(start, end).indexOf(NEWLINE);
      if (at >= 0) {
        const text = new TextDecoder().decode(
          input.subarray(start, start + at),
        );
        start += at + 1;
        return text.trim().toLowerCase();
      }
      if (end === input.length) {
        input.copyWithin(0, start, end);
        end -= start;
        start = 0;
      }
      await fill();
    }
  };
  const skip = async (size: number) => {
    totals.bytes += size;
    while (size > 0) {
      if (start === end) await fill();
      const part = Math.min(size, end - start);
      start += part;
      size -= part;
    }
  };
  const respond = (text: string) =>
    connection.write(new TextEncoder().encode(text));

  for (;;) {
    const request = await line();
    let length = 0;
    let chunked = false;
    for (let header; (header = await line()) !== "";) {
      const [name, value] = header.split(": ");
      if (name === "content-length") length = Number(value);
      if (name === "transfer-encoding") chunked = true;
      if (name === "expect") await respond("HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (request.startsWith("get /report")) {
      await respond(report());
      continue;
    }
    if (stall > 0) await sleep(stall);
    stall = 0;
    await skip(length);
    while (chunked) {
      const size = parseInt(await line(), 16);
      await skip(size);
      await line();
      if (size === 0) break;
    }
    totals.arrivals.push(clock());
    if (delay > 0) await sleep(delay);
    await respond("HTTP/1.1 204 No Content\r\n\r\n");
  }
}

if (import.meta.main) {
  const [delay, first] = Deno.args.map(Number);
  stall = first!;
  // An ephemeral port, and so above 10080, the highest one that `fetch` blocks.
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  console.log(`http://127.0.0.1:${listener.addr.port}/`);
  // Its input closes when the process that started it exits, for any reason.
  void Deno.stdin.read(new Uint8Array(1)).then(() => Deno.exit());
  for await (const connection of listener) {
    connection.setNoDelay();
    void serve(connection, delay!).catch(() => connection.close());
  }
}
