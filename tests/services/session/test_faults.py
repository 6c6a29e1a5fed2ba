"""Of a fault, the log gets kind and place."""

from enum import Enum
from typing import Any

import msgspec
import pytest

from voicebus.services.session import faults


class Colour(Enum):
    RED = "red"


def of_a_key() -> None:
    dict[str, int]().pop("my pin is 4711")


def of_a_value() -> None:
    msgspec.convert("my pin is 4711", Colour)


def of_a_cause() -> None:
    try:
        of_a_key()
    except KeyError as error:
        raise ValueError("my pin is 4711") from error


@pytest.mark.parametrize(
    ("broken", "kind"),
    [(of_a_key, "KeyError"), (of_a_value, "ValidationError"), (of_a_cause, "ValueError")],
)
def test_kind_and_place_are_told_and_no_word_of_what_was_said(broken: Any, kind: str) -> None:
    with pytest.raises(Exception, match="4711") as caught:
        broken()

    told = faults.told(caught.value)

    assert told["error"] == kind
    assert told["at"][-1].endswith(f" {broken.__name__}")
    assert "4711" not in str(told)
