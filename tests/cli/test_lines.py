import pytest

from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message
from voicebus.cli.lines import LONGEST, gist


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (events.UserTranscript(item_id="i", text="hello"), '"hello"'),
        (
            events.ToolCallDispatched(call_id="c", name="weather", args={"city": "Köln"}),
            'weather(city="Köln")',
        ),
        (
            events.ToolCallFailed(call_id="c", name="x", reason="crashed", error="", signal="SEGV"),
            "x: crashed: SEGV",
        ),
        (
            events.AssistantTurnCompleted(
                turn_id="r", status="failed", error={"message": "no quota"}
            ),
            "failed: no quota",
        ),
        (
            events.AssistantHeard(
                turn_id="r",
                item_id="i",
                content_index=0,
                heard_ms=20,
                complete=False,
                estimated=True,
            ),
            "20 ms, cut short, estimated",
        ),
        (
            events.Error(code="c", error="broken", recoverable=False),
            "c: broken (this ends the session)",
        ),
        (events.RateLimits(limits=[{"name": "tokens", "remaining": 1, "limit": 2}]), "tokens 1/2"),
        (
            events.ApprovalRequested(call_id="c", name="pay", args={"euros": 3}, timeout_ms=60_000),
            "pay(euros=3) waits for `approve`, denied after 60 s",
        ),
        (events.SessionReconnecting(reason="it hung up", attempt=2), "attempt 2: it hung up"),
        (
            events.SessionResumed(
                transport="transport-1",
                audio_in="i",
                audio_out="o",
                history="partial",
                events_lost=True,
            ),
            "transport-1, history partial, events of the provider are lost",
        ),
        (events.RateLimited(reset_ms=900), "for 900 ms"),
        (events.SessionUpdated(), ""),
    ],
)
def test_the_gist_of_an_event_is_one_line(data: Message, text: str) -> None:
    assert gist(data) == text


@pytest.mark.parametrize("kind", sorted(set(events.EVENTS) - {"head", "welcome"}))
def test_an_event_of_a_newer_version_is_shown_as_it_is(kind: str) -> None:
    assert gist({"kind": kind}) == f'{{"kind": "{kind}"}}'


def test_long_and_many_lined_text_becomes_one_short_line() -> None:
    shown = gist(events.UserTranscript(item_id="i", text="word\n" * 500))

    assert "\n" not in shown
    assert len(shown) == LONGEST
