/**
 * `follow`: every line of a file reaches the spool once and in order, whatever is done
 * to the file and to the process that follows it.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Condition } from "../testing/condition.ts";
import { randomFrom } from "../testing/faulty_server.ts";
import { temporary } from "../testing/temporary.ts";
import { StreamBuffer } from "../buffer.ts";
import { SpoolError } from "./errors.ts";
import { follow, type FollowOptions } from "./follow.ts";
import type { Modules } from "../internal/node/platform.ts";
import { internalsOf, type SpoolInternals } from "./internals.ts";
import { Spool, type SpoolOptions, type SpoolStats } from "./spool.ts";

/** Windows cannot rename, remove or truncate a file that is open in other programs. */
const UNIX = { ignore: Deno.build.os === "windows" };
/** How long a wait may take before it fails, in ms. Nothing depends on it otherwise. */
const MAX_WAIT = 30_000;
/** How many times it is used at random; each takes half a second. */
const RANDOM_USES = 6;

type FileSystem = Modules["fs"];

/** How a scene is followed. */
interface Setup extends FollowOptions {
  /** Options of the spool. */
  readonly spool?: SpoolOptions;
  /** Functions that stand in for those of the file system. */
  readonly fs?: (real: FileSystem) => Partial<FileSystem>;
  /** Stands in for `append` of the database. */
  readonly append?: (
    real: SpoolInternals["database"]["append"],
  ) => SpoolInternals["database"]["append"];
  /** How the path is given. */
  readonly path?: string | URL;
}

/** A log, a spool beside it, and what has been received from both. */
class Scene implements AsyncDisposable {
  static async create(content?: string): Promise<Scene> {
    const folder = await temporary();
    return new Scene(folder, folder.file("app.log", content));
  }

  readonly path: string;
  readonly #folder: Awaited<ReturnType<typeof temporary>>;
  readonly #changes = new Condition();
  #controller = new AbortController();
  #following: Promise<void> | undefined;
  #spool: Spool | undefined;
  #stats: SpoolStats | undefined;
  #held: PromiseWithResolvers<void> | undefined;
  /** The requests of all runs. */
  readonly requests: string[] = [];
  /** What `onError` was called with in all runs. */
  readonly errors: string[] = [];
  /** How often the path was looked at. */
  polls = 0;

  private constructor(
    folder: Awaited<ReturnType<typeof temporary>>,
    path: string,
  ) {
    this.#folder = folder;
    this.path = path;
  }

  get received(): string {
    return this.requests.join("");
  }

  get spool(): Spool {
    return this.#spool!;
  }

  get internals(): SpoolInternals {
    return internalsOf.get(this.spool)!;
  }

  get stats(): SpoolStats {
    return this.#stats ?? this.spool.stats;
  }

  /** Settles when the following has ended. */
  get following(): Promise<void> {
    return this.#following!;
  }

  /** Starts to follow, as a new process would. */
  start({ fs, append, spool: options, path, ...rest }: Setup = {}): void {
    const decoder = new TextDecoder();
    const send = async (bytes: Uint8Array, signal: AbortSignal) => {
      const text = decoder.decode(bytes);
      const aborted = Promise.withResolvers<never>();
      signal.addEventListener("abort", () => aborted.reject(signal.reason));
      await Promise.race([this.#held?.promise, aborted.promise]);
      this.requests.push(text);
      this.#changes.notify();
    };
    const spool = new Spool(
      `${this.path}.spool`,
      (bytes, { signal }) => send(bytes, signal),
      { durability: "process", ...options },
    );
    this.#spool = spool;
    this.#stats = undefined;
    this.#watch(fs);
    const { database } = this.internals;
    if (append) database.append = append(database.append.bind(database));
    this.#controller = new AbortController();
    this.#following = follow(path ?? this.path, spool, {
      ...{ pollInterval: 2, quietTime: 20, signal: this.#controller.signal },
      onError: ({ message }) => {
        this.errors.push(message);
        this.#changes.notify();
      },
      ...rest,
    });
    this.#following.catch(() => {});
  }

  /** Counts the polls, and puts functions of the file system in place. */
  #watch(fs: NonNullable<Setup["fs"]> = () => ({})): void {
    const { modules } = this.internals as { modules: { fs: FileSystem } };
    const real = modules.fs;
    const own = { ...fs(real) };
    const stat = own.statSync ?? real.statSync;
    own.statSync = ((path: string, options?: { bigint?: boolean }) => {
      if (path === this.path && options?.bigint) {
        this.polls++;
        this.#changes.notify();
      }
      return (stat as (...args: unknown[]) => unknown)(path, options);
    }) as FileSystem["statSync"];
    modules.fs = Object.assign(Object.create(real), own);
  }

  /** Ends the following, and delivers what is in the spool. */
  async stop(): Promise<void> {
    this.#controller.abort();
    await this.following;
    await this.spool.drained();
    this.#stats = this.spool.stats;
    await this.spool.close();
    this.#following = undefined;
  }

  async restart(setup?: Setup): Promise<void> {
    await this.stop();
    this.start(setup);
  }

  /** Makes the server slow: it does not respond until `release`. */
  hold(): void {
    this.#held = Promise.withResolvers();
  }

