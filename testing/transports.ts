/**
 * Tests that hold for every transport. `test` registers each of them once for
 * `fetch` and once for undici, and the senders of this module use the one whose
 * turn it is.
 */
import { undiciTransport } from "../http/undici.ts";
import * as plain from "../sender.ts";
import * as tus from "../senders/tus.ts";
import * as upload from "../senders/upload.ts";

let current: plain.Transport | undefined;

/** Registers a test over `fetch`, and one over undici with "[undici]" in its name. */
export function test(name: string, fn: TestFunction): void;
export function test(
  name: string,
  options: Omit<Deno.TestDefinition, "name" | "fn">,
  fn: TestFunction,
): void;
export function test(
  name: string,
  ...rest: [TestFunction] | [object, TestFunction]
): void {
  const [options, fn] = rest.length === 1 ? [{}, ...rest] : rest;
  Deno.test(name, options, fn);
  Deno.test(`${name} [undici]`, options, async (t) => {
    await using transport = undiciTransport();
    current = transport;
    try {
      await fn(t);
    } finally {
      current = undefined;
    }
  });
}

type TestFunction = (t: Deno.TestContext) => void | Promise<void>;

/** Options for a sender that uses the transport of the test. */
export function over<T extends plain.RequestOptions>(options: T): T {
  return current === undefined ? options : { transport: current, ...options };
}

/** The transport of the test that is running; `undefined` for `fetch`. */
export function currentTransport(): plain.Transport | undefined {
  return current;
}

/** `FetchSender` over the transport of the test. */
export class FetchSender extends plain.FetchSender {
  constructor(url: string | URL, options: plain.FetchSenderOptions = {}) {
    super(url, over(options));
  }
}

/** `streamTo()` over the transport of the test. */
export function streamTo(
  url: string | URL,
  options: plain.StreamBufferOptions & plain.FetchSenderOptions = {},
): plain.StreamBuffer {
  return plain.streamTo(url, over(options));
}

/** `UploadSender` over the transport of the test. */
export class UploadSender extends upload.UploadSender {
  constructor(url: string | URL, options: upload.UploadSenderOptions = {}) {
    super(url, over(options));
  }
}

/** `TusSender` over the transport of the test. */
export class TusSender extends tus.TusSender {
  constructor(url: string | URL, options: tus.TusSenderOptions = {}) {
    super(url, over(options));
  }

  static override resume(
    url: string | URL,
    options: Omit<tus.TusSenderOptions, "metadata"> = {},
  ): Promise<tus.TusSender> {
    return tus.TusSender.resume(url, over(options));
  }
}
