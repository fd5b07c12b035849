/**
 * Lets a test wait for what other code brings about, without a timer: code that
 * changes the state calls `notify`, and `close` when nothing can change it any
 * more. So a wait ends either way.
 */
export class Condition {
  readonly #checks = new Set<() => void>();
  #closed: string | undefined;

  /** Makes all waits check again. */
  notify(): void {
    for (const check of this.#checks) check();
  }

  /**
   * Rejects all waits whose condition is not met, now and later.
   *
   * @param reason Why nothing changes any more, for the message.
   */
  close(reason: string): void {
    this.#closed = reason;
    this.notify();
  }

  /**
   * Waits until `isMet` returns true.
   *
   * @param what What the test waits for, for the message.
   * @throws {Error} If the condition was closed before.
   */
  wait(what: string, isMet: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const check = () => {
        if (isMet()) resolve();
        else if (this.#closed !== undefined) {
          reject(new Error(`Waited for ${what}, but ${this.#closed}`));
        } else return;
        this.#checks.delete(check);
      };
      this.#checks.add(check);
      check();
    });
  }
}
