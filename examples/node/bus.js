// The bus from Node: commands with retry, and the events of a session each exactly once.
"use strict";
const { randomUUID } = require("node:crypto");
const { Dealer, Subscriber } = require("zeromq");
const { Lane } = require("./gaps.js");

const QUIET_MS = 3000; // a session process says something each second
const nothingAt = (endpoint) =>
  `nothing answers at ${endpoint}: is voicebus up, and is that its run folder?`;

/** Asks a session process. The same id is sent again until the one reply comes. */
class Commands {
  constructor(endpoint) {
    this.endpoint = endpoint;
    this.waiting = new Map();
    this.sending = Promise.resolve(); // one send at a time, in order
    this.socket = new Dealer({ linger: 0 });
    this.socket.connect(endpoint);
    this.reading = this.read();
  }

  async read() {
    for await (const frames of this.socket) {
      const reply = JSON.parse(frames.at(-1).toString());
      this.waiting.get(reply.id)?.(reply);
    }
  }

  async ask(command, session_id, data = {}, deadline_ms = 10_000) {
    const id = randomUUID();
    const text = JSON.stringify({ v: 1, id, command, session_id, data });
    const end = Date.now() + deadline_ms;
    for (let pause = 250; ; pause = Math.min(pause * 2, 2000)) {
      const reply = await new Promise((resolve) => {
        const timer = setTimeout(resolve, pause);
        this.waiting.set(id, (found) => (clearTimeout(timer), resolve(found)));
        this.sending = this.sending.then(() => this.socket.send(text));
      });
      this.waiting.delete(id);
      if (reply?.ok) return reply.data;
      if (reply && !reply.error.retry)
        throw new Error(`${command} was refused (${reply.error.code}): ${reply.error.message}`);
      if (Date.now() > end) throw new Error(reply ? reply.error.message : nothingAt(this.endpoint));
      if (!reply && pause === 1000) console.error(`${nothingAt(this.endpoint)} still waiting`);
      if (reply) await new Promise((resolve) => setTimeout(resolve, reply.error.after_ms ?? pause));
    }
  }

  close() {
    this.socket.close();
  }
}

/** `for await` gives each event of a session once, in order, until `session_closed`. */
class Events {
  constructor(endpoint, session, commands, { lose = 0, tell = () => {} } = {}) {
    Object.assign(this, { endpoint, session, commands, lose, tell });
    this.lane = new Lane(session);
    this.askedAgain = 0;
    this.queue = [];
    this.healing = false;
    this.failure = null;
    this.wake = () => {};
    this.welcomed = new Promise((resolve) => (this.welcome = resolve));
    this.socket = new Subscriber({ linger: 0 });
    this.socket.subscribe(`event/${session}/`); // before connecting
    this.socket.connect(endpoint);
    this.reading = this.read();
  }

  async read() {
    this.heard();
    for await (const frames of this.socket) {
      this.heard();
      if (this.lose && JSON.parse(frames[1].toString()).seq === this.lose) {
        this.lose = 0; // as a full queue would
        continue;
      }
      this.said(this.lane.frames(frames));
      if (frames[0].toString() === `event/${this.session}/`) {
        this.welcome();
        this.heal();
      }
    }
  }

  /** Tells once of each silence. */
  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(
      () => console.error(`${nothingAt(this.endpoint)} still waiting`),
      QUIET_MS,
    );
  }

  said({ ready, missing }) {
    this.queue.push(...ready);
    if (ready.length) this.wake();
    if (missing) this.heal();
  }

  /** Asks for what is missing, page by page. At least once, for a welcome tells of live sessions
   * only: one that is over has its events all the same. */
  async heal() {
    if (this.healing) return;
    this.healing = true;
    try {
      do {
        const [from, to] = this.lane.missing() ?? [this.lane.last + 1, null];
        if (to && this.lane.last) this.tell(`events ${from} to ${to} are missing: asking for them`);
        const page = await this.commands.ask("replay", this.session, { from, to, limit: 200 });
        for (const event of page.events) {
          const before = this.lane.last;
          this.said(this.lane.take(event));
          if (this.lane.last > before) this.askedAgain += 1;
        }
        if (page.next) this.lane.hear(page.next, false);
      } while (this.lane.missing());
    } catch (error) {
      this.failure = error;
      this.wake();
    } finally {
      this.healing = false;
    }
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.queue.length) {
        const event = this.queue.shift();
        yield event;
        if (event.kind === "session_closed") return;
      }
      if (this.failure) throw this.failure;
      await new Promise((resolve) => (this.wake = resolve));
    }
  }

  close() {
    clearTimeout(this.silence);
    this.socket.close();
  }
}

/** The endpoints of a session follow from its id. */
function endpoints(run, session) {
  const home = /^s(\d+)-/.exec(session);
  if (!home) throw new Error(`${session} is no session id`);
  const at = `ipc://${run}/session-${home[1]}`;
  return { commands: `${at}.commands`, events: `${at}.events` };
}

module.exports = { Commands, Events, endpoints };
