/**
 * The list of changes: a bounded memory of what came, and the rows that show it.
 *
 * `add` only remembers, so it may be called thousands of times a second; the page is touched
 * at most once in an animation frame. What the database holds becomes text nodes, never HTML.
 */

const MOST_REMEMBERED = 1_000;
const MOST_ROWS = 200;
const MOST_FIELDS = 16;
const MOST_CHARACTERS = 120;
/** More new rows than this in one frame are not worth an animation. */
const MOST_ANIMATED = 12;

export class Feed {
  #list;
  #onRender;
  /** Oldest first. Entries: {kind, topic, payload, time}, time for a GAP only. */
  #entries = [];
  /** How many of the last entries are not shown yet. */
  #fresh = 0;
  /** The same, with those that were forgotten meanwhile. */
  #waiting = 0;
  #kinds = new Set();
  #paused = false;
  #frame = 0;

  /**
   * @param {HTMLOListElement} list is filled, newest first.
   * @param {function} onRender is called when the rows changed.
   */
  constructor(list, onRender) {
    this.#list = list;
    this.#onRender = onRender;
  }

  /** How many entries came since it was paused. */
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
    this.#showAgain();
  }

  set paused(paused) {
    this.#paused = paused;
    this.#schedule();
  }

  add(entry) {
    this.#entries.push(entry);
    this.#fresh += 1;
    this.#waiting += 1;
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
    this.#showAgain();
  }

  #showAgain() {
    if (!this.#paused) {
      this.#fresh = this.#waiting = 0;
    }
    const shown = this.#entries.slice(0, this.#entries.length - this.#fresh);
    this.#list.replaceChildren(...this.#newRows(shown));
    this.#onRender();
  }

  #schedule() {
    if (this.#frame === 0) {
      this.#frame = requestAnimationFrame(() => this.#render());
    }
  }

  #render() {
    this.#frame = 0;
    if (!this.#paused && this.#fresh > 0) {
      const rows = this.#newRows(this.#entries.slice(-this.#fresh));
      this.#fresh = this.#waiting = 0;
      if (rows.length <= MOST_ANIMATED) {
        rows.forEach((row) => row.classList.add("new"));
      }
      this.#list.prepend(...rows);
      while (this.#list.childElementCount > MOST_ROWS) {
        this.#list.lastElementChild.remove();
      }
    }
    this.#onRender();
  }

  /** The newest rows of these entries, newest first, and no more than are shown. */
  #newRows(entries) {
    return entries
      .filter(({ kind }) => this.#kinds.has(kind))
      .slice(-MOST_ROWS)
      .reverse()
      .map(makeRow);
  }
}

function makeRow({ kind, topic, payload, time = payload.commit_timestamp }) {
  const row = element("li", "change");
  row.dataset.kind = kind;
  const summary = element("summary");
  summary.append(makeTime(time), element("span", "kind", kind));
  summary.append(...(kind === "GAP" ? [element("strong", "", describeGap(payload))] : changed(payload)));
  summary.append(element("span", "topic", topic));
  const details = element("details");
  details.append(summary);
  // Most rows are never opened, so the text is made when one is.
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) {
      details.append(element("pre", "", JSON.stringify(payload, null, 2)));
    }
  });
  row.append(details);
  return row;
}

export function describeGap({ gap }) {
  const since = gap.after === null ? "before" : `between ${shorten(gap.after)} and`;
  return `Changes may be missing ${since} ${shorten(gap.until)} (${gap.reason})`;
}

/** A position without the stream that it belongs to. */
function shorten(position) {
  return position.split("@")[0];
}

function changed(payload) {
  const relation = element("span", "relation");
  relation.append(element("span", "schema", `${payload.schema}.`), payload.table);
  const fields = element("span", "fields");
  fields.append(...makeFields(payload));
  return [relation, fields];
}

function makeFields({ type, columns = [], record, old_record: old = {} }) {
  const keys = findKeys(columns);
  const values = record ?? old;
  const fields = Object.entries(values)
    .slice(0, MOST_FIELDS)
    .map(([name, value]) => {
      const field = element("span", keys.has(name) ? "field key" : "field");
      field.append(element("span", "name", name));
      if (type === "UPDATE" && name in old && !isSame(old[name], value)) {
        field.classList.add("changed");
        field.append(makeValue("del", old[name]), makeValue("ins", value));
      } else {
        field.append(makeValue("span", value));
      }
      return field;
    });
  const more = Object.keys(values).length - fields.length;
  if (more > 0) {
    fields.push(element("span", "more", `and ${more} more`));
  }
  return fields;
}

/** The key columns; none where all are, as under REPLICA IDENTITY FULL: it would say nothing. */
function findKeys(columns) {
  const keys = columns.filter(({ flags }) => flags?.includes("key")).map(({ name }) => name);
  return new Set(keys.length < columns.length ? keys : []);
}

/** Values are PostgreSQL's text or null; other servers may send any JSON. */
function toText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function isSame(one, other) {
  return toText(one) === toText(other);
}

function makeValue(tag, value) {
  const text = toText(value);
  const isLong = text.length > MOST_CHARACTERS;
  const shown = element(tag, "value", isLong ? `${text.slice(0, MOST_CHARACTERS)}…` : text);
  if (value === null) {
    shown.classList.add("null");
  } else if (text === "") {
    shown.classList.add("blank");
  }
  shown.title = text.slice(0, 10 * MOST_CHARACTERS);
  return shown;
}

function makeTime(timestamp) {
  const shown = element("time");
  const date = new Date(timestamp);
  if (!Number.isNaN(date.valueOf())) {
    const milliseconds = String(date.getMilliseconds()).padStart(3, "0");
    shown.textContent = `${date.toTimeString().slice(0, 8)}.${milliseconds}`;
    shown.dateTime = shown.title = timestamp;
  }
  return shown;
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className !== "") {
    made.className = className;
  }
  made.textContent = text;
  return made;
}
