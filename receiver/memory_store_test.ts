/** A store in memory, by the suite for all of them. */
import { testStore } from "../testing/store_suite.ts";
import { MemoryStore } from "./memory_store.ts";

testStore({
  name: "MemoryStore",
  isSorted: true,
  survives: false,
  makePlace: () =>
    Promise.resolve({
      open: () =>
        Promise.resolve(Object.assign(new MemoryStore(), {
          [Symbol.asyncDispose]: () => Promise.resolve(),
        })),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
});
