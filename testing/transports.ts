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

type TestFunction = () => Promise<void>;
type Options = Omit<Deno.TestDefinition, "name" | "fn">;

/**
 * Makes a function that registers each test twice: over `fetch`, and over undici
 * with "[undici]" in its name.
 */
export function overEach(
  register: (name: string, fn: TestFunction) => void,
): (name: string, fn: TestFunction) => void {
  return (name, fn) => {
    register(name, fn);
    register(`${name} [undici]`, async () => {
      await using transport = undiciTransport();
      current = transport;
      try {
        await fn();
      } finally {
        current = undefined;
      }
    });
  };
}

/** Registers a test over `fetch`, and one over undici. */
export function test(
  name: string,
  ...rest: [TestFunction] | [Options, TestFunction]
): void {
  const [options, fn] = rest.length === 1 ? [{}, ...rest] : rest;
  overEach((name, fn) => Deno.test(name, options, fn))(name, fn);
}

/** Options for a sender that uses the transport of the test. */
export function over<T extends object>(options: T): T {
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
