import pytest

from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message
from voicebus.client.turns import KEPT, Turns, expect, fold

ASKED = expect(Turns())


def started(turn: str = "r1") -> Message:
    return events.AssistantTurnStarted(turn_id=turn)


def completed(turn: str = "r1", status: str = "completed") -> Message:
    return events.AssistantTurnCompleted(turn_id=turn, status=status)  # type: ignore[arg-type]


def call(turn: str = "r1", call_id: str = "c1") -> Message:
    return events.ToolCallStarted(turn_id=turn, call_id=call_id, name="weather")


RESULT = events.ToolCallCompleted(call_id="c1", name="weather", result=1)
CANCELLED = events.ToolCallFailed(call_id="c1", name="weather", reason="cancelled", error="")
SUBMITTED = events.ToolBatchSubmitted(turn_id="r1", call_ids=["c1"])
SUBMITTED_NOTHING = events.ToolBatchSubmitted(turn_id="r1", call_ids=[])
"""Of a response out of band."""
SPEAKS = events.UserSpeechStarted(at_ms=0)
STOPS = events.UserSpeechStopped(at_ms=1)
SECOND = events.ToolCallCompleted(call_id="c2", name="weather", result=1)
EARLY = events.Interrupted(turn_id=None, reason="manual", responses=[])
"""Before the response is announced, so that it names none."""
BARGE_IN = events.Interrupted(turn_id="r1", reason="barge_in", responses=["r1"])


@pytest.mark.parametrize(
    ("happened", "is_quiet"),
    [
        ([], False),
        ([started()], False),
        ([started(), completed()], True),
        ([started(), call(), completed()], False),
        ([started(), call(), completed(), RESULT], False),
        ([started(), call(), completed(), RESULT, SUBMITTED], False),
        ([started(), call(), completed(), RESULT, SUBMITTED_NOTHING], True),
        ([started(), call(), completed(), RESULT, SUBMITTED, started("r2")], False),
        ([started(), call(), completed(), RESULT, SUBMITTED, started("r2"), completed("r2")], True),
        ([started(), SPEAKS, BARGE_IN, completed(status="cancelled")], False),
        ([started(), SPEAKS, BARGE_IN, completed(status="cancelled"), STOPS], False),
        (
            [
                started(),
                SPEAKS,
                BARGE_IN,
                completed(status="cancelled"),
                STOPS,
                started("r2"),
                completed("r2"),
            ],
            True,
        ),
        ([started(), call(), completed(status="incomplete"), CANCELLED], True),
        ([EARLY, started(), call(), completed(), CANCELLED], True),
        ([EARLY, started(), call(), call(call_id="c2"), completed(), CANCELLED], False),
        ([EARLY, started(), call(), completed(), CANCELLED, SUBMITTED], True),
        ([started(), call(), call(call_id="c2"), completed(), SECOND, CANCELLED], False),
    ],
)
def test_the_assistant_has_finished_when_nothing_follows_any_more(
    happened: list[Message], is_quiet: bool
) -> None:
    turns = ASKED
    for data in happened:
        turns = fold(turns, data)

    assert turns.is_quiet is is_quiet


@pytest.mark.parametrize("outcome_first", [True, False])
@pytest.mark.parametrize("is_submitted", [True, False])
def test_after_an_interrupt_nothing_need_follow_a_cancelled_call(
    outcome_first: bool, is_submitted: bool
) -> None:
    stopped = events.Interrupted(turn_id=None, reason="manual", responses=[], calls=["c1"])
    turns = ASKED
    for data in [started(), call(), completed()]:
        turns = fold(turns, data)

    for data in [CANCELLED, stopped] if outcome_first else [stopped, CANCELLED]:
        turns = fold(turns, data)
    if is_submitted:
        turns = fold(turns, SUBMITTED)

    assert turns.is_quiet


def test_the_last_answer_is_remembered_with_its_status() -> None:
    turns = fold(fold(ASKED, started()), completed(status="failed"))

    assert turns.last is not None
    assert turns.last.status == "failed"


def test_speech_that_a_lost_connection_cut_off_is_over_on_the_next() -> None:
    turns = fold(Turns(), events.UserSpeechStarted(at_ms=0, item_id="u1"))
    resumed = events.SessionResumed(
        transport="transport-0", audio_in="ipc://in", audio_out="ipc://out", history="complete"
    )

    assert not turns.is_quiet
    assert fold(turns, resumed).is_quiet


@pytest.mark.parametrize("is_answered", [True, False])
def test_speech_that_nobody_answers_is_waited_for_no_longer_than_it_lasts(
    is_answered: bool,
) -> None:
    turns = fold(Turns(answers_speech=is_answered), SPEAKS)
    assert not turns.is_quiet

    turns = fold(turns, STOPS)

    assert turns.is_quiet is not is_answered
    assert not expect(turns).is_quiet


def test_what_is_remembered_of_a_long_conversation_is_bounded() -> None:
    turns = ASKED
    for number in range(KEPT + 10):
        turn, id = f"r{number}", f"c{number}"
        result = events.ToolCallCompleted(call_id=id, name="weather", result=1)
        stop = events.Interrupted(turn_id=turn, reason="manual", responses=[turn])
        for data in [started(turn), call(turn, id), result, completed(turn), stop]:
            turns = fold(turns, data)

    assert [len(turns.asked_by), len(turns.answered), len(turns.stopped)] == [KEPT] * 3
    assert turns.is_quiet
    assert fold(turns, events.ToolBatchSubmitted(turn_id=turn, call_ids=[id])).is_quiet
