// The sound of a call, on the audio thread: the microphone's way out and the assistant's way in.
// Voicebus speaks 24 kHz; where the browser's context does not, both are resampled here.

const RATE_HZ = 24_000;
const FRAME = 480; // 20 ms
const REPORT_S = 0.25;
const KEPT = 200; // flushed responses that are remembered
const PHASES = 256;

/** A windowed sinc, to read samples between samples. */
class Kernel {
  constructor(fromHz, toHz) {
    const cut = Math.min(1, toHz / fromHz);
    this.half = Math.ceil(12 / cut);
    this.rows = [];
    for (let phase = 0; phase <= PHASES; phase += 1) {
      const row = new Float32Array(2 * this.half);
      let sum = 0;
      for (let at = 0; at < row.length; at += 1) {
        const x = at - this.half + 1 - phase / PHASES;
        const wave = x === 0 ? 1 : Math.sin(Math.PI * x * cut) / (Math.PI * x * cut);
        row[at] = wave * (0.5 + 0.5 * Math.cos((Math.PI * x) / this.half));
        sum += row[at];
      }
      this.rows.push(row.map((one) => one / sum));
    }
  }

  /** The value at place `p`; beyond `length` there is silence. */
  at(samples, length, p) {
    const whole = Math.floor(p);
    const row = this.rows[Math.round((p - whole) * PHASES)];
    const first = whole - this.half + 1;
    let value = 0;
    for (let at = 0; at < row.length; at += 1) {
      const place = first + at;
      if (place >= 0 && place < length) value += samples[place] * row[at];
    }
    return value;
  }
}

/** Samples as they come, at another rate. */
class Resampler {
  constructor(fromHz, toHz) {
    this.step = fromHz / toHz;
    this.kernel = this.step === 1 ? null : new Kernel(fromHz, toHz);
    this.kept = new Float32Array(0);
    this.place = 0; // of the next output, in `kept`
  }

  feed(samples) {
    if (!this.kernel) return samples;
    const all = new Float32Array(this.kept.length + samples.length);
    all.set(this.kept);
    all.set(samples, this.kept.length);
    const out = [];
    const { half } = this.kernel;
    while (this.place + half < all.length) {
      out.push(this.kernel.at(all, all.length, this.place));
      this.place += this.step;
    }
    const drop = Math.max(0, Math.floor(this.place) - half);
    this.kept = all.slice(drop);
    this.place -= drop;
    return out;
  }
}

/** Hands on frames of 20 ms, and how loud they are. */
class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE_HZ);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
    this.loudest = 0;
  }

  process([input]) {
    if (!input.length) return true; // no track yet
    for (const one of this.resampler.feed(input[0])) {
      const value = Math.max(-1, Math.min(1, one));
      this.loudest = Math.max(this.loudest, Math.abs(value));
      this.frame[this.filled] = Math.round(value * 32767);
      this.filled += 1;
      if (this.filled === FRAME) {
        this.port.postMessage({ samples: this.frame.buffer, level: this.loudest }, [this.frame.buffer]);
        this.frame = new Int16Array(FRAME);
        this.filled = 0;
        this.loudest = 0;
      }
    }
    return true;
  }
}

/** Plays item after item as it comes, stops at a flush, and says what was played. */
class Speaker extends AudioWorkletProcessor {
  constructor() {
    super();
    this.tracks = []; // { key, head, data, length, played, complete }
    this.flushed = [];
    this.over = [];
    this.step = RATE_HZ / sampleRate;
    this.kernel = this.step === 1 ? null : new Kernel(RATE_HZ, sampleRate);
    this.reportAt = 0;
    this.port.onmessage = ({ data }) => this[data.what](data);
  }

  piece({ head, samples }) {
    const key = `${head.item_id}/${head.content_index}`;
    if (this.flushed.includes(head.turn_id) || this.over.includes(key)) return;
    let track = this.tracks.find((one) => one.key === key);
    if (!track) {
      // A response speaks one item after the other: the end of those before was lost.
      for (const one of this.tracks) one.complete ||= one.head.turn_id === head.turn_id;
      track = { key, head, data: new Float32Array(RATE_HZ), length: 0, played: 0, complete: false };
      if (!this.tracks.length) this.reportAt = currentTime + REPORT_S;
      this.tracks.push(track);
    }
    const end = head.offset_samples + samples.length; // a hole before it is played as silence
    while (track.data.length < end) {
      const larger = new Float32Array(2 * track.data.length);
      larger.set(track.data);
      track.data = larger;
    }
    for (let at = 0; at < samples.length; at += 1) {
      track.data[head.offset_samples + at] = samples[at] / 32768;
    }
    track.length = Math.max(track.length, end);
  }

  end({ head }) {
    const key = `${head.item_id}/${head.content_index}`;
    for (const one of this.tracks) one.complete ||= one.key === key;
  }

  endTurn({ turn }) {
    for (const one of this.tracks) one.complete ||= one.head.turn_id === turn;
  }

  flush({ responses }) {
    this.flushed = [...this.flushed, ...responses].slice(-KEPT);
    const gone = this.tracks.filter((one) => responses.includes(one.head.turn_id));
    this.tracks = this.tracks.filter((one) => !gone.includes(one));
    for (const one of gone) this.finish(one, "stopped");
  }

  finish(track, state) {
    this.over = [...this.over, track.key].slice(-KEPT);
    this.report(track, state);
  }

  report({ head, played }, state) {
    this.reportAt = currentTime + REPORT_S;
    const { item_id, content_index } = head;
    const played_ms = Math.floor((Math.floor(played) * 1000) / RATE_HZ);
    this.port.postMessage({ item_id, content_index, played_ms, state });
  }

  process(inputs, [output]) {
    const out = output[0];
    let at = 0;
    while (at < out.length && this.tracks.length) {
      const track = this.tracks[0];
      while (at < out.length && track.played < track.length) {
        out[at] = this.kernel
          ? this.kernel.at(track.data, track.length, track.played)
          : track.data[track.played];
        track.played = Math.min(track.played + this.step, track.length);
        at += 1;
      }
      if (track.played < track.length) break;
      if (!track.complete) break; // waiting for sound: silence
      this.tracks.shift();
      this.finish(track, "done");
    }
    if (this.tracks.length && at && currentTime >= this.reportAt) this.report(this.tracks[0], "playing");
    for (let channel = 1; channel < output.length; channel += 1) output[channel].set(out);
    return true;
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("speaker", Speaker);
