/** The same with its default queue, of 2,048 records. */
import { withBuffer } from "./opentelemetry.ts";
import type { Connect } from "./peer.ts";

export const connect: Connect = withBuffer({});
