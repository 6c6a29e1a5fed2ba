// Hold a conversation from Node: speak a recording, report what was played, save the answer.
//
//   node talk.js RUN_FOLDER QUESTION.wav ANSWER.wav
//
// QUESTION.wav: 24 kHz, mono, 16 bit.
"use strict";
const fs = require("node:fs");
const { Dealer, Subscriber } = require("zeromq");
const { Commands, Events, endpoints } = require("./bus.js");

const RATE_HZ = 24_000;
const FRAME_MS = 20;
const REPORT_MS = 250;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function main([run, question, answer]) {
  if (!answer) throw new Error("usage: talk.js RUN_FOLDER QUESTION.wav ANSWER.wav");
  const samples = readWav(question);
  const door = new Commands(`ipc://${run}/session-0.commands`); // `open` goes to any shard
  const config = { turn_detection: "none", instructions: "Be brief." };
  const opened = await door.ask("open", null, { config });
  const session = opened.session_id;
  console.log("opened", session);

  const at = endpoints(run, session);
  const commands = new Commands(at.commands);
  const events = new Events(at.events, session, commands, { tell: console.log });
  const player = new Player(opened.audio_out, session, (report) =>
    commands.ask("report_playback", session, report).catch((error) => console.error(error.message)),
  );
  await events.welcomed;

  let spoken = false;
  for await (const { kind, data } of events) {
    if (kind === "session_opened" && !spoken) {
      spoken = true;
      const after_n = await speak(opened, samples);
      await commands.ask("commit_audio", session, { after_n, token: opened.token, respond: true });
    }
    if (kind === "user_transcript") console.log("caller:", data.text);
    if (kind === "assistant_transcript") console.log("assistant:", data.text);
    if (kind === "error") console.error(`${data.code}: ${data.error}`);
    if (kind === "assistant_heard") {
      console.log(`heard: ${data.heard_ms} ms${data.complete ? ", all of it" : ""}`);
      if (data.complete) await commands.ask("close", session);
    }
  }
  const saved = player.save(answer);
  console.log(`saved: ${saved} ms, ${player.missing} samples missing`);
  player.close();
  events.close();
  commands.close();
  door.close();
}

/** The caller's sound, at the speed of speech. Returns the number of the last frame. */
async function speak({ audio_in, session_id, token }, samples) {
  const voice = new Dealer({ linger: 1000 });
  voice.connect(audio_in);
  const size = (RATE_HZ / 1000) * FRAME_MS * 2;
  let n = 0;
  const began = Date.now();
  for (let at = 0; at < samples.length; at += size) {
    n += 1;
    const header = JSON.stringify({ v: 1, session_id, token, n });
    await voice.send([header, samples.subarray(at, at + size)]);
    const ahead = n * FRAME_MS - (Date.now() - began);
    if (ahead > 0) await sleep(ahead);
  }
  voice.close();
  return n;
}

/** Plays by the clock: one item after the other, at the speed of time, and reports it. */
class Player {
  constructor(endpoint, session, report) {
    Object.assign(this, { session, report });
    this.items = []; // { item_id, content_index, turn_id, pieces, received, played, done }
    this.over = new Set(); // flushed responses
    this.heard = []; // samples, as they were played
    this.missing = 0;
    this.socket = new Subscriber({ linger: 0 });
    this.socket.subscribe(`audio/${session}/out`);
    this.socket.connect(endpoint);
    this.reading = this.read();
    this.clock = Date.now();
    this.reportAt = 0;
    this.timer = setInterval(() => this.tick(), 20);
  }

  async read() {
    for await (const [, header, samples] of this.socket) {
      const head = JSON.parse(header.toString());
      if (head.kind === "assistant_audio_delta") this.piece(head, samples);
      if (head.kind === "end") this.item(head).done = true;
      if (head.kind === "flush") this.flush(head.responses);
    }
  }

  item({ item_id, content_index, turn_id }) {
    let found = this.items.find((one) => one.item_id === item_id && one.content_index === content_index);
    if (!found) {
      found = { item_id, content_index, turn_id, pieces: [], received: 0, played: 0, done: false };
      this.items.push(found);
    }
    return found;
  }

  piece(head, samples) {
    if (this.over.has(head.turn_id)) return;
    const item = this.item(head);
    const hole = head.offset_samples - item.received;
    if (hole > 0) {
      this.missing += hole; // dropped on the way: silence
      item.pieces.push(Buffer.alloc(hole * 2));
    }
    item.pieces.push(samples);
    item.received = head.offset_samples + samples.length / 2;
  }

  flush(responses) {
    responses.forEach((one) => this.over.add(one));
    const stopped = this.items.filter((one) => this.over.has(one.turn_id));
    this.items = this.items.filter((one) => !this.over.has(one.turn_id));
    stopped.forEach((one) => this.tell(one, "stopped"));
  }

  tick() {
    const now = Date.now();
    let due = Math.round(((now - this.clock) * RATE_HZ) / 1000);
    this.clock = now;
    while (this.items.length) {
      const item = this.items[0];
      const count = Math.min(due, item.received - item.played);
      if (count) {
        const sound = Buffer.concat(item.pieces);
        this.heard.push(sound.subarray(0, count * 2));
        item.pieces = [sound.subarray(count * 2)];
        item.played += count;
        due -= count;
      }
      if (!item.done || item.played < item.received) {
        if (item.played && now >= this.reportAt) this.tell(item, "playing");
        return;
      }
      this.items.shift();
      this.tell(item, "done");
    }
  }

  tell({ item_id, content_index, played }, state) {
    this.reportAt = Date.now() + REPORT_MS;
    const played_ms = Math.floor((played * 1000) / RATE_HZ);
    this.report({ item_id, content_index, played_ms, state });
  }

  /** Writes what was heard; returns its milliseconds. */
  save(path) {
    const sound = Buffer.concat(this.heard);
    fs.writeFileSync(path, Buffer.concat([wavHeader(sound.length), sound]));
    return Math.floor((sound.length * 1000) / (RATE_HZ * 2));
  }

  close() {
    clearInterval(this.timer);
    this.socket.close();
  }
}

function readWav(path) {
  const file = fs.readFileSync(path);
  if (file.toString("latin1", 0, 4) !== "RIFF") throw new Error(`${path} is no WAV file`);
  for (let at = 12; at + 8 <= file.length; ) {
    const size = file.readUInt32LE(at + 4);
    const name = file.toString("latin1", at, at + 4);
    if (name === "fmt ") {
      const [channels, rate, bits] = [at + 10, at + 12, at + 22].map((where, index) =>
        index === 1 ? file.readUInt32LE(where) : file.readUInt16LE(where),
      );
      if (channels !== 1 || rate !== RATE_HZ || bits !== 16)
        throw new Error(`${path}: ${rate} Hz, ${channels} channels, ${bits} bit; it must be 24000, 1, 16`);
    }
    if (name === "data") return file.subarray(at + 8, at + 8 + size);
    at += 8 + size + (size % 2);
  }
  throw new Error(`${path} holds no sound`);
}

function wavHeader(bytes) {
  const header = Buffer.alloc(44);
  header.write("RIFF", 0, "latin1");
  header.writeUInt32LE(36 + bytes, 4);
  header.write("WAVEfmt ", 8, "latin1");
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20); // PCM
  header.writeUInt16LE(1, 22); // mono
  header.writeUInt32LE(RATE_HZ, 24);
  header.writeUInt32LE(RATE_HZ * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36, "latin1");
  header.writeUInt32LE(bytes, 40);
  return header;
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
