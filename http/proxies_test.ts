import { assertEquals, assertThrows } from "@std/assert";
import { chooseProxy } from "./proxies.ts";

const NAMES = ["http_proxy", "https_proxy", "no_proxy"];
const ACTION = "Cannot create X";

/** Sets the variables of the environment that concern proxies, until disposed. */
function environment(variables: Record<string, string>): Disposable {
  const names = NAMES.flatMap((name) => [name, name.toUpperCase()]);
  const before = names.map((name) => [name, Deno.env.get(name)] as const);
  const set = (name: string, value: string | undefined) =>
    value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value);
  for (const name of names) set(name, variables[name]);
  return {
    [Symbol.dispose]: () => before.forEach((entry) => set(...entry)),
  };
}

for (
  const [url, variables, expected] of [
    ["http://a/", {}, undefined],
    ["http://a/", { HTTP_PROXY: "http://p:1" }, "http://p:1/"],
    ["http://a/", { http_proxy: "http://p:1" }, "http://p:1/"],
    [
      "http://a/",
      { http_proxy: "http://p:1", HTTP_PROXY: "http://q" },
      "http://p:1/",
    ],
    ["http://a/", { HTTP_PROXY: "p:1" }, "http://p:1/"],
    ["http://a/", { HTTP_PROXY: "p" }, "http://p/"],
    [
      "http://a/",
      { HTTP_PROXY: "https://me:secret@p" },
      "https://me:secret@p/",
    ],
    ["http://a/", { HTTP_PROXY: "" }, undefined],
    ["http://a/", { HTTPS_PROXY: "http://p:1" }, undefined],
    ["https://a/", { HTTPS_PROXY: "http://p:1" }, "http://p:1/"],
    ["https://a/", { HTTP_PROXY: "http://p:1" }, undefined],
  ] as const
) {
  const given = JSON.stringify(variables);
  Deno.test(`the proxy for ${url} is ${expected} with ${given}`, () => {
    using _ = environment(variables);
    const choose = chooseProxy(ACTION, undefined);
    assertEquals(choose(new URL(url))?.href, expected);
  });
}

for (
  const [list, direct, proxied] of [
    ["", [], ["http://a/"]],
    ["*", ["http://a/", "http://b:81/"], []],
    ["a", ["http://a/", "http://A:81/", "http://x.a/"], ["http://ba/"]],
    [".a", ["http://a/", "http://x.y.a/"], ["http://ba/"]],
    ["*.a", ["http://a/", "http://x.y.a/"], ["http://ba/"]],
    ["A.Com", ["http://a.com/"], ["http://a.net/"]],
    ["a:81", ["http://a:81/"], ["http://a/", "http://a:82/"]],
    ["a:80", ["http://a/"], ["http://a:81/"]],
    ["a, b  c", ["http://a/", "http://b/", "http://c/"], ["http://d/"]],
    ["127.0.0.1,[::1]", ["http://127.0.0.1/", "http://[::1]:81/"], [
      "http://127.0.0.2/",
    ]],
  ] as const
) {
  Deno.test(`NO_PROXY is a list of hosts: "${list}"`, () => {
    using _ = environment({ HTTP_PROXY: "http://p", NO_PROXY: list });
    const choose = chooseProxy(ACTION, undefined);
    for (const url of direct) {
      assertEquals(choose(new URL(url)), undefined, url);
    }
    for (const url of proxied) {
      assertEquals(choose(new URL(url))?.href, "http://p/", url);
    }
  });
}

Deno.test("a proxy that is given, or false, overrides the environment", () => {
  using _ = environment({ HTTP_PROXY: "http://p", NO_PROXY: "a" });
  for (const url of [new URL("http://a/"), new URL("https://b/")]) {
    assertEquals(chooseProxy(ACTION, "http://q:1")(url)?.href, "http://q:1/");
    assertEquals(
      chooseProxy(ACTION, new URL("http://q"))(url)?.href,
      "http://q/",
    );
    assertEquals(chooseProxy(ACTION, false)(url), undefined);
  }
});

Deno.test("a proxy in the environment that is no URL is rejected, and not shown", () => {
  for (const value of ["socks5://me:secret@p", "http://secret:port"]) {
    using _ = environment({ HTTPS_PROXY: value });
    const error = assertThrows(() => chooseProxy(ACTION, undefined), TypeError);
    assertEquals(
      error.message,
      "Cannot create X: HTTPS_PROXY must be a URL that begins with http:// or https://",
    );
  }
});
