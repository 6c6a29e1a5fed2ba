import json
from collections.abc import Callable
from typing import Any

import pytest

from voicebus.bus.messages import link as words
from voicebus.bus.messages.sound import SoundIn
from voicebus.services.transport.caller import KEPT_S, Refused
from voicebus.services.transport.conversation import (
    LONGEST_ID,
    SPEECHES,
    Arrival,
    CloseSocket,
    Conversation,
    Count,
    Limits,
    Line,
    OpenSocket,
    Record,
    arrive,
)
from voicebus.services.transport.media.pieces import InputCommitted, SoundDelta, SpeechStarted
from voicebus.services.transport.moment import Moment
from voicebus.services.transport.outbox import Write, WriteSound
from voicebus.services.transport.ring import Budget, Ring

SID = "s0-x"
T0 = Moment(0.0, 1_000_000)


def at(s: float) -> Moment:
    return Moment(s, int(s * 1e6) + 1_000_000)


def conversation(ring_bytes: int = 100_000) -> Conversation:
    ring = Ring(ring_bytes, Budget(10_000_000))
    return Conversation(SID, "inc", ring, Limits(2.0, 10_000, 5_000))


def dial(n: int = 1, generation: int = 1, **more: Any) -> words.Dial:
    return words.Dial(session_id=SID, n=n, generation=generation, vendor="openai", **more)


def connected(**more: Any) -> Conversation:
    found = conversation(**more)
    found.order(dial(), None, T0)
    found.opened(T0)
    return found


def told(of: Conversation) -> list[dict[str, Any]]:
    """The events that are new since the last look."""
    found = []
    for frames in of.ring.unsent():
        found.append(json.loads(frames[0]))
        of.ring.sent()
    return found


def kinds(of: Conversation) -> list[str]:
    return [event["kind"] for event in told(of)]


@pytest.mark.parametrize(
    ("n", "arrival"),
    [(3, Arrival.REPEATED), (5, Arrival.REPEATED), (6, Arrival.NEXT), (7, Arrival.GAP)],
)
def test_orders_come_one_after_the_other(n: int, arrival: Arrival) -> None:
    assert arrive(n, 5) is arrival


def test_events_are_numbered_across_generations() -> None:
    call = connected()
    call.frame(b"{}", T0)
    call.closed(T0, code=1001, http_status=None, reason="expired")
    call.order(dial(n=2, generation=2), None, T0)
    call.opened(T0)

    assert [(event["n"], event["generation"], event["kind"]) for event in told(call)] == [
        (1, 1, "opened"),
        (2, 1, "frame"),
        (3, 1, "closed"),
        (4, 2, "opened"),
    ]


@pytest.mark.parametrize("generation", [0, 1])
def test_a_dial_that_is_not_newer_is_refused(generation: int) -> None:
    call = connected()

    assert call.order(dial(n=2, generation=generation), None, T0) == [
        Count("refused_other_generation")
    ]
    assert call.down_n == 2
    assert call.line is Line.OPEN


def test_a_newer_dial_closes_what_is_there_and_drops_what_was_not_sent() -> None:
    call = connected()
    call.order(words.SendFrame(session_id=SID, n=2, generation=1), b"{}", T0)
    effects = call.order(dial(n=3, generation=2), None, T0)

    assert effects[:2] == [CloseSocket(1), Count("frames_unsent_at_close", 1)]
    assert isinstance(effects[2], OpenSocket)
    closed = told(call)[-1]
    assert (closed["kind"], closed["generation"], closed["by_us"]) == ("closed", 1, True)
    assert call.outbox.next(9.0) is None


@pytest.mark.parametrize(
    "order",
    [
        words.SendFrame(session_id=SID, n=2, generation=2),
        words.ReleaseSound(session_id=SID, n=2, generation=2),
        words.HangUp(session_id=SID, n=2, generation=0),
    ],
)
def test_what_is_meant_for_another_connection_is_refused(order: words.Numbered) -> None:
    call = connected()

    assert call.order(order, b"{}", T0) == [Count("refused_other_generation")]
    assert call.down_n == 2
    assert not call.caller.is_released
    assert call.outbox.next(9.0) is None


def grant(call: Conversation, n: int, commanded_n: int = -1) -> None:
    order = words.GrantToken(
        session_id=SID, n=n, generation=1, token="t", talk=True, commanded_n=commanded_n
    )
    call.order(order, None, T0)


def test_tokens_are_the_sessions_and_may_come_before_any_dial() -> None:
    call = conversation()
    call.order(words.GrantToken(session_id=SID, n=1, generation=0, token="t", talk=True), None, T0)
    call.order(dial(n=2), None, T0)

    assert call.speak(SoundIn(session_id=SID, token="t", n=1), b"\0\0", T0) == []