  release(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  /** The path of a file whose name begins with that of the log. */
  older(suffix: string): string {
    return `${this.path}${suffix}`;
  }

  append(text: string, path = this.path): void {
    Deno.writeTextFileSync(path, text, { append: true });
  }

  /** Renames the log, and begins a new one. */
  rotate(suffix: string, text = ""): void {
    Deno.renameSync(this.path, this.older(suffix));
    this.append(text);
  }

  /** Empties the log, and writes to it anew, as one step as far as anyone can see. */
  truncate(text: string): void {
    Deno.writeTextFileSync(this.path, text);
  }

  async wait(what: string, isMet: () => boolean): Promise<void> {
    const timer = setTimeout(() => {
      this.#changes.close(
        `it took too long; received ${JSON.stringify(this.received)}, errors ${
          JSON.stringify(this.errors)
        }`,
      );
    }, MAX_WAIT);
    try {
      await this.#changes.wait(what, isMet);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits until this is what has been received. */
  async receives(text: string): Promise<void> {
    await this.wait(
      JSON.stringify(text),
      () => this.received.length >= text.length,
    );
    assertEquals(this.received, text);
  }

  /** Waits until the path has been looked at, and the file been read, several times. */
  async polled(): Promise<void> {
    const { polls } = this;
    await this.wait("polls", () => this.polls >= polls + 4);
  }

  async reports(text: string): Promise<void> {
    await this.wait(
      JSON.stringify(text),
      () => this.errors.some((error) => error.includes(text)),
    );
  }

  /** Ends it, and checks everything that was received. */
  async ends(text: string, errors: string[] = []): Promise<void> {
    await this.stop();
    assertEquals(this.received, text);
    assertEquals(this.errors, errors);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    this.#controller.abort();
    await this.#following?.catch(() => {});
    await this.#spool?.abort();
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** An error of the file system. */
function failure(code: string): Error {
  return Object.assign(new Error(`${code}: injected`), { code });
}

// -- Lines --

Deno.test("follow() commits what is there, and each line that is appended", async () => {
  await using scene = await Scene.create("one\n");
  scene.start();
  await scene.receives("one\n");
  scene.append("two\nthree\n");
  await scene.receives("one\ntwo\nthree\n");
  await scene.ends("one\ntwo\nthree\n");
});

Deno.test("follow() leaves half a line until it has ended", async () => {
  await using scene = await Scene.create("one\ntw");
  scene.start();
  await scene.receives("one\n");
  await scene.polled();
  await scene.restart();
  await scene.polled();
  scene.append("o");
  await scene.polled();
  scene.append("\nth");
  await scene.receives("one\ntwo\n");
  await scene.ends("one\ntwo\n");
});

Deno.test("follow() commits a line larger than `capacity` in pieces, and no more bytes at once", async () => {
  await using scene = await Scene.create();
  const text = "1\n22\n" + "3".repeat(35) + "\n4\n" + "5".repeat(9) + "\n6\n";
  scene.append(text);
  const sizes: number[] = [];
  scene.start({
    capacity: 10,
    append: (real) => (bytes, file) => {
      sizes.push(bytes.length);
      real(bytes, file);
    },
  });
  await scene.receives(text);
  assertEquals(sizes, [5, 10, 10, 10, 8, 10, 2]);
  await scene.ends(text);
});

Deno.test("follow() passes on bytes that are no text", async () => {
  await using scene = await Scene.create();
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  Deno.writeFileSync(scene.path, bytes);
  scene.append("\n");
  const sent: number[] = [];
  scene.start({
    append: (real) => (bytes, file) => {
      sent.push(...bytes);
      real(bytes, file);
    },
  });
  await scene.wait(
    "all bytes",
    () => scene.received !== "" && sent.length > 256,
  );
  assertEquals(sent, [...bytes, 10]);
});

Deno.test(
  "follow() takes a URL, and a path relative to the working directory",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start({ path: new URL(`file://${scene.path}`) });
    await scene.receives("one\n");
    await scene.stop();
    const root = "../".repeat(Deno.cwd().split("/").length);
    scene.start({ path: `${root}.${scene.path}` });
    scene.append("two\n");
    await scene.receives("one\ntwo\n");
    await scene.ends("one\ntwo\n");
  },
);

Deno.test("follow() is exact over restarts at every moment", async () => {
  await using scene = await Scene.create("");
  let text = "";
  for (let i = 0; i < 40; i++) {
    scene.start({ capacity: 1 + i });
    scene.append(`line ${i}\n`);
    text += `line ${i}\n`;
    for (let wait = i % 4; wait > 0; wait--) {
      const { polls } = scene;
      await scene.wait("a poll", () => scene.polls > polls);
    }
    await scene.stop();
  }
  scene.start();
  await scene.receives(text);
  await scene.ends(text);
});

// -- Rotation by renaming --

Deno.test(
  "follow() reads a file to its end after it has been renamed",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    scene.append("two\n");
    scene.rotate(".1", "four\n");
    scene.append("three\n", scene.older(".1"));
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.ends("one\ntwo\nthree\nfour\n");
  },
);

Deno.test(
  "follow() holds a replaced file until it has been quiet for `quietTime`",
  UNIX,
  async () => {
    await using scene = await Scene.create("0\n");
    scene.start({ quietTime: 1_000 });
    await scene.receives("0\n");
    scene.rotate(".1", "new\n");
    let text = "0\n";
    for (let i = 1; i < 10; i++) {
      scene.append(`${i}\n`, scene.older(".1"));
      text += `${i}\n`;
      await scene.receives(text);
      await scene.polled();
    }
    Deno.removeSync(scene.older(".1"));
    await scene.receives(`${text}new\n`);
    await scene.ends(`${text}new\n`);
  },
);

Deno.test("follow() ends the last line of a replaced file", UNIX, async () => {
  await using scene = await Scene.create("one\nha");
  scene.start();
  await scene.receives("one\n");
  scene.rotate(".1", "new\n");
  scene.append("lf", scene.older(".1"));
  await scene.receives("one\nhalf\nnew\n");
  await scene.restart();
  scene.append("end\n");
  await scene.receives("one\nhalf\nnew\nend\n");
  await scene.ends("one\nhalf\nnew\nend\n");
});

Deno.test(
  "follow() ends the last line of a file if it was committed in pieces",
  UNIX,
  async () => {
    await using scene = await Scene.create("12345678");
    scene.start({ capacity: 4 });
    await scene.receives("12345678");
    await scene.restart({ capacity: 4 });
    scene.rotate(".1", "new\nhalf");
    await scene.receives("12345678\nnew\nhalf");
    scene.truncate("end\n");
    await scene.receives("12345678\nnew\nhalf\nend\n");
    scene.rotate(".2", "");
    await scene.restart();
    scene.append("5\n");
    await scene.receives("12345678\nnew\nhalf\nend\n5\n");
    await scene.ends("12345678\nnew\nhalf\nend\n5\n");
  },
);

for (const name of ["truncated", "removed"]) {
  Deno.test(
    `follow() ends a line that was committed in pieces if its file was ${name} while it did not run`,
    UNIX,
    async () => {
      await using scene = await Scene.create("12345678");
      scene.start({ capacity: 4 });
      await scene.receives("12345678");
      await scene.stop();
      if (name === "removed") {
        // Not before: the new file must not get the same inode.
        scene.append("new\n", scene.older(".new"));
        Deno.renameSync(scene.older(".new"), scene.path);
      } else scene.truncate("new\n");
      scene.start({ capacity: 4 });
      await scene.receives("12345678\nnew\n");
      await scene.restart();
      scene.append("end\n");
      await scene.receives("12345678\nnew\nend\n");
      await scene.stop();
      assertEquals(scene.received, "12345678\nnew\nend\n");
      assertEquals(scene.errors.length, 1);
    },
  );
}

Deno.test(
  "follow() keeps the old file while nothing is at the path",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start({ quietTime: 0 });
    await scene.receives("one\n");
    Deno.renameSync(scene.path, scene.older(".1"));
    await scene.polled();
    scene.append("two\nhal", scene.older(".1"));
    await scene.receives("one\ntwo\n");
    await scene.polled();
    scene.append("f\n", scene.older(".1"));
    await scene.receives("one\ntwo\nhalf\n");
    scene.append("three\n");
    await scene.receives("one\ntwo\nhalf\nthree\n");
    await scene.ends("one\ntwo\nhalf\nthree\n");
  },
);

Deno.test(
  "follow() finds files that came and went between two polls",
  UNIX,
  async () => {
    await using scene = await Scene.create("1\n");
    scene.start();
    await scene.receives("1\n");
    for (const text of ["2\n", "3\n", "", "4\nhalf"]) {
      // Changed at different times, as files are that are not made by a test.
      scene.rotate(`-${text.length}${text[0]}`, text);
      Deno.utimeSync(scene.path, Date.now() / 1000, Date.now() / 1000);
      const now = Date.now();
      while (Date.now() <= now + 1);
    }
    scene.rotate(".log", "5\n");
    await scene.receives("1\n2\n3\n4\nhalf\n5\n");
    await scene.ends("1\n2\n3\n4\nhalf\n5\n");
  },
);

Deno.test(
  "follow() reads a chain of files that were renamed while it did not run",
  UNIX,
  async () => {
    await using scene = await Scene.create("1\n");
    scene.start();
    await scene.receives("1\n");
    await scene.stop();
    scene.append("2\n");
    for (const [i, text] of ["3\n", "4\n", "5\n"].entries()) {
      for (let n = i; n > 0; n--) {
        Deno.renameSync(scene.older(`.${n}`), scene.older(`.${n + 1}`));
      }
      scene.rotate(".1", text);
      setTime(scene.path, 10 + i);
    }
    setTime(scene.older(".3"), 1);
    scene.start();
    await scene.receives("1\n2\n3\n4\n5\n");
    await scene.ends("1\n2\n3\n4\n5\n");
  },
);

/** Sets when a file was changed, in seconds since 1970. */
function setTime(path: string, time: number): void {
  Deno.utimeSync(path, time, time);
}

Deno.test(
  "follow() finds a file that is renamed while it looks for it",
  UNIX,
  async () => {
    await using scene = await Scene.create("1\n");
    scene.start();
    await scene.receives("1\n");
    await scene.stop();
    for (const [i, suffix] of ["-old", ".2", ".1"].entries()) {
      scene.rotate(suffix, `${i + 2}\n`);
      setTime(scene.path, 10 + i);
    }
    let lists = 0;
    scene.start({
      fs: ({ readdirSync }) => ({
        readdirSync: ((path: string) => {
          const names = readdirSync(path);
          // The first list is for the file where it stopped.
          if (++lists !== 2) return names;
          for (const n of [2, 1]) {
            Deno.renameSync(scene.older(`.${n}`), scene.older(`.${n + 1}`));
          }
          return names;
        }) as FileSystem["readdirSync"],
      }),
    });
    await scene.receives("1\n2\n3\n4\n");
    await scene.ends("1\n2\n3\n4\n");
  },
);

Deno.test(
  "follow() knows older files by any of the usual names, and no others",
  UNIX,
  async () => {
    await using scene = await Scene.create("0\n");
    scene.start();
    await scene.receives("0\n");
    await scene.stop();
    const names = [".1", "-20261126", "_2", "~", ".2026-11-26.log"];
    const others = [".2.gz", ".3.bz2", ".4.xz", ".5.zst", "2", "s.1", ".6.Z"];
    for (const [i, suffix] of [...names, ...others].entries()) {
      scene.append(`${i + 1}\n`, scene.older(suffix));
      setTime(scene.older(suffix), i + 1);
    }
    Deno.renameSync(scene.path, scene.older(".0"));
    scene.append("new\n");
    scene.start();
    await scene.receives("0\n1\n2\n3\n4\n5\nnew\n");
    await scene.ends("0\n1\n2\n3\n4\n5\nnew\n");
  },
);

Deno.test(
  "follow() finds the file where it stopped under any name in the folder",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    scene.append("two\n");
    Deno.renameSync(scene.path, scene.path.replace("app.log", "old"));
    scene.append("three\n");
    scene.start();
    await scene.receives("one\ntwo\nthree\n");
    await scene.ends("one\ntwo\nthree\n");
  },
);

