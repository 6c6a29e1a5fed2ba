"""Generated and heard are two facts. This is the second: what the players say, else an estimate.

Sound comes several times faster than real time, so a finished response is usually still unheard.
What was heard of an item is its player's last report plus, while it plays, the time since; without
any report it is the time since the first sound, less what stood before it. Never more than was
published.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from voicebus.bus.messages.events import AssistantAudioDone, AssistantHeard
from voicebus.bus.messages.sound import milliseconds
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import items, responses
from voicebus.services.session.core.draft import Draft, with_, without
from voicebus.services.session.core.state import Hearing, Playback

STOP_REPORT_US = 250_000
"""How long an interruption waits for the player to say where it stopped."""
SILENT_PLAYER_US = 2_000_000
"""A player silent for so long after an item's computed end is taken to have played it."""
PAUSED_PLAYER_US = 60_000_000
"""One that said that it stopped may go on for so much longer; then the rest was not heard."""
REPORTING_US = 1_000_000
"""Players report every 250 ms while they play: one silent for longer does not report at all."""


def key_of(item_id: str, content_index: int) -> str:
    """One item may hold several pieces of sound."""
    return f"{item_id}/{content_index}"


def published(d: Draft, event: i.SoundPublished) -> None:
    """Samples went out to the players."""
    key = key_of(event.item_id, event.content_index)
    known = d.s.playback.get(key)
    if known is None:
        if responses.is_interrupted(d, event.response_id):
            return  # it was under way when the flush was ordered; players drop it
        responses.mark(d, event.response_id, event.item_id, "sounding")
        known = Playback(
            response_id=event.response_id,
            item_id=event.item_id,
            content_index=event.content_index,
            first_us=d.now_us,
            generation=d.s.generation,
        )
    d.s.playback = with_(d.s.playback, key, replace(known, received=known.received + event.samples))


def sound_done(d: Draft, event: i.SoundDone) -> None:
    """The item's sound is complete. Said once; of what was flushed before, not at all."""
    key = key_of(event.item_id, event.content_index)
    known = d.s.playback.get(key)
    if known is None or known.complete or responses.is_interrupted(d, event.response_id):
        return
    d.publish(
        AssistantAudioDone(
            turn_id=known.response_id,
            item_id=event.item_id,
            content_index=event.content_index,
            samples=known.received,
        )
    )
    _complete(d, key)


def _complete(d: Draft, key: str) -> None:
    known = replace(d.s.playback[key], complete=True)
    d.s.playback = with_(d.s.playback, key, known)
    settling = d.s.hearing.keys if d.s.hearing else ()
    if known.player == "done" and key not in settling:
        _settle(d, key, received_ms(d, known), estimated=False)


def response_done(d: Draft, response_id: str) -> None:
    """A response that is over will send no more sound, also where its done events are missing."""
    response = d.s.responses.get(response_id)
    if response is None or not response.interrupted:
        for key, known in tuple(d.s.playback.items()):
            if known.response_id == response_id and not known.complete:
                _complete(d, key)
        return
    # An interrupted one has more sound than was published: what there is of it is not all.
    if response.out_of_band:
        return
    if not d.s.capabilities.delete:
        return
    # Begun, and nothing of it reached anybody: it was not said.
    for item_id, came in response.items.items():
        if came == "silent":
            items.delete(d, item_id)


def reported(d: Draft, item_id: str, content_index: int, played_ms: int, state: str) -> None:
    """The player spoke. Reports of items that are settled or unknown are too late: ignored."""
    key = key_of(item_id, content_index)
    known = d.s.playback.get(key)
    if known is None:
        return
    known = replace(
        known,
        played_ms=min(max(played_ms, known.played_ms), received_ms(d, known)),
        reported_us=d.now_us,
        player="done" if state == "done" else "stopped" if state == "stopped" else "playing",
    )
    d.s.playback = with_(d.s.playback, key, known)
    d.s.reported_us = d.now_us
    hearing = d.s.hearing
    if hearing is not None and key in hearing.keys:
        # An item that was done when it was stopped: the player may be in the next one already.
        if known.player == "stopped" or _have_stopped(d, hearing.keys):
            heard_now(d)
    elif known.player == "done" and known.complete:
        _settle(d, key, received_ms(d, known), estimated=False)


