/** Creates a folder that is removed when it is disposed. */
export async function temporary(): Promise<
  AsyncDisposable & { file(name: string, content?: string): string }
> {
  // Without links: messages name files by their own paths.
  const folder = await Deno.realPath(await Deno.makeTempDir());
  return {
    file(name, content) {
      const path = `${folder}/${name}`;
      if (content !== undefined) Deno.writeTextFileSync(path, content);
      return path;
    },
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}