Deno.test("follow() does not read older files that were there in the beginning", async () => {
  await using scene = await Scene.create("new\n");
  scene.append("old\n", scene.older(".1"));
  scene.append("", scene.older(".2"));
  scene.start();
  await scene.receives("new\n");
  await scene.restart();
  await scene.polled();
  await scene.ends("new\n");
});

Deno.test(
  "follow() reads files that came later, even if nothing was committed before",
  UNIX,
  async () => {
    await using scene = await Scene.create();
    scene.append("old\n", scene.older(".1"));
    scene.start();
    await scene.reports("Waiting");
    await scene.stop();
    scene.append("one\n");
    scene.rotate(".2", "two\n");
    scene.start();
    await scene.receives("one\ntwo\n");
    await scene.stop();
    assertEquals(scene.received, "one\ntwo\n");
  },
);

Deno.test(
  "follow() reads what is appended to a file that it has left",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\nhalf");
    scene.start();
    scene.rotate(".1", "two\n");
    await scene.receives("one\nhalf\ntwo\n");
    await scene.polled();
    scene.append(" a line\nlate\n", scene.older(".1"));
    await scene.receives("one\nhalf\ntwo\n a line\nlate\n");
    scene.rotate(".2", "three\n");
    await scene.receives("one\nhalf\ntwo\n a line\nlate\nthree\n");
    await scene.ends("one\nhalf\ntwo\n a line\nlate\nthree\n");
  },
);

