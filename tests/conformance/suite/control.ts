/**
 * How a check tells the server what to do with its requests, and asks what has
 * arrived. Both sides import the types.
 *
 *     POST /control/ID    a `Script`: what to do with the requests of this check
 *     GET  /record/ID     a `Recorded`: what has arrived; ?begun=N or ?ended=N
 *                         waits for that many requests
 *     POST /release/ID    lets a request that is held continue
 *     DELETE /control/ID  forgets all of it
 *     any  /ingest/ID     a request under test
 *     any  /tus/ID        a request under test, for the real tus server
 */

/** What to do with one request. By default it is stored, and acknowledged. */
export interface Behaviour {
  /** It is the next request with this method; by default, with any. */
  method?: string;
  /**
   * Of the response. Only a request that is acknowledged with a 2xx is stored.
   *
   * @default {200}
   */
  status?: number;
  /** Of the response. */
  headers?: Record<string, string>;
  /** Of the response. */
  body?: string;
  /** The body of the response never ends. */
  endless?: boolean;
  /** Responds before it has read the body, and then reads it. */
  early?: boolean;
  /** Waits for a call of `/release/ID` before it stores and responds. */
  held?: boolean;
  /**
   * Closes the connection without a response: before it reads the body, or after
   * that many bytes of it, or when it has read all of it, or stored it.
   */
  cut?: "unread" | number | "read" | "stored";
  /** Never responds. */
  silent?: "unread" | "read" | "stored";
}

/** What to do with the requests of one check. */
export interface Script {
  /** One for each request; those that follow are stored. */
  behaviours: Behaviour[];
  /**
   * Headers that a preflight does not allow, in lower case.
   *
   * @default {[]}
   */
  disallow?: string[];
  /**
   * Headers of responses that another origin may not read, in lower case.
   *
   * @default {[]}
   */
  hide?: string[];
}

/** A request that has arrived, or a part of one. */
export interface RecordedRequest {
  readonly method: string;
  readonly version: "HTTP/1.1" | "HTTP/2";
  /** By their names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** Bytes of its body that arrived. */
  readonly size: number;
  /** Of those bytes, after `Content-Encoding` is undone. */
  readonly sha256: string;
  /** The same bytes, in base64, if they are few. */
  readonly body?: string;
  /** All of its body arrived. */
  readonly complete: boolean;
  readonly stored: boolean;
  /** Of the response; 0 if there was none. */
  readonly status: number;
}

/** What a check has sent. */
export interface Recorded {
  readonly requests: RecordedRequest[];
  /** What each preflight asked for: a method, and the names of headers. */
  readonly preflights: string[];
  /**
   * What a server has that honours the key: each stored batch once, in the order
   * of the stream; or the latest upload by tus.
   */
  readonly object: {
    readonly size: number;
    readonly sha256: string;
    /** Its bytes, in base64, if they are few. */
    readonly body?: string;
    /** How many bodies were sent under the key of another body. */
    readonly conflicts: number;
    /** The tus server knows its size, and has all of it. */
    readonly complete: boolean;
  };
}

/** How often a call of the server is made when its connection is cut. */
const MAX_CALLS = 5;

/** Calls the server on behalf of one check. */
export class Control {
  readonly #server: string;
  readonly #id: string;

  constructor(server: string, id: string) {
    this.#server = server;
    this.#id = id;
  }

  /** Where its requests go. */
  get url(): string {
    return `${this.#server}/ingest/${this.#id}`;
  }

  /** Says what to do with the next requests. */
  async script(
    behaviours: Behaviour[],
    settings: Omit<Script, "behaviours"> = {},
  ): Promise<void> {
    const script: Script = { behaviours, ...settings };
    await this.#call("POST", "control", "", JSON.stringify(script));
  }

  /** Lets a request that is held continue. */
  async release(): Promise<void> {
    await this.#call("POST", "release");
  }

  /** What has arrived, once that many requests have begun or ended. */
  async record(
    wait: { begun?: number; ended?: number } = {},
  ): Promise<Recorded> {
    const query = Object.entries(wait).map((pair) => pair.join("=")).join("&");
    const text = await this.#call("GET", "record", query && `?${query}`);
    return JSON.parse(text);
  }

  /** The SHA-256 of the first `size` bytes of a seed, in hexadecimal. */
  async digest(seed: number, size: number): Promise<string> {
    return await this.#call("GET", "digest", `?seed=${seed}&size=${size}`);
  }

  /** Lets go of what the server keeps. */
  async forget(): Promise<void> {
    await this.#call("DELETE", "control");
  }

  /** A call may share its connection with a request that is cut. */
  async #call(
    method: string,
    what: string,
    query = "",
    body: string | null = null,
  ): Promise<string> {
    for (let calls = 1;; calls++) {
      try {
        const response = await fetch(
          `${this.#server}/${what}/${this.#id}${query}`,
          { method, body },
        );
        const text = await response.text();
        if (response.ok) return text;
        throw new Error(`the conformance server responded with ${text}`);
      } catch (error) {
        if (!(error instanceof TypeError) || calls === MAX_CALLS) throw error;
      }
    }
  }
}