def test_a_frame_without_payload_or_connection_is_refused() -> None:
    call = connected()
    order = words.SendFrame(session_id=SID, n=2, generation=1)

    assert call.order(order, None, T0) == [Count("refused_without_payload")]
    call.closed(T0, code=1000, http_status=None, reason="")
    assert call.order(order, b"{}", T0) == [Count("refused_no_connection")]


@pytest.mark.parametrize("why", ["without_payload", "no_connection", "other_generation"])
def test_what_was_said_after_a_command_that_is_refused_does_not_wait_for_it(why: str) -> None:
    call = connected()
    grant(call, n=2)
    call.speak(SoundIn(session_id=SID, token="t", n=6, follows_command=True), b"\0\0", T0)
    assert call.caller.waits_until(0.0) is not None
    generation, payload = int(why != "other_generation"), None if "payload" in why else b"{}"
    if why == "no_connection":
        call.closed(T0, code=1006, http_status=None, reason="")

    order = words.SendFrame(session_id=SID, n=3, generation=generation, token="t", after_n=5)
    assert call.order(order, payload, T0) == [Count(f"refused_{why}")]

    assert call.caller.waits_until(0.0) is None


@pytest.mark.parametrize(("commanded_n", "waits"), [(-1, True), (4, True), (5, False), (9, False)])
def test_sound_does_not_wait_for_a_command_that_another_transport_was_given(
    commanded_n: int, waits: bool
) -> None:
    call = connected()
    grant(call, n=2, commanded_n=commanded_n)

    call.speak(SoundIn(session_id=SID, token="t", n=6, follows_command=True), b"\0\0", T0)

    assert (call.caller.waits_until(0.0) is not None) == waits


def test_frames_may_be_ordered_while_the_connection_is_being_opened() -> None:
    call = conversation()
    call.order(dial(), None, T0)
    call.order(words.SendFrame(session_id=SID, n=2, generation=1), b"{}", T0)

    assert call.outbox.next(0.0) == Write(2, b"{}", True, False)


def test_a_provider_that_takes_no_frames_is_given_up() -> None:
    call = connected()
    order = words.SendFrame(session_id=SID, n=2, generation=1)

    assert call.order(order, b"x" * 6000, T0) == [Count("outbox_overflows"), CloseSocket(1)]
    call.closed(T0, code=1000, http_status=None, reason="")
    closed = told(call)[-1]
    assert (closed["code"], closed["by_us"]) == (1006, False), "another one may take them"
    assert "not taken" in closed["reason"]


def test_a_provider_that_says_why_it_closes_is_believed_also_where_it_was_given_up() -> None:
    call = connected()
    call.order(words.SendFrame(session_id=SID, n=2, generation=1), b"x" * 6000, T0)
    call.closed(T0, code=1008, http_status=None, reason="no")

    assert told(call)[-1]["code"] == 1008


def test_a_hang_up_that_never_gets_its_turn_is_carried_out_all_the_same() -> None:
    call = connected()
    call.order(words.HangUp(session_id=SID, n=2, generation=1), None, T0)

    assert call.tick(at(1.9)) == []
    assert call.tick(at(2.0)) == [CloseSocket(1)]
    assert call.tick(at(3.0)) == []
    assert call.is_hung_up


def test_a_close_is_told_once() -> None:
    call = connected()
    call.closed(T0, code=1006, http_status=None, reason="gone")
    call.closed(T0, code=1006, http_status=None, reason="gone")

    assert kinds(call) == ["opened", "closed"]


def test_after_a_close_sound_is_held_again() -> None:
    call = connected()
    call.order(words.ReleaseSound(session_id=SID, n=2, generation=1), None, T0)
    call.closed(T0, code=1001, http_status=None, reason="")

    assert not call.caller.is_released


def test_after_a_close_by_the_provider_the_conversation_stays_until_its_session_hangs_up() -> None:
    call = connected()
    call.closed(T0, code=4000, http_status=None, reason="no more")
    assert not call.is_hung_up, "it may be dialled again"

    call.order(words.HangUp(session_id=SID, n=2, generation=1), None, T0)

    assert (call.is_hung_up, call.line) == (True, Line.IDLE)


def test_frames_that_wanted_an_answer_get_one() -> None:
    call = connected()
    told(call)
    call.wrote(Write(2, b"{}", False, True), T0)
    call.wrote(Write(3, b"{}", True, False), T0)

    assert [(event["kind"], event["down_n"], event["reached"]) for event in told(call)] == [
        ("sent", 2, False)
    ]


def test_the_callers_sound_renews_the_lease_every_5_s() -> None:
    call = connected()
    call.order(words.GrantToken(session_id=SID, n=2, generation=1, token="t", talk=True), None, T0)
    told(call)
    for n in range(1, 12):
        call.speak(SoundIn(session_id=SID, token="t", n=n), b"\0\0", at(float(n)))

    assert [(event["kind"], event["at_us"]) for event in told(call)] == [
        ("talker_alive", 2_000_000),
        ("talker_alive", 7_000_000),
        ("talker_alive", 12_000_000),
    ]