Deno.test(
  "follow() continues in a file that gets its old name back",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    scene.rotate(".1", "two\n");
    await scene.receives("one\ntwo\n");
    Deno.removeSync(scene.path);
    Deno.renameSync(scene.older(".1"), scene.path);
    scene.append("three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.restart();
    scene.append("four\n");
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.ends("one\ntwo\nthree\nfour\n");
  },
);

Deno.test(
  "follow() follows a symbolic link to another file",
  UNIX,
  async () => {
    await using scene = await Scene.create();
    const [first, second] = [scene.older(".first"), scene.older(".second")];
    scene.append("one\n", first);
    Deno.symlinkSync("app.log.first", scene.path);
    scene.start();
    await scene.receives("one\n");
    scene.append("two\n", second);
    Deno.removeSync(scene.path);
    Deno.symlinkSync("app.log.second", scene.path);
    await scene.receives("one\ntwo\n");
    await scene.ends("one\ntwo\n");
  },
);

Deno.test(
  "follow() reads an older file once that has several names",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    scene.rotate(".1", "two\n");
    setTime(scene.path, 1);
    Deno.linkSync(scene.path, scene.older("-linked"));
    scene.rotate(".2", "three\n");
    Deno.symlinkSync(scene.older(".2"), scene.older(".latest"));
    scene.start();
    await scene.receives("one\ntwo\nthree\n");
    await scene.ends("one\ntwo\nthree\n");
  },
);

Deno.test(
  "follow() reads the newer file first if the older one gets its name back",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start({ quietTime: 200 });
    await scene.receives("one\n");
    scene.rotate(".1", "two\n");
    await scene.polled();
    Deno.renameSync(scene.path, scene.older(".2"));
    await scene.polled();
    Deno.renameSync(scene.older(".1"), scene.path);
    await scene.receives("one\ntwo\n");
    scene.append("three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.ends("one\ntwo\nthree\n");
  },
);

Deno.test(
  "follow() leaves a replaced file although the next one has gone as well",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start({ quietTime: 200 });
    await scene.receives("one\n");
    scene.rotate(".1", "two\n");
    await scene.polled();
    Deno.removeSync(scene.path);
    await scene.receives("one\ntwo\n");
    await scene.ends("one\ntwo\n");
  },
);

Deno.test(
  "follow() needs no list of the folder for what happens while it runs",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    const setup: Setup = {
      fs: () => ({
        readdirSync: () => {
          throw failure("EACCES");
        },
      }),
    };
    scene.start(setup);
    await scene.receives("one\n");
    scene.append("two\n");
    scene.rotate(".1", "three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.restart(setup);
    scene.append("four\n");
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.ends("one\ntwo\nthree\nfour\n");
  },
);

// -- Truncation --

for (
  const [name, text] of Object.entries({
    shorter: "n\n",
    "of the same size": "ten\n2345\n",
    longer: "new\n".repeat(1_000),
    "half a line": "one\ntwo!",
  })
) {
  Deno.test(
    `follow() notices a truncation if the new content is ${name}`,
    UNIX,
    async () => {
      await using scene = await Scene.create("one\n2345\n");
      scene.start();
      await scene.receives("one\n2345\n");
      scene.truncate(text);
      if (!text.endsWith("\n")) {
        await scene.polled();
        scene.append("\n");
      }
      const all = `one\n2345\n${text.trimEnd()}\n`;
      await scene.receives(all);
      assertEquals(scene.stats.bytesLost, 0);
      await scene.restart();
      scene.append("end\n");
      await scene.receives(`${all}end\n`);
      await scene.ends(`${all}end\n`);
    },
  );
}

Deno.test(
  "follow() notices a truncation after many lines by the last ones alone",
  UNIX,
  async () => {
    const lines = "line\n".repeat(1_000);
    await using scene = await Scene.create(`${lines}end 1\n`);
    scene.start();
    await scene.receives(`${lines}end 1\n`);
    scene.truncate(`${lines}end 2\n`);
    await scene.receives(`${lines}end 1\n${lines}end 2\n`);
    await scene.ends(`${lines}end 1\n${lines}end 2\n`);
  },
);

Deno.test(
  "follow() reports what a truncation destroyed, and counts it",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\nhalf of two");
    scene.start();
    await scene.receives("one\n");
    await scene.polled();
    scene.truncate("new\n");
    await scene.receives("one\nnew\n");
    assertEquals(scene.stats.bytesLost, 11);
    await scene.restart();
    assertEquals(scene.stats.bytesLost, 11);
    await scene.ends("one\nnew\n", [
      `${scene.path} was truncated before 11 bytes of it had been read; they are lost`,
    ]);
  },
);

Deno.test(
  "follow() reads a file once that is truncated before anything of it was read",
  UNIX,
  async () => {
    await using scene = await Scene.create("half of one");
    let isTruncated = false;
    scene.start({
      fs: ({ readSync }) => ({
        readSync: ((...args: Parameters<FileSystem["readSync"]>) => {
          if (!isTruncated && scene.polls > 4) {
            isTruncated = true;
            scene.truncate("new\n");
          }
          return readSync(...args);
        }) as FileSystem["readSync"],
      }),
    });
    await scene.receives("new\n");
    await scene.polled();
    await scene.ends("new\n", [
      `${scene.path} was truncated before 11 bytes of it had been read; they are lost`,
    ]);
  },
);

Deno.test(
  "follow() reads a file once that is truncated while it is looked at",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\ntwo\n");
    let [isLooking, isTruncated] = [false, false];
    scene.start({
      fs: ({ readdirSync, readSync }) => ({
        readdirSync: ((path: string) => {
          isLooking = true;
          queueMicrotask(() => isLooking = false);
          return readdirSync(path);
        }) as FileSystem["readdirSync"],
        readSync: ((...args: Parameters<FileSystem["readSync"]>) => {
          if (isLooking && !isTruncated && scene.received !== "") {
            isTruncated = true;
            scene.truncate("new\n");
          }
          return readSync(...args);
        }) as FileSystem["readSync"],
      }),
    });
    await scene.receives("one\ntwo\nnew\n");
    await scene.polled();
    await scene.ends("one\ntwo\nnew\n");
  },
);

