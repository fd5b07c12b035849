/** How to go on with an upload. */
import { fileURLToPath } from "node:url";
import config from "../deno.json" with { type: "json" };
import { type Job, sizeOf } from "./job.ts";
import { say } from "./log.ts";
import type { Values } from "./options.ts";

/** Tells the command that goes on with an upload, if there is one. */
export async function tellHowToGoOn(
  { mode, out, upload, files, size, start, skip, origin, values }: Job,
  saved: string | undefined,
  here: string,
): Promise<void> {
  const url = upload?.url;
  if (mode === "upload" || url === undefined) return;
  const before = start - skip;
  const now = await sizeOf(files, before).catch(() => NaN);
  if (size !== undefined && size !== now) {
    return say("the input has changed: it is no longer what the upload is of");
  }
  const isRead = files.includes("-");
  const input = isRead && saved !== undefined ? [saved] : files;
  const offset = input === files ? before : start + out.stats.bytesDelivered;
  const words = [
    ...["deno", "run", "-N", "-R"],
    here.startsWith("file:")
      ? fileURLToPath(here)
      : `jsr:${config.name}@${config.version}/cli`,
    "--resume",
  ];
  for (const option of ["capacity", "interval", "timeout", "retry-for"]) {
    const value = values[option as keyof Values];
    if (value !== undefined) words.push(`--${option}`, String(value));
  }
  // Another server gets none of them now, and so later.
  const headers = new URL(url).origin === origin ? values.header ?? [] : [];
  const needs = new Set<string>();
  if (isRead && input === files) needs.add("the same input");
  for (const header of headers) {
    for (const [, variable] of header.matchAll(/\$\{(\w+)\}/g)) {
      words.splice(4, 0, `--allow-env=${variable}`);
    }
    const isPublic = /^@|^[\w-]+: *((Basic|Bearer|Token) +)?\$\{\w+\}$/i.test(
      header,
    );
    words.push("-H", isPublic ? header : header.replace(/:.*/s, ": ..."));
    if (!isPublic) needs.add("the headers' values in place of ...");
  }
  if (offset > 0) words.push("--offset", `${offset}`);
  if (input.some((file) => /^-./.test(file))) words.push("--");
  const quote = (word: string) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, "'\\''")}'`;
  const hint = needs.size > 0 ? `, with ${[...needs].join(" and ")}` : "";
  say(`to go on${hint}:\n${[...words, url, ...input].map(quote).join(" ")}`);
}
