/** Which failures a retry helps against. */
import type { SendError } from "./errors.ts";
import { isClosedClient } from "./advice.ts";
import { isPermissionError } from "./permissions.ts";

/** Whether the same request may succeed later. */
export function isTransient({ status, cause }: SendError): boolean {
  if (status === undefined) {
    return !isPermissionError(cause) && !isClosedClient(cause);
  }
  return status === 408 || status === 425 || status === 429 ||
    (status >= 500 && status < 600 && status !== 501 && status !== 505);
}
