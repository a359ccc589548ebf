/**
 * The address: what stands behind its `#`, which no server and no log ever sees.
 *
 *     #topic=realtime:public:todos&binding={"schema":"public","table":"todos"}&title=Ada&token=eyJ…
 *
 * `topic` and `binding` may be there several times. `view`, once for each, holds a whole
 * address of this kind: the views are shown side by side.
 */

import { watched } from "./watched.js";

export function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  return {
    views: parameters.getAll("view"),
    title: parameters.get("title") ?? "",
    token: parameters.get("token") ?? "",
    watched: [...parameters].flatMap(([name, value]) => {
      if (name === "topic") {
        return [watched({ topic: value })];
      }
      const binding = name === "binding" ? parseBinding(value) : null;
      return binding === null ? [] : [watched({ binding })];
    }),
  };
}

/** Keep what is watched, so that a reload or a bookmark has it; the rest stays as it is. */
export function writeWatched(channels) {
  const kept = [...new URLSearchParams(location.hash.slice(1))].filter(
    ([name]) => name !== "topic" && name !== "binding",
  );
  for (const { topic, binding } of channels) {
    kept.push(binding === undefined ? ["topic", topic] : ["binding", JSON.stringify(binding)]);
  }
  replaceHash(kept);
}

/** Take the token out of the address: another one was given. */
export function forgetToken() {
  replaceHash([...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name !== "token"));
}

function replaceHash(pairs) {
  const url = new URL(location.href);
  url.hash = new URLSearchParams(pairs);
  history.replaceState(null, "", url);
}

function parseBinding(text) {
  try {
    const binding = JSON.parse(text);
    return typeof binding === "object" ? binding : null;
  } catch {
    return null;
  }
}
