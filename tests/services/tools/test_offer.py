from typing import Any

import pytest

from voicebus.bus.messages import work
from voicebus.services.tools import offer
from voicebus.services.tools.bounds import DESCRIPTION_LIMIT


def spec(**changes: Any) -> work.ToolSpec:
    return work.ToolSpec(**{"name": "shout", "parameters": {"type": "object"}, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "the tool name '' is not 1 to 64 letters"),
        ({"name": "say it"}, "the tool name 'say it'"),
        ({"name": "a" * 65}, "is not 1 to 64 letters"),
        ({"name": "grüß"}, "the tool name 'grüß'"),
        ({"description": "x" * 1025}, "has 1025 characters, the limit is 1024"),
        ({"parameters": {}}, "not the JSON Schema of an object"),
        ({"parameters": {"type": "array"}}, "not the JSON Schema of an object"),
        ({"timeout_s": 0.0}, "timeout_s of shout is 0"),
        ({"timeout_s": 1e300}, "timeout_s of shout is 1e+300"),
        ({"grace_s": -1.0}, "grace_s of shout is -1"),
        ({"concurrency": 0}, "concurrency of shout is 0; expected 1 or more"),
    ],
)
def test_what_no_provider_or_clock_takes_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in (offer.fault(spec(**changes)) or "")


def test_all_else_may_be_offered() -> None:
    assert (
        offer.fault(spec(description="x" * DESCRIPTION_LIMIT, grace_s=0.0, concurrency=1)) is None
    )
