/** Errors of the user's code, apart from those of a store. */

/** What the user's code threw: it reaches the caller as it is. */
export class Thrown {
  constructor(readonly error: unknown) {}
}
