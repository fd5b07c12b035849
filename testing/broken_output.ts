/** Outputs of a process that cannot be written to, or not without waiting. */
import { temporary } from "./temporary.ts";

/** Shell commands that break an output; they run in an empty folder. */
const COMMANDS = {
  "a full disk": "exec OUT>/dev/full",
  "closed": "exec OUT>&-",
  "a pipe whose reader has gone": "mkfifo p; exec 3<>p OUT>p 3>&-",
  "a pipe that nobody reads":
    "mkfifo p; exec OUT<>p; head -c 65536 /dev/zero >p",
  // `script` makes a terminal, which goes when the command of `script` ends.
  "a terminal that has gone": `mkfifo ready end
    script -qc 'tty > ready; read line < end' /dev/null > /dev/null &
    read tty < ready
    exec OUT> $tty
    echo > end
    wait`,
};

/** What an output can be. */
export type BrokenOutput = keyof typeof COMMANDS;
export const BROKEN_OUTPUTS = Object.keys(COMMANDS) as BrokenOutput[];

/**
 * Whether this system has what the commands need: Linux does, except `script`,
 * which may have to be installed.
 */
export const CAN_BREAK_OUTPUT: boolean = Deno.build.os === "linux" &&
  new Deno.Command("sh", { args: ["-c", "command -v script"] })
    .outputSync().success;

/**
 * Makes commands for the shell of a process (`run` in child.ts) that break one of
 * its outputs.
 *
 * @param output 1 for standard output, 2 for standard error.
 */
export async function breakOutput(
  what: BrokenOutput,
  output: 1 | 2 = 2,
): Promise<AsyncDisposable & { readonly shell: string }> {
  const folder = await temporary();
  const commands = COMMANDS[what].replace("OUT", `${output}`);
  return { shell: `cd ${folder.file("")}\n${commands}`, ...folder };
}
