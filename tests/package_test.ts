import { assert, assertEquals } from "@std/assert";
import config from "../deno.json" with { type: "json" };

const ROOT = import.meta.resolve("../");
const INTERNAL = [
  "internal/checks.ts",
  "internal/promises.ts",
  "internal/queue.ts",
];

/** What a module is made of, without what Deno itself brings. */
async function modulesOf(path: string): Promise<string[]> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", new URL(path, ROOT).href],
    stderr: "null",
  }).output();
  const { modules } = JSON.parse(new TextDecoder().decode(stdout));
  return modules
    .map(({ specifier }: { specifier: string }) => specifier)
    .filter((specifier: string) => !specifier.startsWith("node:"))
    .map((specifier: string) => specifier.replace(ROOT, ""))
    .sort();
}

Deno.test("the library and the command import nothing from a registry", async () => {
  assertEquals(await modulesOf("buffer.ts"), ["buffer.ts", ...INTERNAL]);
  const http = ["buffer.ts", "http/requests.ts", ...INTERNAL];
  for (const sender of ["sender.ts", "senders/tus.ts", "senders/upload.ts"]) {
    assertEquals(await modulesOf(sender), [...http, sender].sort());
  }
  const library = [...http, "mod.ts", "sender.ts"].sort();
  assertEquals(await modulesOf("mod.ts"), library);
  const command = [
    "cli/main.ts",
    "deno.json",
    "senders/tus.ts",
    "senders/upload.ts",
    ...library,
  ];
  assertEquals(await modulesOf("cli/main.ts"), command.sort());
});

Deno.test("every npm package has one exact version", () => {
  for (const specifier of Object.values(config.imports)) {
    const exact = /^npm:(@\w+\/)?[\w-]+@\d+\.\d+\.\d+$/;
    assert(
      exact.test(specifier) || specifier.startsWith("jsr:@std/"),
      specifier,
    );
  }
});
