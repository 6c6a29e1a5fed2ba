"""How long the core takes to decide: the median of one step, per common input.

`python -m voicebus.benchmarks.core_step`. The floor is an empty step: the state is
copied and nothing is decided, since the conversation is over. Each other row is the median of many
single steps on a state in mid-conversation: twenty items, sound being played, a tool at work.
"""

import time
from collections.abc import Callable, Sequence

from voicebus.benchmarks.figures import percentile
from voicebus.bus.messages.commands import SessionConfig
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import deadline, step
from voicebus.services.session.providers.openai import OpenAI
from voicebus.services.session.testing import (
    Stage,
    at,
    call,
    created,
    done,
    message,
    sound,
    sound_end,
    speech_started,
    spoken,
    tool,
    tool_ok,
    wrote,
)

GOAL_US = 10.0
STEPS = 20_000


def midway() -> Stage:
    """A conversation that has gone on for a while."""
    stage = Stage(SessionConfig(), tools=[tool("weather", on_interrupt="finish")])
    for n in range(10):
        r, m, u = f"r{n}", f"m{n}", f"u{n}"
        stage.play(i.InputCommitted(item_id=u), i.UserWords(item_id=u, text="Hi", final=True))
        stage.play(created(r), *message(r, m), sound(r, m, 500), spoken("Well.", r, m, final=True))
        stage.play(sound_end(r, m), done(r))
        stage.wait(3)
    stage.play(created("t"), *call("t", "c1", "weather"), done("t"))
    stage.play(created("r"), *message("r", "m"), sound("r", "m", 3000), spoken("Once ", "r", "m"))
    stage.wait(0.5)
    return stage


def median_us(state: State, event: i.AnyInput, steps: int) -> float:
    """The median of single steps from the same state."""
    clock = time.perf_counter_ns
    took = []
    for _ in range(steps // 10):
        step(state, event)
    for _ in range(steps):
        begin = clock()
        step(state, event)
        took.append(clock() - begin)
    took.sort()
    return percentile(took, 50) / 1000


def measure(steps: int = STEPS) -> list[tuple[str, float]]:
    """Medians in microseconds; the floor first."""
    stage = midway()
    now = stage.now_us + 1000
    common: Sequence[tuple[str, i.AnyInput]] = (
        ("sound published", sound("r", "m", 100)),
        ("piece of spoken words", spoken("upon a time ", "r", "m")),
        ("piece of written words", wrote("upon a time ", "r", "m")),
        (
            "piece of arguments",
            i.ArgumentsWords(response_id="r", item_id="f", call_id="c", delta="{"),
        ),
        ("piece of the caller's words", i.UserWords(item_id="u", text="Hel", final=False)),
        ("talker seen", i.TalkerSeen()),
        ("player's report", _report()),
        ("item announced", i.ItemAdded(item=i.Item(item_id="x", type="message"))),
        ("response announced", created("next")),
        ("tool ended: output and create", tool_ok("c1")),
        ("response done", done("r")),
        ("caller breaks in", speech_started()),
    )
    over = Stage()
    over.command("close")
    found = [("floor: an empty step", median_us(over.state, at(i.TalkerSeen(), now), steps))]
    found += [(name, median_us(stage.state, at(event, now), steps)) for name, event in common]
    found.append(("deadline of the state", _median_of(lambda: deadline(stage.state), steps)))
    translator = OpenAI()
    frame = {
        "type": "response.output_audio_transcript.delta",
        "response_id": "r",
        "item_id": "m",
        "content_index": 0,
        "delta": "upon a time ",
    }
    found.append(
        ("translate a piece of words", _median_of(lambda: translator.read(frame, 1), steps))
    )
    return found


def _report() -> i.AnyInput:
    data = {"item_id": "m", "played_ms": 480, "state": "playing"}
    return i.Commanded(command_id="report-1", command="report_playback", data=data)


def _median_of(what: Callable[[], object], steps: int) -> float:
    clock = time.perf_counter_ns
    took = []
    for _ in range(steps):
        begin = clock()
        what()
        took.append(clock() - begin)
    took.sort()
    return percentile(took, 50) / 1000


def main() -> None:
    """Print the table."""
    print(f"one step of the core, median of {STEPS}, goal {GOAL_US:g} µs")
    for name, us in measure():
        print(f"{us:8.2f} µs  {name}{'' if us <= GOAL_US else '   over the goal'}")


if __name__ == "__main__":
    main()
