/** The files of a page, so that it is of the same origin as the server. */

const TYPES: Record<string, string> = {
  css: "text/css",
  html: "text/html; charset=utf-8",
  js: "text/javascript",
  // Without its types.
  ts: "text/javascript",
  json: "application/json",
  map: "application/json",
};

/** Responds with a file of a folder; 404 if there is none. */
export async function serveFile(
  folder: string,
  path: string,
): Promise<Response> {
  // A URL has no "..", unless its slashes are encoded.
  const decoded = decodeURIComponent(path);
  if (decoded.split(/[/\\]/).includes("..")) return notFound();
  try {
    const bytes = await Deno.readFile(folder + decoded);
    const type = TYPES[decoded.split(".").at(-1)!] ??
      "application/octet-stream";
    return new Response(bytes, { headers: { "Content-Type": type } });
  } catch {
    return notFound();
  }
}

function notFound(): Response {
  return new Response("not found", { status: 404 });
}
