/** What the errors of PostgreSQL are to those who use a store in it. */
import { messageOf, property } from "../internal/checks.ts";
import { StoreError, type StoreErrorCode } from "./store.ts";

/** The error that `thrown` is to a user of the store. */
export function toStoreError(action: string, thrown: unknown): StoreError {
  if (thrown instanceof StoreError) return thrown;
  return new StoreError(`${action}: ${reasonOf(thrown)}`, {
    code: codeOf(thrown),
    cause: thrown,
  });
}

function reasonOf(thrown: unknown): string {
  // Of several addresses, none of which could be connected to; it has no message.
  const cause = thrown instanceof AggregateError ? thrown.errors[0] : thrown;
  const message = messageOf(cause);
  return message + adviceFor(message);
}

/** What to do about an error of pg, or of Deno, that does not say so. */
function adviceFor(message: string): string {
  if (message.includes("password must be a string")) {
    return "; the server asks for a password: put one into the URL, or into PGPASSWORD";
  }
  // pg reads many variables, and Deno names the first of them only.
  return message.includes("Requires env access")
    ? ", or with --ignore-env"
    : "";
}

/**
 * What is wrong, by the SQLSTATE
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
export function codeOf(thrown: unknown): StoreErrorCode {
  const state = stateOf(thrown);
  switch (state) {
    case undefined: // the connection was lost, or could not be made
    case "25006": // a standby, which takes no writes: the primary is elsewhere now
    case "25P03": // onBatch has paused for too long
    case "55P03": // a lock was not available
    case "57014": // a statement took too long
      return "busy";
    case "53100":
      return "full";
    case "3F000": // a schema, a table, a column or a function is missing
    case "42P01":
    case "42703":
    case "42883":
    case "XX001": // a page or an index is corrupted
    case "XX002":
      return "damaged";
  }
  // Connections, transactions that could not be serialized or were in a deadlock,
  // resources that are used up, and a server that starts or stops.
  return /^(08|40|53|57P)/.test(state) ? "busy" : "io";
}

/** The SQLSTATE, if the error is one that the server has reported. */
export function stateOf(thrown: unknown): string | undefined {
  const code = property(thrown, "code");
  // Other errors have codes as well: "EPIPE".
  const isReported = typeof property(thrown, "severity") === "string";
  return isReported && typeof code === "string" ? code : undefined;
}
