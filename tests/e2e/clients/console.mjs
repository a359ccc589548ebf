/** Talking with the test: a line of JSON for each thing said, and one for each command. */

import { createInterface } from "node:readline";

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

/** Call `obey` with each command, and end when there will be no more. */
export function listen(obey = () => {}) {
  createInterface({ input: process.stdin })
    .on("line", (line) => obey(JSON.parse(line)))
    .on("close", () => process.exit(0));
}
