"""The example of docs/client.md that tells when a turn is over sees a whole turn."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message
from voicebus.client.ring import Reader, Ring

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
ANSWER = (
    events.AssistantTurnStarted(turn_id="r1"),
    events.AssistantTurnCompleted(turn_id="r1", status="completed"),
)


class Happened:
    def __init__(self, data: Message) -> None:
        self.data = data


class Quick:
    """A session whose whole answer has come when the question's reply does."""

    def __init__(self) -> None:
        self.ring: Ring[Happened] = Ring("events", 100)

    def events(self, *, from_now: bool = False) -> Reader[Happened]:
        return self.ring.reader(from_now=from_now)

    async def send_text(self, text: str) -> None:
        for data in ANSWER:
            self.ring.put(Happened(data))
        self.ring.close()


async def test_an_answer_that_is_as_quick_as_its_reply_is_seen_from_its_beginning() -> None:
    fences = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    [code] = [one for one in fences if "turns.is_quiet" in one]
    names: dict[str, Any] = {"session": Quick()}

    running = eval(compile(code, PAGE.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert inspect.isawaitable(running)
    await running

    assert names["turns"].is_quiet
