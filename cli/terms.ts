/**
 * The library's messages in terms of the command: its users know its options, and
 * neither the classes of the library nor their options.
 */

/** What the library's messages contain, and what the command says instead. */
const TERMS: readonly (readonly [RegExp, string])[] = [
  // Invalid options.
  [/^Cannot create \w+: capacity/, "--capacity"],
  [/^Cannot create \w+: compression/, "--compress"],
  [/^Cannot create \w+: flushInterval/, "--interval"],
  [/^Cannot create \w+: drainTimeout/, "--drain"],
  [/(?<=^--drain .*\d)(?=, received)/, ", or forever"],
  [/^Cannot create \w+: maxElapsed/, "--retry-for"],
  [/(?<=^--retry-for .*) or Infinity/, " or forever"],
  [/^Cannot create \w+: a name in metadata/, "a name in --metadata"],
  [/^Cannot create \w+: method/, "--method"],
  [/^Cannot create \w+: timeout/, "--timeout"],
  [/^Cannot create \w+: url/, "URL"],
  [/^Cannot create receiver: maxBytes/, "--max-bytes"],
  [/^Cannot create \w+: /, ""],
  [/send them in headers/, "send them in --header"],
  [/fetch blocks; let/, "fetch blocks; add --ignore-env to deno run, or let"],
  // Failures, and advice on them.
  [/^Cannot (?=[a-z ]+ the (spool|store) )/, "cannot "],
  [
    /only one (Spool|FileStore|SqliteStore) at a time can use it$/,
    "only one command at a time can use it",
  ],
  [/; readSpool, .*$/s, "; spool FILE --export writes the rest"],
  [/; deadLetter did not take them$/, ""], // --refused reports why, or need not
  [/closeTimeout of/, "the time limit of"],
  [/maxElapsed of/, "--retry-for of"],
  [/credentials in `headers`/, "credentials in --header"],
  [/make `capacity` smaller/, "make --capacity smaller"],
  [/give a `client` that speaks .*$/, "add --no-npm to deno run"],
  [/so give `length`/, "so send a file"],
  [/`length` is/, "the size of the input is"],
];

/** A message of the library, for users of the command. */
export function inTermsOfTheCommand(message: string): string {
  return TERMS.reduce(
    (text, [library, command]) => text.replace(library, command),
    message,
  );
}
