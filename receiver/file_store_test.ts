/** A store in a file: the suite for all of them, and what only this one promises. */
import { testStore } from "../testing/store_suite.ts";
import { temporary } from "../testing/temporary.ts";
import { FileStore } from "./file_store.ts";

testStore({
  name: "FileStore",
  isSorted: false,
  survives: true,
  async makePlace() {
    const folder = await temporary();
    const path = folder.file("received.log");
    return {
      open: () =>
        Promise.resolve(new FileStore(path, { durability: "process" })),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});
