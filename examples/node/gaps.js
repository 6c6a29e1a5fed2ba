// What of a numbered stream is missing: bus/gaps.py in JavaScript. Pure: messages in, verdicts out.
"use strict";

/** A subscriber of a whole lane, `event/<session>/`. */
class Lane {
  constructor(session, last = 0) {
    this.session = session;
    this.last = last; // everything up to here was handed on, in order
    this.newest = last; // the highest number known to exist
    this.held = new Map(); // what came although something before it is missing
  }

  /** A multipart message. `ready`: the events to hand on now; `missing`: what to replay, or null. */
  frames(frames) {
    const event = parse(frames, this.session);
    return event ? this.take(event) : this.said("ignored");
  }

  /** An event, live or by replay. */
  take(event) {
    const { kind, seq, data } = event;
    if (kind === "head") return this.hear(data.seq);
    if (kind === "welcome") return this.hear(data.heads[this.session] ?? 0);
    if (!Number.isInteger(seq)) return this.said("ignored");
    if (seq <= this.last || this.held.has(seq)) return this.said("repeated");
    this.newest = Math.max(this.newest, seq);
    if (seq > this.last + 1) {
      this.held.set(seq, event);
      return this.said("gap");
    }
    this.last = seq;
    return this.said("next", [event, ...this.run()]);
  }

  /** The owner says that everything up to `upto` is gone for good. */
  gone(upto) {
    for (const seq of this.held.keys()) if (seq <= upto) this.held.delete(seq);
    this.last = Math.max(this.last, upto);
    this.newest = Math.max(this.newest, upto);
    return this.said("gone", this.run());
  }

  hear(head) {
    this.newest = Math.max(this.newest, head);
    return this.said("head");
  }

  /** What now follows without a hole. */
  run() {
    const ready = [];
    while (this.held.has(this.last + 1)) {
      this.last += 1;
      ready.push(this.held.get(this.last));
      this.held.delete(this.last);
    }
    return ready;
  }

  said(verdict, ready = []) {
    let missing = null;
    if (this.newest > this.last) {
      const before = this.held.size ? Math.min(...this.held.keys()) : this.newest + 1;
      missing = [this.last + 1, before - 1];
    }
    return { verdict, ready, missing };
  }
}

/** A subscriber of one kind, who sees holes in `seq` by choice: `prev` tells. */
class Kind {
  constructor(session, kind, last = 0) {
    Object.assign(this, { session, kind, last });
  }

  frames(frames) {
    const event = parse(frames, this.session);
    if (event?.kind === "head") {
      const newest = event.data.topics?.[this.kind] ?? 0;
      const missing = newest > this.last ? [this.last + 1, newest] : null;
      return { verdict: "head", ready: [], missing };
    }
    if (!Number.isInteger(event?.seq)) return { verdict: "ignored", ready: [], missing: null };
    if (event.seq <= this.last) return { verdict: "repeated", ready: [], missing: null };
    const missing = event.prev > this.last ? [this.last + 1, event.seq - 1] : null;
    this.last = event.seq;
    return { verdict: missing ? "gap" : "next", ready: [event], missing };
  }
}

/** The header of an event of this session, or null. */
function parse(frames, session) {
  if (frames.length < 2 || !frames[0].toString().startsWith(`event/${session}/`)) return null;
  try {
    const header = JSON.parse(frames[1].toString());
    return header && typeof header === "object" && !Array.isArray(header) ? header : null;
  } catch {
    return null;
  }
}

module.exports = { Lane, Kind };
