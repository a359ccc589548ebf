/**
 * The list of changes: a bounded memory of what came, and the rows that show it.
 *
 * `add` only remembers, so it may be called thousands of times a second; the page is touched
 * at most once in an animation frame. While somebody reads, new rows wait and are counted:
 * while the list is paused, has an opened row in sight, or is scrolled down.
 */

import { makeRow } from "./row.js";

const MOST_REMEMBERED = 1_000;
const MOST_ROWS = 200;
/** More new rows than this in one frame are not worth an animation. */
const MOST_ANIMATED = 12;

export class Feed {
  #list;
  #onRender;
  /** Oldest first: changes, and gaps, whose kind is GAP. */
  #entries = [];
  /** How many of the last entries are not shown yet. */
  #fresh = 0;
  /** The same, of the kinds that are shown, with those that were forgotten meanwhile. */
  #waiting = 0;
  #kinds = new Set();
  #paused = false;
  #frame = 0;

  /**
   * @param {HTMLOListElement} list is filled, newest first.
   * @param {function} onRender is called when the rows changed, or more are waiting.
   */
  constructor(list, onRender) {
    this.#list = list;
    this.#onRender = onRender;
    // What held new rows back may be over.
    addEventListener("scroll", () => this.#schedule(), { passive: true });
  }

  /** How many rows wait to be shown. */
  get waiting() {
    return this.#waiting;
  }

  get isEmpty() {
    return this.#list.firstChild === null;
  }

  /** Whether it only looks empty. */
  get hidesAll() {
    return this.isEmpty && this.#entries.length > this.#fresh;
  }

  /** Show only entries of these kinds; gaps are always shown. */
  set kinds(kinds) {
    this.#kinds = new Set(kinds).add("GAP");
    const shown = this.#entries.slice(0, this.#entries.length - this.#fresh);
    this.#waiting = this.#entries.slice(shown.length).filter(({ kind }) => this.#kinds.has(kind)).length;
    this.#list.replaceChildren(...this.#newRows(shown));
    this.#onRender();
  }

  set paused(paused) {
    this.#paused = paused;
    this.#schedule();
  }

  add(entry) {
    this.#entries.push(entry);
    this.#fresh += 1;
    this.#waiting += this.#kinds.has(entry.kind) ? 1 : 0;
    // Cut rarely: it moves all that stay.
    if (this.#entries.length >= 2 * MOST_REMEMBERED) {
      this.#entries.splice(0, this.#entries.length - MOST_REMEMBERED);
      this.#fresh = Math.min(this.#fresh, MOST_REMEMBERED);
    }
    this.#schedule();
  }

  clear() {
    this.#entries = [];
    this.#fresh = this.#waiting = 0;
    this.#list.replaceChildren();
    this.#onRender();
  }

  /** Show what waits, whatever holds it back. */
  showWaiting() {
    const rows = this.#newRows(this.#entries.slice(this.#entries.length - this.#fresh));
    this.#fresh = this.#waiting = 0;
    if (rows.length <= MOST_ANIMATED) {
      rows.forEach((row) => row.classList.add("new"));
    }
    this.#list.prepend(...rows);
    while (this.#list.childElementCount > MOST_ROWS) {
      this.#list.lastElementChild.remove();
    }
    this.#onRender();
  }

  #schedule() {
    if (this.#frame === 0) {
      this.#frame = requestAnimationFrame(() => this.#render());
    }
  }

  #render() {
    this.#frame = 0;
    if (this.#fresh > 0 && !this.#isRead()) {
      this.showWaiting();
    } else {
      this.#onRender();
    }
  }

  /** Whether somebody reads what would move. */
  #isRead() {
    if (this.#paused || (scrollY > 0 && this.#list.getBoundingClientRect().top < 0)) {
      return true;
    }
    return [...this.#list.querySelectorAll(":scope > li > details[open]")].some((details) => {
      const { top, bottom } = details.getBoundingClientRect();
      return top < innerHeight && bottom > 0;
    });
  }

  /** The newest rows of these entries, newest first, and no more than are shown. */
  #newRows(entries) {
    return entries
      .filter(({ kind }) => this.#kinds.has(kind))
      .slice(-MOST_ROWS)
      .reverse()
      .map((entry) => makeRow(entry, () => this.#schedule()));
  }
}
