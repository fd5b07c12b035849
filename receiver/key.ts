/** The keys of batches, as senders of this library make them. */

/** What the key of a batch says. */
export interface Key {
  readonly key: string;
  readonly id: string;
  readonly epoch: string;
  readonly sequence: number;
  readonly part: string;
  readonly from: number;
}

/** The longest key, in characters. Those of a spool with a UUID have some 70. */
export const MAX_KEY = 512;

/**
 * A string as a structured field (RFC 8941, section 3.3.3), which the IETF draft of
 * `Idempotency-Key` says that a key is:
 * https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
 */
const STRING = /^"((?:[ !#-[\]-~]|\\["\\])*)"$/;
/** `ID-SEQUENCE`, or `ID.EPOCH-SEQUENCE` of a spool. No number has a leading zero. */
const BATCH = /^(.+?)(?:\.([0-9a-f]{16}))?-(0|[1-9]\d{0,15})$/;
/** `KEY/FROM-TO`, of a part of a batch. */
const PART = /^(.+)\/((0|[1-9]\d{0,15})-(0|[1-9]\d{0,15}))$/;

/** The string that the header holds, or `undefined` if it holds no string. */
export function parseString(header: string): string | undefined {
  const [, text] = STRING.exec(header) ?? [];
  return text?.replace(/\\(.)/g, "$1");
}

/** What a key says, or `undefined` if it is not the key of a batch. */
export function parseKey(key: string): Key | undefined {
  const [, whole, part = "", from = "0", to = "0"] = PART.exec(key) ?? [];
  const batch = whole === undefined ? undefined : parseBatch(whole);
  // An id may end like a part: "logs/2025-0" is batch 0 of "logs/2025".
  const isPart = Number(from) < Number(to) && Number.isSafeInteger(Number(to));
  return batch !== undefined && isPart
    ? { ...batch, key, part, from: Number(from) }
    : parseBatch(key);
}

function parseBatch(key: string): Key | undefined {
  const [, id, epoch = "", digits] = BATCH.exec(key) ?? [];
  const sequence = Number(digits);
  if (id === undefined || !Number.isSafeInteger(sequence)) return undefined;
  return { key, id, epoch, sequence, part: "", from: 0 };
}

/**
 * The key of a request that is alone: it is a stream with one batch. No other key has
 * an empty part, so that "a" is not taken for "a-0", the first batch of the stream "a".
 */
export function aloneKey(key: string): Key {
  return { key, id: key, epoch: "", sequence: 0, part: "0-0", from: 0 };
}
