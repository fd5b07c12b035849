/** How a driver says that there is nothing to run. */

/** The platform is not installed. */
export class Missing extends Error {
  /** The name of the error. */
  override readonly name = "Missing";
}
