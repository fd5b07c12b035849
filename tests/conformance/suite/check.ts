/** What a check is, and what it is given. */
import {
  type FetchSenderOptions,
  StreamBuffer,
  type StreamBufferOptions,
  streamTo,
} from "@stream-buffer/stream-buffer";
import { Control, type Recorded, type RecordedRequest } from "./control.ts";

/** Where the suite runs. */
export interface Environment {
  /** For example "deno", "node-22" or "chromium". */
  readonly name: string;
  /** Base URL of the server, which may be of another origin than the page. */
  readonly server: string;
  /** URL of the collection of the tus server, on the same origin as `server`. */
  readonly tus: string;
  /** Only checks are run whose name has this. */
  readonly filter?: string;
}

/** One statement about the library. */
export interface Check {
  readonly name: string;
  /** How long it may take, in ms. A hang is a failure. */
  readonly limit: number;
  /**
   * Checks it.
   *
   * @returns What was observed on this platform, if that differs by platform.
   * @throws {Refused} If the library refuses what the platform cannot do.
   * @throws If the statement is wrong.
   */
  readonly run: (t: Tools) => Promise<string | void>;
}

/** A check, with a limit in ms. */
export function check(name: string, run: Check["run"], limit = 10_000): Check {
  return { name, run, limit };
}

/** The library refuses, with a clear error, what the platform cannot do. */
export class Refused extends Error {
  /** The name of the error. */
  override readonly name = "Refused";
}

/** Retries at once, and not for long. */
export const QUICK = { initialDelay: 1, maxDelay: 20, maxElapsed: 5_000 };

/** What a check works with: a path of the server that no other check uses. */
export class Tools extends Control {
  readonly environment: Environment;
  /** Where its uploads by tus go. */
  readonly tus: string;
  readonly #buffers: StreamBuffer[] = [];

  constructor(environment: Environment, id: string) {
    super(environment.server, id);
    this.environment = environment;
    this.tus = `${environment.tus}/${id}`;
  }

  /** It runs in a page of another origin than the server, so CORS applies. */
  get isCrossOrigin(): boolean {
    const { document, location } = globalThis as {
      document?: unknown;
      location?: { readonly origin: string };
    };
    return document !== undefined &&
      location?.origin !== new URL(this.environment.server).origin;
  }

  /** A buffer that is aborted at the end of the check, should it be open. */
  buffer(
    ...parameters: ConstructorParameters<typeof StreamBuffer>
  ): StreamBuffer {
    return this.#keep(new StreamBuffer(...parameters));
  }

  /** The same, with a sender to the server that retries quickly. */
  stream(
    options: StreamBufferOptions & FetchSenderOptions = {},
  ): StreamBuffer {
    return this.#keep(streamTo(this.url, { retry: QUICK, ...options }));
  }

  #keep(buffer: StreamBuffer): StreamBuffer {
    this.#buffers.push(buffer);
    return buffer;
  }

  /** Ends what the check has left running. */
  async end(): Promise<void> {
    for (const buffer of this.#buffers) await buffer.abort().catch(() => {});
    await this.forget();
  }
}

/** Bytes as the server gives them. */
export function decode(
  { body }: { readonly body?: string },
): Uint8Array<ArrayBuffer> {
  if (body === undefined) throw new Error("the server keeps few bytes only");
  return Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
}

/** Text as the server gives it. */
export function textOf(bytes: { readonly body?: string }): string {
  return new TextDecoder().decode(decode(bytes));
}

/** The keys of requests, without their quotes. */
export function keysOf({ requests }: Recorded): string[] {
  return requests.map(({ headers }) =>
    (headers["idempotency-key"] ?? "").replaceAll('"', "")
  );
}

/** What an error says anywhere, with all its causes. */
export function everythingIn(error: unknown): string {
  const parts: string[] = [];
  for (let link = error; link instanceof Error; link = link.cause) {
    parts.push(link.name, link.message, `${link.stack}`, JSON.stringify(link));
  }
  return parts.join("\n");
}

/** The texts of requests. */
export function textsOf({ requests }: Recorded): string[] {
  return requests.map((request: RecordedRequest) => textOf(request));
}
