/** What stands beside a spool: the file that says how it is. */

/** What a spool publishes about itself while it is open. */
export interface Published {
  /** The id of the stream. */
  readonly id: string;
  /** Bytes that have not been delivered. */
  readonly bytesWaiting: number;
  /** Sends that have not been delivered. */
  readonly batchesWaiting: number;
  /** When the oldest of them was committed, in ms since 1970; `null` if there is none. */
  readonly oldest: number | null;
  /** Bytes delivered since the file was created. */
  readonly bytesDelivered: number;
  /** Bytes that `deadLetter` has taken since then. */
  readonly bytesDiverted: number;
  /** Bytes of a followed file known to have been destroyed unread since then. */
  readonly bytesLost: number;
}
