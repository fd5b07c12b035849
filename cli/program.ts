/** The command as a program: its arguments, and its exit code. */
import process from "node:process";
import { inspect } from "node:util";
import { log, stderr } from "./log.ts";

/**
 * Runs the command and ends the process.
 *
 * @param main Takes the arguments, and resolves to the exit code.
 */
export async function runProgram(
  main: (args: string[]) => Promise<number>,
): Promise<never> {
  let code = 1;
  try {
    code = await main(process.argv.slice(2));
  } catch (error) {
    // Not left to the runtime, which would wait until its message is written.
    log(inspect(error));
    await stderr.end();
  }
  process.exit(code);
}
