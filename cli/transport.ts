/** What the command makes its requests by: undici where it can, else `fetch`. */
import process from "node:process";
import type { Transport } from "../mod.ts";
import { IS_DENO, mayReadEnv } from "./platform.ts";

/** What names a proxy to Deno's `fetch`, in lower or upper case. */
const PROXIES = ["http_proxy", "https_proxy", "all_proxy"]
  .flatMap((name) => [name, name.toUpperCase()]);

/**
 * A transport over undici, which is faster than `fetch`; or `undefined`, which
 * stands for `fetch`, where
 *
 * - the environment can be neither read nor ignored: undici reads it, and the user
 *   would be asked for a permission that the command does not need;
 * - the environment of Deno names a proxy: its `fetch` reaches that with the
 *   permission for the server alone, and knows SOCKS;
 * - undici cannot be loaded, for example because it has yet to be downloaded and the
 *   registry cannot be reached.
 */
export async function fastTransport(): Promise<Transport | undefined> {
  if (!PROXIES.every(mayReadEnv) || IS_DENO && namesProxy()) return;
  try {
    const { undiciTransport } = await import("../http/undici.ts");
    return undiciTransport();
  } catch {
    return;
  }
}

function namesProxy(): boolean {
  return PROXIES.some((name) => process.env[name]);
}
