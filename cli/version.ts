/**
 * The name and the version of the package. deno.json has them too, but is not part of
 * the npm package; `tests/package_test.ts` compares the two.
 */

export const NAME = "@stream-buffer/stream-buffer";
export const VERSION = "0.1.0";
