/** Names that no one else has. */

/**
 * A random UUID (RFC 9562, version 4), as `crypto.randomUUID()` makes them. That
 * is missing on pages served by `http:`, and `getRandomValues` is not.
 */
export function randomUuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = 0x40 | bytes[6]! & 0x0f; // version
  bytes[8] = 0x80 | bytes[8]! & 0x3f; // variant
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));
  return hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