Deno.test(
  "follow() notices truncations while the spool is full",
  UNIX,
  async () => {
    await using scene = await Scene.create("1234567\n");
    scene.hold();
    scene.start({ capacity: 8, spool: { maxBytes: 8 } });
    await scene.polled();
    scene.append("2345678\n");
    await scene.polled();
    scene.append("3456789\n");
    await scene.polled();
    scene.truncate("new 1\n");
    await scene.polled();
    scene.truncate("new\n");
    await scene.polled();
    scene.release();
    await scene.receives("1234567\n2345678\nnew\n");
    // Of the first file, and all of the second.
    assertEquals(scene.stats.bytesLost, 8 + 6);
    await scene.stop();
    assertEquals(scene.errors.length, 1);
  },
);

Deno.test(
  "follow() counts nothing as lost that was read while the spool was full",
  UNIX,
  async () => {
    await using scene = await Scene.create("1234567\n");
    scene.start({ capacity: 8, spool: { maxBytes: 8 } });
    await scene.receives("1234567\n");
    scene.hold();
    scene.append("2345678\n");
    await scene.polled();
    scene.rotate(".1", "3456789\n");
    const { database } = scene.internals;
    await scene.wait(
      "the end of the first file",
      () => database.files[0]?.state === "left",
    );
    await scene.polled();
    scene.truncate("new and longer\n");
    await scene.polled();
    scene.release();
    const text = "1234567\n2345678\n3456789\nnew and longer\n";
    await scene.receives(text);
    assertEquals(scene.stats.bytesLost, 0);
    await scene.ends(text);
  },
);

Deno.test(
  "follow() reports a truncation while it did not run",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    scene.truncate("two, which is longer\n");
    scene.start();
    await scene.receives("one\ntwo, which is longer\n");
    await scene.restart();
    await scene.polled();
    await scene.ends("one\ntwo, which is longer\n", [
      `${scene.path} was truncated while it was not followed; any lines that had not been read by then are lost`,
    ]);
  },
);

Deno.test(
  "follow() does not read the copy of a file that was truncated",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    Deno.copyFileSync(scene.path, scene.older(".1"));
    scene.truncate("two\n");
    await scene.receives("one\ntwo\n");
    await scene.stop();
    Deno.copyFileSync(scene.path, scene.older(".2"));
    scene.truncate("three\n");
    scene.start();
    await scene.receives("one\ntwo\nthree\n");
    scene.rotate(".3", "four\n");
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.restart();
    scene.rotate(".4", "five\n");
    await scene.receives("one\ntwo\nthree\nfour\nfive\n");
    await scene.stop();
    assertEquals(scene.received, "one\ntwo\nthree\nfour\nfive\n");
  },
);

/** Lists a folder, but for one file, the first time that another one is in it. */
function missing(
  suffix: string,
  other: string,
): NonNullable<Setup["fs"]> {
  return (real) => {
    let isFirst = true;
    const readdirSync = (path: string) => {
      const names = real.readdirSync(path);
      if (!isFirst || !names.some((name) => name.endsWith(other))) return names;
      isFirst = false;
      return names.filter((name) => !name.endsWith(suffix));
    };
    return { readdirSync } as Partial<FileSystem>;
  };
}

Deno.test(
  "follow() finds the file where it stopped while a rotation renames it",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    scene.append("two\n");
    scene.rotate(".2", "three\n");
    scene.start({ fs: missing(".2", ".2") });
    await scene.receives("one\ntwo\nthree\n");
    await scene.ends("one\ntwo\nthree\n");
  },
);

Deno.test(
  "follow() forgets no older file that a rotation renames at that moment",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start({ fs: missing(".2", ".1") });
    await scene.receives("one\n");
    scene.rotate(".2", "two\n");
    await scene.receives("one\ntwo\n");
    await scene.polled();
    scene.rotate(".1", "three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.polled();
    scene.rotate(".3", "four\n");
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.ends("one\ntwo\nthree\nfour\n");
  },
);

for (const size of [10, 10_000]) {
  Deno.test(
    `follow() does not read a copy of ${size} bytes that lacks the last lines`,
    UNIX,
    async () => {
      const line = `${"x".repeat(size - 1)}\n`;
      await using scene = await Scene.create(line);
      scene.start();
      Deno.copyFileSync(scene.path, scene.older(".1"));
      scene.append("last\n");
      await scene.receives(`${line}last\n`);
      await scene.polled();
      scene.truncate("new\n");
      await scene.receives(`${line}last\nnew\n`);
      scene.rotate(".2", "end\n");
      await scene.receives(`${line}last\nnew\nend\n`);
      await scene.restart();
      scene.rotate(".3");
      await scene.polled();
      await scene.ends(`${line}last\nnew\nend\n`);
    },
  );
}

Deno.test(
  "follow() does not read a copy even if the spool was full",
  UNIX,
  async () => {
    await using scene = await Scene.create("1234567\n");
    scene.start({ capacity: 8, spool: { maxBytes: 8 } });
    await scene.receives("1234567\n");
    scene.hold();
    scene.append("2345678\n3456789\n");
    await scene.polled();
    Deno.copyFileSync(scene.path, scene.older(".1"));
    scene.truncate("new\n");
    await scene.polled();
    scene.rotate(".2", "end\n");
    await scene.polled();
    scene.release();
    const text = "1234567\n2345678\n3456789\nnew\nend\n";
    await scene.receives(text);
    await scene.stop();
    assertEquals(scene.received, text);
  },
);

