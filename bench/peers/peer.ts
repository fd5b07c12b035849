/** What a program that sends records needs of a peer. */

/** A way to send records to a web server. */
export interface Peer {
  /**
   * Takes a record. A promise stands for its delivery; a peer that returns none
   * takes records without a limit.
   */
  send(n: number): Promise<unknown> | void;
  /** What the peer's documentation says to do at the end of a program. */
  close(): Promise<void>;
}

/** Where a peer that returns no promises reports what is not going to arrive. */
export interface Losses {
  /** This record is not. */
  record(n: number): void;
  /** Something is not, but it does not say what. */
  notice(): void;
}

/** Each module of a peer exports one, named `connect`. */
export type Connect = (url: string, losses: Losses) => Peer;

/** A record of about 100 bytes. */
export function recordOf(n: number): { n: number; message: string } {
  return { n, message: "A record of the comparison".padEnd(77, ".") };
}
