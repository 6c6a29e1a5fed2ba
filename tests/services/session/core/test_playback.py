"""Heard is what the players say, else an estimate; never more than was published."""

import pytest

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import AssistantAudioDone, AssistantHeard
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import playback
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.testing import (
    Stage,
    created,
    done,
    events,
    message,
    of,
    requests,
    sound,
    sound_end,
    speech_started,
    spoken,
    wrote,
)


def speaking(ms: int = 6000, **options: object) -> Stage:
    """A response whose sound, 6 s, has come all at once, as it does."""
    stage = Stage(**options)  # type: ignore[arg-type]
    stage.play(created(), *message(), sound(ms=ms))
    return stage


def finished(ms: int = 6000) -> Stage:
    """The same, generated to its end and still unheard."""
    stage = speaking(ms)
    stage.play(sound_end(), done())
    return stage


def report(
    stage: Stage, played_ms: int, state: str = "playing", item: str = "m1"
) -> list[fx.Effect]:
    return stage.command("report_playback", item_id=item, played_ms=played_ms, state=state)


def edits(effects: list[fx.Effect]) -> list[fx.Request]:
    """What was cut or deleted at the provider."""
    return [one for one in requests(effects) if isinstance(one, fx.TruncateItem | fx.DeleteItem)]


def heard(effects: list[fx.Effect]) -> list[tuple[str, int, bool, bool]]:
    return [
        (one.item_id, one.heard_ms, one.complete, one.estimated)
        for one in of(effects, AssistantHeard)
    ]


# --- where the player stopped -----------------------------------------------------------------


def test_an_interrupted_item_is_truncated_at_what_the_player_says() -> None:
    stage = speaking()
    stage.wait(2)
    assert edits(stage.play(speech_started())) == []

    effects = report(stage, 1987, "stopped")

    assert edits(effects) == [fx.TruncateItem("m1", 0, 1987)]
    assert heard(effects) == [("m1", 1987, False, False)]


def test_a_player_that_stays_silent_is_estimated_after_250_ms() -> None:
    stage = speaking()
    stage.wait(2)
    stage.play(speech_started())
    assert edits(stage.wait(0.24)) == []

    effects = stage.wait(0.02)

    assert edits(effects) == [fx.TruncateItem("m1", 0, 2000)]
    assert heard(effects) == [("m1", 2000, False, True)]


def test_the_last_report_plus_the_time_since_is_the_estimate() -> None:
    stage = speaking()
    stage.wait(1)
    report(stage, 800)
    stage.wait(0.2)
    stage.play(speech_started())

    assert heard(stage.wait(0.3)) == [("m1", 1000, False, True)]


def test_a_player_that_had_stopped_before_is_not_waited_for() -> None:
    stage = speaking()
    stage.wait(1)
    report(stage, 900, "stopped")

    effects = stage.play(speech_started())

    assert heard(effects) == [("m1", 900, False, False)]


def test_no_time_goes_by_for_a_player_that_has_paused() -> None:
    stage = two_items()
    report(stage, 300, "stopped")
    waited = stage.wait(20)

    effects = stage.play(speech_started())
    effects += stage.wait(0.3)

    assert heard(waited) == []
    assert edits(effects) == [fx.TruncateItem("m1", 0, 300), fx.DeleteItem("m2")]
    assert heard(effects) == [("m1", 300, False, False), ("m2", 0, False, True)]


def test_a_player_that_has_paused_may_go_on() -> None:
    stage = two_items()
    report(stage, 300, "stopped")
    stage.wait(20)
    resumed = report(stage, 350)

    assert heard(resumed + stage.wait(0.6)) == []
    assert heard(report(stage, 1000, "done")) == [("m1", 1000, True, False)]
    assert heard(stage.wait(10)) == [("m2", 3000, True, True)]


def test_a_player_that_does_not_go_on_has_heard_what_it_said() -> None:
    stage = two_items()
    report(stage, 300, "stopped")

    assert heard(stage.wait(50)) == []
    report(stage, 0, item="nobody's")  # the client is there

    assert heard(stage.wait(50)) == [("m1", 300, False, False), ("m2", 0, False, True)]
    assert stage.state.playback == {}


