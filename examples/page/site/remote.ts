/// <reference lib="dom" />
/** What the page asks the receiver, and how it breaks it. */
import type { Fault, StreamState } from "../stream.ts";

export type { Fate, Fault, StreamState } from "../stream.ts";

/** The receiver of one stream. */
export class Remote {
  readonly #url: string;
  #events = 0;
  /** The latest call of `getState`: two at once would get the same events. */
  #latest: Promise<unknown> = Promise.resolve();

  constructor(id: string) {
    this.#url = `/streams/${id}`;
  }

  /** Makes the stream known to the receiver. */
  async make(): Promise<void> {
    await request(this.#url, { method: "PUT" });
  }

  /** Breaks the receiver, or mends it. */
  async setFault(fault: Fault | undefined): Promise<void> {
    const body = fault ?? "";
    await request(`${this.#url}/fault`, { method: "PUT", body });
  }

  /** How the receiver is, and what has happened there since the last call. */
  getState(): Promise<StreamState> {
    const next = this.#latest.then(() => this.#getState());
    this.#latest = next.catch(() => {});
    return next;
  }

  async #getState(): Promise<StreamState> {
    const response = await request(`${this.#url}?since=${this.#events}`);
    const state: StreamState = await response.json();
    this.#events = state.events;
    return state;
  }
}

async function request(url: string, init?: RequestInit): Promise<Response> {
  const response = await fetch(url, init);
  if (!response.ok) throw new Error((await response.text()).trim());
  return response;
}