Deno.test(
  "follow() does not read a copy of a file that is still there",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    Deno.copyFileSync(scene.path, scene.older(".bak"));
    await scene.polled();
    scene.append("two\n");
    scene.rotate(".1", "three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.stop();
    scene.append("four\n");
    Deno.copyFileSync(scene.path, scene.older(".save"));
    scene.start();
    await scene.receives("one\ntwo\nthree\nfour\n");
    scene.rotate(".2", "five\n");
    await scene.receives("one\ntwo\nthree\nfour\nfive\n");
    Deno.copyFileSync(scene.path, scene.older("~"));
    await scene.receives("one\ntwo\nthree\nfour\nfive\n");
    await scene.polled();
    Deno.removeSync(scene.older(".1"));
    Deno.removeSync(scene.older(".2"));
    scene.rotate(".3", "six\n");
    await scene.receives("one\ntwo\nthree\nfour\nfive\nsix\n");
    await scene.ends("one\ntwo\nthree\nfour\nfive\nsix\n");
  },
);

Deno.test(
  "follow() remembers a copy that it finds while the spool is full",
  UNIX,
  async () => {
    await using scene = await Scene.create("1234567\n");
    scene.start({ capacity: 8, spool: { maxBytes: 8 } });
    await scene.receives("1234567\n");
    scene.hold();
    scene.append("2345678\n");
    await scene.polled();
    scene.rotate(".1", "3456789\n");
    const { database } = scene.internals;
    await scene.wait(
      "the end of the first file",
      () => database.files[0]?.state === "left",
    );
    await scene.polled();
    Deno.copyFileSync(scene.path, scene.older(".bak"));
    await scene.polled();
    scene.rotate(".2", "4\n");
    await scene.polled();
    scene.release();
    await scene.receives("1234567\n2345678\n3456789\n4\n");
    await scene.stop();
    Deno.removeSync(scene.older(".1"));
    Deno.removeSync(scene.older(".2"));
    scene.start();
    scene.rotate(".3", "5\n");
    await scene.receives("1234567\n2345678\n3456789\n4\n5\n");
    await scene.ends("1234567\n2345678\n3456789\n4\n5\n");
  },
);

// -- Files that cannot be read --

Deno.test(
  "follow() reads a file anew that has the inode of one that was deleted",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    const { ino } = Deno.statSync(scene.path);
    for (let i = 0; i < 1_000; i++) {
      Deno.removeSync(scene.path);
      scene.append("two, and more\n");
      if (Deno.statSync(scene.path).ino === ino) break;
    }
    scene.start();
    await scene.receives("one\ntwo, and more\n");
    await scene.stop();
    assertEquals(scene.received, "one\ntwo, and more\n");
    assertEquals(scene.errors.length, 1);
  },
);

Deno.test(
  "follow() reports that the file where it stopped is gone",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    Deno.renameSync(scene.path, scene.older(".gone.gz"));
    Deno.removeSync(scene.older(".gone.gz"));
    scene.append("two\n", scene.older(".other"));
    Deno.renameSync(scene.older(".other"), scene.path);
    scene.start();
    await scene.receives("one\ntwo\n");
    await scene.stop();
    assertEquals(scene.errors.length, 1);
    assertMatch(scene.errors[0]!, /no longer in its folder|was truncated/);
  },
);

Deno.test(
  "follow() waits for a file that is missing, a folder, a pipe or a socket",
  UNIX,
  async () => {
    await using scene = await Scene.create();
    scene.start();
    await scene.reports("ENOENT");
    Deno.mkdirSync(scene.path);
    await scene.reports("it is not a regular file");
    Deno.removeSync(scene.path);
    scene.append("one\n");
    await scene.receives("one\n");
    await scene.restart();
    await scene.stop();
    assertEquals(scene.errors.length, 2, "each is reported once");
    Deno.removeSync(scene.path);
    const { success } = new Deno.Command("mkfifo", { args: [scene.path] })
      .outputSync();
    assert(success);
    scene.errors.length = 0;
    scene.start();
    await scene.reports("it is not a regular file");
    Deno.removeSync(scene.path);
    scene.append("two\n");
    await scene.receives("one\ntwo\n");
    await scene.stop();
  },
);

Deno.test(
  "follow() reads on from a deleted file, and then the next one",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    using file = Deno.openSync(scene.path, { append: true });
    Deno.removeSync(scene.path);
    await scene.polled();
    file.writeSync(new TextEncoder().encode("two\n"));
    await scene.receives("one\ntwo\n");
    scene.append("three\n");
    await scene.receives("one\ntwo\nthree\n");
    await scene.ends("one\ntwo\nthree\n");
  },
);

Deno.test("follow() waits for a file that may not be read yet, and continues in it", async () => {
  await using scene = await Scene.create("one\n");
  let isReadable = false;
  const setup: Setup = {
    fs: ({ openSync }) => ({
      openSync: (path, ...rest) => {
        if (!isReadable && path === scene.path) throw failure("EACCES");
        return openSync(path, ...rest);
      },
    }),
  };
  scene.start(setup);
  await scene.reports("EACCES");
  await scene.polled();
  assertEquals(scene.errors.length, 1);
  isReadable = true;
  await scene.receives("one\n");
  await scene.stop();
  isReadable = false;
  scene.append("two\n");
  scene.start(setup);
  await scene.wait("an error", () => scene.errors.length > 1);
  await scene.polled();
  isReadable = true;
  await scene.receives("one\ntwo\n");
  await scene.ends("one\ntwo\n", [
    `Waiting for ${scene.path}: EACCES: injected`,
    `Waiting for ${scene.path}: EACCES: injected`,
  ]);
});

// -- The spool --

Deno.test(
  "follow() does not touch the spool beside the file",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    scene.rotate(".1", "two\n");
    await scene.receives("one\ntwo\n");
    const code = `
    import { Spool } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    try {
      new Spool(Deno.args[0], () => {});
      console.log("opened");
    } catch (error) {
      console.log(error.code);
    }
  `;
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", code, `${scene.path}.spool`],
    }).output();
    assertEquals(new TextDecoder().decode(stdout), "in-use\n");
    await scene.ends("one\ntwo\n");
  },
);

Deno.test("follow() commits again what could not be committed", async () => {
  await using scene = await Scene.create("one\ntwo\n");
  let attempts = 0;
  scene.start({
    append: (real) => (bytes, file) => {
      if (++attempts === 1) throw new SpoolError("full", { code: "full" });
      real(bytes, file);
    },
  });
  await scene.receives("one\ntwo\n");
  await scene.ends("one\ntwo\n", ["full"]);
});