def test_an_item_that_the_player_has_left_for_the_next_was_heard_until_there() -> None:
    stage = two_items()
    report(stage, 300, "stopped")
    report(stage, 500, item="m2")

    assert heard(stage.wait(3.5)) == [("m1", 300, False, False)]


def test_a_pause_in_an_answer_that_goes_on_has_no_end_yet() -> None:
    stage = speaking(1000)
    report(stage, 300, "stopped")

    assert heard(stage.wait(50)) == []


def test_never_more_is_truncated_than_was_published() -> None:
    stage = speaking(1000)
    stage.wait(0.5)
    stage.play(speech_started())

    effects = report(stage, 1001, "stopped")

    assert edits(effects) == [fx.TruncateItem("m1", 0, 1000)]


def test_reports_never_run_backwards() -> None:
    stage = speaking()
    stage.wait(1)
    report(stage, 900)
    report(stage, 700)
    stage.play(speech_started())

    assert heard(report(stage, 100, "stopped")) == [("m1", 900, False, False)]


def test_the_wall_clock_counts_only_what_could_be_played() -> None:
    stage = speaking(1000)
    stage.wait(30)
    stage.play(speech_started())

    assert heard(stage.wait(0.3)) == [("m1", 1000, False, True)]


@pytest.mark.parametrize("format", ["g711_ulaw", "g711_alaw"])
def test_milliseconds_of_telephone_sound_are_counted_in_its_own_rate(format: str) -> None:
    config = SessionConfig(output_audio_format=format)  # type: ignore[arg-type]
    stage = Stage(config)
    samples = i.SoundPublished(response_id="r1", item_id="m1", content_index=0, samples=8000)
    stage.play(created(), *message(), samples)
    stage.wait(5)
    stage.play(speech_started())

    assert edits(stage.wait(0.3)) == [fx.TruncateItem("m1", 0, 1000)]


# --- what there is to interrupt ---------------------------------------------------------------


def test_sound_is_interrupted_also_after_its_response_is_done() -> None:
    stage = finished()
    stage.wait(2)

    effects = stage.play(speech_started())

    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "barge_in")]
    assert of(effects, fx.CancelResponse) == []
    assert edits(stage.wait(0.3)) == [fx.TruncateItem("m1", 0, 2000)]


def test_after_the_player_is_done_there_is_nothing_to_interrupt() -> None:
    stage = finished()
    stage.wait(6)
    assert heard(report(stage, 6000, "done")) == [("m1", 6000, True, False)]

    effects = stage.play(speech_started())

    assert of(effects, fx.Flush) == []
    assert edits([*effects, *stage.wait(1)]) == []


def test_a_silent_player_is_taken_to_have_played_in_time() -> None:
    stage = finished(1000)
    assert heard(stage.wait(2.9)) == []

    assert heard(stage.wait(0.2)) == [("m1", 1000, True, True)]


def test_a_player_done_before_the_end_was_told_is_settled_by_the_end() -> None:
    stage = speaking(1000)
    stage.wait(1)
    assert heard(report(stage, 1000, "done")) == []

    effects = stage.play(sound_end())

    assert [type(event) for event in events(effects)] == [AssistantAudioDone, AssistantHeard]


def test_a_missing_end_of_sound_is_made_up_by_the_end_of_the_response() -> None:
    stage = speaking(1000)
    stage.wait(1)
    report(stage, 1000, "done")

    assert heard(stage.play(done())) == [("m1", 1000, True, False)]


def test_the_end_of_sound_is_told_once() -> None:
    stage = speaking(1000)

    first, second = stage.play(sound_end()), stage.play(sound_end())

    assert of(first, AssistantAudioDone) == [
        AssistantAudioDone(turn_id="r1", item_id="m1", content_index=0, samples=24_000)
    ]
    assert second == []


