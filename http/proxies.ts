/** Which proxy a request goes through, as an option or the environment says. */
import { show } from "../internal/checks.ts";
import { isPermissionError } from "./platform_errors.ts";

/** Returns the proxy for a URL; `undefined` if it is reached directly. */
export type ProxyChoice = (url: URL) => URL | undefined;

/**
 * How requests choose their proxy.
 *
 * @param action What cannot be done with an invalid proxy: "Cannot create X".
 * @param proxy A proxy for all requests, or `false` for none. By default the
 *   environment decides, as with `curl` and Deno's `fetch`.
 * @throws {TypeError} If a proxy is not an http(s) URL, or its credentials cannot be
 *   decoded. The message does not show it, as it may have a password.
 */
export function chooseProxy(
  action: string,
  proxy: string | URL | false | undefined,
): ProxyChoice {
  if (proxy === false) return () => undefined;
  if (proxy !== undefined) {
    const url = parseProxy(action, "proxy", proxy);
    return () => url;
  }
  const [http, https] = ["http_proxy", "https_proxy"].map((name) => {
    const value = variable(name);
    return value && parseProxy(action, name.toUpperCase(), value) || undefined;
  });
  if ((http ?? https) === undefined) return () => undefined;
  const exceptions = parseExceptions(variable("no_proxy"));
  return (url) =>
    exceptions.some((matches) => matches(url))
      ? undefined
      : url.protocol === "https:"
      ? https
      : http;
}

/** A variable of the environment, in lower or upper case. */
function variable(name: string): string {
  const { env } = globalThis.process;
  try {
    return env[name] || env[name.toUpperCase()] || "";
  } catch (error) {
    if (isPermissionError(error)) {
      error.message += "; or ignore the environment, with --ignore-env";
    }
    throw error;
  }
}

function parseProxy(action: string, name: string, value: string | URL): URL {
  if (typeof value !== "string" && !(value instanceof URL)) {
    throw new TypeError(
      `${action}: ${name} must be a URL or false, received ${show(value)}`,
    );
  }
  const text = String(value);
  const url = URL.parse(
    /^[a-z][a-z\d+.-]*:\/\//i.test(text) ? text : `http://${text}`,
  );
  if (url?.protocol !== "http:" && url?.protocol !== "https:") {
    throw new TypeError(
      `${action}: ${name} must be a URL that begins with http:// or https://`,
    );
  }
  try {
    decodeURIComponent(`${url.username}:${url.password}`);
  } catch {
    throw new TypeError(
      `${action}: the credentials in ${name} must be percent-encoded UTF-8`,
    );
  }
  return url;
}

/**
 * The list of `NO_PROXY`: hosts, each of which includes its subdomains, with or
 * without a port; `*` is every host.
 */
function parseExceptions(list: string): ((url: URL) => boolean)[] {
  return list.toLowerCase().split(/[,\s]+/).filter((entry) => entry !== "")
    .map((entry) => {
      const [, host, port] = entry.match(/^\*?\.?(.*?)(?::(\d+))?$/)!;
      return (url) =>
        (port === undefined || port === portOf(url)) &&
        (host === "" || `.${url.hostname}`.endsWith(`.${host}`));
    });
}

function portOf({ port, protocol }: URL): string {
  return port || (protocol === "https:" ? "443" : "80");
}
