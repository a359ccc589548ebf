/**
 * What the programs of binding clients share: channels that are opened and closed as the test
 * says, and everything that happens to them told to it.
 *
 * Commands: {"subscribe": name, "bindings": [...], "config": {...}}, {"unsubscribe": name},
 * {"resubscribe": name, "bindings": [...], "config": {...}}, which is both, one after the other,
 * {"token": text}, {"send": name, "event": text, "payload": {...}},
 * {"track": name, "payload": {...}}.
 */

import { listen, say } from "./console.mjs";

/** `client` has `subscribe`, `unsubscribe`, `token`, `send` and `track`. */
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
      client.send(command.send, command.event, command.payload ?? {});
    } else if (command.track !== undefined) {
      client.track(command.track, command.payload ?? {});
    }
  });
}

export function sayStatus(channel, status, error) {
  say({ channel, status, ...(error ? { error: error.message ?? String(error) } : {}) });
}

export function sayChange(channel, binding, change) {
  say({ channel, binding, change });
}
