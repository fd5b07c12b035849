import { assert, assertEquals } from "@std/assert";
import { isPending, roundTrips, stable, turns } from "./event_loop.ts";
import { FaultyServer } from "./faulty_server.ts";

Deno.test("turns() lets the event loop turn this many times", async () => {
  let count = 0;
  const immediate = () => setImmediate(() => ++count < 5 && immediate());
  immediate();
  await turns(5);
  assertEquals(count, 5);
});

Deno.test("roundTrips() outlasts an exchange with a server", async () => {
  await using server = new FaultyServer();
  const exchange = fetch(server.url, { method: "POST", body: "text" })
    .then((response) => response.text());
  await roundTrips();
  assertEquals(server.bodies, ["text"]);
  assert(!await isPending(exchange));
});

Deno.test("isPending() tells pending promises from settled ones", async () => {
  assert(await isPending(new Promise(() => {})));
  assert(!await isPending(Promise.resolve()));
  assert(!await isPending(Promise.reject(new Error())));
});

Deno.test("stable() waits until a value no longer changes", async () => {
  let value = 0;
  const changing = (async () => {
    while (value < 3) {
      await roundTrips(50);
      value++;
    }
  })();
  assertEquals(await stable(() => value), 3);
  await changing;
});
