// A conversation with Voicebus over its gateway's WebSocket: for browsers and for Node.
//
//   const call = new Call("ws://127.0.0.1:8080/ws", { event: (one) => …, sound: (head, samples) => … });
//   await call.open({ instructions: "Be brief." });
//   await call.command("send_text", { text: "Hello!" });
//
// It comes back by itself when the connection is lost, with its token and the seq of the last event,
// so that each event comes exactly once; commands that were not answered are sent again under the
// same id, which does nothing twice.

export const RATE_HZ = 24_000;
const COME_BACK = new Set([1001, 1005, 1006, 1011, 1012, 1013, 4000, 4429]);
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;
const SILENCE_MS = 10_000; // then it is asked whether anybody is there; after twice that nobody is
const OPEN = 1; // of a WebSocket
const AFTER_SOUND = new Set(["commit_audio", "clear_audio", "close"]);

/** A command that was refused, or a connection that was: `code` is one of the bus's. */
export class Refused extends Error {
  constructor({ code, message, retry, after_ms }) {
    super(message);
    Object.assign(this, { code, retry, after_ms });
  }
}

export class Call {
  /**
   * on.event(event): each once, in order. on.sound(header, samples): pieces, `end`s and `flush`es of
   * the audio lane; the samples are an Int16Array, of a G.711 session a Uint8Array. on.state(state, why): "connecting", "on", "away" (it is coming back), "over".
   * on.notice(notice): sound that was dropped.
   */
  constructor(url, on = {}, { key, WebSocket = globalThis.WebSocket } = {}) {
    Object.assign(this, { url, on, key, WebSocket });
    this.session = null; // { session_id, token, … } as `opened` told
    this.lastSeq = 0;
    this.inc = null; // of the session process that said the last event
    this.state = "new";
    this.waiting = new Map(); // id -> { frame, resolve, reject, sent }
    this.begun = null; // how the first frame is answered
  }

  /** Begin a conversation. Resolves to what `opened` told; rejects with Refused. */
  open(config = {}) {
    return this.#begin(() => ({ open: config, ...(this.key ? { key: this.key } : {}) }));
  }

  /** Come back to one, with what `opened` told and the seq of the last event that you have. */
  attach({ session_id, token }, afterSeq = 0) {
    this.session = { session_id, token };
    this.lastSeq = afterSeq;
    return this.#begin(() => this.#attaching());
  }

  /** Give a command. Resolves to the reply; rejects with Refused. */
  command(command, data = {}) {
    const id = newId();
    const frame = JSON.stringify({ v: 1, id, command, data });
    return new Promise((resolve, reject) => {
      const one = { command, frame, resolve, reject, sent: 0 };
      this.waiting.set(id, one);
      if (this.state === "on") this.#send(one);
      else if (this.state === "over") this.#settle(id, { error: gone("the conversation is over") });
    });
  }

  /** As command, of a state that the next one replaces: not repeated, not waited for. */
  tell(command, data) {
    if (this.state === "on") {
      this.#put(JSON.stringify({ v: 1, id: newId(), command, data }));
    }
  }

  /** The caller's sound in the session's format: by default 16-bit samples, 24 kHz, mono. Not kept when away. */
  say(samples) {
    if (this.state === "on") this.#put(samples);
  }

  /** Leave; the session goes on until its lease ends, unless `close` was commanded before. */
  leave(why = "left") {
    this.#over(why);
    this.socket?.close(1000);
  }

  /** Do not wait for the pause to end: the network is back. */
  hurry() {
    if (this.state === "away" && this.timer) this.#connect();
  }