def received_ms(d: Draft, playback: Playback) -> int:
    """How much of an item was published."""
    return milliseconds(playback.received, d.s.config.output_audio_format)


def estimates(d: Draft, at_us: int) -> dict[str, tuple[int, int, bool]]:
    """Per item in playing order: milliseconds heard until `at_us`, milliseconds published, and
    whether the former are estimated."""
    found: dict[str, tuple[int, int, bool]] = {}
    busy_until_us = 0
    reported_us = d.s.reported_us
    reporting = reported_us > 0 and at_us - reported_us < REPORTING_US
    paused = _paused(d, ()) if reported_us else ()
    for key, playback in d.s.playback.items():
        total = received_ms(d, playback)
        if playback.reported_us:
            running = playback.player == "playing"
            since = max(0, at_us - playback.reported_us) // 1000 if running else 0
            heard, estimated = min(total, playback.played_ms + since), running
            ended_us = playback.reported_us + (total - playback.played_ms) * 1000
            busy_until_us = max(busy_until_us, ended_us)
        else:
            begin_us = max(playback.first_us, busy_until_us)
            # A player that reports, or has paused, has not come to this item yet.
            waits = reporting or key in paused or at_us < begin_us
            heard, estimated = 0 if waits else min(total, (at_us - begin_us) // 1000), True
            busy_until_us = begin_us + total * 1000
        found[key] = (heard, total, estimated)
    return found


def _paused(d: Draft, settling: Sequence[str]) -> list[str]:
    """Where the player's last word is that it stopped short: that item, and what stands behind."""
    found: list[str] = []
    for key, playback in d.s.playback.items():
        if key in settling:
            continue
        if playback.reported_us:
            found = [key] if playback.player == "stopped" and _is_short(d, playback) else []
        elif found:
            found.append(key)
    return found


def _is_short(d: Draft, playback: Playback) -> bool:
    return not playback.complete or playback.played_ms < received_ms(d, playback)


def ends_us(d: Draft) -> int:
    """When all that was published so far will have been heard; 0 where nothing is open."""
    until_us = 0
    for playback in d.s.playback.values():
        since_us = playback.reported_us or max(playback.first_us, until_us)
        left_ms = received_ms(d, playback) - playback.played_ms
        until_us = max(until_us, since_us + left_ms * 1000)
    return until_us


def unheard(d: Draft) -> list[str]:
    """Items of which something was not yet heard, in playing order."""
    settling = d.s.hearing.keys if d.s.hearing else ()
    return [
        key
        for key, (heard_ms, total_ms, _) in estimates(d, d.now_us).items()
        if key not in settling and (heard_ms < total_ms or not d.s.playback[key].complete)
    ]


def interrupted(d: Draft, keys: list[str]) -> None:
    """The players were told to stop: find out what was heard. Nothing else waits for it."""
    if not keys:
        return
    if d.s.hearing is not None:
        heard_now(d)
        keys = [key for key in keys if key in d.s.playback]
    d.s.hearing = Hearing(since_us=d.now_us, until_us=d.now_us + STOP_REPORT_US, keys=tuple(keys))
    if _have_stopped(d, keys):
        heard_now(d)


def _have_stopped(d: Draft, keys: Sequence[str]) -> bool:
    return all(d.s.playback[key].player in ("stopped", "done") for key in keys)


def heard_now(d: Draft) -> None:
    """Settle what an interruption left open: truncate the half heard, delete the unheard."""
    hearing = d.s.hearing
    if hearing is None:
        return
    d.s.hearing = None
    heard = estimates(d, hearing.since_us)
    keys = [key for key in hearing.keys if key in d.s.playback]
    begun = {d.s.playback[key].item_id for key in keys if heard[key][0] > 0}
    begun |= {
        item_id
        for item_id in (d.s.playback[key].item_id for key in keys)
        if (record := items.find(d.s, item_id)) is not None and record.heard_ms
    }
    deleted: set[str] = set()
    for key in keys:
        playback = d.s.playback[key]
        heard_ms, total_ms, estimated = heard[key]
        if heard_ms >= total_ms and playback.complete:
            pass  # all of it was heard
        elif playback.generation != d.s.generation:
            pass  # the connection that knew it is gone
        elif responses.is_out_of_band(d, playback.response_id):
            pass  # it stands in no conversation
        elif playback.item_id in begun:
            _truncate(d, playback, heard_ms)
        elif playback.item_id not in deleted and d.s.capabilities.delete:
            # Truncating an item without sound is refused; what nobody heard was not said.
            deleted.add(playback.item_id)
            items.delete(d, playback.item_id)
        _settle(d, key, heard_ms, estimated=estimated)


def _truncate(d: Draft, playback: Playback, heard_ms: int) -> None:
    if d.s.capabilities.truncate:
        d.ask(
            fx.TruncateItem(playback.item_id, playback.content_index, heard_ms),
            "truncate_item",
            ref=playback.item_id,
        )


def _settle(d: Draft, key: str, heard_ms: int, *, estimated: bool) -> None:
    playback = d.s.playback[key]
    total_ms = received_ms(d, playback)
    response = d.s.responses.get(playback.response_id)
    words = response.words.get(key) if response is not None else None
    text = None if words is None else heard_text(words, heard_ms, total_ms)
    d.publish(
        AssistantHeard(
            turn_id=playback.response_id,
            item_id=playback.item_id,
            content_index=playback.content_index,
            heard_ms=heard_ms,
            complete=playback.complete and heard_ms >= total_ms,
            estimated=estimated,
            text=text,
        )
    )
    record = items.find(d.s, playback.item_id)
    if record is not None:
        record = replace(
            record,
            heard_ms=(record.heard_ms or 0) + heard_ms,
            heard_text=" ".join(filter(None, (record.heard_text, text))) or None,
            generated_ms=(record.generated_ms or 0) + total_ms,
        )
        items.keep(d, playback.item_id, record)
    d.s.playback = without(d.s.playback, key)


def heard_text(words: str, heard_ms: int, total_ms: int) -> str:
    """The words that were probably heard, by their share of the time; whole words only."""
    if heard_ms >= total_ms or not words:
        return words
    share = words[: len(words) * heard_ms // total_ms]
    if words[len(share)].isspace():
        return share.rstrip()
    return share[: max(share.rfind(" "), share.rfind("\n"), 0)].rstrip()


def close(d: Draft) -> None:
    """The session ends: say of everything open how much of it was heard."""
    since_us = d.s.hearing.since_us if d.s.hearing else d.now_us
    settling = d.s.hearing.keys if d.s.hearing else ()
    d.s.hearing = None
    now, then = estimates(d, d.now_us), estimates(d, since_us)
    for key in tuple(d.s.playback):
        heard_ms, _, estimated = (then if key in settling else now)[key]
        _settle(d, key, heard_ms, estimated=estimated)


def _given_up_us(d: Draft, settling: Sequence[str], paused: Sequence[str]) -> dict[str, int]:
    """Per item whose sound is complete, when no more is waited for the player's word on it: one
    that does not report is taken to have played it, one that has paused not to go on."""
    found: dict[str, int] = {}
    until_us = 0
    for key, playback in d.s.playback.items():
        begin_us = playback.reported_us or max(playback.first_us, until_us)
        left_ms = received_ms(d, playback) - playback.played_ms
        until_us = max(until_us, begin_us + left_ms * 1000)
        if playback.complete and key not in settling:
            found[key] = until_us + SILENT_PLAYER_US
    silent_us = found.get(paused[0]) if paused else None
    for key in paused:
        if silent_us is None:
            found.pop(key, None)
        elif key in found:
            found[key] = silent_us + PAUSED_PLAYER_US
    return found


def expire(d: Draft) -> None:
    """The wait for the player is over, or a silent player must have played an item by now."""
    if d.s.hearing is not None and d.now_us >= d.s.hearing.until_us:
        heard_now(d)
    settling = d.s.hearing.keys if d.s.hearing else ()
    paused = _paused(d, settling)
    for key, until_us in _given_up_us(d, settling, paused).items():
        if d.now_us < until_us:
            continue
        playback = d.s.playback[key]
        stopped = playback.player == "stopped"
        heard_ms = playback.played_ms if stopped or key in paused else received_ms(d, playback)
        _settle(d, key, heard_ms, estimated=not stopped)


def deadlines(d: Draft) -> list[int]:
    """When expire() wants to be called."""
    found = [d.s.hearing.until_us] if d.s.hearing else []
    settling = d.s.hearing.keys if d.s.hearing else ()
    found.extend(_given_up_us(d, settling, _paused(d, settling)).values())
    return found
