/** A small disk of one's own, which only root can mount. */
import { assertMatch } from "@std/assert";

const KIB = 1024;

/** A disk, which is unmounted when it is disposed of. */
export interface SmallDisk extends AsyncDisposable {
  readonly folder: string;
}

/** Mounts a disk, with options for tmpfs: its size in bytes, for one. */
export async function mount(options: string): Promise<SmallDisk> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  await command("mount", "-t", "tmpfs", "-o", options, "none", folder);
  return {
    folder,
    async [Symbol.asyncDispose]() {
      // Lazily, as a test that failed may have left a file open.
      await command("umount", "--lazy", folder);
      await Deno.remove(folder);
    },
  };
}

/** Mounts it once more, with other options. */
export async function remount(
  { folder }: SmallDisk,
  options: string,
): Promise<void> {
  await command("mount", "-o", `remount,${options}`, folder);
}

async function command(name: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(name, { args }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}

/** Why no disk can be mounted here, if none can. */
export async function findObstacle(): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return "there is no tmpfs";
  if (Deno.uid() !== 0) return "only root may mount a disk";
  try {
    await using _ = await mount(`size=${64 * KIB}`);
  } catch (error) {
    return `no disk can be mounted: ${error}`;
  }
}

/** Fills what is left of a disk, up to this many bytes, by another file. */
export function hog({ folder }: SmallDisk, size = Infinity): void {
  const chunk = new Uint8Array(4 * KIB);
  using file = Deno.openSync(`${folder}/hog`, { create: true, append: true });
  try {
    for (let i = 0; i < size; i += chunk.length) file.writeSync(chunk);
  } catch (error) {
    assertMatch(String(error), /No space left/);
  }
}

/** Removes that file, if it is there. */
export function unhog({ folder }: SmallDisk): void {
  try {
    Deno.removeSync(`${folder}/hog`);
  } catch {
    // There is none.
  }
}
