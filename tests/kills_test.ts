/**
 * Whatever a process is doing when it is killed, nothing that it had flushed to a
 * spool is lost, repeated or out of order. `tools/kills.ts` kills more of them.
 */
import { assert } from "@std/assert";
import { checkKills } from "../tools/kills.ts";

Deno.test({
  name:
    "a Spool delivers what was flushed once and in order, whenever processes are killed",
  // There, killing is another thing, and takes longer than all the rest.
  ignore: Deno.build.os === "windows",
  async fn() {
    const { kills, interrupted } = await checkKills(250);
    assert(kills >= 250, `${kills} kills`);
    for (
      const moment of [
        "a commit",
        "a cut",
        "a settlement",
        "a request",
        "the time between storing and acknowledgement",
      ] as const
    ) assert(interrupted[moment] > 0, `no kill fell into ${moment}`);
  },
});
