import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.services.transport.media.pieces import SoundDelta, SoundDone
from voicebus.services.transport.playout import FLUSHED_KEPT, Playout, Publish

SECOND = b"\0\0" * 24_000


def playout(hold_s: float = 2.0, *, headless: bool = False) -> Playout:
    found = Playout("s0-x", "inc", hold_s)
    found.configure("pcm16", headless=headless)
    return found


def delta(sound: bytes, turn: str = "r1", item: str = "i1") -> SoundDelta:
    return SoundDelta(turn, item, 0, sound)


def done(turn: str = "r1", item: str = "i1") -> SoundDone:
    return SoundDone(turn, item, 0)


def read(out: list[Publish]) -> list[tuple[dict[str, Any], bytes | None]]:
    return [(json.loads(one.header), one.payload) for one in out]


def test_pieces_follow_one_another_in_number_and_offset() -> None:
    player = playout()
    out = player.delta(delta(b"aabb"), listened=True, now_s=0.0).out
    out += player.delta(delta(b"cc"), listened=True, now_s=0.0).out
    out += player.delta(delta(b"dd", item="i2"), listened=True, now_s=0.0).out
    out += player.done(done(), listened=True)

    found = [(h["kind"], h["seq"], h.get("offset_samples"), payload) for h, payload in read(out)]
    assert found == [
        ("assistant_audio_delta", 1, 0, b"aabb"),
        ("assistant_audio_delta", 2, 2, b"cc"),
        ("assistant_audio_delta", 3, 0, b"dd"),
        ("end", 4, None, None),
    ]
    assert read(out)[3][0]["samples"] == 3


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_pcm_survives_any_cutting(sound: bytes, cuts: list[int]) -> None:
    player = playout()
    edges = [0, *sorted(min(cut, len(sound)) for cut in cuts), len(sound)]
    out: list[Publish] = []
    for begin, end in itertools.pairwise(edges):
        out += player.delta(delta(sound[begin:end]), listened=True, now_s=0.0).out

    whole = len(sound) // 2 * 2
    assert b"".join(payload or b"" for _, payload in read(out)) == sound[:whole]
    offset = 0
    for header, payload in read(out):
        assert header["offset_samples"] == offset
        assert payload
        assert len(payload) % 2 == 0
        offset += len(payload) // 2


def test_odd_bytes_are_carried_for_each_item_alone() -> None:
    player = playout()
    player.delta(delta(b"a", item="i1"), listened=True, now_s=0.0)
    player.delta(delta(b"x", item="i2"), listened=True, now_s=0.0)
    passed = player.delta(delta(b"bcd", item="i1"), listened=True, now_s=0.0)

    assert read(passed.out)[0][1] == b"abcd"
    assert passed.samples == 2


def test_g711_has_one_byte_a_sample() -> None:
    player = playout()
    player.configure("g711_ulaw", headless=False)
    passed = player.delta(delta(b"abc"), listened=True, now_s=0.0)

    assert passed.samples == 3
    assert read(passed.out)[0][0]["format"] == "g711_ulaw"


def test_what_was_held_comes_before_what_is_new() -> None:
    player = playout()
    assert player.delta(delta(b"aa"), listened=False, now_s=0.0).out == []
    assert player.done(done(), listened=False) == []
    out = player.delta(delta(b"bb", item="i2"), listened=True, now_s=0.0).out

    assert [header["kind"] for header, _ in read(out)] == [
        "assistant_audio_delta",
        "end",
        "assistant_audio_delta",
    ]
    assert not player.is_holding


def test_the_oldest_held_sound_gives_way_to_the_sample() -> None:
    player = playout(hold_s=2.0)
    for number in (1, 2):
        player.delta(delta(bytes([number, 0]) * 24_000), listened=False, now_s=0.0)
    passed = player.delta(delta(b"\3\0" * 12_000), listened=False, now_s=0.0)
    out = read(player.release())

    assert passed.dropped_ms == 500.0
    assert [header["offset_samples"] for header, _ in out] == [12_000, 24_000, 48_000]
    assert sum(len(payload or b"") for _, payload in out) == len(SECOND) * 2


def test_one_piece_longer_than_the_bound_keeps_its_end() -> None:
    player = playout(hold_s=0.5)
    passed = player.delta(delta(SECOND[:-2] + b"\7\7"), listened=False, now_s=0.0)
    ((header, payload),) = read(player.release())

    assert passed.dropped_ms == 500.0
    assert header["offset_samples"] == 12_000
    assert payload is not None
    assert payload.endswith(b"\7\7")


def test_ever_more_ends_without_sound_are_bounded() -> None:
    player = playout()
    for number in range(6000):
        player.delta(delta(b"aa", item=f"i{number}"), listened=False, now_s=0.0)
        player.done(done(item=f"i{number}"), listened=False)

    assert len(player.release()) == 4096


def test_without_a_listener_a_headless_session_holds_nothing() -> None:
    player = playout(headless=True)

    assert len(player.delta(delta(b"aa"), listened=False, now_s=0.0).out) == 1


def test_a_flushed_response_is_never_published_again() -> None:
    player = playout()
    player.delta(delta(b"aa"), listened=False, now_s=0.0)
    player.delta(delta(b"xx", turn="r2", item="i2"), listened=False, now_s=0.0)
    flush = read(player.flush(["r1"], "interrupt"))
    late = player.delta(delta(b"bb"), listened=True, now_s=0.0)
    end = player.done(done(), listened=True)
    rest = read(player.release())

    assert [(h["kind"], h["responses"], h["why"]) for h, _ in flush] == [
        ("flush", ["r1"], "interrupt")
    ]
    assert (late.samples, late.is_published, late.out) == (1, False, [])
    assert end == []
    assert [header["turn_id"] for header, _ in rest] == ["r2"]


def test_a_repeated_flush_tells_only_what_is_new() -> None:
    player = playout()
    player.flush(["r1"], "interrupt")

    assert player.flush(["r1", "r1"], "interrupt") == []
    assert read(player.flush(["r1", "r2", "r2"], "interrupt"))[0][0]["responses"] == ["r2"]


def test_the_memory_of_flushed_responses_is_bounded() -> None:
    player = playout()
    for number in range(FLUSHED_KEPT + 1):
        player.flush([f"r{number}"], "interrupt")

    assert player.flush(["r1"], "interrupt") == []
    assert player.flush(["r0"], "interrupt") != []


@pytest.mark.parametrize(
    ("after_s", "is_done", "expected"),
    [
        (1.0, True, ["r1"]),  # still played
        (3.9, True, ["r1"]),  # a player may lag
        (4.1, True, []),  # played long ago
        (9.0, False, ["r1"]),  # more is to come
    ],
)
def test_audible_is_what_a_player_may_still_play(
    after_s: float, is_done: bool, expected: list[str]
) -> None:
    player = playout()
    player.delta(delta(SECOND), listened=True, now_s=0.0)
    player.delta(delta(SECOND), listened=True, now_s=0.1)
    if is_done:
        player.done(done(), listened=True)

    assert player.audible(after_s) == expected


def test_what_is_flushed_is_not_audible() -> None:
    player = playout()
    player.delta(delta(SECOND), listened=True, now_s=0.0)
    player.flush(["r1"], "interrupt")

    assert player.audible(0.1) == []


def test_an_end_without_sound_is_not_told() -> None:
    player = playout()

    assert player.done(done(), listened=True) == []


def test_an_end_is_told_once() -> None:
    player = playout()
    player.delta(delta(b"aa"), listened=True, now_s=0.0)

    assert len(player.done(done(), listened=True)) == 1
    assert player.done(done(), listened=True) == []
