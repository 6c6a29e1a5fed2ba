// What of a numbered stream is missing: bus/gaps.py in JavaScript. Pure: messages in, verdicts out.
"use strict";

/** A subscriber of a whole lane, `event/<session>/`. */
class Lane {
  constructor(session, last = 0) {
    this.session = session;
    this.last = last; // everything up to here was handed on, in order
    this.newest = last; // the highest number known to exist
    this.held = new Map(); // what came although something before it is missing
    this.incs = new Set(); // the publisher's incarnations heard so far
  }

  /** A multipart message. `ready`: the events to hand on now; `missing`: what to replay, or null. */
  frames(frames) {
    const event = parse(frames, this.session);
    return event ? this.take(event) : this.said("ignored");
  }

  /** An event, live or by replay. */
  take(event) {
    const { kind, seq, data, inc } = event;
    const isNew = !this.incs.has(inc);
    this.incs.add(inc);
    if (kind === "head") return this.hear(data.seq, isNew);
    if (kind === "welcome") return this.hear(data.heads[this.session] ?? 0, isNew);
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

  /** A publisher that has just come and knows less than was handed on: its predecessor lost its
   * journal, and what follows is new under numbers used before. */
  hear(head, isNew) {
    if (isNew && 0 < head && head < this.last) {
      this.last = this.newest = head;
      this.held.clear();
    }
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
    return { verdict, ready, missing: this.missing() };
  }

  /** The first stretch to replay, or null. */
  missing() {
    if (this.newest <= this.last) return null;
    const before = this.held.size ? Math.min(...this.held.keys()) : this.newest + 1;
    return [this.last + 1, before - 1];
  }
}

/** A subscriber of one kind, who sees holes in `seq` by choice: `prev` tells. */
class Kind {
  constructor(session, kind, last = 0) {
    Object.assign(this, { session, kind, last, incs: new Set() });
  }

  frames(frames) {
    const event = parse(frames, this.session);
    const isNew = !this.incs.has(event?.inc);
    this.incs.add(event?.inc);
    if (event?.kind === "head") {
      const newest = event.data.topics?.[this.kind] ?? 0;
      if (isNew && newest < this.last) this.last = newest; // as in Lane
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
