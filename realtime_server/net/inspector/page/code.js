/** The panel that shows a program for one of the things that are watched. */

import { button, copyButton } from "./dom.js";
import { snippet } from "./snippet.js";
import { labelOf } from "./watched.js";

export class CodePanel {
  /** Whether the server asks for a token. */
  needsToken = false;

  #panel;
  #url;
  #watched = null;

  /**
   * @param {HTMLElement} panel with a `select` of languages, a `code` for what is watched, a
   *   `pre` for the program, and a place for buttons.
   * @param {string} url of the server's socket, as clients take it.
   */
  constructor(panel, url) {
    this.#panel = panel;
    this.#url = url;
    this.#part("select").addEventListener("change", () => this.#render());
    this.#part(".row").append(
      copyButton("Copy", () => this.#part("pre").textContent),
      button("Close", () => (this.watched = null)),
    );
  }

  /** What the program watches; null: the panel is closed. */
  get watched() {
    return this.#watched;
  }

  set watched(watched) {
    this.#watched = watched;
    this.#render();
  }

  #render() {
    const watched = this.#watched;
    this.#panel.hidden = watched === null;
    if (watched !== null) {
      this.#part("code").textContent = labelOf(watched);
      const language = this.#part("select").value;
      this.#part("pre").textContent = snippet(language, this.#url, watched, this.needsToken);
    }
  }

  #part(selector) {
    return this.#panel.querySelector(selector);
  }
}
