/** One row of the list: a change on a line, and all of it when it is opened. */

import { copyButton, element } from "./dom.js";
import { toText } from "./changes.js";

const MOST_FIELDS = 16;
const MOST_CHARACTERS = 120;

/**
 * Make the row of a change, or of a gap.
 *
 * @param {function} onToggle is called when it was opened or closed.
 */
export function makeRow(change, onToggle) {
  const { kind, time } = change;
  // What it came by may become more.
  change.via = element("span", { className: "via" });
  showLabels(change);
  const what = kind === "GAP" ? [element("strong", {}, describeGap(change.message))] : summarize(change);
  const summary = element("summary", {}, makeTime(time), element("b", {}, kind), ...what, change.via);
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    // Most rows are never opened, so what is in them is made when one is.
    if (details.open && details.childElementCount === 1) {
      details.append(makeWhole(change));
    }
    onToggle();
  });
  return element("li", { className: "change", dataset: { kind } }, details);
}

/** Show by which channels the change came so far. */
export function showLabels({ via, labels }) {
  if (via !== undefined) {
    via.textContent = via.title = [...labels].join(" · ");
  }
}

export function describeGap({ gap }) {
  const since = gap.after === null ? "before" : `between ${shorten(gap.after)} and`;
  return `Changes may be missing ${since} ${shorten(gap.until)} (${gap.reason})`;
}

/** A position without the stream that it belongs to. */
function shorten(position) {
  return position.split("@")[0];
}

function summarize({ kind, schema, table, columns, record, old, message }) {
  const relation = element("span", { className: "relation" }, element("i", {}, `${schema}.`), table);
  const keys = findKeys(columns);
  const values = record ?? old ?? {};
  const fields = Object.entries(values)
    .slice(0, MOST_FIELDS)
    .map(([name, value]) => {
      const isChanged = kind === "UPDATE" && hasChanged(name, record, old);
      const shown = isChanged
        ? [makeValue("del", old[name]), makeValue("ins", value)]
        : [makeValue("span", value)];
      const title = element("i", { className: keys.has(name) ? "key" : "" }, name);
      return element("span", { className: "field" }, title, ...shown);
    });
  const more = Object.keys(values).length - fields.length;
  const rest = more > 0 ? [element("i", {}, `and ${more} more`)] : [];
  const problems = (message.errors ?? []).map((problem) => element("strong", {}, problem));
  return [relation, element("span", { className: "fields" }, ...problems, ...fields, ...rest)];
}

/** Column by column, the record and what it was before; then the message as it came. */
function makeWhole({ kind, columns, record, old, message }) {
  const whole = element("div", { className: "whole" });
  const sides = [
    ["record", record],
    ["old_record", old],
  ].filter(([, row]) => row !== undefined && (row === record || Object.keys(row).length > 0));
  if (sides.length > 0) {
    whole.append(makeTable(kind, columns, sides, record, old));
  }
  const copies = sides.map(([name, row]) => copyButton(`Copy ${name}`, () => pretty(row)));
  whole.append(
    element("p", { className: "row" }, ...copies, copyButton("Copy message", () => pretty(message))),
    element("details", {}, element("summary", {}, "Message"), element("pre", {}, pretty(message))),
  );
  return whole;
}

function makeTable(kind, columns, sides, record, old) {
  const types = new Map(columns.map(({ name, type }) => [name, type]));
  const keys = findKeys(columns);
  const names = new Set([...types.keys(), ...sides.flatMap(([, row]) => Object.keys(row))]);
  const head = element("tr", {}, ...["column", ...sides.map(([name]) => name)].map(headCell));
  const rows = [...names].map((name) => {
    const isChanged = kind === "UPDATE" && hasChanged(name, record, old);
    const title = element("span", { className: keys.has(name) ? "key" : "" }, name);
    const cells = sides.map(([, row]) => element("td", {}, ...(name in row ? [fullValue(row[name])] : [])));
    const column = element("th", { scope: "row" }, title, " ", element("i", {}, types.get(name) ?? ""));
    return element("tr", { className: isChanged ? "changed" : "" }, column, ...cells);
  });
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function headCell(name) {
  return element("th", { scope: "col" }, name);
}

function hasChanged(name, record = {}, old = {}) {
  return name in record && name in old && toText(record[name]) !== toText(old[name]);
}

/** The key columns; none where all are, as under REPLICA IDENTITY FULL: it would say nothing. */
function findKeys(columns) {
  const keys = columns.filter(({ flags }) => flags?.includes("key")).map(({ name }) => name);
  return new Set(keys.length < columns.length ? keys : []);
}

function makeValue(tag, value) {
  const text = toText(value);
  const isLong = text.length > MOST_CHARACTERS;
  const shown = element(tag, { className: "value" }, isLong ? `${text.slice(0, MOST_CHARACTERS)}…` : text);
  shown.title = text.slice(0, 10 * MOST_CHARACTERS);
  return mark(shown, value);
}

function fullValue(value) {
  const isStructured = typeof value === "object" && value !== null && !JSON.isRawJSON?.(value);
  return mark(element("span", {}, isStructured ? pretty(value) : toText(value)), value);
}

/** Tell NULL from a text of that name, and an empty text from nothing. */
function mark(shown, value) {
  if (value === null || value === "") {
    shown.classList.add(value === null ? "null" : "blank");
  }
  return shown;
}

function pretty(value) {
  return JSON.stringify(value, null, 2);
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
