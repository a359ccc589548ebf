/** Talking with the test: a line of JSON for each thing said, and one for each command. */

import { createInterface } from "node:readline";

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

/** Do nothing else for so long. */
export function block(milliseconds) {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

/** What handlers call first, to be slow now and then: so long at most. */
export function slowly(most = 0) {
  if (most && Math.random() < 0.01) {
    block(Math.random() * most);
  }
}

/** Options of a client: how long it waits before it connects again is a function. */
export function reconnecting({ reconnectAfter, ...options }) {
  return reconnectAfter ? { ...options, reconnectAfterMs: () => reconnectAfter } : options;
}

/** Call `obey` with each command, and end when there will be no more. */
export function listen(obey = () => {}) {
  createInterface({ input: process.stdin })
    .on("line", (line) => obey(JSON.parse(line)))
    .on("close", () => process.exit(0));
}
