// The page of the gateway: press Talk, speak, hear, read. What crosses the network is voicebus.mjs's;
// what crosses the loudspeaker is worklet.js's.
import { Call, RATE_HZ } from "./voicebus.mjs";

const GRACE_MS = 1000; // sound may come so long after the event that says it is complete
const KEPT = "voicebus.call";
const $ = (id) => document.getElementById(id);
const STATES = {
  connecting: "connecting …",
  on: "connected",
  away: "connection lost: coming back …",
  over: "not connected",
};
const ENDS = {
  client: "The conversation is over.",
  server: "The provider has ended the conversation.",
  error: "The conversation has failed.",
  abandoned: "The conversation is over: nobody was there any more.",
  limit: "The conversation is over: it has reached its limit.",
  transport_lost: "The conversation is over: the connection to the provider is lost.",
};
const REFUSALS = {
  NotAllowedError: "The microphone was not allowed: allow it in the browser.",
  NotFoundError: "There is no microphone: connect one.",
  NotReadableError: "The microphone cannot be used: another program may have it.",
};
const HUNG_UP = "hung up";

let call = null;
let sound = null; // { context, speaker, stream }
let muted = false;
let wasOn = null; // whether the call was connected when its state changed last; null before it was

// --- the call -------------------------------------------------------------------------------------

async function talk() {
  if (call && call.state !== "over") return;
  $("hint").hidden = true;
  const kept = remembered();
  try {
    const on = { event: happened, sound: heard, state: entered, notice: noted };
    const url = new URL("/ws", location.href.replace(/^http/, "ws")).href;
    call = new Call(url, on, { key: $("key").value });
    let told;
    if (kept) {
      $("log").replaceChildren(); // all of it is replayed
      entries.clear();
      told = await call.attach(kept);
    } else told = await call.open();
    for (const warning of told.warnings) note(warning);
    remember({ session_id: told.session_id, token: told.token });
    const other = Object.values(told.audio).find(({ format }) => format !== "pcm16");
    if (other) {
      const why = `This gateway's calls speak ${other.format}, and this page speaks pcm16 alone:`;
      return note(`${why} write, and read the answers.`, "error");
    }
  } catch (error) {
    if (kept) remember(null);
    stop();
    if (error.code === "not_allowed" && !kept) return askKey();
    if (error.message !== HUNG_UP) note(explained(error), "error");
    return undefined;
  }
  const mine = call;
  sound = await startSound();
  if (mine.state === "over") stop(); // hung up meanwhile
  enable();
}

function askKey() {
  note($("key").value ? "That is not the key of this gateway." : "This gateway wants its key.", "error");
  $("ask-key").hidden = false;
  $("key").select();
}

async function hangUp() {
  remember(null);
  if (call.state !== "on") return call.leave(HUNG_UP); // the session ends with its lease
  try {
    await call.command("close");
  } catch (error) {
    note(explained(error), "error");
    call?.leave();
  }
}

function entered(state, why) {
  $("state").textContent = STATES[state];
  $("state").className = state === "away" ? "bad" : "";
  document.body.dataset.state = state;
  const live = state === "on";
  if (state === "away" && wasOn) note("The connection was lost; coming back. Hang up to give up.");
  if (live && wasOn === false) note("Connected again.");
  if (state === "over" && wasOn !== null && why !== "ended") {
    if (why === HUNG_UP) note("You have hung up.");
    else note(explained({ message: `The call has ended here: ${why}` }), "error");
  }
  if (state !== "connecting") wasOn = state === "over" ? null : live;
  if (state === "over") {
    if (why === "ended" || why.includes("not exist")) remember(null);
    stop();
  }
  enable();
}

/** What can be done now. Talk stays where it is for who came to it by the keyboard. */
function enable() {
  const state = call?.state ?? "over";
  const live = state === "on";
  const focused = document.activeElement;
  $("talk").setAttribute("aria-disabled", String(state !== "over"));
  $("talk").textContent = state === "over" && remembered() ? "Come back to the call" : "Talk";
  $("microphone").hidden = !sound?.stream;
  $("mute").disabled = !live || !sound?.stream;
  $("hang-up").disabled = state === "over";
  for (const id of ["interrupt", "text"]) $(id).disabled = !live;
  $("write").querySelector("button").disabled = !live;
  if (focused?.disabled) $("talk").focus();
}

