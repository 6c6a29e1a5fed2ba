"""A lost provider connection, and a planned change to a new one: the conversation goes on.

    ready ──lost──▶ lost ──backoff──▶ connecting ─▶ configuring ─▶ (history) ─▶ ready
      │              ▲                     │             │
      └─rotation─────┼──────▶ connecting   └──lost again─┘
                     └───────────────────────────────────┘

A new connection is an empty conversation: the configuration is confirmed again, then what was said
is told again: what the caller said by its transcript, what the assistant said as far as it was
*heard*, calls together with their outputs. A user turn left unanswered gets exactly one response.
"""

from msgspec.structs import replace

from voicebus.bus.messages.events import SessionExpiring, SessionReconnecting, SessionResumed
from voicebus.services.session.core import calls, commits, items, playback, responses
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import Create, ItemRecord, State
from voicebus.services.session.core.turn_taking import client_ends_turns

HELPS = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1015})
"""Close codes after which a new connection may succeed. Not 1008 or 4000: the same would follow."""
HELPS_HTTP = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF_US = tuple(int(s * 1_000_000) for s in (0.1, 0.5, 1, 2, 4, 8, 8, 8))
ROTATION_SHARE = 0.1
"""A rotation is due when this share of the connection's life is left …"""
ROTATION_MARGIN_US = 300_000_000
"""… but never more than this."""
ROTATION_LOOK_US = 500_000
"""How often a due rotation looks whether there is a silence now."""
SHORTEST_LIFE_US = 60_000_000
"""A connection that says so soon after its opening that it ends is changed once; when the next one
says the same, it is the clock here that is wrong."""
UNTRANSCRIBED = "(the caller said something here that was not transcribed)"


def may_help(event: i.ProviderDisconnected) -> bool:
    """Whether dialling again can succeed."""
    if event.by_us:
        return True  # the transport is being stopped; another one, or its successor, will do
    if event.events_lost:
        return True  # the transport could keep no more for us; an older one tells 1000 of that
    if event.error is not None:
        return False  # a key that is not there does not come by waiting
    if event.http_status is not None:
        return event.http_status in HELPS_HTTP
    return event.code is None or event.code in HELPS


def lost(d: Draft, reason: str, *, turn_reason: str, events_lost: bool = False) -> bool:
    """Wait a little and dial again. Returns False when that was tried often enough."""
    if d.s.attempt >= len(BACKOFF_US):
        return False
    _leave_connection(d, turn_reason)
    d.s.events_lost = d.s.events_lost or events_lost
    d.s.redial_us = d.now_us + BACKOFF_US[d.s.attempt]
    d.s.attempt += 1
    d.s.phase, d.s.phase_us = "lost", d.now_us
    d.publish(SessionReconnecting(reason=reason, attempt=d.s.attempt))
    return True


def _leave_connection(d: Draft, turn_reason: str) -> None:
    """What belonged to the old connection ends or is wanted anew; nothing is asked of it again."""
    d.s.generation += 1
    d.s.asked = {}
    d.s.speaking_us, d.s.stifled = 0, False
    d.s.speech = None
    if d.s.update is not None:
        d.s.updates, d.s.update = (d.s.update, *d.s.updates), None
    wanted: list[Create] = []
    wanted.extend(create for create in (*d.s.apart, d.s.creating) if create and not create.unwanted)
    d.s.creating, d.s.apart = None, ()
    for response in tuple(d.s.responses.values()):
        if not response.active:
            continue
        done = i.ResponseDone(
            now_us=d.now_us,
            response_id=response.response_id,
            status="incomplete",
            reason=turn_reason,
        )
        responses.done(d, done)
        playback.response_done(d, response.response_id)
        calls.response_done(d, done)
        if not (response.out_of_band or response.interrupted or response.overtaken):
            if response.create is not None:
                wanted.append(response.create)
            else:
                d.s.unanswered = True
    again = (
        replace(create, event_id=None, asked_us=0, not_before_us=0)
        for create in wanted
        if not create.filler
    )
    responses.want_again(d, *again)


def redial(d: Draft, dial: fx.Dial) -> None:
    """Open the next connection."""
    d.s.phase, d.s.phase_us = "connecting", d.now_us
    if d.s.new_transport:
        d.s.new_transport = False
        for token, talk in d.s.tokens_granted.items():
            # What it has commanded was for the connection that is gone.
            d.do(fx.Grant(token, talk, d.s.commanded.get(token, -1)))
    d.do(replace(dial, generation=d.s.generation))


def resumed(d: Draft) -> None:
    """The new connection is configured: tell it what was said, then go on."""
    complete = _replay_history(d) and not d.s.events_lost
    untold, d.s.untold = d.s.untold, ()
    for text, ref in untold:
        d.tell(text, ref=ref)
    commits.again(d)
    audio_in, audio_out = d.s.sound
    d.publish(
        SessionResumed(
            transport=f"transport-{d.s.transport}",
            audio_in=audio_in,
            audio_out=audio_out,
            history="complete" if complete else "partial",
            events_lost=d.s.events_lost,
        )
    )
    d.s.attempt, d.s.events_lost = 0, False
    if d.s.unanswered and not any(not create.out_of_band for create in d.s.queue):
        responses.want(d, automatic=True)
    d.s.unanswered = False


