/**
 * What docs/receiver.md puts in front of a receiver. Skipped where nginx or openssl is
 * missing.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { undiciTransport } from "../http/undici.ts";
import { FlushError, SendError, streamTo } from "../mod.ts";
import { MemoryStore, receive } from "../receiver/mod.ts";
import { makeCertificate } from "../testing/certificate.ts";
import {
  NGINX,
  OPENSSL,
  RealServer,
  testWith,
} from "../testing/real_servers.ts";

const PAGE = new URL("../docs/receiver.md", import.meta.url);
const MIB = 2 ** 20;

/** The configuration of the page, with ports and files of this test. */
function configuration(port: number, upstream: number): string {
  const page = Deno.readTextFileSync(PAGE).replaceAll("\r\n", "\n");
  let [, block = ""] = page.match(/^```nginx\n([^]*?)^```/m) ?? [];
  for (
    const [own, other] of [
      ["listen 443", `listen 127.0.0.1:${port}`],
      ["127.0.0.1:8000", `127.0.0.1:${upstream}`],
      ["/etc/ssl/ingest.pem", "cert.pem"],
      ["/etc/ssl/ingest.key", "key.pem"],
    ] as const
  ) {
    assert(block.includes(own), own);
    block = block.replace(own, other);
  }
  return block;
}

async function configure(
  folder: string,
  port: number,
  upstream: number,
): Promise<string[]> {
  await makeCertificate(folder);
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `
      daemon off;
      pid nginx.pid;
      ${Deno.uid() === 0 ? "user root;" : ""}
      events {}
      http {
        ${folders.map((name) => `${name}_temp_path ${name};`).join("\n")}
        access_log off;
        ${configuration(port, upstream)}
      }`,
  );
  return ["-p", folder, "-c", "nginx.conf", "-e", "error.log"];
}

testWith(NGINX, OPENSSL)(
  "a receiver behind the nginx of docs/receiver.md takes what fits, and no more",
  async () => {
    const store = new MemoryStore();
    await using receiver = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      receive({ store }),
    );
    await using nginx = await RealServer.start({
      program: NGINX,
      configure: (folder, port) => configure(folder, port, receiver.addr.port),
    });
    await using transport = undiciTransport({
      ca: await nginx.read("cert.pem"),
    });
    const url = `https://127.0.0.1:${nginx.port}/`;
    const send = async (id: string, size: number) => {
      const out = streamTo(url, {
        ...{ transport, capacity: size, idempotencyKey: id },
        retry: { maxElapsed: 0 },
      });
      await out.write(new Uint8Array(size).fill(65));
      await out.close();
    };
    await send("fits", 16 * MIB);
    const { size } = await new Response(store.read("fits")).blob();
    assertEquals(size, 16 * MIB);
    const { cause } = await assertRejects(
      () => send("does not", 16 * MIB + 1),
      FlushError,
    );
    assert(cause instanceof SendError);
    assertEquals(cause.status, 413);
  },
);
