/**
 * No fault of a server makes a stream lose, reorder or repeat a byte: each fault
 * alone, and random schedules of all. `tools/schedules.ts` runs more of them.
 */
import { assertEquals, assertRejects } from "@std/assert";
import { FlushError } from "../sender.ts";
import {
  BEHAVIOURS,
  deduplicate,
  FaultyServer,
  script,
} from "../testing/faulty_server.ts";
import { currentTransport, streamTo, test } from "../testing/transports.ts";
import { checkSchedules } from "../tools/schedules.ts";

/** Behaviours that acknowledge a request and do no harm to the next one. */
const ACKNOWLEDGES =
  /^(20[014](?!, then)|10. first|read slowly|respond late|an? (endless )?response)/;
/** One of them is too much for `fetch`. */
const TOO_MUCH = "a response with 1000 headers";

for (const name of Object.keys(BEHAVIOURS)) {
  test(`streamTo() delivers everything once despite this fault: ${name}`, async () => {
    await using server = new FaultyServer(script(["200", name]));
    const failures: unknown[] = [];
    const out = streamTo(server.url, {
      timeout: 500,
      retry: { initialDelay: 1, maxDelay: 10, shouldRetry: () => true },
      onRetry: (failure) => failures.push(failure),
    });
    const texts = ["before", "x".repeat(100_000), "after"];
    for (const text of texts) {
      await out.write(text);
      const before = out.stats.failures;
      await out.flush().catch(() => {});
      if (out.stats.failures > before) failures.push(out.stats.lastError);
    }
    if (name.includes("year")) {
      await assertRejects(() => out.close(), FlushError, "no request is made");
      assertEquals(server.requests.length, 2);
      assertEquals(out.takeUnsent().length, texts[1]!.length + 5);
      return;
    }
    await out.close();
    await server.received(3);
    const bodies = deduplicate(server.stored)
      .map((body) => new TextDecoder().decode(body));
    assertEquals(bodies.join(""), texts.join(""));
    const isEnough = name !== TOO_MUCH || currentTransport() !== undefined;
    assertEquals(failures.length === 0, ACKNOWLEDGES.test(name) && isEnough);
  });
}

Deno.test("streamTo() loses, reorders and repeats nothing in random schedules", async () => {
  await checkSchedules(400);
});
