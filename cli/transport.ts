/** What the command makes its requests by: undici where it can, else `fetch`. */
import process from "node:process";
import type { Transport } from "../mod.ts";
import { envState, IS_DENO } from "./platform.ts";

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
  if (!mayReadEnv() || IS_DENO && namesProxy()) return;
  try {
    const { undiciTransport } = await import("../http/undici.ts");
    return undiciTransport();
  } catch {
    return;
  }
}

/** Whether reading a variable neither asks the user nor fails. */
function mayReadEnv(): boolean {
  // Variables that are ignored count as denied, but are read as if they were unset.
  if (envState() === "prompt") return false;
  try {
    namesProxy();
    return true;
  } catch {
    return false;
  }
}

function namesProxy(): boolean {
  // All of them, because reading any may fail.
  return PROXIES.map((name) => process.env[name]).some(Boolean);
}
