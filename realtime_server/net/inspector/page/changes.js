/**
 * Changes from messages: for topic clients and for binding clients, in one form, and each once,
 * whatever topics it came by.
 *
 * A message has no name by which it is known again, so its content is compared: the n-th
 * message of the same content by one topic is the n-th by another.
 */

/** So many are known again; a change comes by all of its topics at nearly the same time. */
const MOST_KNOWN = 2_000;

export class Changes {
  /** By content; when the newer ones are many enough, the older ones are forgotten. */
  #newer = new Map();
  #older = new Map();
  #count = 0;

  /**
   * Take a message.
   *
   * @param {string} label of the channel that it came by.
   * @param {object} message of the server, as it is.
   * @returns {{change: object, isNew: boolean}} a change has `kind`, `schema`, `table`, `time`,
   *   `columns`, `record` and `old` (as far as they are there), the `message`, and `labels`, a
   *   Set.
   */
  take(label, message) {
    const change = read(message);
    const content = contentOf(change);
    for (const known of [this.#older, this.#newer]) {
      const same = known.get(content)?.find(({ labels }) => !labels.has(label));
      if (same !== undefined) {
        same.labels.add(label);
        return { change: same, isNew: false };
      }
    }
    change.labels.add(label);
    this.#remember(content, change);
    return { change, isNew: true };
  }

  #remember(content, change) {
    if (this.#count === MOST_KNOWN) {
      this.#older = this.#newer;
      this.#newer = new Map();
      this.#count = 0;
    }
    this.#count += 1;
    const known = this.#newer.get(content);
    if (known === undefined) {
      this.#newer.set(content, [change]);
    } else {
      known.push(change);
    }
  }
}

function read(message) {
  const { data = message } = message;
  const { type, schema, table, commit_timestamp: time, columns = [], record, old_record: old } = data;
  return { kind: type, schema, table, time, columns, record, old, message: data, labels: new Set() };
}

/** What tells one change from another; messages for topic clients write values and times differently. */
function contentOf({ kind, schema, table, time, columns, record, old }) {
  const row = record ?? old;
  // A TRUNCATE has no row, and only messages for binding clients name its columns.
  const values = row && columns.map(({ name, type }) => [name, comparable(row[name], type)]);
  return JSON.stringify([Date.parse(time), kind, schema, table, values]);
}

function comparable(value, type) {
  if (value === null || value === undefined || /^_|json|vector$/.test(type)) {
    return null;
  }
  if (typeof value === "boolean") {
    return value ? "t" : "f";
  }
  if (/^(int|float|numeric)/.test(type)) {
    return String(Number(toText(value)));
  }
  return type.startsWith("timestamp") ? value.replace(/(Z|\+00:00)$/, "") : value;
}

/** Messages for topic clients have PostgreSQL's text or null, those for binding clients any JSON. */
export function toText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
