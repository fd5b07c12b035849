/** Asks for what Deno has to permit. Elsewhere everything is permitted. */
import { AccessError, tryTo } from "./errors.ts";
import { mayUse } from "./platform.ts";

/**
 * Requests the permissions to read and write some files, unless they have been granted.
 *
 * @param name What they are together, for the message.
 * @throws {AccessError} If one is denied. All of them are named.
 */
export async function requestFiles(
  name: string,
  files: readonly string[],
): Promise<void> {
  for (const permission of ["read", "write"] as const) {
    for (const path of files) {
      if (await mayUse({ name: permission, path })) continue;
      throw new AccessError(
        `cannot use ${name}: add --allow-read=${files} --allow-write=${files}`,
      );
    }
  }
}

/**
 * Requests the permission to use a host, unless it has been granted.
 *
 * @param action What for, for the message: "connect to".
 * @param host With its port.
 * @throws {AccessError} If it is denied.
 */
export async function requestHost(action: string, host: string): Promise<void> {
  const isAllowed = await tryTo(
    `${action} ${host}`,
    () => mayUse({ name: "net", host }),
  );
  if (!isAllowed) {
    throw new AccessError(`cannot ${action} ${host}: add --allow-net=${host}`);
  }
}
