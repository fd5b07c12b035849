/**
 * Reads the headers of `-H`: "Name: value", or a file of them, in which `${NAME}`
 * is replaced by an environment variable. No message shows a value, since it may be
 * a secret.
 */
import { readFile } from "node:fs/promises";
import process from "node:process";
import { AccessError, tryTo, UsageError } from "./errors.ts";
import { envState } from "./platform.ts";

/** `${NAME}`, in the value of a header. */
export const VARIABLE = /\$\{(\w+)\}/g;

/**
 * Reads headers.
 *
 * @param options Each "Name: value", or `@FILE`.
 * @throws {UsageError} If one is invalid, or a file or variable cannot be read.
 */
export async function readHeaders(
  options: readonly string[],
): Promise<Headers> {
  const headers = new Headers();
  for (const option of options) {
    if (!option.startsWith("@")) {
      addHeader(headers, option);
      continue;
    }
    const file = option.slice(1);
    const text = await tryTo(
      `read headers from ${file}`,
      () => readFile(file, "utf8"),
    );
    for (const line of text.split("\n")) {
      if (line.trim() !== "") addHeader(headers, line);
    }
  }
  return headers;
}

function addHeader(headers: Headers, text: string): void {
  const colon = text.indexOf(":");
  const name = text.slice(0, Math.max(colon, 0)).trim();
  const value = text.slice(colon + 1).trim().replace(
    VARIABLE,
    (_, variable: string) => {
      const value = readVariable(variable);
      if (value !== undefined) return value;
      throw new AccessError(
        `cannot set the header ${name}: the environment variable ${variable} is not set`,
      );
    },
  );
  try {
    headers.append(name, value);
  } catch {
    // Neither the text nor the platform's error is shown: both may hold a secret.
    throw new UsageError(
      `--header must be "Name: value"${
        name && `; the name or value of ${JSON.stringify(name)} is invalid`
      }`,
    );
  }
}

function readVariable(name: string): string | undefined {
  try {
    const value = process.env[name];
    if (value !== undefined || envState(name) === "granted") return value;
  } catch {
    // Reported below, as is a variable that --ignore-env hides.
  }
  throw new AccessError(
    `cannot read the environment variable ${name}: add --allow-env=${name}`,
  );
}
