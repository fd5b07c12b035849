/** The headers. */
import { attempt, UsageError } from "./usage.ts";

export async function readHeaders(given: string[]): Promise<Headers> {
  const headers = new Headers();
  for (const header of given) {
    if (!header.startsWith("@")) {
      addHeader(headers, header);
      continue;
    }
    const text = await attempt(
      `read the headers in ${header.slice(1)}`,
      () => Deno.readTextFile(header.slice(1)),
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
    /\$\{(\w+)\}/g,
    (_, variable: string) => {
      const value = getEnv(variable);
      if (value !== undefined) return value;
      throw new UsageError(
        `the header ${name} needs the environment variable ${variable}`,
      );
    },
  );
  try {
    headers.append(name, value);
  } catch {
    // The text may hold a secret, and so is not repeated.
    throw new UsageError(
      `--header must be "Name: value"${
        name && `, and that of ${JSON.stringify(name)} is not`
      }`,
    );
  }
}

function getEnv(variable: string): string | undefined {
  try {
    return Deno.env.get(variable);
  } catch {
    throw new UsageError(
      `cannot read the environment variable ${variable}: add --allow-env=${variable}`,
    );
  }
}
