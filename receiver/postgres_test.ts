/** A store in PostgreSQL: the suite for all of them, and what only this one promises. */
import { testStore } from "../testing/store_suite.ts";
import { POSTGRES, Postgres } from "../testing/postgres.ts";
import { find } from "../testing/real_servers.ts";
import { PostgresStore } from "./postgres.ts";

const isMissing = find(POSTGRES) === undefined;
let postgres: Postgres;
let places = 0;

Deno.test.beforeAll(async () => {
  if (!isMissing) postgres = await Postgres.start();
});
Deno.test.afterAll(async () => {
  if (!isMissing) await postgres[Symbol.asyncDispose]();
});

testStore({
  name: "PostgresStore",
  isSorted: true,
  survives: true,
  ignore: isMissing,
  makePlace() {
    const schema = `place_${places++}`;
    return Promise.resolve({
      open: () => Promise.resolve(new PostgresStore(postgres.url, { schema })),
      async [Symbol.asyncDispose]() {
        await postgres.query(`drop schema if exists ${schema} cascade`);
      },
    });
  },
});
