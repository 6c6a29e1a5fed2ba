import asyncio
import contextlib
import json
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message
from voicebus.bus.messages.commands import Command, CommandError
from voicebus.cli.problems import Problem
from voicebus.cli.talk import Wish, hold
from voicebus.client import Event
from voicebus.client.testing import FakeCell
from voicebus.client.wav import Recording, WavWriter, read

OPENED = events.SessionOpened(session_id="s", provider="openai")
HELLO = Wish(texts=("Hello",), timeout_s=5)
ANSWER: tuple[Message, ...] = (
    events.AssistantTurnStarted(turn_id="r1"),
    events.AssistantText(turn_id="r1", item_id="i1", content_index=0, text="Hi!"),
    events.AssistantTurnCompleted(turn_id="r1", status="completed"),
)
TOOL_ROUND: tuple[Message, ...] = (
    events.AssistantTurnStarted(turn_id="r1"),
    events.ToolCallStarted(turn_id="r1", call_id="c1", name="weather"),
    events.AssistantTurnCompleted(turn_id="r1", status="completed"),
    events.ToolCallDispatched(call_id="c1", name="weather", args={"city": "Oslo"}),
    events.ToolCallCompleted(call_id="c1", name="weather", result={"temperature_c": 7}),
    events.ToolBatchSubmitted(turn_id="r1", call_ids=["c1"]),
    events.AssistantTurnStarted(turn_id="r2"),
    events.AssistantTurnCompleted(turn_id="r2", status="completed"),
)


@pytest.fixture
def cell(run_dir: Path) -> Iterator[Callable[..., FakeCell]]:
    """`cell(*answer)`: a stack whose session confirms at once and answers each text with these."""
    with contextlib.ExitStack() as cells:

        def start(*answer: Message) -> FakeCell:
            cell = cells.enter_context(FakeCell(run_dir))

            def opened(command: Command) -> Any:
                data = cell.usual(command)
                cell.publish(data["session_id"], OPENED)
                return data

            def answered(command: Command) -> Any:
                assert command.session_id is not None
                cell.publish(command.session_id, *answer, cause=command.id)
                return {}

            cell.answers.update(open=opened, send_text=answered)
            return cell

        yield start


async def held(run_dir: Path, wish: Wish = HELLO, writer: WavWriter | None = None) -> list[str]:
    """The kinds of the events that were shown."""
    shown: list[Event] = []
    await hold(Endpoints(run_dir), wish, shown.append, writer)
    return [event.kind for event in shown]


