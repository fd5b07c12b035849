import { assert, assertEquals } from "@std/assert";
import { Queue } from "./queue.ts";

Deno.test("Queue returns its values in the order in which they were added", () => {
  const queue = new Queue<number>();
  assertEquals([queue.first, queue.last, queue.isEmpty], [
    undefined,
    undefined,
    true,
  ]);
  assertEquals(queue.shift(), undefined);
  for (const value of [1, 2, 3]) queue.push(value);
  assertEquals([queue.first, queue.last, queue.isEmpty], [1, 3, false]);
  assertEquals([...queue], [1, 2, 3]);
  assertEquals(queue.shift(), 1);
  queue.push(4);
  assertEquals([...queue], [2, 3, 4]);
  assertEquals([queue.shift(), queue.shift(), queue.shift()], [2, 3, 4]);
  assert(queue.isEmpty);
  assertEquals(queue.last, undefined);
});

Deno.test("Queue can be used again once it has been emptied", () => {
  const queue = new Queue<string>();
  for (const empty of [() => queue.shift(), () => queue.clear()]) {
    queue.push("a");
    empty();
    assert(queue.isEmpty);
    assertEquals([...queue], []);
    queue.push("b");
    assertEquals([queue.first, queue.last], ["b", "b"]);
    assertEquals(queue.shift(), "b");
  }
});
