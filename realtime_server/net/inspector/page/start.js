/** Shows one view of the server, or as many side by side as the address asks for. */

import { readAddress } from "./address.js";
import { element } from "./dom.js";

const { views } = readAddress();
if (views.length > 0) {
  document.body.className = "views";
  document.body.replaceChildren(
    ...views.map((view) => element("iframe", { src: `./#${view}`, title: titleOf(view) })),
  );
} else {
  await import("./inspector.js");
}
// Whoever changes what stands behind the # wants another page.
addEventListener("hashchange", () => location.reload());

function titleOf(view) {
  return new URLSearchParams(view).get("title") ?? "View";
}
