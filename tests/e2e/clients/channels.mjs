/**
 * What the programs of binding clients share: channels that are opened and closed as the test
 * says, and everything that happens to them told to it.
 *
 * Commands: {"subscribe": name, "bindings": [...], "config": {...}}, {"unsubscribe": name},
 * {"resubscribe": name, "bindings": [...], "config": {...}}, which is both, one after the other,
 * {"token": text}, {"send": name, "event": text, "payload": {...}, "persist": true?}, the same with "bytes": [...] in
 * place of the payload, or {"http": name, …} to send it by HTTP, with a "config" if it has not been
 * subscribed to,
 * {"track": name, "payload": {...}}.
 */

import { listen, say } from "./console.mjs";

/** `client` has `subscribe`, `unsubscribe`, `token`, `send`, `http` and `track`. */
export function obey(client) {
  listen((command) => {
    if (command.subscribe !== undefined) {
      client.subscribe(command.subscribe, command.bindings ?? [], command.config ?? {});
    } else if (command.unsubscribe !== undefined) {
      client.unsubscribe(command.unsubscribe);
    } else if (command.resubscribe !== undefined) {
      client.unsubscribe(command.resubscribe);
      client.subscribe(command.resubscribe, command.bindings ?? [], command.config ?? {});
    } else if (command.token !== undefined) {
      client.token(command.token);
    } else if (command.send !== undefined) {
      client.send(command.send, command.event, payloadOf(command), command.persist);
    } else if (command.http !== undefined) {
      client.http(command.http, command.event, payloadOf(command), command.config);
    } else if (command.track !== undefined) {
      client.track(command.track, command.payload ?? {});
    }
  });
}

export function sayStatus(channel, status, error) {
  say({ channel, status, ...(error ? { error: error.message ?? String(error) } : {}) });
}

function payloadOf({ payload = {}, bytes }) {
  return bytes ? new Uint8Array(bytes).buffer : payload;
}

/** A broadcast, in which bytes are a list of numbers. */
export function sayBroadcast(channel, { event, payload, ...more }) {
  const shown = payload instanceof ArrayBuffer ? { bytes: [...new Uint8Array(payload)] } : { payload };
  say({ channel, broadcast: { event, ...shown, more: Object.keys(more) } });
}

/** Who is there, by key, as often as it changes. */
export function sayPresent(channel, keys) {
  say({ channel, present: keys.sort() });
}

export function sayChange(channel, binding, change) {
  say({ channel, binding, change });
}
