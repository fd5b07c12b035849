/** What a server owes to a page of another origin (https://fetch.spec.whatwg.org/#http-cors-protocol). */

/** Those that the library sends, and one that the checks add. */
export const ALLOWED_HEADERS = [
  ...["authorization", "content-encoding", "content-type", "idempotency-key"],
  ...["tus-resumable", "upload-checksum", "upload-defer-length"],
  ...["upload-length", "upload-metadata", "upload-offset"],
];
/** Those that are not simple methods. */
export const ALLOWED_METHODS = ["DELETE", "OPTIONS", "PATCH", "PUT"];
/** Those that the library reads. */
export const EXPOSED_HEADERS = [
  ...["date", "location", "retry-after", "tus-checksum-algorithm"],
  ...["tus-extension", "tus-max-size", "tus-resumable", "tus-version"],
  ...["upload-length", "upload-metadata", "upload-offset"],
];

/** What a preflight asks for, if the request is one. */
export function preflightOf({ method, headers }: Request): string | undefined {
  const asked = headers.get("Access-Control-Request-Method");
  if (method !== "OPTIONS" || asked === null) return;
  return `${asked} ${headers.get("Access-Control-Request-Headers") ?? ""}`
    .trim();
}

/** Responds to a preflight. */
export function respondToPreflight(disallowed: string[]): Response {
  const names = ALLOWED_HEADERS.filter((name) => !disallowed.includes(name));
  return new Response(null, {
    status: 204,
    headers: {
      "Access-Control-Allow-Origin": "*",
      "Access-Control-Allow-Headers": names.join(", "),
      "Access-Control-Allow-Methods": ALLOWED_METHODS.join(", "),
      // Each check sees its own preflights anyway, as each has its own URL.
      "Access-Control-Max-Age": "60",
    },
  });
}

/** Lets another origin read a response; or makes sure that none can. */
export function share(
  response: Response,
  isShared: boolean,
  hidden: string[],
): Response {
  const headers = new Headers(response.headers);
  // The tus server adds some of its own.
  for (const name of [...headers.keys()]) {
    if (name.startsWith("access-control-")) headers.delete(name);
  }
  if (isShared) {
    headers.set("Access-Control-Allow-Origin", "*");
    const names = EXPOSED_HEADERS.filter((name) => !hidden.includes(name));
    headers.set("Access-Control-Expose-Headers", names.join(", "));
  }
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
