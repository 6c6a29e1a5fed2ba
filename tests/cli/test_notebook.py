from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message, encode, plain, wire_name
from voicebus.cli.notebook import Line, Notebook, milliseconds, spoken
from voicebus.client import Event, Sound, SoundFlush
from voicebus.client.events import decode
from voicebus.client.player import Played


def event(data: Message, at_us: int = 0) -> Event:
    header = events.EventHeader(
        kind=wire_name(type(data)), session_id="s", seq=1, at_us=at_us, data=plain(data)
    )
    return decode(encode(header))


def sound(turn: str, item: str, milliseconds: int) -> Sound:
    return Sound(turn, item, 0, "pcm16", 0, bytes(48 * milliseconds))


def interrupted_story() -> Notebook:
    """A caller asks, gets a tool's answer, asks for a story, and stops it and a search."""
    notes = Notebook()
    notes.said.append((0, 1_000_000))
    dispatched = events.ToolCallDispatched(call_id="c1", name="weather", args={})
    notes.note(event(dispatched, 1_500_000))
    notes.note(event(events.ToolCallCompleted(call_id="c1", name="weather", result=7), 1_502_000))
    notes.came(sound("r1", "a1", 500), 1_750_000)
    notes.heard(Played("r1", "a1", "pcm16", bytes(48 * 500)))
    notes.said.append((3_000_000, 4_000_000))
    notes.came(sound("r2", "a2", 10_000), 5_000_000)
    text = "one two three four five six seven eight nine ten"
    notes.note(
        event(events.AssistantTranscript(turn_id="r2", item_id="a2", content_index=0, text=text))
    )
    search = events.ToolCallDispatched(call_id="c2", name="search", args={"query": "x"})
    notes.note(event(search, 5_500_000))
    notes.said.append((8_000_000, 9_000_000))
    notes.note(event(events.UserSpeechStarted(at_ms=1), 8_080_000))
    notes.came(SoundFlush(("r2",), "barge_in"), 8_082_000)
    notes.note(
        event(events.Interrupted(turn_id="r2", reason="barge_in", responses=["r2"]), 8_090_000)
    )
    cancelled = events.ToolCallFailed(
        call_id="c2",
        name="search",
        reason="cancelled",
        error="",
        duration_ms=2594.0,
        cancel_seen_us=8_093_000,
    )
    notes.note(event(cancelled, 8_094_000))
    heard = events.AssistantHeard(
        turn_id="r2", item_id="a2", content_index=0, heard_ms=3000, complete=False, estimated=False
    )
    notes.note(event(heard, 8_095_000))
    return notes


def test_the_times_are_between_what_was_seen() -> None:
    notes = interrupted_story()

    assert notes.to_first_sound_ms(0) == 750.0
    assert notes.silence_ms(2) == (82.0, 2.0)
    assert notes.tool_stopped_ms() == 4.0
    assert notes.tool_saw_ms() == 3.0


def test_what_was_not_measured_is_not_invented() -> None:
    notes = Notebook(said=[(0, 1)])

    assert notes.to_first_sound_ms(0) is None
    assert notes.to_first_sound_ms(1) is None
    assert notes.silence_ms(0) == (None, None)
    assert notes.tool_stopped_ms() is None
    assert notes.tool_saw_ms() is None
    assert (milliseconds(None), milliseconds(1.25)) == ("-", "1.2 ms")


def test_words_are_divided_into_heard_and_unheard_in_proportion_to_time() -> None:
    line = interrupted_story().transcript["a2"]

    assert spoken(line) == ("one two three", "four five six seven eight nine ten")


def test_what_was_heard_to_its_end_is_not_divided() -> None:
    assert spoken(Line("assistant", "all of it", heard_ms=10, sound_ms=1000.0)) == ("all of it", "")
    assert spoken(Line("caller", "hello", is_complete=False)) == ("hello", "")


def test_the_reply_holds_what_began_before_the_interrupt() -> None:
    notes = interrupted_story()
    notes.came(sound("r3", "a3", 100), 9_500_000)

    assert [notes.began_before_interrupt(turn) for turn in ("r1", "r2", "r3")] == [
        True,
        True,
        False,
    ]


def test_a_call_has_the_outcome_and_the_duration_that_was_told() -> None:
    runs = list(interrupted_story().tools.values())

    assert [(run.outcome, run.duration_ms, run.is_cancelled) for run in runs] == [
        ("-> 7", None, False),
        ("cancelled: ", 2594.0, True),
    ]
    assert not interrupted_story().running()


def test_what_a_demo_failed_to_show_is_named() -> None:
    complete = interrupted_story()
    silent = interrupted_story()
    silent.flushes.clear()
    uncut = interrupted_story()
    uncut.transcript["a2"].is_complete = True
    running = interrupted_story()
    running.tools["c2"].is_cancelled = False

    assert complete.shortcoming() is None
    assert "without its tool" in str(Notebook().shortcoming())
    assert "was not interrupted" in str(silent.shortcoming())
    assert "was not cut" in str(uncut.shortcoming())
    assert "did not stop the running tool" in str(running.shortcoming())


def test_unheard_sound_is_what_came_less_what_was_played() -> None:
    notes = interrupted_story()

    assert (notes.unheard_ms("r1"), notes.unheard_ms("r2")) == (0.0, 10_000.0)
