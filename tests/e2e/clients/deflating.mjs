/** `ws` that offers permessage-deflate as it is told, and says what was agreed on. */

import WebSocket from "ws";

import { say } from "./console.mjs";

/** `perMessageDeflate` is the option of `ws`: its parameters, true, or false to offer nothing. */
export function deflating(perMessageDeflate = true) {
  return class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { perMessageDeflate });
      this.on("upgrade", ({ headers }) =>
        say({ agreed: headers["sec-websocket-extensions"] ?? null }),
      );
    }
  };
}