async def test_each_text_is_a_turn_and_the_session_is_closed_at_the_end(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    stack = cell(*ANSWER)

    kinds = await held(run_dir, Wish(texts=("Hello", "And?"), timeout_s=5))

    assert [one.data["text"] for one in stack.asked("send_text")] == ["Hello", "And?"]
    assert kinds.count("assistant_turn_completed") == 2
    assert (kinds[0], kinds[-1]) == ("session_opened", "session_closed")


async def test_the_answer_after_a_tool_belongs_to_the_turn(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    cell(*TOOL_ROUND)

    kinds = await held(run_dir)

    assert kinds.count("assistant_turn_completed") == 2


async def test_when_nobody_reads_what_is_shown_the_session_is_closed_and_that_is_told(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    stack = cell(*ANSWER)

    def show(event: Event) -> None:
        if event.kind == "assistant_text":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await hold(Endpoints(run_dir), HELLO, show, None)

    assert stack.asked("close")


async def test_modality_and_instructions_are_the_sessions(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    stack = cell(*ANSWER)
    config: dict[str, object] = {"modalities": ["text"], "instructions": "Be brief."}

    await held(run_dir, Wish(texts=("Hello",), config=config, timeout_s=5))

    assert stack.asked("open")[0].data["config"] == config


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            (
                events.AssistantTurnStarted(turn_id="r1"),
                events.AssistantTurnCompleted(
                    turn_id="r1", status="failed", error={"message": "no quota is left"}
                ),
            ),
            "not completed but failed: no quota is left",
        ),
        (
            (
                events.AssistantTurnStarted(turn_id="r1"),
                events.AssistantTurnCompleted(
                    turn_id="r1", status="incomplete", reason="max_output_tokens"
                ),
            ),
            "not completed but incomplete: max_output_tokens",
        ),
        (
            (events.Error(code="invalid_value", error="text is too long", recoverable=True),),
            "the provider refused: invalid_value: text is too long",
        ),
        (
            (
                events.Error(code="invalid_api_key", error="wrong key", recoverable=False),
                events.SessionClosed(reason="error"),
            ),
            "invalid_api_key: wrong key",
        ),
        ((events.SessionClosed(reason="limit", message="1000 tokens"),), "limit.*1000 tokens"),
    ],
)
async def test_a_turn_that_ends_otherwise_is_one_clear_sentence(
    cell: Callable[..., FakeCell], run_dir: Path, answer: tuple[Message, ...], said: str
) -> None:
    cell(*answer)

    with pytest.raises(Problem, match=said):
        await held(run_dir)


async def test_silence_ends_with_a_timeout_that_says_what_was_waited_for(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    cell()

    with pytest.raises(Problem, match=r"waited 0\.1 s for an answer$"):
        await held(run_dir, Wish(texts=("Hello",), timeout_s=0.1))


async def test_a_refused_configuration_is_the_sessions_own_sentence(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    cell().answers["open"] = lambda command: CommandError(
        code="bad_request", message="config has no voise (did you mean voice?)"
    )

    with pytest.raises(Problem, match="did you mean voice"):
        await held(run_dir)


async def test_where_nothing_runs_the_sentence_says_how_to_start_it(run_dir: Path) -> None:
    with pytest.raises(Problem, match=f"does not run in {run_dir}: start it with `voicebus up"):
        await held(run_dir)


async def test_a_recording_is_spoken_in_frames_and_followed_by_silence_until_the_answer(
    cell: Callable[..., FakeCell], run_dir: Path, tmp_path: Path
) -> None:
    stack = cell()
    voice = b"\x00\x20" * 1200  # 50 ms

    async def answer() -> None:
        await stack.until(lambda: len(stack.voice) >= 5)
        session_id = next(iter(stack.log))
        stack.sound(session_id, b"\1\0" * 480)
        stack.end_sound(session_id, 480)
        stack.publish(
            session_id,
            events.UserSpeechStarted(at_ms=0),
            events.UserSpeechStopped(at_ms=50),
            events.AssistantTurnStarted(turn_id="r1"),
            events.AssistantAudioDone(turn_id="r1", item_id="i1", content_index=0, samples=480),
            events.AssistantTurnCompleted(turn_id="r1", status="completed"),
        )

    answering = asyncio.create_task(answer())
    with WavWriter(tmp_path / "out.wav") as writer:
        await held(run_dir, Wish(recording=Recording(voice), timeout_s=5), writer)
    await answering

    frames = [samples for _, samples in stack.voice]
    assert b"".join(frames[:3]) == voice.ljust(2880, b"\0")
    assert set(frames[3]) == {0}
    assert read(tmp_path / "out.wav").samples == b"\1\0" * 480
    assert stack.asked("report_playback")[-1].data["state"] == "done"


async def test_an_answer_longer_than_the_timeout_is_heard_to_its_end(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    samples = 24_000 * 8 // 10
    stack = cell(
        events.AssistantTurnStarted(turn_id="r1"),
        events.AssistantAudioDone(turn_id="r1", item_id="i1", content_index=0, samples=samples),
        events.AssistantTurnCompleted(turn_id="r1", status="completed"),
    )
    answered = stack.answers["send_text"]

    def spoken(command: Command) -> Any:
        assert command.session_id is not None
        stack.sound(command.session_id, bytes(2 * samples))
        stack.end_sound(command.session_id, samples)
        return answered(command)

    stack.answers["send_text"] = spoken

    await held(run_dir, Wish(texts=("Hello",), timeout_s=0.5))

    assert stack.asked("report_playback")[-1].data == {
        "item_id": "i1",
        "content_index": 0,
        "played_ms": 800,
        "state": "done",
    }


async def run(*arguments: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-c", "from voicebus.cli.main import run; run()", "talk", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out, err


async def test_with_json_standard_output_holds_event_headers_and_nothing_else(
    cell: Callable[..., FakeCell], run_dir: Path, tmp_path: Path
) -> None:
    cell(*TOOL_ROUND)

    out_wav = str(tmp_path / "o.wav")
    code, out, err = await run(
        "--run-dir", str(run_dir), "--text", "Hello", "--json", "--out", out_wav
    )

    headers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["seq"] for one in headers] == list(range(1, len(TOOL_ROUND) + 3))
    assert b"no sound was heard" in err
    with wave.open(out_wav) as file:
        assert file.getnframes() == 0


async def test_a_failure_is_one_sentence_on_standard_error_and_exit_code_1(
    cell: Callable[..., FakeCell], run_dir: Path
) -> None:
    cell(events.SessionClosed(reason="error", message="the provider hung up"))

    code, out, err = await run("--run-dir", str(run_dir), "--text", "Hello", "--json")

    assert code == 1
    assert [json.loads(line)["kind"] for line in out.splitlines()][-1] == "session_closed"
    assert err.decode().count("\n") == 1
    assert b"the provider hung up" in err
