/** Random identifiers. */

/**
 * A random UUID (RFC 9562, section 5.4), as `crypto.randomUUID` returns it, which
 * browsers lack on pages that are not secure.
 */
export function randomUUID(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = bytes[6]! & 0x0f | 0x40; // the version
  bytes[8] = bytes[8]! & 0x3f | 0x80; // the variant
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));
  return hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
