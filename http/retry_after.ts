/** The header `Retry-After` (RFC 9110, section 10.2.3). */

/**
 * The delay that a response asks for. A date is compared with the response's own
 * `Date`: the clock of this machine may differ from that of the server.
 *
 * @returns Milliseconds from now; `undefined` if the header is missing or
 *   invalid.
 */
export function parseRetryAfter(
  headers: Pick<Headers, "get">,
): number | undefined {
  const value = headers.get("Retry-After");
  if (value === null) return undefined;
  // Sent twice, it arrives as a list.
  if (/^\d+(, *\d+)*$/.test(value)) {
    return 1_000 * Math.max(...value.split(",").map(Number));
  }
  const date = parseDate(value);
  if (date === undefined) return undefined;
  const now = parseDate(headers.get("Date") ?? "") ?? Date.now();
  return Math.max(0, date - now);
}

/** An HTTP date (RFC 9110, section 5.6.7) in ms; `undefined` if it is none. */
function parseDate(value: string): number | undefined {
  // `Date.parse` accepts even "-5" as a date, and asctime's has no time zone.
  if (!/^[A-Z][a-z]+,? .*\d\d:\d\d:\d\d/.test(value)) return undefined;
  const date = Date.parse(value.replace(/( GMT)?$/, " GMT"));
  return Number.isNaN(date) ? undefined : date;
}
