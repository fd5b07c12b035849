/** Strings, by every way in which they are encoded: it depends on their length. */
import { equal } from "./assert.ts";
import { type Check, check } from "./check.ts";
import { Memory } from "./memory.ts";

/** What a text repeats; the last one has a surrogate without its partner. */
const ALPHABETS: Record<string, string> = {
  "ASCII": "abcdefghij",
  "Latin": "naïve Ünïcödé",
  "two bytes": "Привет",
  "three bytes": "流緩衝區",
  "four bytes": "😀👍🏽",
  "zero and byte order mark": "\0\uFEFF",
  "all of them": "aé流😀",
  "lone surrogates": "a\uD83Db\uDE00",
};

/** A text with that many UTF-16 code units. */
function textOf(alphabet: string, length: number): string {
  return alphabet.repeat(Math.ceil(length / alphabet.length)).slice(0, length);
}

/** As the platform encodes them, each on its own. */
function encode(texts: string[]): number[] {
  const encoder = new TextEncoder();
  return texts.flatMap((text) => Array.from(encoder.encode(text)));
}

/** All of them. */
export const ENCODING_CHECKS: readonly Check[] = [
  ...[1, 5, 32, 33, 100, 256, 257, 300, 10_000].map((length) =>
    check(`strings of ${length} characters are encoded as UTF-8`, async (t) => {
      for (const [name, alphabet] of Object.entries(ALPHABETS)) {
        const sender = new Memory();
        const capacity = 65_536;
        const out = t.buffer(sender, { capacity, flushInterval: 0 });
        const text = textOf(alphabet, length);
        await out.write("x"); // so that a store is not empty
        await out.write(text);
        await out.write(text);
        await out.close();
        equal(Array.from(sender.bytes), encode(["x", text, text]), name);
      }
    })
  ),
  check("strings are encoded right at every end of a store", async (t) => {
    for (const [name, alphabet] of Object.entries(ALPHABETS)) {
      for (const length of [5, 40, 300]) {
        for (let before = 0; before < 8; before++) {
          const sender = new Memory();
          const text = textOf(alphabet, length);
          const capacity = encode([text]).length + 4;
          const out = t.buffer(sender, { capacity, flushInterval: 0 });
          const texts = ["x".repeat(before), text, text];
          for (const text of texts) await out.write(text);
          await out.close();
          const what = `${name}, ${length} characters after ${before}`;
          equal(Array.from(sender.bytes), encode(texts), what);
        }
      }
    }
  }),
  check("a string above the capacity is split between bytes", async (t) => {
    for (const [name, alphabet] of Object.entries(ALPHABETS)) {
      const sender = new Memory();
      const out = t.buffer(sender, { capacity: 7, flushInterval: 0 });
      const text = textOf(alphabet, 100);
      await out.write(text);
      await out.close();
      equal(Array.from(sender.bytes), encode([text]), name);
    }
  }),
  check(
    "a pair of surrogates over two writes becomes U+FFFD twice",
    async (t) => {
      const sender = new Memory();
      const out = t.buffer(sender, { capacity: 64, flushInterval: 0 });
      await out.write("\uD83D");
      await out.write("\uDE00");
      await out.close();
      equal(sender.texts, ["\uFFFD\uFFFD"], "text");
    },
  ),
];