Deno.test("follow() resolves if it is aborted while the spool is full, and loses nothing", async () => {
  await using scene = await Scene.create("1234567\n2345678\n");
  scene.hold();
  const setup: Setup = { capacity: 8, spool: { maxBytes: 8 } };
  scene.start(setup);
  await scene.polled();
  const stopped = scene.stop();
  await scene.following;
  scene.release();
  await stopped;
  assertEquals(scene.received, "1234567\n");
  scene.start(setup);
  await scene.receives("1234567\n2345678\n");
  await scene.ends("1234567\n2345678\n");
});

Deno.test("follow() rejects as soon as the spool is closed", async (t) => {
  for (const content of [undefined, "", "one\n"]) {
    await t.step(`with ${JSON.stringify(content)} in the file`, async () => {
      await using scene = await Scene.create(content);
      scene.start();
      await scene.polled();
      await scene.spool.close();
      await assertRejects(
        () => scene.following,
        TypeError,
        "Cannot follow: the Spool is closed",
      );
    });
  }
  await t.step("while it is full", async () => {
    await using scene = await Scene.create("1234567\n2345678\n");
    scene.hold();
    scene.start({ capacity: 8, spool: { maxBytes: 8 } });
    await scene.polled();
    await scene.spool.abort();
    await assertRejects(() => scene.following, TypeError, "is closed");
  });
});

Deno.test("follow() rejects if the spool is used otherwise", async () => {
  await using folder = await temporary();
  const path = folder.file("app.log", "");
  const aborted = AbortSignal.abort();
  {
    await using spool = new Spool(folder.file("1"), () => {});
    await using out = new StreamBuffer(spool);
    await out.write("x");
    await out.flush();
    await assertRejects(
      () => follow(path, spool),
      TypeError,
      "Cannot follow: the Spool serves another stream; open one for each",
    );
  }
  const controller = new AbortController();
  {
    await using spool = new Spool(folder.file("2"), () => {});
    const following = follow(path, spool, { signal: controller.signal });
    await assertRejects(() => follow(path, spool), TypeError, "another stream");
    const out = new StreamBuffer(spool);
    await out.write("x");
    await assertRejects(() => out.flush(), Error, "another stream");
    await out.abort();
    controller.abort();
    await following;
  }
  {
    await using spool = new Spool(folder.file("2"), () => {});
    await assertRejects(
      () => follow(folder.file("other"), spool),
      TypeError,
      `the spool follows ${path}; use another one for each file`,
    );
    await spool.close();
    await assertRejects(
      () => follow(path, spool),
      TypeError,
      "Cannot follow: the Spool is closed",
    );
  }
  {
    await using spool = new Spool(folder.file("2"), () => {});
    const out = new StreamBuffer(spool);
    await out.write("x");
    await assertRejects(() => out.close(), Error, `follows ${path}`);
  }
  await using spool = new Spool(folder.file("3"), () => {});
  await follow(path, spool, { signal: aborted });
  assertEquals(spool.stats.bytesWaiting, 0);
});

Deno.test(
  "follow() finds older files although a spool has the beginning of their names",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    await using _ = new Spool(scene.path.replace(".log", ""), () => {});
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    scene.append("two\n");
    scene.rotate(".2", "three\n");
    setTime(scene.older(".2"), 1);
    scene.rotate(".1", "four\n");
    scene.start();
    await scene.receives("one\ntwo\nthree\nfour\n");
    await scene.ends("one\ntwo\nthree\nfour\n");
  },
);

Deno.test(
  "follow() does not read another spool whose name begins with that of the log",
  UNIX,
  async () => {
    await using scene = await Scene.create("one\n");
    scene.start();
    await scene.receives("one\n");
    await scene.stop();
    const never = () => Promise.reject(new Error("down"));
    const other = new Spool(scene.older(".other"), never, { drainTimeout: 0 });
    const out = new StreamBuffer(other);
    await out.write("x");
    await out.close();
    scene.rotate(".1", "two\n");
    scene.start();
    await scene.receives("one\ntwo\n");
    await scene.polled();
    await scene.ends("one\ntwo\n");
  },
);

// -- Options --

const INVALID: [options: Record<string, unknown>, error: typeof Error][] = [
  [{ signal: {} }, TypeError],
  [{ capacity: 0 }, RangeError],
  [{ capacity: "1" }, TypeError],
  [{ pollInterval: 0 }, RangeError],
  [{ pollInterval: 2 ** 31 }, RangeError],
  [{ quietTime: -1 }, RangeError],
  [{ quietTime: null }, TypeError],
  [{ onError: 1 }, TypeError],
];

for (const [options, error] of INVALID) {
  Deno.test(`follow() refuses the options ${JSON.stringify(options)}`, async () => {
    await using folder = await temporary();
    await using spool = new Spool(folder.file("spool"), () => {});
    const [name] = Object.keys(options);
    await assertRejects(
      () => follow(folder.file("app.log"), spool, options as FollowOptions),
      error,
      `Cannot follow: ${name} must be`,
    );
  });
}

Deno.test("follow() refuses what is no path or no spool", async () => {
  await using folder = await temporary();
  await using spool = new Spool(folder.file("spool"), () => {});
  const wrong = [1, "", "a\0b", new URL("http://localhost/")];
  for (const path of wrong as string[]) {
    await assertRejects(() => follow(path, spool), Error, "path must be");
  }
  for (const other of [undefined, null, {}, 1] as unknown as Spool[]) {
    await assertRejects(
      () => follow(folder.file("app.log"), other),
      TypeError,
      "Cannot follow: spool must be a Spool, received",
    );
  }
});

Deno.test("follow() ignores what `onError` throws", async () => {
  await using scene = await Scene.create();
  scene.start({
    onError: () => {
      throw new Error("ignored");
    },
  });
  await scene.polled();
  scene.append("one\n");
  await scene.receives("one\n");
  await scene.ends("one\n");
});

// -- Records --

/** What may stand beside a log, by a name that an older one could have. */
const BESIDE: Record<string, (scene: Scene) => void> = {
  "with nothing else in the folder": () => {},
  "beside a folder": (scene) => Deno.mkdirSync(scene.older(".old")),
};