def test_a_repeated_frame_of_the_callers_is_recorded_once() -> None:
    call = connected()
    grant(call, n=2)
    header = SoundIn(session_id=SID, token="t", n=1)

    first = call.speak(header, b"\1\0", T0, is_recorded=True)
    again = call.speak(header, b"\1\0", T0, is_recorded=True)

    assert isinstance(first, list)
    (record,) = [one for one in first if isinstance(one, Record)]
    assert (json.loads(record.header)["seq"], record.payload) == (1, b"\1\0")
    assert again == [Count("sound_in_repeats")]


def test_dropped_sound_of_the_caller_is_told_at_most_once_a_second() -> None:
    call = connected()
    call.order(words.GrantToken(session_id=SID, n=2, generation=1, token="t", talk=True), None, T0)
    for n in range(1, 151):
        call.speak(SoundIn(session_id=SID, token="t", n=n), b"\0\0" * 480, at(n * 0.02))
    call.tick(at(9.0))

    drops = [event for event in told(call) if event["kind"] == "sound_dropped"]
    assert sum(event["dropped_ms"] for event in drops) == 1000
    assert len(drops) == 2
    assert {event["direction"] for event in drops} == {"in"}


def test_refused_sound_is_no_event() -> None:
    call = connected()
    told(call)
    refused = call.speak(SoundIn(session_id=SID, token="forged", n=1), b"\0\0", T0)

    assert isinstance(refused, Refused)
    assert told(call) == []


def test_speech_flushes_only_where_the_session_has_asked_for_it() -> None:
    call = connected()
    call.sound(SoundDelta("r1", "i1", 0, b"\0\0" * 24_000), T0, listened=True)
    told(call)
    call.marked(SpeechStarted(), b"{}", at(0.1), listened=True)
    assert kinds(call) == ["frame"]

    call.order(
        words.ReleaseSound(session_id=SID, n=2, generation=1, flush_on_speech=True), None, T0
    )
    call.marked(SpeechStarted(), b"{}", at(0.2), listened=True)
    assert kinds(call) == ["flushed", "frame"]


def test_speech_that_is_told_again_flushes_nothing_by_itself() -> None:
    call = connected()
    released = words.ReleaseSound(session_id=SID, n=2, generation=1, flush_on_speech=True)
    call.order(released, None, T0)
    call.marked(SpeechStarted("u1"), b"{}", at(0.0), listened=True)
    for count in range(SPEECHES - 1):
        call.marked(SpeechStarted(f"later{count}"), b"{}", at(0.0), listened=True)
    call.sound(SoundDelta("r1", "i1", 0, b"\0\0" * 24_000), at(0.1), listened=True)
    told(call)

    call.marked(SpeechStarted("u1"), b"{}", at(0.2), listened=True)
    assert kinds(call) == ["frame"]

    call.marked(SpeechStarted("u2"), b"{}", at(0.3), listened=True)
    assert kinds(call) == ["flushed", "frame"]


@pytest.mark.parametrize("item", ["", "x" * (LONGEST_ID + 1)])
def test_speech_without_an_item_that_could_be_remembered_flushes_each_time(item: str) -> None:
    call = connected()
    released = words.ReleaseSound(session_id=SID, n=2, generation=1, flush_on_speech=True)
    call.order(released, None, T0)
    call.marked(SpeechStarted(item), b"{}", at(0.0), listened=True)
    call.sound(SoundDelta("r1", "i1", 0, b"\0\0" * 24_000), at(0.1), listened=True)
    told(call)

    call.marked(SpeechStarted(item), b"{}", at(0.2), listened=True)

    assert kinds(call) == ["flushed", "frame"]


def sound(call: Conversation, s: float, *, item: str = "i1", samples: int = 480) -> None:
    call.sound(SoundDelta("r1", item, 0, b"\0\0" * samples), at(s), listened=True)


def test_the_first_piece_of_an_item_is_told_at_once_and_the_others_together() -> None:
    call = connected()
    told(call)
    for count in range(12):
        sound(call, count * 0.02)

    assert [event["samples"] for event in told(call)] == [480, 10 * 480]

    sound(call, 0.25, item="i2")

    assert [(event["item_id"], event["samples"]) for event in told(call)] == [
        ("i1", 480),
        ("i2", 480),
    ]


