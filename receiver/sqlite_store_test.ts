/** A store in SQLite: the suite for all of them, and what only this one promises. */
import { temporary } from "../testing/temporary.ts";
import { testStore } from "../testing/store_suite.ts";
import { SqliteStore } from "./sqlite_store.ts";

testStore({
  name: "SqliteStore",
  isSorted: true,
  survives: true,
  async makePlace() {
    const folder = await temporary();
    const path = folder.file("received.db");
    return {
      open: () =>
        Promise.resolve(new SqliteStore(path, { durability: "process" })),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});
