/**
 * What differs between the platforms that the command runs on: Deno, Node and Bun.
 * All else it takes from `node:`, which each of them has.
 */

import process from "node:process";

/** Whether this is Deno, where a program needs permissions, and flags for them. */
export const IS_DENO: boolean = "Deno" in globalThis;

/** What runs a program elsewhere, without flags. */
export const INTERPRETER: string | undefined = IS_DENO
  ? undefined
  : "Bun" in globalThis
  ? "bun"
  : "node";

/** A permission of Deno's. */
export type Permission =
  | { readonly name: "net"; readonly host: string }
  | { readonly name: "read" | "write"; readonly path: string };

/**
 * Requests a permission, unless it has been granted.
 *
 * @returns Whether it is granted.
 */
export async function mayUse(permission: Permission): Promise<boolean> {
  if (!IS_DENO) return true;
  const { state } = await Deno.permissions.request(permission);
  return state === "granted";
}

/**
 * Whether the environment, or one variable of it, may be read. Nobody is asked.
 */
export function envState(variable?: string): "granted" | "prompt" | "denied" {
  if (!IS_DENO) return "granted";
  const { state } = Deno.permissions.querySync({
    name: "env",
    ...variable !== undefined && { variable },
  });
  return state;
}

/**
 * Whether reading a variable neither asks the user nor fails. Variables that are ignored
 * count as denied, but are read as if they were unset.
 */
export function mayReadEnv(variable: string): boolean {
  if (envState() === "prompt") return false;
  try {
    void process.env[variable];
    return true;
  } catch {
    return false;
  }
}
