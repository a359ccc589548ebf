/** The form for a binding: a table, a kind of change, and conditions that make a filter. */

import { button, element } from "./dom.js";
import { watched } from "./watched.js";

/** Operators that take a value, by what SQL or people call them. */
const WITH_VALUE = {
  eq: "=",
  neq: "≠",
  gt: ">",
  gte: "≥",
  lt: "<",
  lte: "≤",
  in: "is one of",
  like: "is like",
  ilike: "is like, in any case",
  cs: "contains",
  cd: "is contained in",
  ov: "overlaps",
};
const NULLS = { "is.null": "is null", "is.not_null": "is not null" };
const TRUTHS = { "is.true": "is true", "is.false": "is false" };
const PLACEHOLDERS = { in: "one, two, three", like: "a*", ilike: "a*" };

/** The operators for a type, by its name in PostgreSQL. */
function operatorsFor(type) {
  const pick = (...names) => Object.fromEntries(names.map((name) => [name, WITH_VALUE[name]]));
  if (type === "bool") {
    return { ...TRUTHS, ...NULLS };
  }
  if (/^(json|xml|point|line|lseg|box|path|polygon|circle)$/.test(type)) {
    return NULLS;
  }
  if (type === "jsonb") {
    return { ...pick("eq", "neq", "cs", "cd"), ...NULLS };
  }
  if (/^_|range$/.test(type)) {
    return { ...pick("eq", "neq", "cs", "cd", "ov"), ...NULLS };
  }
  const numbers = pick("eq", "neq", "gt", "gte", "lt", "lte", "in");
  const isText = /^(text|varchar|bpchar|name|citext)$/.test(type);
  return { ...numbers, ...(isText ? pick("like", "ilike") : {}), ...NULLS };
}

/** Write a condition in the language of filters; empty while it has no value. */
export function condition(column, operator, value) {
  const name = /^[A-Za-z_]\w*$/.test(column) ? column : quoted(column);
  if (operator.startsWith("is.")) {
    return `${name}=${operator}`;
  }
  if (value === "") {
    return "";
  }
  if (operator === "in") {
    const items = value.split(",").map((item) => item.trim());
    return `${name}=in.(${items.map((item) => (/[()"]/.test(item) ? quoted(item) : item)).join(",")})`;
  }
  return `${name}=${operator}.${/[,()[\]{}"]/.test(value) ? quoted(value) : value}`;
}

function quoted(text) {
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}

export class Builder {
  #form;
  #tables = [];

  /**
   * @param {HTMLFormElement} form with the fields `table`, `event` and `filter`, and a fieldset.
   * @param {function} onWatch is called with what is to be watched.
   */
  constructor(form, onWatch) {
    this.#form = form;
    form.elements.table.addEventListener("change", () => this.#chooseTable());
    // Who writes the filter by hand has left the conditions behind.
    form.elements.filter.addEventListener("input", () => this.#reset());
    this.#conditions.addEventListener("input", () => this.#write());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onWatch(watched({ binding: this.#binding }));
    });
    this.tables = [];
  }

  /** The tables to choose from, by schema and name. */
  set tables(tables) {
    this.#tables = tables;
    const schemas = [...new Set(tables.map(({ schema }) => schema))];
    const groups = schemas.map((schema) => {
      const group = element("optgroup", { label: schema });
      group.append(new Option(`every table of ${schema}`, JSON.stringify([schema, "*"])));
      for (const { name } of tables.filter((table) => table.schema === schema)) {
        group.append(new Option(`${schema}.${name}`, JSON.stringify([schema, name])));
      }
      return group;
    });
    const { table } = this.#form.elements;
    const chosen = table.value;
    table.replaceChildren(new Option("every table", '["*","*"]'), ...groups);
    // A list that came anew must not take away what somebody chose.
    table.value = chosen;
    if (table.selectedIndex === -1) {
      table.selectedIndex = 0;
      this.#chooseTable();
    }
  }

  get #binding() {
    const { event, table, filter } = this.#form.elements;
    const [schema, name] = JSON.parse(table.value);
    const text = filter.value.trim();
    return { event: event.value, schema, table: name, ...(text === "" ? {} : { filter: text }) };
  }

  get #conditions() {
    return this.#form.querySelector(".conditions");
  }

  get #columns() {
    const [schema, name] = JSON.parse(this.#form.elements.table.value);
    return this.#tables.find((table) => table.schema === schema && table.name === name)?.columns ?? [];
  }

  /** A filter needs one table, and so do its columns. */
  #chooseTable() {
    this.#form.elements.filter.value = "";
    this.#form.querySelector("fieldset").disabled = this.#columns.length === 0;
    this.#reset();
  }

  #reset() {
    this.#conditions.replaceChildren();
    this.#add();
  }

  #add() {
    const columns = this.#columns.map(({ name, type_name: type }) => new Option(`${name} (${type})`, name));
    const column = element("select", { ariaLabel: "Column" }, ...columns);
    const operator = element("select", { ariaLabel: "Operator" });
    const value = element("input", { ariaLabel: "Value", autocomplete: "off", spellcheck: false });
    const adapt = () => {
      value.hidden = operator.value.startsWith("is.");
      value.placeholder = PLACEHOLDERS[operator.value] ?? "value";
    };
    const chooseColumn = () => {
      const type = this.#columns.find(({ name }) => name === column.value)?.type_name ?? "";
      const options = Object.entries(operatorsFor(type)).map(([name, label]) => new Option(label, name));
      operator.replaceChildren(...options);
      adapt();
    };
    column.addEventListener("input", chooseColumn);
    operator.addEventListener("input", adapt);
    chooseColumn();
    const row = element("li", {}, column, operator, value);
    const isFirst = this.#conditions.childElementCount === 0;
    row.append(isFirst ? button("And…", () => this.#add()) : button("Remove", () => this.#remove(row)));
    this.#conditions.append(row);
  }

  #remove(row) {
    row.remove();
    this.#write();
  }

  #write() {
    const conditions = [...this.#conditions.children].map((row) => {
      const [column, operator, value] = row.children;
      return condition(column.value, operator.value, value.value);
    });
    this.#form.elements.filter.value = conditions.filter(Boolean).join(",");
  }
}
