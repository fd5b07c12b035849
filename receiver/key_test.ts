import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { aloneKey, type Key, parseKey, parseString } from "./key.ts";

const EPOCH = "0123456789abcdef";
const UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324";
const MAX = Number.MAX_SAFE_INTEGER;

/** What a key says, in the order of a table. */
type Parsed = [
  id: string,
  epoch: string,
  sequence: number,
  part: string,
  from: number,
];

function fieldsOf({ id, epoch, sequence, part, from }: Key): Parsed {
  return [id, epoch, sequence, part, from];
}

for (
  const [key, ...expected] of [
    ["a-0", "a", "", 0, "", 0],
    [`${UUID}-7`, UUID, "", 7, "", 0],
    [`a-${MAX}`, "a", "", MAX, "", 0],
    [`a.${EPOCH}-12`, "a", EPOCH, 12, "", 0],
    [`a.${EPOCH}-12/3-45`, "a", EPOCH, 12, "3-45", 3],
    ["a-1/0-7", "a", "", 1, "0-7", 0],
    [`a-1/7-${MAX}`, "a", "", 1, `7-${MAX}`, 7],
    // Ids that end like other parts of a key.
    ["logs/2025-0", "logs/2025", "", 0, "", 0],
    ["logs/2025-10-3", "logs/2025-10", "", 3, "", 0],
    ["logs-3/2025-10-7", "logs-3/2025-10", "", 7, "", 0],
    ["a-1/2-7", "a", "", 1, "2-7", 2],
    ["a-1/2-2", "a-1/2", "", 2, "", 0],
    ["a-1/7-2", "a-1/7", "", 2, "", 0],
    ["a-1/0-0", "a-1/0", "", 0, "", 0],
    ["a-1/02-7", "a-1/02", "", 7, "", 0],
    ["a-1/2-7/0-3", "a-1/2", "", 7, "0-3", 0],
    [`a.${EPOCH}.${EPOCH}-0`, `a.${EPOCH}`, EPOCH, 0, "", 0],
    [`.${EPOCH}-0`, `.${EPOCH}`, "", 0, "", 0],
    [`a.${EPOCH.toUpperCase()}-0`, `a.${EPOCH.toUpperCase()}`, "", 0, "", 0],
    [`a.${EPOCH}0-0`, `a.${EPOCH}0`, "", 0, "", 0],
    [`a.${EPOCH.slice(1)}-0`, `a.${EPOCH.slice(1)}`, "", 0, "", 0],
    ["a--1", "a-", "", 1, "", 0],
    ["--0", "-", "", 0, "", 0],
    [" -0", " ", "", 0, "", 0],
    ['"\\-0', '"\\', "", 0, "", 0],
    [`a-1/0-${MAX + 1}`, undefined],
    ["", undefined],
    ["a", undefined],
    ["-0", undefined],
    ["a-", undefined],
    ["a-00", undefined],
    ["a-01", undefined],
    ["a-+1", undefined],
    ["a-1.0", undefined],
    ["a-1e3", undefined],
    ["a-0x1", undefined],
    ["a-1 ", undefined],
    ["a-１", undefined],
    [`a-${MAX + 1}`, undefined],
    ["a-10000000000000000", undefined],
    ["a-1/", undefined],
    ["a-1/2", undefined],
    ["a-1/2-", undefined],
    [UUID.replace(/.$/, "f"), undefined],
  ] as [string, ...Parsed][]
) {
  const title = expected[0] === undefined ? "no batch" : expected.join("|");
  Deno.test(`parseKey() of ${JSON.stringify(key)} is ${title}`, () => {
    const parsed = parseKey(key);
    if (expected[0] === undefined) return assertEquals(parsed, undefined);
    assertEquals(parsed && fieldsOf(parsed), expected);
    assertEquals(parsed?.key, key);
  });
}

for (
  const [header, expected] of [
    ['"a-0"', "a-0"],
    ['""', ""],
    [String.raw`"\"a\\b\"-0"`, String.raw`"a\b"-0`],
    [String.raw`"\\\\"`, String.raw`\\`],
    ['" ~"', " ~"],
    ["a-0", undefined],
    ["", undefined],
    ['"', undefined],
    ['"a-0', undefined],
    ['a-0"', undefined],
    ['"a"-0"', undefined],
    [String.raw`"a-0\"`, undefined],
    [String.raw`"\a-0"`, undefined],
    ['"a-0" ', undefined],
    ['"a-0";a=1', undefined],
    ['"a-0", "a-0"', undefined],
    ['"ä-0"', undefined],
    ['"a\t-0"', undefined],
    ['"a\x7f-0"', undefined],
    ['"a\n-0"', undefined],
    ["'a-0'", undefined],
    [":YS0w:", undefined],
  ] as const
) {
  const title = expected === undefined ? "no string" : expected;
  Deno.test(`parseString() of ${JSON.stringify(header)} is ${title}`, () => {
    assertEquals(parseString(header), expected);
  });
}

/** Keys made of what their parts are told apart by. */
const anyKey = fc.array(
  fc.constantFrom("a", "-", "/", ".", "0", "1", "12", EPOCH, `.${EPOCH}-`),
  { maxLength: 8 },
).map((parts) => parts.join(""));

Deno.test("parseKey() of what a sender makes of any id says what it was made of, unless the id ends like that of a part", () => {
  const id = fc.string({ minLength: 1 });
  const number = fc.maxSafeNat();
  fc.assert(fc.property(id, number, fc.boolean(), (id, sequence, isSpool) => {
    const epoch = isSpool ? EPOCH : "";
    const series = isSpool ? `${id}.${EPOCH}` : id;
    const parsed = parseKey(`${series}-${sequence}`);
    if (!isSpool && /-\d+\/\d+$/.test(id)) return;
    assertEquals(parsed && fieldsOf(parsed), [id, epoch, sequence, "", 0]);
  }));
});

Deno.test("aloneKey() is the only batch of a stream", () => {
  assertEquals(fieldsOf(aloneKey("a")), ["a", "", 0, "0-0", 0]);
  assertEquals(aloneKey("a").key, "a");
});

Deno.test("parseKey() and aloneKey() give two keys never the same id, epoch, sequence and part", () => {
  const identityOf = (key: string) =>
    JSON.stringify(fieldsOf(parseKey(key) ?? aloneKey(key)).slice(0, 4));
  const seen = new Map<string, string>();
  fc.assert(
    fc.property(anyKey, (key) => {
      const identity = identityOf(key);
      assertEquals(seen.get(identity) ?? key, key);
      seen.set(identity, key);
    }),
    { numRuns: 20_000 },
  );
  // What differs by more than a random key hits.
  for (const [one, two] of [["a", "a-0"], ["a-0", "a-0/0-0"]] as const) {
    assertEquals(identityOf(one) === identityOf(two), false, `${one}, ${two}`);
  }
});
