/**
 * What is watched: a topic, as topic clients join it, or a binding (`postgres_changes`).
 *
 * Each is a channel of its own. A binding's topic only has to be unlike all others.
 */

export function watched({ topic, binding }) {
  return binding === undefined ? { topic } : { topic: `realtime:${JSON.stringify(binding)}`, binding };
}

/** Name it, as short as it can be said. */
export function labelOf({ topic, binding }) {
  if (binding === undefined) {
    return topic;
  }
  const { event = "*", schema = "public", table = "*", filter = "" } = binding;
  const rows = schema === "*" ? "every table" : `${schema}.${table}`;
  return [event === "*" ? "" : event, rows, filter].filter(Boolean).join(" ");
}
