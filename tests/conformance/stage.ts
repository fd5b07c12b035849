/** What the runs of the suite share: the server, and the project with the package. */
import { makeProject, type Project } from "./project.ts";
import type { ServerInfo } from "./server.ts";
import { startServer } from "./server_process.ts";

/** Where the suite runs. When it is disposed, nothing is left of it. */
export interface Stage extends AsyncDisposable {
  readonly server: ServerInfo;
  /** A file with the certificate of the server, in PEM. */
  readonly certificate: string;
  /** The project, made when it is first needed: Deno runs the sources. */
  readonly project: () => Promise<Project>;
}

/** Starts the server. */
export async function setStage(): Promise<Stage> {
  const dir = await Deno.makeTempDir();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  const { info } = stack.use(await startServer(dir));
  const certificate = `${dir}/certificate.pem`;
  await Deno.writeTextFile(certificate, info.certificate);
  let project: Promise<Project> | undefined;
  stack.defer(async () => {
    await project?.catch(() => {});
  });
  const owned = stack.move();
  return {
    server: info,
    certificate,
    project: () => project ??= makeProject(dir),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