def _replay_history(d: Draft) -> bool:
    """Ask for every item that still counts. Returns whether nothing had to be left out."""
    if d.s.config.session_type == "transcription":
        # Nobody answers there: nothing is context. But what was not written down yet is lost.
        return all(one.text for _, one in items.in_order(d.s) if one.item.role == "user")
    complete = True
    by_item = {call.item_id: call for call in d.s.calls.values()}
    waiting = {ref for _, ref in d.s.untold}
    context = {record.text for _, record in items.in_order(d.s) if record.item.role == "system"}
    for item_id, record in items.in_order(d.s):
        item = record.item
        given = d.s.given.get(item_id)
        if given is not None:
            d.ask(fx.AddItem(given), "history", ref=item_id)
        elif item.type == "function_call":
            call = by_item.get(item_id)
            if call is not None and call.call_id in waiting:
                pass  # it ended while there was no connection, and is told as context
            elif call is not None and call.generation == d.s.generation:
                pass  # of this connection, which answered before it was configured
            elif call is not None and calls.as_context(call, call.output) in context:
                pass  # it was told so to a connection in between, and that item is told again
            elif call is not None and call.told == "output":
                d.ask(
                    fx.AddCall(call.call_id, call.name, call.arguments, item_id),
                    "history",
                    ref=item_id,
                )
                d.ask(fx.AddOutput(call.call_id, call.output), "history", ref=call.call_id)
            elif call is None:
                complete = False  # too old: its output is no longer known
        elif item.type == "message":
            text = _heard_text(d, record) if item.role == "assistant" else record.text
            if not text and item.role == "user":
                text, complete = UNTRANSCRIBED, False
            elif not text and _sounded(d, record):
                complete = False
            if text:
                d.ask(fx.AddMessage(item.role or "user", text, item_id), "history", ref=item_id)
    return complete


def _heard_text(d: Draft, record: ItemRecord) -> str:
    """The words of an answer as far as they were heard, by the share of its time; of one that was
    cut off before its whole text came, those that had come with its sound."""
    if not record.text:
        return record.heard_text or " ".join(_words_so_far(d, record.item.item_id))
    heard, whole = record.heard_ms, record.generated_ms
    if heard is None or not whole or heard >= whole:
        return record.text
    return playback.heard_text(record.text, heard, whole)


def _words_so_far(d: Draft, item_id: str) -> list[str]:
    """Of what is still being played, and will be heard unless somebody interrupts it."""
    playing = [(key, one) for key, one in d.s.playback.items() if one.item_id == item_id]
    found = [
        response.words.get(key, "").strip()
        for key, one in playing
        if (response := d.s.responses.get(one.response_id)) is not None
    ]
    return [words for words in found if words]


def _sounded(d: Draft, record: ItemRecord) -> bool:
    """Whether something of it was heard, or is being played."""
    playing = any(one.item_id == record.item.item_id for one in d.s.playback.values())
    return playing or bool(record.heard_ms)


# --- planned rotation -------------------------------------------------------------------------


def plan_rotation(d: Draft) -> None:
    """The connection has a longest life: know when to change it."""
    told_us = (d.s.expires_at or 0) * 1_000_000
    was_hasty, d.s.hasty = d.s.hasty, d.now_us < told_us < d.now_us + SHORTEST_LIFE_US
    ends = [] if was_hasty and d.s.hasty else [told_us]
    longest_s = d.s.capabilities.longest_session_s
    if longest_s:
        ends.append(d.now_us + int(longest_s * 1_000_000))
    # A date in the past is a wrong clock somewhere, not a reason to rotate for ever.
    ends = [end_us for end_us in ends if end_us > d.now_us]
    if not ends:
        d.s.rotate_us = d.s.expires_us = 0
        return
    d.s.expires_us = min(ends)
    left_us = d.s.expires_us - d.now_us
    d.s.rotate_us = d.s.expires_us - min(int(left_us * ROTATION_SHARE), ROTATION_MARGIN_US)
    d.s.expiring_told = False


def rotate_if_silent(d: Draft, dial: fx.Dial) -> None:
    """A due rotation happens in the first silence."""
    if d.s.phase != "ready" or not d.s.rotate_us or d.now_us < d.s.rotate_us:
        return
    if not d.s.expiring_told:
        d.s.expiring_told = True
        d.publish(SessionExpiring(at=d.s.expires_us // 1_000_000))
    if is_silent(d.s):
        change(d, dial, "rotation")


def change(d: Draft, dial: fx.Dial, reason: str) -> None:
    """Leave a connection that works for another one. Only in a silence."""
    d.publish(SessionReconnecting(reason=reason, attempt=1))
    _leave_connection(d, reason)
    redial(d, dial)


def is_silent(state: State) -> bool:
    """Nobody speaks and nothing is about to be said: a connection may be changed unheard."""
    return not (
        state.speaking_us
        or state.unanswered
        or state.commits
        or state.creating is not None
        or state.queue
        or state.playback
        or state.update is not None
        or any(response.active for response in state.responses.values())
    )


def may_leave_transport(state: State, now_us: int) -> bool:
    """Whether another transport may take it over unheard.

    Where only commands end turns, what was said of one goes along to another connection, but not to
    another transport. One who speaks without a pause is moved when the transport ends.
    """
    is_talking = client_ends_turns(state.config) and now_us < state.speaks_until_us
    return is_silent(state) and not is_talking


def deadlines(d: Draft) -> list[int]:
    """When the next attempt, or a look for a silence, is due."""
    if d.s.phase == "lost":
        return [d.s.redial_us]
    if d.s.phase == "ready" and d.s.rotate_us:
        return [d.s.rotate_us if not d.s.expiring_told else d.s.looked_us + ROTATION_LOOK_US]
    return []