function stop() {
  sound?.stream?.getTracks().forEach((track) => track.stop());
  sound?.context.close();
  sound = null;
  enable();
}

const remembered = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
const remember = (one) =>
  one ? sessionStorage.setItem(KEPT, JSON.stringify(one)) : sessionStorage.removeItem(KEPT);

// --- sound ----------------------------------------------------------------------------------------

/** Never fails: who cannot speak may hear, and who cannot hear may read. Both is told. */
async function startSound() {
  let stream = null;
  try {
    stream = await microphone();
  } catch (error) {
    note(`${REFUSALS[error.name] ?? explained(error)} You can still write.`, "error");
  }
  try {
    return await connect(new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" }), stream);
  } catch {
    // Firefox does not connect a microphone of another rate: then the worklets resample.
  }
  try {
    return await connect(new AudioContext({ latencyHint: "interactive" }), stream);
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    note(`This browser gives no sound: ${explained(error)} You can still write.`, "error");
    return null;
  }
}

function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("This browser gives pages a microphone only by HTTPS or on this machine itself.");
  }
  return navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
}

async function connect(context, stream) {
  try {
    await context.audioWorklet.addModule("/worklet.js");
    if (stream) {
      const taken = new AudioWorkletNode(context, "microphone", {
        numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
      });
      context.createMediaStreamSource(stream).connect(taken);
      taken.port.onmessage = ({ data }) => {
        $("level").value = muted ? 0 : data.level;
        if (!muted) call?.say(data.samples);
      };
    }
    const speaker = new AudioWorkletNode(context, "speaker", { numberOfInputs: 0 });
    speaker.connect(context.destination);
    speaker.port.onmessage = ({ data }) => {
      // What is on its way to the ear has not been heard yet.
      const delay = data.state === "done" ? 0 : (context.outputLatency || context.baseLatency || 0) * 1000;
      const report = { ...data, played_ms: Math.max(0, Math.floor(data.played_ms - delay)) };
      // The next one replaces a report of playing; where it stopped is told even after a lost line.
      if (data.state === "playing") call?.tell("report_playback", report);
      else call?.command("report_playback", report).catch(() => {}); // the call is over
    };
    await context.resume();
    return { context, speaker, stream };
  } catch (error) {
    await context.close();
    throw error;
  }
}

function heard(head, samples) {
  const port = sound?.speaker.port;
  if (head.kind === "assistant_audio_delta") port?.postMessage({ what: "piece", head, samples }, [samples.buffer]);
  if (head.kind === "end") port?.postMessage({ what: "end", head });
  if (head.kind === "flush") port?.postMessage({ what: "flush", responses: head.responses });
}

/** Sound has no replay: an end that was lost is told by the events. */
function later(message) {
  setTimeout(() => sound?.speaker.port.postMessage(message), GRACE_MS);
}

// --- what happens ---------------------------------------------------------------------------------

const entries = new Map(); // key -> its line

function happened({ kind, data }) {
  switch (kind) {
    case "user_speech_started": return void line(data.item_id, "caller", "you", "…");
    case "user_transcript_delta": return void grow(data.item_id, "caller", "you", data.delta, data.corrected);
    case "user_transcript": return void line(data.item_id, "caller", "you", data.text);
    case "assistant_text_delta":
    case "assistant_transcript_delta":
      return void grow(data.item_id, "assistant", "assistant", data.delta);
    case "assistant_text":
    case "assistant_transcript":
      return void line(data.item_id, "assistant", "assistant", data.text);
    case "assistant_heard": return void (data.complete || cut(entries.get(data.item_id), data.text ?? ""));
    case "assistant_audio_done": return later({ what: "end", head: data });
    case "assistant_turn_completed": return later({ what: "endTurn", turn: data.turn_id });
    case "interrupted":
      sound?.speaker.port.postMessage({ what: "flush", responses: data.responses });
      return note(data.reason === "barge_in" ? "You spoke: the assistant stopped." : "Interrupted.");
    case "tool_call_dispatched":
      return void line(data.call_id, "tool", `tool ${data.name}`, `${JSON.stringify(data.args)} …`);
    case "tool_call_progress": return void line(data.call_id, "tool", `tool ${data.name}`, data.text);
    case "tool_call_completed":
      return void line(data.call_id, "tool", `tool ${data.name}`, JSON.stringify(data.result));
    case "tool_call_failed":
      return void line(data.call_id, "tool", `tool ${data.name}`, `${data.reason}: ${data.error}`);
    case "approval_requested": return askApproval(data);
    case "session_reconnecting": return note(`The provider's connection is gone (${data.reason}); another is made.`);
    case "session_resumed": return note("The provider's connection stands again.");
    case "error": return note(`${data.code}: ${data.error}`, "error");
    case "session_closed": {
      const why = data.message ? ` ${data.message}` : "";
      return note(`${ENDS[data.reason] ?? ENDS.client}${why}`, data.reason === "error" ? "error" : "note");
    }
  }
}