def test_two_starts_of_speech_truncate_once() -> None:
    stage = speaking()
    stage.wait(1)
    stage.play(speech_started(), speech_started())

    effects = stage.wait(1)

    assert edits(effects) == [fx.TruncateItem("m1", 0, 1000)]
    assert stage.play(speech_started(item="u2")) != []
    assert edits(stage.wait(1)) == []


def test_sound_after_the_flush_is_not_counted() -> None:
    stage = speaking()
    stage.wait(1)
    stage.play(speech_started())
    report(stage, 1000, "stopped")

    effects = stage.play(sound(), sound_end())

    assert effects == []
    assert stage.state.playback == {}


def test_a_report_of_what_is_settled_or_unknown_is_too_late() -> None:
    stage = finished(1000)
    report(stage, 1000, "done")

    assert heard(report(stage, 500)) == []
    assert heard(report(stage, 500, item="nobody's")) == []


# --- several items ----------------------------------------------------------------------------


def two_items() -> Stage:
    stage = Stage()
    stage.play(
        created(),
        *message(item="m1", index=0),
        sound(item="m1", ms=1000),
        sound_end(item="m1"),
        *message(item="m2", index=1),
        sound(item="m2", ms=3000),
        sound_end(item="m2"),
        done(),
    )
    return stage


def test_the_item_being_played_is_truncated_and_the_later_one_deleted() -> None:
    stage = two_items()
    stage.wait(0.5)
    stage.play(speech_started())

    effects = report(stage, 480, "stopped")

    assert edits(effects) == [fx.TruncateItem("m1", 0, 480), fx.DeleteItem("m2")]
    assert heard(effects) == [("m1", 480, False, False), ("m2", 0, False, True)]


def test_an_item_done_while_it_was_being_stopped_is_not_where_the_sound_stopped() -> None:
    stage = two_items()
    stage.wait(0.95)
    report(stage, 950)
    stage.play(speech_started())

    assert heard(report(stage, 1000, "done")) == []
    effects = report(stage, 120, "stopped", "m2")

    assert edits(effects) == [fx.TruncateItem("m2", 0, 120)]
    assert heard(effects) == [("m1", 1000, True, False), ("m2", 120, False, False)]


def test_a_player_that_says_nothing_of_the_next_item_had_not_come_to_it() -> None:
    stage = two_items()
    stage.wait(0.95)
    report(stage, 950)
    stage.play(speech_started())
    report(stage, 1000, "done")

    assert edits(stage.wait(0.3)) == [fx.DeleteItem("m2")]


def test_the_end_of_what_is_to_be_heard_is_known_from_sound_and_reports() -> None:
    silent, stage = Stage(), two_items()
    began_us = stage.now_us
    unreported = playback.ends_us(Draft(stage.state, 0))
    stage.wait(1)
    report(stage, 500, item="m1")

    assert playback.ends_us(Draft(silent.state, 0)) == 0
    assert unreported > began_us
    assert playback.ends_us(Draft(stage.state, 0)) == unreported + 500_000


def test_without_reports_items_are_taken_as_played_one_after_the_other() -> None:
    stage = two_items()
    stage.wait(2.5)
    stage.play(speech_started())

    effects = stage.wait(0.3)

    assert edits(effects) == [fx.TruncateItem("m2", 0, 1500)]
    assert heard(effects) == [("m2", 1500, False, True)]


def test_an_item_that_was_heard_to_its_end_is_left_alone() -> None:
    stage = two_items()
    stage.wait(1.2)
    report(stage, 1000, "done")
    report(stage, 200, "playing", "m2")
    stage.wait(0.1)
    stage.play(speech_started())

    assert edits(report(stage, 300, "stopped", "m2")) == [fx.TruncateItem("m2", 0, 300)]


def test_a_later_piece_of_a_begun_item_is_cut_and_not_deleted() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=1000), sound(ms=1000, index=1), done())
    stage.wait(0.5)
    stage.play(speech_started())

    effects = stage.wait(0.3)

    assert edits(effects) == [fx.TruncateItem("m1", 0, 500), fx.TruncateItem("m1", 1, 0)]


