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
 * `state` is "joining", "joined" or "refused"; `reason` says why it is not joined.
 */
class Channel {
  state = "joining";
  reason = "";
  joinRef = null;

  constructor(topic) {
    this.topic = topic;
  }
}

export class Socket {
  /** By topic, in the order of joining. */
  channels = new Map();

  #url;
  #on;
  #webSocket = null;
  #lastRef = 0;
  #attempt = 0;
  #retryTimer = 0;
  #heartbeatTimer = 0;
  #heartbeatRef = null;

  /**
   * @param {string} url of the WebSocket, without `vsn`.
   * @param {object} on callbacks:
   *   `state(name, detail)` when the connection is "connecting", "open" or "waiting" (`detail`:
   *   `{delay, code, reason}`), `channels()` when a channel changed, `message(topic, event,
   *   payload)` for everything that the server pushes to a channel.
   */
  constructor(url, on) {
    this.#url = `${url}?vsn=2.0.0`;
    this.#on = on;
    // No need to sit out the delay once the network is back.
    addEventListener("online", () => this.#webSocket === null && this.connect());
  }

  connect() {
    clearTimeout(this.#retryTimer);
    const webSocket = new WebSocket(this.#url);
    this.#webSocket = webSocket;
    this.#on.state("connecting");
    webSocket.onopen = () => this.#opened();
    webSocket.onmessage = ({ data }) => this.#receive(...JSON.parse(data));
    webSocket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  /** Join a topic, now or as soon as the socket is open. A refused one is tried again. */
  join(topic) {
    const known = this.channels.get(topic);
    if (known !== undefined && known.state !== "refused") {
      return;
    }
    const channel = known ?? new Channel(topic);
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
    this.#heartbeatRef = null;
    this.#heartbeatTimer = setInterval(() => this.#beat(), HEARTBEAT_INTERVAL);
    this.#on.state("open");
    for (const channel of this.channels.values()) {
      if (channel.state !== "refused") {
        this.#sendJoin(channel);
      }
    }
  }

  #closed(code, reason) {
    clearInterval(this.#heartbeatTimer);
    this.#webSocket = null;
    for (const channel of this.channels.values()) {
      if (channel.state === "joined") {
        channel.state = "joining";
      }
    }
    const delay = retryDelay(this.#attempt++);
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    this.#on.channels();
    this.#on.state("waiting", { delay, code, reason });
  }

  #beat() {
    if (this.#heartbeatRef === null) {
      this.#heartbeatRef = this.#nextRef();
      this.#send(null, this.#heartbeatRef, "phoenix", "heartbeat", {});
      return;
    }
    // The last one was not answered. The closing handshake may not be either, so do not wait.
    const dead = this.#webSocket;
    dead.onopen = dead.onmessage = dead.onclose = null;
    dead.close();
    this.#closed(1006, "no answer to a heartbeat");
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
        this.#ended(channel, "refused", "the server closed the channel");
        break;
      default:
        this.#on.message(topic, event, payload);
    }
  }

  #joinAnswered(channel, { status, response }) {
    channel.state = status === "ok" ? "joined" : "refused";
    channel.reason = status === "ok" ? "" : (response?.reason ?? `the answer was "${status}"`);
    this.#on.channels();
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
    this.#send(channel.joinRef, channel.joinRef, channel.topic, "phx_join", {});
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
