/**
 * Deno's permission to connect, asked for before `fetch` would ask.
 *
 * A request with a stream as its body needs this: when `fetch` is not allowed
 * to connect it never releases the body, and the process would not end.
 * Elsewhere there are no permissions, and everything is allowed.
 */

/** Whether `fetch` connects without asking the user first. */
export function mayConnect(url: URL): boolean {
  try {
    const query = permissionFor(url);
    const status = globalThis.Deno?.permissions?.querySync?.(query);
    return status === undefined || status.state === "granted";
  } catch {
    return false; // not a host that Deno can name in a permission
  }
}

/**
 * Asks the user as `fetch` would.
 *
 * @throws {Deno.errors.NotCapable} If the permission is denied, with the message
 *   that `fetch` gives.
 */
export async function askToConnect(url: URL): Promise<void> {
  if (mayConnect(url)) return;
  const permission = permissionFor(url);
  const { state } = await Deno.permissions.request(permission);
  if (state === "granted") return;
  throw new Deno.errors.NotCapable(
    `Requires net access to "${permission.host}", run again with the --allow-net flag`,
  );
}

function permissionFor({ protocol, hostname, port }: URL) {
  const host = `${hostname}:${port || (protocol === "https:" ? 443 : 80)}`;
  return { name: "net", host } as const;
}
