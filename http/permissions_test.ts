import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FlushError } from "../buffer.ts";
import { SendError, streamTo } from "../sender.ts";
import { NO_SERVER_URL } from "../testing/sending.ts";

Deno.test({
  name:
    "a missing --allow-net fails at once, with the permission error as the cause",
  permissions: { net: false },
  fn: async () => {
    const out = streamTo(NO_SERVER_URL);
    await out.write("kept");
    const { cause, message } = await assertRejects(
      () => out.close(),
      FlushError,
    );
    assertInstanceOf(cause, SendError);
    assertEquals(cause.attempts, 1);
    assertInstanceOf(cause.cause, Deno.errors.NotCapable);
    assertStringIncludes(message, "--allow-net");
    assertEquals(out.takeUnsent().length, 4);
  },
});

Deno.test({
  name: "a host that no permission can name fails like an unreachable one",
  permissions: { net: ["127.0.0.1"] },
  fn: async () => {
    const out = streamTo("http://a;b/", { retry: { maxElapsed: 0 } });
    await out.write("kept");
    const { cause } = await assertRejects(() => out.close(), FlushError);
    assertInstanceOf(cause, SendError);
    assertStringIncludes(
      cause.message,
      "POST of 4 bytes to http://a;b/ failed",
    );
  },
});
