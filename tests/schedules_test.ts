import { assertEquals } from "@std/assert";
import { streamTo } from "../sender.ts";
import {
  BEHAVIOURS,
  deduplicate,
  FaultyServer,
  script,
} from "../testing/faulty_server.ts";
import { checkSchedules } from "../tools/schedules.ts";

/** Those that acknowledge a request and let the next one pass. */
const GOOD =
  /^(20[014](?!, then)|10. first|read slowly|answer late|a reply (?!with 1000))/;

for (const name of Object.keys(BEHAVIOURS)) {
  Deno.test(`nothing is lost to a server that does this: ${name}`, async () => {
    await using server = new FaultyServer(script(["200", name]));
    const again: unknown[] = [];
    const out = streamTo(server.url, {
      timeout: 500,
      retry: { initialDelay: 1, maxDelay: 10, shouldRetry: () => true },
      onRetry: (failure) => again.push(failure),
    });
    const texts = ["before", "x".repeat(100_000), "after"];
    for (const text of texts) {
      await out.write(text);
      const { failures } = out.stats;
      await out.flush().catch(() => {});
      // Nobody waits for a year.
      if (out.stats.failures > failures) again.push(out.stats.lastError);
    }
    await out.close();
    await server.received(3);
    const bodies = deduplicate(server.kept)
      .map((body) => new TextDecoder().decode(body));
    assertEquals(bodies.join(""), texts.join(""));
    assertEquals(again.length === 0, GOOD.test(name));
  });
}

Deno.test("nothing is lost, reordered or repeated without its key by any schedule", async () => {
  await checkSchedules(400);
});
