/** Deno asks for permissions, and what that takes. */

/** Whether `fetch` goes ahead without asking the user; only Deno asks. */
export function mayConnect(url: URL): boolean {
  try {
    const query = permissionFor(url);
    const status = globalThis.Deno?.permissions?.querySync?.(query);
    return status === undefined || status.state === "granted";
  } catch {
    return false; // no host that it knows of
  }
}

/** Asks as `fetch` does, and fails as it does, before there is a body to send. */
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

/** Deno's error for a permission that was not granted. */
export function isPermissionError(error: unknown): error is Error {
  return error instanceof Error && error.name === "NotCapable";
}