  #attaching() {
    const { session_id, token } = this.session;
    return { attach: { session_id, token, after_seq: this.lastSeq } };
  }

  #begin(first) {
    this.first = first;
    return new Promise((resolve, reject) => {
      this.begun = { resolve, reject };
      this.lostAt = Date.now();
      this.#enter("connecting");
      this.#connect();
    });
  }

  #connect() {
    clearTimeout(this.timer);
    this.timer = null;
    const socket = new this.WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.heardAt = Date.now();
    this.error = null;
    socket.onopen = () => socket.send(JSON.stringify(this.first()));
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.heardAt = Date.now();
      if (typeof data === "string") this.#said(JSON.parse(data));
      else this.#heard(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket === this.socket) this.#lost(code, reason);
    };
    // Browsers tell it by onclose as well; Node 20 does not when nobody listens there.
    socket.onerror = () => {
      if (socket === this.socket) this.#lost(1006, `nobody answers at ${this.url}, or it does not let you in`);
    };
    clearInterval(this.looking);
    this.looking = setInterval(() => this.#look(), SILENCE_MS / 2);
  }

  /** A network that is gone says nothing: not even that it is gone. */
  #look() {
    const silentMs = Date.now() - this.heardAt;
    if (silentMs > 2 * SILENCE_MS) {
      const socket = this.socket;
      this.#lost(1006, "nothing was heard any more");
      socket.close();
    } else if (silentMs > SILENCE_MS) this.tell("ping", {});
  }

  #said(frame) {
    if ("kind" in frame) {
      // A repeated one is legal. A new session process that has lost its journal uses numbers anew.
      if (frame.seq <= this.lastSeq && frame.inc === this.inc) return;
      this.lastSeq = frame.seq;
      this.inc = frame.inc;
      this.on.event?.(frame);
    } else if ("ok" in frame) this.#settle(frame.id, frame);
    else if (frame.notice) this.on.notice?.(frame.notice);
    else if (frame.error) this.#refused(frame.error);
    else if (frame.opened || frame.attached) this.#attached(frame.opened ?? frame.attached);
  }

  #attached(told) {
    this.session = told;
    this.first = () => this.#attaching();
    this.pauses = 0;
    this.#enter("on");
    this.begun?.resolve(told);
    this.begun = null;
    for (const one of this.waiting.values()) this.#send(one);
  }

  #refused(error) {
    this.error = error; // if it was the first frame's, the close that follows says so
    this.on.notice?.({ what: "refused", ...error });
  }

  #heard(data) {
    const length = new DataView(data).getUint16(0);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 2, length)));
    const samples = data.slice(2 + length);
    // One byte a sample may be an odd number of bytes.
    this.on.sound?.(head, head.format?.startsWith("g711") ? new Uint8Array(samples) : new Int16Array(samples));
  }

  #send(one) {
    one.sent += 1;
    this.#put(one.frame);
  }

  /** One that is being closed takes nothing, and complains: commands are sent again on the next. */
  #put(frame) {
    if (this.socket.readyState === OPEN) this.socket.send(frame);
  }

  #settle(id, { ok, error, ...reply }) {
    const one = this.waiting.get(id);
    if (!one) return;
    this.waiting.delete(id);
    // Sent again it may carry another number of sound frames: then the first one was performed.
    const again = error?.code === "conflict" && one.sent > 1 && AFTER_SOUND.has(one.command);
    if (ok || again) one.resolve(reply);
    else one.reject(new Refused(error));
  }

  #lost(code, reason) {
    this.socket = null;
    clearInterval(this.looking);
    if (this.state === "over") return;
    const now = Date.now();
    if (this.state === "on") this.lostAt = now;
    const leaseMs = (this.session?.lease_s ?? 60) * 1000;
    const worth = this.session && now - this.lostAt < leaseMs;
    if (!COME_BACK.has(code) || !worth) {
      this.#over(code === 1000 ? "ended" : this.error?.message || reason || `code ${code}`);
      return;
    }
    this.#enter("away", reason || `code ${code}`);
    this.pauses = (this.pauses ?? 0) + 1;
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** (this.pauses - 1), LONGEST_PAUSE_MS);
    this.timer = setTimeout(() => this.#connect(), pause * (0.8 + 0.4 * Math.random()));
  }

  #over(why) {
    if (this.state === "over") return;
    clearTimeout(this.timer);
    clearInterval(this.looking);
    this.timer = null;
    this.#enter("over", why);
    this.begun?.reject(new Refused(this.error ?? gone(why)));
    this.begun = null;
    for (const id of [...this.waiting.keys()]) this.#settle(id, { error: gone(why) });
  }

  #enter(state, why = "") {
    this.state = state;
    this.on.state?.(state, why);
  }
}

const gone = (why) => ({ code: "gone", message: why, retry: false });

/** Also where crypto.randomUUID is not: on pages that came by plain HTTP from elsewhere. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
}