function noted(notice) {
  if (notice.what === "refused") {
    if (call.state === "on") note(notice.message, "error"); // else whoever opened it is told
  }
  else note(`${notice.dropped_ms} ms of sound were dropped: ${notice.why}`);
}

function askApproval({ call_id, name, args }) {
  const entry = line(`approval/${call_id}`, "tool", `may ${name} run?`, JSON.stringify(args));
  for (const [word, approve] of [["Yes", true], ["No", false]]) {
    const button = document.createElement("button");
    button.textContent = word;
    button.onclick = () => {
      entry.querySelectorAll("button").forEach((one) => one.remove());
      call.command("approve", { call_id, approve }).catch((error) => note(explained(error), "error"));
    };
    entry.append(" ", button);
  }
}

function line(key, kind, who, text) {
  let entry = entries.get(key);
  if (!entry) {
    entry = document.createElement("li");
    entry.className = kind;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = who;
    const rest = document.createElement("s");
    rest.className = "unheard";
    entry.append(name, document.createTextNode(""), rest);
    $("log").append(entry);
    if (key) entries.set(key, entry);
  }
  entry.removeAttribute("aria-busy");
  show(entry, text);
  entry.scrollIntoView({ block: "nearest" });
  return entry;
}

function grow(key, kind, who, delta, corrected) {
  const before = entries.get(key)?.dataset.text ?? "";
  const entry = line(key, kind, who, corrected ?? (before === "…" ? "" : before) + delta);
  entry.setAttribute("aria-busy", "true"); // read out as a whole, not word by word
}

/** An answer that was interrupted: what nobody heard is struck out. */
function cut(entry, heard) {
  if (!entry) return;
  entry.dataset.heard = heard;
  entry.querySelector(".who").textContent = "assistant, interrupted";
  entry.removeAttribute("aria-busy");
  show(entry, entry.dataset.text);
}

/** As text: whatever was said is no markup. */
function show(entry, text) {
  entry.dataset.text = text;
  const { heard } = entry.dataset;
  const length = heard !== undefined && text.startsWith(heard) ? heard.length : text.length;
  entry.childNodes[1].data = text.slice(0, length);
  entry.childNodes[2].textContent = text.slice(length);
}

const note = (text, kind = "note") => void line(null, kind, "", text);
/** As a sentence. */
const explained = ({ message }) => message.replace(/^./, (one) => one.toUpperCase()).replace(/[^.!?…]$/, "$&.");

// --- hands ----------------------------------------------------------------------------------------

$("talk").onclick = talk;
$("hang-up").onclick = hangUp;
$("interrupt").onclick = () => call.command("interrupt").catch((error) => note(explained(error), "error"));
$("mute").onclick = () => {
  muted = !muted;
  $("mute").setAttribute("aria-pressed", String(muted));
};
$("ask-key").onsubmit = (event) => {
  event.preventDefault();
  $("ask-key").hidden = true;
  $("talk").focus();
  talk();
};
$("write").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  line(null, "caller", "you", text);
  call.command("send_text", { text }).catch((error) => note(explained(error), "error"));
};
addEventListener("online", () => call?.hurry());
enable();
