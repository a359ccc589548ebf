/**
 * A small client of Phoenix channels: one socket, many channels.
 *
 * Frames are those of serializer 2.0.0: [join_ref, ref, topic, event, payload].
 * The socket reconnects by itself, and then joins again what was joined. It knows nothing
 * of the page.
 */

const HEARTBEAT_INTERVAL = 25_000;
const RETRY_DELAYS = [1_000, 2_000, 5_000, 10_000];

/** Seconds are spread by a fifth, so that clients of a restarted server do not come at once. */
function retryDelay(attempt) {
  const delay = RETRY_DELAYS[Math.min(attempt, RETRY_DELAYS.length - 1)];
  return delay * (0.8 + 0.4 * Math.random());
}

/**
 * One membership of a topic.
 *
 * `binding` says which changes are wanted; without one it is the topic. `state` is "joining",
 * "joined" or "refused"; `reason` says why it is not joined.
 */
class Channel {
  state = "joining";
  reason = "";
  joinRef = null;

  constructor(topic, binding) {
    this.topic = topic;
    this.binding = binding;
  }

  get joinPayload() {
    return this.binding === undefined ? {} : { config: { postgres_changes: [this.binding] } };
  }
}

/** Parse a frame. Numbers that JavaScript cannot hold keep their digits, where the browser can. */
function parseFrame(text) {
  // To look at each value takes ten times as long, and where columns have type modifiers, values
  // are PostgreSQL's text.
  return text.includes('"type_modifier"') ? JSON.parse(text) : JSON.parse(text, exactly);
}

function exactly(_, value, context) {
  const isOther = typeof value === "number" && context && String(value) !== context.source;
  return isOther && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}

export class Socket {
  /** By topic, in the order of joining. */
  channels = new Map();
  /** Sent with the next handshake; empty for none. */
  token = "";

  #url;
  #on;
  #webSocket = null;
  #lastRef = 0;
  #attempt = 0;
  #retryTimer = 0;
  #heartbeatTimer = 0;
  #heartbeatRef = null;
  #wasOpen = false;

  /**
   * @param {string} url of the WebSocket, without `vsn`.
   * @param {object} on callbacks:
   *   `state(name, detail)` when the connection is "connecting", "open" or "waiting" (`detail`:
   *   `{delay, wasOpen, reason}`), `channels()` when a channel changed, `refused(channel)` when a
   *   join was, `message(channel, event, payload)` for everything that the server pushes to a
   *   channel.
   */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
    // No need to sit out the delay once the network is back.
    addEventListener("online", () => this.#retryTimer !== 0 && this.connect());
  }

  /** Connect, or connect anew; all channels are joined again, refused ones too. */
  connect() {
    this.stop();
    for (const channel of this.channels.values()) {
      channel.state = "joining";
      channel.reason = "";
    }
    this.#on.channels();
    this.#open();
  }