def test_a_later_piece_of_an_item_heard_before_is_cut_and_not_deleted() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=1000), sound_end(), sound(ms=1000, index=1))
    stage.wait(1)
    report(stage, 1000, "done")
    stage.play(speech_started())

    assert edits(stage.wait(0.3)) == [fx.TruncateItem("m1", 1, 0)]


def test_an_item_with_several_unheard_pieces_is_deleted_once() -> None:
    stage = Stage()
    stage.play(created("r0"), *message("r0", "m0"), sound("r0", "m0"), done("r0"))
    stage.play(created(), *message(), sound(ms=1000), sound(ms=1000, index=1), done())
    stage.play(speech_started())

    assert edits(stage.wait(0.3)) == [fx.DeleteItem("m0"), fx.DeleteItem("m1")]


def test_a_player_that_stopped_reporting_long_ago_is_estimated_by_the_clock() -> None:
    stage = finished(1000)
    report(stage, 1000, "done")
    stage.wait(10)
    stage.play(created("r2"), *message("r2", "m2"), sound("r2", "m2", 3000))
    stage.wait(1)
    stage.play(speech_started())

    assert heard(stage.wait(0.3)) == [("m2", 1000, False, True)]


def test_a_second_interruption_settles_the_first_at_once() -> None:
    stage = speaking(ms=1000)
    stage.wait(0.5)
    stage.play(speech_started())
    stage.play(created("r2"), *message("r2", "m2"), sound("r2", "m2", 3000))
    stage.wait(0.1)

    effects = stage.play(speech_started(item="u2"))

    assert edits(effects) == [fx.TruncateItem("m1", 0, 500)]


# --- nothing reached the caller ---------------------------------------------------------------


def test_an_item_of_which_nothing_was_heard_is_deleted() -> None:
    stage = speaking()
    stage.play(speech_started())

    effects = stage.wait(0.3)

    assert edits(effects) == [fx.DeleteItem("m1")]
    assert heard(effects) == [("m1", 0, False, True)]


def test_an_item_that_had_no_sound_yet_is_deleted_when_its_response_ends() -> None:
    stage = Stage()
    stage.play(created(), *message())
    assert edits(stage.play(speech_started())) == []

    effects = stage.play(done("r1", "cancelled", "turn_detected"))

    assert edits(effects) == [fx.DeleteItem("m1")]


def test_an_interrupted_text_that_was_read_stays() -> None:
    stage = Stage(SessionConfig(modalities=("text",)))
    stage.play(created(), *message(), wrote("The capital"))
    stage.command("interrupt")

    assert edits(stage.play(done("r1", "cancelled", "client_cancelled"))) == []


def test_an_item_that_began_to_sound_before_it_was_announced_is_not_silent() -> None:
    stage = Stage()
    stage.play(created(), sound(), *message())
    stage.wait(0.5)
    stage.play(speech_started())
    stage.wait(0.3)

    assert edits(stage.play(done("r1", "cancelled", "turn_detected"))) == []


def test_a_provider_that_cannot_edit_is_not_asked_to() -> None:
    cannot = Capabilities(truncate=False, delete=False)
    stage = speaking(capabilities=cannot)
    stage.play(created("r2"), *message("r2", "m2"))
    stage.wait(1)
    stage.play(speech_started())

    effects = [*stage.wait(1), *stage.play(done("r2", "cancelled", "turn_detected"))]

    assert edits(effects) == []
    assert heard(effects) == [("m1", 1000, False, True)]


def test_sound_out_of_band_is_silenced_and_stands_in_no_conversation() -> None:
    stage = Stage()
    stage.play(created("oob", out_of_band=True), sound("oob", "m9"))
    stage.wait(0.5)

    effects = [*stage.play(speech_started()), *stage.wait(1)]

    assert of(effects, fx.Flush) == [fx.Flush(("oob",), "barge_in")]
    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("oob")]
    assert edits(effects) == []
    assert heard(effects) == [("m9", 500, False, True)]


