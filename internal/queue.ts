/** A node of the linked list in a {@linkcode Queue}. */
interface Node<T> {
  readonly value: T;
  next: Node<T> | undefined;
}

/**
 * A first-in, first-out queue. Each operation takes constant time, however long
 * the queue is; `Array.prototype.shift` moves everything behind the first
 * element, which makes emptying a long array quadratic.
 */
export class Queue<T> implements Iterable<T> {
  #first: Node<T> | undefined;
  #last: Node<T> | undefined;

  /** The value that has been in the queue longest; `undefined` if it is empty. */
  get first(): T | undefined {
    return this.#first?.value;
  }

  /** The value that was added last; `undefined` if the queue is empty. */
  get last(): T | undefined {
    return this.#last?.value;
  }

  get isEmpty(): boolean {
    return this.#first === undefined;
  }

  /** Adds a value at the end. */
  push(value: T): void {
    const node: Node<T> = { value, next: undefined };
    if (this.#last === undefined) this.#first = node;
    else this.#last.next = node;
    this.#last = node;
  }

  /** Removes the first value and returns it; `undefined` if there is none. */
  shift(): T | undefined {
    const node = this.#first;
    this.#first = node?.next;
    if (this.#first === undefined) this.#last = undefined;
    return node?.value;
  }

  clear(): void {
    this.#first = this.#last = undefined;
  }

  /** Iterates from the first value to the last. */
  *[Symbol.iterator](): Iterator<T> {
    for (let node = this.#first; node; node = node.next) yield node.value;
  }
}
