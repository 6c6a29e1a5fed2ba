import json

from voicebus.client.sound import Sound, SoundEnd, SoundFlush
from voicebus.services.gateway.outbox import TEXT_BYTES, URGENT, Outbox


def piece(turn: str = "r1", ms: int = 10) -> Sound:
    return Sound(turn, "i1", 0, "pcm16", 0, bytes(48 * ms), b'{"kind":"delta"}')


END = SoundEnd("r1", "i1", 0, 480, b'{"kind":"end"}')


def outbox(sound_ms: int = 100, events: int = 10) -> Outbox:
    return Outbox(sound_bytes=48 * sound_ms, events=events)


def test_events_and_sound_go_in_turn_each_in_its_order() -> None:
    one = outbox()
    for text in ("a", "b", "c"):
        one.event(text)
    one.hear(piece(ms=1))
    one.hear(END)

    kinds = [type(one.take()) for _ in range(5)]

    assert kinds.count(bytes) == 2
    assert kinds[:4] in ([bytes, str, bytes, str], [str, bytes, str, bytes])
    assert one.take() is None


def test_replies_go_before_everything_that_waits() -> None:
    one = outbox()
    one.event("event")
    one.hear(piece())
    one.say("reply")

    assert one.take() == "reply"


def test_a_flush_overtakes_and_takes_its_responses_with_it() -> None:
    one = outbox()
    one.hear(piece("r1"))
    one.hear(piece("r2"))
    one.event("event")
    one.hear(SoundFlush(("r1",), "barge_in", b'{"kind":"flush"}'))

    assert one.take() == b'\0\x10{"kind":"flush"}'
    rest = [one.take() for _ in range(2)]
    assert "event" in rest
    assert len(one) == 0


def test_the_oldest_sound_is_dropped_and_told_once_with_its_sum() -> None:
    one = outbox(sound_ms=25)

    dropped = [one.hear(piece()) for _ in range(5)]

    assert dropped == [0, 0, 10, 10, 10]
    told = json.loads(str(one.take()))["notice"]
    assert (told["what"], told["direction"], told["dropped_ms"]) == ("audio_dropped", "out", 30)
    assert [type(one.take()) for _ in range(3)] == [bytes, bytes, type(None)]


def test_ends_are_never_dropped() -> None:
    one = outbox(sound_ms=10)
    one.hear(END)
    one.hear(piece())
    one.hear(piece())

    assert "notice" in str(one.take())
    assert one.take() == b'\0\x0e{"kind":"end"}'


def test_who_lets_too_many_events_wait_is_too_slow() -> None:
    one = outbox(events=2)
    slow = []
    for text in ("a", "b", "c"):
        one.event(text)
        slow.append(one.is_too_slow)

    assert slow == [False, False, True]
    assert [one.take(), one.take(), one.take()] == ["a", "b", None]


def test_who_asks_without_reading_the_answers_is_too_slow() -> None:
    one = outbox()
    slow = []
    for _ in range(URGENT + 1):
        one.say("reply")
        slow.append(one.is_too_slow)

    assert slow == [False] * URGENT + [True]


def test_who_lets_too_much_text_wait_is_too_slow_but_one_large_one_may() -> None:
    one, half = outbox(), "a" * (TEXT_BYTES // 2 + 1)
    slow = []
    one.event("a" * (TEXT_BYTES + 1))
    slow.append(one.is_too_slow)
    one.take()
    for put in (one.event, one.say):
        put(half)
        slow.append(one.is_too_slow)

    assert slow == [False, False, True]
    assert len(one) == 1