def test_an_unheard_item_out_of_band_stands_in_no_conversation_either() -> None:
    stage = Stage()
    stage.play(created("oob", out_of_band=True), *message("oob", "m8"), sound("oob", "m9"))
    stage.play(speech_started())

    effects = [*stage.play(done("oob", "cancelled", "client_cancelled")), *stage.wait(1)]

    assert edits(effects) == []


def test_settling_when_nothing_is_open_does_nothing() -> None:
    d = Draft(Stage().state, 1)

    playback.heard_now(d)

    assert d.effects == []


# --- words ------------------------------------------------------------------------------------


def test_the_words_heard_are_estimated_by_their_share_of_the_time() -> None:
    stage = Stage()
    stage.play(
        created(), *message(), spoken("It is sunny "), spoken("in Berlin today"), sound(ms=2000)
    )
    stage.wait(1)
    stage.play(speech_started())

    (told,) = of(stage.wait(0.3), AssistantHeard)

    assert told.text == "It is sunny"
    record = stage.state.items["m1"]
    assert (record.heard_ms, record.generated_ms, record.heard_text) == (1000, 2000, "It is sunny")


def test_what_was_heard_to_its_end_has_all_its_words() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=500), spoken("All of it.", final=True), done())

    (told,) = of(stage.wait(3), AssistantHeard)

    assert told.text == "All of it."


@pytest.mark.parametrize(
    ("words", "heard_ms", "expected"),
    [
        ("one two three", 0, ""),
        ("one two three", 999, "one two"),
        ("one two three", 1000, "one two three"),
        ("one two three", 540, "one two"),
        ("one two three", 530, "one"),
        ("one two three", 240, "one"),
        ("oneverylongword", 500, ""),
        ("", 500, ""),
        ("one\ntwo", 600, "one"),
    ],
)
def test_only_whole_words_count_as_heard(words: str, heard_ms: int, expected: str) -> None:
    assert playback.heard_text(words, heard_ms, 1000) == expected


def test_what_was_heard_to_its_end_after_all_is_neither_cut_nor_deleted() -> None:
    stage = finished(1000)
    stage.wait(0.9)
    stage.play(speech_started())

    effects = report(stage, 1000, "done")

    assert heard(effects) == [("m1", 1000, True, False)]
    assert edits(effects) == []


def test_an_interruption_over_a_change_of_connection_asks_the_new_one_nothing() -> None:
    stage = speaking()
    stage.wait(0.4)
    stage.play(i.ProviderDisconnected(generation=1, code=1006))

    effects = stage.command("interrupt")
    effects += stage.wait(1)

    assert [item for item, *_ in heard(effects)] == ["m1"]
    assert edits(effects) == []


def test_a_silent_player_is_waited_for_only_where_the_sound_is_complete() -> None:
    stage = finished(1000)
    stage.play(created("r2"), *message("r2", "m2"), sound("r2", "m2", 1000))

    effects = stage.wait(10)

    assert heard(effects) == [("m1", 1000, True, True)]
    assert [known.item_id for known in stage.state.playback.values()] == ["m2"]


# --- the end ----------------------------------------------------------------------------------


def test_at_the_end_of_a_session_it_is_told_how_much_was_heard() -> None:
    stage = two_items()
    stage.wait(0.4)

    effects = stage.command("close")

    assert heard(effects) == [("m1", 400, False, True), ("m2", 0, False, True)]
    assert edits(effects) == []


def test_an_interruption_that_still_waits_at_the_end_counts_until_it_began() -> None:
    stage = speaking()
    stage.wait(0.4)
    stage.play(speech_started())
    stage.wait(0.1)

    assert heard(stage.command("close")) == [("m1", 400, False, True)]


def test_time_since_a_players_report_never_makes_it_more_than_was_published() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=1000))
    stage.command("report_playback", item_id="m1", played_ms=900, state="playing")
    stage.wait(0.5)

    stage.play(speech_started())

    assert of(stage.wait(0.3), fx.TruncateItem) == [fx.TruncateItem("m1", 0, 1000)]