  /** Disconnect, and stay so. */
  stop() {
    clearTimeout(this.#retryTimer);
    clearInterval(this.#heartbeatTimer);
    this.#retryTimer = 0;
    this.#abandon();
  }

  #open() {
    this.#retryTimer = 0;
    const url = new URL(this.#url);
    url.searchParams.set("vsn", "2.0.0");
    if (this.token !== "") {
      url.searchParams.set("apikey", this.token);
    }
    const webSocket = new WebSocket(url);
    this.#webSocket = webSocket;
    this.#wasOpen = false;
    this.#on.state("connecting");
    webSocket.onopen = () => this.#opened();
    webSocket.onmessage = ({ data }) => this.#receive(...parseFrame(data));
    webSocket.onclose = ({ reason }) => this.#closed(reason);
  }

  /** Join a topic, now or as soon as the socket is open. A refused one is tried again. */
  join({ topic, binding }) {
    const known = this.channels.get(topic);
    if (known !== undefined && known.state !== "refused") {
      return;
    }
    const channel = known ?? new Channel(topic, binding);
    this.channels.set(topic, channel);
    this.#sendJoin(channel);
  }

  /** Leave a topic; whatever the server still sends for it is ignored. */
  leave(topic) {
    const channel = this.channels.get(topic);
    if (this.channels.delete(topic) && channel.state !== "refused") {
      this.#send(channel.joinRef, this.#nextRef(), topic, "phx_leave", {});
    }
    this.#on.channels();
  }

  #opened() {
    this.#attempt = 0;
    this.#wasOpen = true;
    this.#heartbeatRef = null;
    this.#heartbeatTimer = setInterval(() => this.#beat(), HEARTBEAT_INTERVAL);
    this.#on.state("open");
    for (const channel of this.channels.values()) {
      if (channel.state !== "refused") {
        this.#sendJoin(channel);
      }
    }
  }

  #closed(reason) {
    clearInterval(this.#heartbeatTimer);
    this.#webSocket = null;
    for (const channel of this.channels.values()) {
      if (channel.state === "joined") {
        channel.state = "joining";
      }
    }
    const delay = retryDelay(this.#attempt++);
    this.#retryTimer = setTimeout(() => this.#open(), delay);
    this.#on.channels();
    this.#on.state("waiting", { delay, wasOpen: this.#wasOpen, reason });
  }

  #beat() {
    if (this.#heartbeatRef === null) {
      this.#heartbeatRef = this.#nextRef();
      this.#send(null, this.#heartbeatRef, "phoenix", "heartbeat", {});
      return;
    }
    // The last one was not answered. The closing handshake may not be either, so do not wait.
    this.#abandon();
    this.#closed("no answer to a heartbeat");
  }

  #abandon() {
    const webSocket = this.#webSocket;
    if (webSocket !== null) {
      webSocket.onopen = webSocket.onmessage = webSocket.onclose = null;
      webSocket.close();
      this.#webSocket = null;
    }
  }

  #receive(joinRef, ref, topic, event, payload) {
    if (ref !== null && ref === this.#heartbeatRef) {
      this.#heartbeatRef = null;
      return;
    }
    const channel = this.channels.get(topic);
    if (channel === undefined || (joinRef !== null && joinRef !== channel.joinRef)) {
      return; // of a membership that was left
    }
    switch (event) {
      case "phx_reply":
        if (ref === channel.joinRef) {
          this.#joinAnswered(channel, payload);
        }
        break;
      case "phx_error":
        this.#ended(channel, "joining", "the server ended the channel; joining again");
        setTimeout(() => this.#rejoin(channel), retryDelay(0));
        break;
      case "phx_close":
        this.#ended(channel, "refused", channel.reason || "the server closed the channel");
        this.#on.refused(channel);
        break;
      default:
        this.#on.message(channel, event, payload);
    }
  }

  #joinAnswered(channel, { status, response }) {
    channel.state = status === "ok" ? "joined" : "refused";
    channel.reason = status === "ok" ? "" : (response?.reason ?? `the answer was "${status}"`);
    this.#on.channels();
    if (channel.state === "refused") {
      this.#on.refused(channel);
    }
  }

  #ended(channel, state, reason) {
    channel.state = state;
    channel.reason = reason;
    this.#on.channels();
  }

  #rejoin(channel) {
    if (this.channels.get(channel.topic) === channel && channel.state === "joining") {
      this.#sendJoin(channel);
    }
  }

  #sendJoin(channel) {
    channel.state = "joining";
    channel.reason = "";
    channel.joinRef = this.#nextRef();
    this.#send(channel.joinRef, channel.joinRef, channel.topic, "phx_join", channel.joinPayload);
    this.#on.channels();
  }

  /** Send a frame; without an open socket it is dropped, since `#opened` joins all. */
  #send(...frame) {
    if (this.#webSocket?.readyState === WebSocket.OPEN) {
      this.#webSocket.send(JSON.stringify(frame));
    }
  }

  #nextRef() {
    this.#lastRef += 1;
    return String(this.#lastRef);
  }
}
