/**
 * A program that follows a log through a spool until it is killed, or its standard
 * input is closed. Its only argument is a {@linkcode FollowPlan}, as JSON. It reports
 * as `spool_child.ts` does.
 */
import { follow, Spool } from "../spool/mod.ts";
import {
  makeSender,
  report,
  type SpoolPlan,
  watchStatements,
} from "./spool_child.ts";

/** What of a spool's program is the same here. */
type Common =
  | "path"
  | "momentPath"
  | "url"
  | "run"
  | "durability"
  | "requestBytes"
  | "hold";

/** What a program does, and where it stops. */
export interface FollowPlan extends Pick<SpoolPlan, Common> {
  /** The file to follow. */
  readonly log: string;
  /** Of `follow`, in bytes. */
  readonly capacity: number;
  /** Of `follow`, in milliseconds. */
  readonly pollInterval: number;
  /** Of `follow`, in milliseconds. */
  readonly quietTime: number;
}

if (import.meta.main) {
  const plan: FollowPlan = JSON.parse(Deno.args[0]!);
  watchStatements(plan);
  const sender = makeSender(plan.url, plan.run);
  await using spool = new Spool(plan.path, sender, {
    ...plan,
    drainTimeout: 0,
  });
  report("open");
  const controller = new AbortController();
  const { signal } = controller;
  const following = follow(plan.log, spool, { ...plan, signal });
  await Promise.race([following, Deno.stdin.read(new Uint8Array(1))]);
  controller.abort();
  await following;
}
