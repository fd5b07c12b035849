import { assert, assertEquals } from "@std/assert";
import { dirname } from "node:path";
import { makeCertificate } from "../testing/certificate.ts";
import { preload } from "../testing/child.ts";
import { start, SUCCESS } from "../testing/command.ts";
import { FaultyServer } from "../testing/faulty_server.ts";
import { OPENSSL, Receiver, testWith } from "../testing/real_servers.ts";
import { temporary } from "../testing/temporary.ts";

/** Runs the command, and returns what made its only request. */
async function transportOf(
  flags: string[],
  variables: Record<string, string> = {},
): Promise<string> {
  await using server = new FaultyServer();
  // No proxy that this machine may have configured.
  const unset = "for name in http https all; do unset ${name}_proxy; done; " +
    "unset HTTP_PROXY HTTPS_PROXY ALL_PROXY";
  const exports = Object.entries(variables)
    .map(([name, value]) => `export ${name}='${value}'`);
  await using child = start(
    [server.url],
    ["-N=127.0.0.1", ...flags],
    [unset, ...exports].join("; "),
  );
  await child.write("data");
  await child.end();
  assertEquals(await child.outcome, SUCCESS);
  assertEquals(server.bodies, ["data"]);
  const { headers } = server.requests[0]!;
  // Which is what `fetch` adds to every request.
  return headers.has("Accept-Language") ? "fetch" : "undici";
}

for (
  const [flags, expected] of [
    [[], "fetch"],
    [["--ignore-env"], "undici"],
    [["--ignore-env", "--allow-env=TEST_TOKEN"], "undici"],
    [["-E"], "undici"],
    [["-E", "--deny-env=https_proxy"], "fetch"],
    [["--allow-env=TEST_TOKEN"], "fetch"],
    [["--deny-env"], "fetch"],
    [["--ignore-env", "--no-npm"], "fetch"],
  ] as const
) {
  Deno.test(`cli with ${flags.join(" ") || "no flag"} makes requests by ${expected}, and needs no other permission`, async () => {
    assertEquals(await transportOf([...flags]), expected);
  });
}

Deno.test("cli does not look for a proxy when the user would be asked for that", async () => {
  const logReads = preload(() => {
    const { get } = Deno.env;
    Deno.env.get = (name) => {
      // Deno itself reads others, which needs no permission.
      if (/proxy/i.test(name)) console.log(`read ${name}`);
      return get.call(Deno.env, name);
    };
  });
  assertEquals(await transportOf([logReads]), "fetch");
});

for (const name of ["HTTP_PROXY", "https_proxy", "ALL_PROXY"]) {
  Deno.test(`cli with -E and ${name} makes requests by fetch`, async () => {
    const variables = { [name]: "http://127.0.0.1:1/", NO_PROXY: "127.0.0.1" };
    assertEquals(await transportOf(["-E"], variables), "fetch");
  });
}

Deno.test("cli makes requests by fetch when undici cannot be downloaded", async () => {
  await using folder = await temporary();
  const made = await transportOf(["--ignore-env", "--no-lock"], {
    DENO_DIR: folder.file("empty"),
    NPM_CONFIG_REGISTRY: "http://127.0.0.1:1/",
  });
  assertEquals(made, "fetch");
});

for (const flags of [["--cert", "FILE"], []]) {
  const how = flags.length > 0 ? "--cert" : "DENO_CERT";
  testWith(OPENSSL)(
    `cli over undici trusts the certificate of ${how}`,
    async () => {
      await using folder = await temporary();
      const { key, cert } = await makeCertificate(dirname(folder.file("key")));
      await using receiver = new Receiver({
        key: await Deno.readTextFile(key),
        cert: await Deno.readTextFile(cert),
      });
      await using child = start(
        [receiver.url],
        [
          ...["-N=127.0.0.1", "--ignore-env"],
          ...flags.map((flag) => flag.replace("FILE", cert)),
        ],
        flags.length > 0 ? undefined : `export DENO_CERT='${cert}'`,
      );
      await child.write("data");
      await child.end();
      assertEquals(await child.outcome, SUCCESS);
      assertEquals(receiver.bytes, new TextEncoder().encode("data"));
      assert(!receiver.requests[0]!.has("Accept-Language"), "it used fetch");
    },
  );
}
