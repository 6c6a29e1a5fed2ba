"""What comes up becomes an input, or nothing when it decides nothing."""

from typing import Any

import pytest

from voicebus.bus.messages import link, work
from voicebus.services.session import uplink
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.openai import OpenAI

AT: dict[str, Any] = {"session_id": "s0-x", "n": 1, "generation": 2, "at_us": 5}
SOUND: dict[str, Any] = {"turn_id": "r", "item_id": "m", "content_index": 0, "samples": 480}


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            link.SoundPassed(**AT, **SOUND),
            i.SoundPublished(now_us=9, response_id="r", item_id="m", content_index=0, samples=480),
        ),
        (link.SoundPassed(**AT, **SOUND, published=False), None),
        (link.ProviderOpened(**AT), i.ProviderConnected(now_us=9, generation=2)),
        (
            link.ProviderClosed(**AT, code=1006, reason="gone", events_lost=True),
            i.ProviderDisconnected(
                now_us=9, generation=2, code=1006, reason="gone", events_lost=True
            ),
        ),
        (link.Flushed(**AT, responses=["r"]), i.SoundFlushed(now_us=9, responses=["r"])),
        (
            link.SoundHeldDropped(**AT, dropped_ms=20, direction="in", why="full"),
            i.SoundLost(now_us=9, direction="in", dropped_ms=20, why="full"),
        ),
        (link.TalkerAlive(**AT), i.TalkerSeen(now_us=9, speaks=True)),
        (link.FrameSent(**AT, down_n=1, reached=True), None),
    ],
)
def test_the_transports_words_become_inputs(message: Any, wanted: Any) -> None:
    assert uplink.from_transport(message, 9) == wanted


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            work.CallStarted(session_id="s0-x", call_id="c", worker="w"),
            i.ToolBegan(now_us=9, call_id="c"),
        ),
        (
            work.CallProgress(session_id="s0-x", call_id="c", text="half"),
            i.ToolSaid(now_us=9, call_id="c", text="half"),
        ),
        (
            work.Outcome(session_id="s0-x", call_id="c", status="ok", result=1, duration_ms=2.0),
            i.ToolEnded(now_us=9, call_id="c", status="ok", result=1, duration_ms=2.0),
        ),
    ],
)
def test_the_pools_words_become_inputs(message: Any, wanted: Any) -> None:
    assert uplink.from_pool(message, 9) == wanted


def test_a_frame_that_decides_nothing_is_not_taken_for_an_unknown_one() -> None:
    frame = b'{"type":"response.content_part.added","response_id":"r"}'

    assert uplink.from_provider(OpenAI(), frame, 9) == []


@pytest.mark.parametrize(
    "frame", [b'{"type":"of.tomorrow"}', b'{"type":7}', b"{}", b'{"type":"response.created"}']
)
def test_a_frame_that_says_nothing_to_us_is_unknown(frame: bytes) -> None:
    with pytest.raises(uplink.Unknown):
        uplink.from_provider(OpenAI(), frame, 9)


@pytest.mark.parametrize("frame", [b"[]", b"7", b"no JSON", b""])
def test_what_is_no_event_at_all_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's and ours
        uplink.from_provider(OpenAI(), frame, 9)