@pytest.mark.parametrize(
    ("happens", "kind"),
    [
        (lambda call: call.frame(b"{}", at(0.05)), "frame"),
        (lambda call: call.closed(at(0.05), code=1000, http_status=None, reason=""), "closed"),
    ],
)
def test_sound_is_told_before_whatever_came_after_it(
    happens: Callable[[Conversation], object], kind: str
) -> None:
    call = connected()
    told(call)
    sound(call, 0.0)
    sound(call, 0.02)
    happens(call)

    assert [(one["kind"], one.get("samples")) for one in told(call)] == [
        ("sound", 480),
        ("sound", 480),
        (kind, None),
    ]


def test_a_flush_and_the_passing_of_time_tell_what_has_passed() -> None:
    call = connected()
    told(call)
    sound(call, 0.0)
    sound(call, 0.02, samples=240)
    call.flush(words.Flush(session_id=SID, responses=["r1"], why="manual"), at(0.03))
    assert [one["samples"] for one in told(call)] == [480, 240]

    sound(call, 0.04)
    call.tick(at(1.0))
    assert [(one["samples"], one["published"]) for one in told(call)] == [(480, False)]


def test_a_full_ring_ends_the_connection_and_loses_nothing_it_has_numbered() -> None:
    call = connected(ring_bytes=2_000)
    effects = [call.frame(b"x" * 500, T0) for _ in range(5)]
    call.closed(T0, code=1000, http_status=None, reason="")
    events = told(call)

    assert [effect for one in effects for effect in one] == [
        Count("events_lost"),
        Count("ring_overflows"),
        CloseSocket(1),
        Count("events_lost"),
    ]
    assert [event["n"] for event in events] == [1, 2, 3, 4, 5]
    closed = events[-1]
    assert (closed["kind"], closed["code"], closed["events_lost"]) == ("closed", 1006, True)


def talking(seconds: float) -> Conversation:
    """Somebody has spoken for so long into a connection where only commands end turns."""
    call = connected()
    grant(call, n=2)
    call.order(words.ReleaseSound(session_id=SID, n=3, generation=1, keep_input=True), None, T0)
    for n in range(1, round(seconds * 50) + 1):
        call.speak(SoundIn(session_id=SID, token="t", n=n), b"\0\0" * 480, T0)
        sent(call)
    return call


def sent(call: Conversation) -> list[int]:
    """The frames of sound that go out now."""
    found = []
    while (step := call.outbox.next(0.0)) is not None:
        if isinstance(step, WriteSound):
            call.caller.wrote(step.sound)
            found.append(step.sound.n)
    return found


def redialled(call: Conversation) -> list[int]:
    """The frames of sound that the next connection is given."""
    call.order(dial(n=call.down_n + 1, generation=2), None, T0)
    call.opened(T0)
    assert sent(call) == []
    release = words.ReleaseSound(session_id=SID, n=call.down_n + 1, generation=2, keep_input=True)
    call.order(release, None, T0)
    return sent(call)


def ending(call: Conversation, how: words.EndsInput, generation: int = 1) -> words.SendFrame:
    return words.SendFrame(
        session_id=SID, n=call.down_n + 1, generation=generation, token="t", ends_input=how
    )


@pytest.mark.parametrize("is_lost", [True, False])
def test_an_unended_turn_goes_on_with_the_next_connection(is_lost: bool) -> None:
    call = talking(0.1)
    if is_lost:
        call.closed(T0, code=1006, http_status=None, reason="")

    assert redialled(call) == [1, 2, 3, 4, 5]
    assert "sound_dropped" not in kinds(call)


def test_a_confirmation_that_no_ring_holds_ends_no_turn() -> None:
    call = talking(0.1)
    call.order(ending(call, "commit"), b"{}", T0)
    sent(call)
    while not call.frame(b"x" * 500_000, T0):
        pass  # the session process acknowledges nothing

    call.marked(InputCommitted(), b"{}", T0, listened=True)
    call.closed(T0, code=1000, http_status=None, reason="")

    assert redialled(call) == [1, 2, 3, 4, 5]


def test_a_turn_that_the_provider_confirms_is_over() -> None:
    call = talking(0.1)
    call.order(ending(call, "commit"), b"{}", T0)
    sent(call)
    told(call)

    call.marked(InputCommitted(), b"{}", T0, listened=True)

    assert kinds(call) == ["frame"]
    assert redialled(call) == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_clear_that_cannot_be_sent_any_more_is_done_all_the_same(is_lost: bool) -> None:
    call = talking(0.1)
    if is_lost:
        call.closed(T0, code=1006, http_status=None, reason="")

    call.order(ending(call, "clear"), b"{}", T0)

    assert redialled(call) == []


def test_what_is_lost_of_a_turn_too_long_to_be_kept_is_told() -> None:
    call = talking(KEPT_S + 1)
    told(call)

    redialled(call)

    (drop,) = [one for one in told(call) if one["kind"] == "sound_dropped"]
    assert (drop["direction"], drop["dropped_ms"]) == ("in", 1000)
    assert "30 s" in drop["why"]
