/** Deno, Node and Bun: a program runs the suite and prints the results. */
import { fileURLToPath } from "node:url";
import { install } from "../installed.ts";
import type { Drive, Job } from "./driver.ts";
import { start } from "./process.ts";

/** A program, and the version of it that npm has; Deno is the one that runs this. */
export type Program =
  | { readonly program: "deno" }
  | { readonly program: "node" | "bun"; readonly version: string };

/** Makes what runs the suite in a process. */
export function driveProgram(program: Program): Drive {
  return async (job) => {
    if (program.program === "deno") {
      await run(job, Deno.execPath(), denoArguments(job));
      return Deno.version.deno;
    }
    const path = await install(program.program, program.version);
    const { client } = await job.stage.project();
    await run(job, path, [client]);
    return program.version;
  };
}

async function run(
  { environment, stage, print, signal }: Job,
  path: string,
  args: string[],
): Promise<void> {
  await using process = start(path, {
    args: [...args, JSON.stringify(environment)],
    env: { NODE_EXTRA_CA_CERTS: stage.certificate },
    ...{ print, signal },
  });
  await process.ended;
}

/** Deno runs the sources, not the package, and with no permission but the network. */
function denoArguments({ stage: { certificate } }: Job): string[] {
  const path = (file: string) => fileURLToPath(new URL(file, import.meta.url));
  return [
    ...["run", "--quiet", "--no-prompt", "--no-lock"],
    ...["--config", path("../../../deno.json")],
    ...["--allow-net=127.0.0.1", `--cert=${certificate}`],
    path("../client.ts"),
  ];
}
