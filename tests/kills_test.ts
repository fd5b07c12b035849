/**
 * Whatever a process is doing when it is killed, nothing that it had flushed to a
 * spool is lost, repeated or out of order, and no line of a log that it follows.
 * `tools/kills.ts` kills more of them.
 */
import { assert } from "@std/assert";
import { checkKills } from "../tools/kills.ts";

for (
  const [name, count, follow] of [
    [
      "a Spool delivers what was flushed once and in order, whenever processes are killed",
      250,
      false,
    ],
    [
      "follow() delivers each line of a rotated log once and in order, whenever processes are killed",
      150,
      true,
    ],
  ] as const
) {
  Deno.test({
    name,
    // There, killing is another thing, and takes longer than all the rest.
    ignore: Deno.build.os === "windows",
    async fn() {
      const { kills, interrupted, rotations } = await checkKills(count, {
        follow,
      });
      assert(kills >= count, `${kills} kills`);
      assert(rotations > 0 || !follow, "no rotation");
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
}
