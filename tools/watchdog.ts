/**
 * Runs `deno test` and interrupts it when it has been silent for too long, so
 * that a test that hangs ends the run. `deno test` responds to the interrupt
 * with the names of the tests that were running, even those in an endless loop.
 */

/**
 * Longest silence of a test run, in milliseconds. The slowest test takes some
 * 10 s on a quiet machine, and the result of each is printed when it ends.
 */
const MAX_SILENCE = 120_000;

/** How long an interrupted run may take to name its tests, in milliseconds. */
const GRACE = 5_000;

/**
 * Runs Deno with these arguments, and passes its output on.
 *
 * @param args The arguments of the command, such as `["test", "-A"]`.
 * @param maxSilence Longest time without output, in milliseconds.
 * @returns The exit code, which is not 0 if the run was interrupted.
 */
export async function runWatched(
  args: string[],
  maxSilence = MAX_SILENCE,
): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let wasSilent = false;
  const timers: ReturnType<typeof setTimeout>[] = [];
  const kill = (signal: Deno.Signal) => {
    try {
      child.kill(signal);
    } catch {
      // It has ended in the meantime.
    }
  };
  const giveUp = () => {
    wasSilent = true;
    console.error(
      `\nNo output for ${
        maxSilence / 1_000
      } s: a test hangs, or a test file while it is loaded.`,
    );
    kill("SIGINT");
    timers.push(setTimeout(() => kill("SIGKILL"), GRACE));
  };
  let silence = setTimeout(giveUp, maxSilence);
  const passOn = async (
    from: ReadableStream<Uint8Array>,
    to: { writeSync(p: Uint8Array): number },
  ) => {
    for await (const chunk of from) {
      if (!wasSilent) {
        clearTimeout(silence);
        silence = setTimeout(giveUp, maxSilence);
      }
      for (let at = 0; at < chunk.length;) {
        at += to.writeSync(chunk.subarray(at));
      }
    }
  };
  // A terminal interrupts both: the child reports, and then this one ends.
  const ignore = () => {};
  Deno.addSignalListener("SIGINT", ignore);
  const [{ code }] = await Promise.all([
    child.status,
    passOn(child.stdout, Deno.stdout),
    passOn(child.stderr, Deno.stderr),
  ]);
  Deno.removeSignalListener("SIGINT", ignore);
  for (const timer of [silence, ...timers]) clearTimeout(timer);
  return wasSilent ? code || 1 : code;
}