for (const [name, prepare] of Object.entries(BESIDE)) {
  Deno.test(`follow() forgets files that are gone, ${name}`, UNIX, async () => {
    await using scene = await Scene.create("0\n");
    prepare(scene);
    scene.start({ pollInterval: 1, quietTime: 0 });
    let text = "0\n";
    await scene.receives(text);
    const { database } = scene.internals;
    let most = 0;
    for (let i = 1; i <= 700; i++) {
      if (i % 2 === 0) scene.truncate(`${i}\n`);
      else scene.truncate(`${i}, which is longer\n`);
      text += Deno.readTextFileSync(scene.path);
      await scene.receives(text);
      if (i % 50 === 0) most = Math.max(most, database.files.length);
    }
    assert(most <= 120, `${most} records`);
    await scene.ends(text);
  });
}

// -- Everything at random --

/** What was written to a log, and so has to be received. */
class Writer {
  readonly #scene: Scene;
  readonly #random: () => number;
  /** What was written to each file that was at the path. A truncation begins another. */
  readonly #files = [""];
  /** The suffixes of the older files, the newest first. */
  readonly #older: string[] = [];
  #lines = 0;

  constructor(scene: Scene, random: () => number) {
    this.#scene = scene;
    this.#random = random;
    scene.append("");
  }

  upTo(max: number): number {
    return Math.floor(this.#random() * (max + 1));
  }

  /** All lines, with an end for each that has none. */
  get expected(): string {
    return this.#files.map((text) => text.replace(/[^\n]$/, "$&\n")).join("");
  }

  /** The lines that have ended. */
  get ended(): string {
    const last = this.#files.at(-1)!;
    const half = last.length - (last.lastIndexOf("\n") + 1);
    return this.expected.slice(0, half > 0 ? -half - 1 : undefined);
  }

  write(count: number, path = this.#scene.path, file = this.#files.length - 1) {
    let text = "";
    for (let i = 0; i < count; i++) text += this.#line();
    this.#scene.append(text, path);
    this.#files[file] += text;
  }

  /** A line, or what lacks the end of one. The next one ends it. */
  #line(): string {
    const line = `${this.#lines++} ${"x".repeat(this.upTo(30) ** 2 / 10)}`;
    return this.#random() < 0.1 ? line : `${line}\n`;
  }

  /** Renames the file, and perhaps the older ones, and goes on in it for a while. */
  rotate(): void {
    const scene = this.#scene;
    const names = this.#older;
    if (this.#random() < 0.5) {
      for (let i = names.length - 1; i >= 0; i--) {
        const suffix = `.${i + 2}`;
        Deno.renameSync(scene.older(names[i]!), scene.older(suffix));
        names[i] = suffix;
      }
      names.unshift(".1");
    } else names.unshift(`-${this.#lines++}`);
    const old = scene.older(names[0]!);
    Deno.renameSync(scene.path, old);
    const isCreated = this.#random() < 0.5;
    if (isCreated) scene.append("");
    this.write(this.upTo(2), old);
    // As if it had not happened within a millisecond.
    setTime(old, 1_000 + this.#files.length);
    this.#files.push("");
    this.write(isCreated ? this.upTo(2) : 1);
  }

  /** Empties the file, all of which must have been received. */
  truncate(): void {
    const scene = this.#scene;
    if (this.#random() < 0.7) {
      const suffix = `-copy-${this.#lines++}`;
      Deno.copyFileSync(scene.path, scene.older(suffix));
      this.#older.unshift(suffix);
    }
    Deno.truncateSync(scene.path);
    this.#files.push("");
    this.write(this.upTo(3));
  }

  /** Removes an older file, all of which must have been received. */
  remove(): void {
    const suffix = this.#older.pop();
    if (suffix) Deno.removeSync(this.#scene.older(suffix));
  }

  /** Ends the last line. */
  end(): void {
    if (this.ended === this.expected) return;
    this.#scene.append("\n");
    this.#files[this.#files.length - 1] += "\n";
  }
}

/** Follows a log to which everything is done at random. */
async function checkRandomUse(seed: number): Promise<void> {
  const random = randomFrom(seed);
  await using scene = await Scene.create();
  const writer = new Writer(scene, random);
  const setup = (): Setup => ({
    capacity: 1 + writer.upTo(random() < 0.5 ? 30 : 3_000),
    quietTime: writer.upTo(10),
    spool: { maxBytes: 1 + writer.upTo(1_000), requestBytes: 1_000 },
  });
  /** Has everything received, without half a line. */
  const settle = async () => {
    writer.end();
    await scene.receives(writer.expected);
    await scene.polled();
  };
  const actions: Record<string, () => Promise<unknown> | void> = {
    write: () => writer.write(writer.upTo(10)),
    write1: () => writer.write(1),
    pause: () => scene.polled(),
    poll: () => {
      const { polls } = scene;
      return scene.wait("a poll", () => scene.polls > polls);
    },
    rotate: () => writer.rotate(),
    truncate: async () => {
      await settle();
      writer.truncate();
      // A copy is told from a file that was missed by when it is seen.
      await scene.polled();
    },
    remove: async () => {
      await settle();
      writer.remove();
    },
    restart: () => scene.restart(setup()),
    stop: async () => {
      await scene.stop();
      writer.write(writer.upTo(2));
      if (random() < 0.5) writer.rotate();
      if (random() < 0.5) writer.rotate();
      scene.start(setup());
    },
  };
  const names = Object.keys(actions);
  const done: string[] = [];
  scene.start(setup());
  try {
    for (let i = 0; i < 60; i++) {
      const name = names[writer.upTo(names.length - 1)]!;
      done.push(name);
      await actions[name]!();
      assert(writer.expected.startsWith(scene.received), "other lines");
    }
    await settle();
    await scene.stop();
    assertEquals(scene.received, writer.expected);
  } catch (cause) {
    throw new Error(`seed ${seed}, after ${done.join(", ")}`, { cause });
  }
}

Deno.test(
  "follow() commits each line once, whatever happens",
  UNIX,
  async () => {
    const first = Date.now() & 0xfffffff;
    for (let seed = first; seed < first + RANDOM_USES; seed++) {
      await checkRandomUse(seed);
    }
  },
);
