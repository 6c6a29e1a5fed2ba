import os
import subprocess
import sys
import time

import pytest

from voicebus import Cancelled, ToolContext, tool


def test_a_marked_function_stays_what_it_is() -> None:
    @tool(name="other", timeout_s=3)
    def double(number: int) -> int:
        return number * 2

    assert double(4) == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "two words"}, "1 to 64 letters"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"grace_s": -1}, "grace_s=-1"),
        ({"timeout_s": float("inf")}, "timeout_s=inf): expected a number above 0 and at most"),
        ({"grace_s": float("nan")}, "grace_s=nan"),
        ({"concurrency": True}, "concurrency=True"),
        ({"timeout_s": "20"}, "timeout_s='20'"),
        ({"efects": "none"}, "@tool has no option 'efects'; did you mean 'effects'?"),
        ({"retries": 3}, "@tool has no option 'retries'; there are: name, description"),
        ({"effects": "twice"}, "none, idempotent, once"),
        ({"on_interrupt": "ignore"}, "cancel, finish, detach"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_where_it_stands(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match="@tool") as refused:
        tool(**options)  # type: ignore[call-overload]

    assert said in str(refused.value)


def test_a_context_of_ones_own_is_never_cancelled() -> None:
    context = ToolContext()

    context.check()
    context.sleep(0)

    assert not context.cancelled


def test_check_raises_with_the_reason_once_the_call_is_cancelled() -> None:
    context = ToolContext(poll=lambda: "interrupt")

    with pytest.raises(Cancelled, match="interrupt"):
        context.check()
    assert context.reason == "interrupt"


def test_looking_often_asks_seldom() -> None:
    asked = 0

    def poll() -> None:
        nonlocal asked
        asked += 1

    context = ToolContext(poll=poll)
    ends_at = time.monotonic() + 0.02
    looks = 0
    while time.monotonic() < ends_at:
        context.check()
        looks += 1

    assert asked <= 11
    assert looks > asked


def test_sleeping_ends_when_the_cancel_comes() -> None:
    read, write = os.pipe()

    def poll() -> str | None:
        return "interrupt" if os.get_blocking(read) else None

    context = ToolContext(poll=poll, wake_fds=lambda: [read])
    os.write(write, b"x")
    os.set_blocking(read, True)

    with pytest.raises(Cancelled):
        context.sleep(60)
    os.close(read)
    os.close(write)


def test_waiting_tells_whether_the_descriptor_became_ready() -> None:
    read, write = os.pipe()
    context = ToolContext()

    before = context.wait(read, 0.01)
    os.write(write, b"x")
    after = context.wait(read, 60)
    writable = context.wait(write, 60, writable=True)

    assert (before, after, writable) == (False, True, True)
    os.close(read)
    os.close(write)


def test_cancelled_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(Cancelled, Exception)


def test_importing_the_tool_api_costs_nothing_beyond_the_standard_library() -> None:
    program = (
        "import sys; from voicebus import tool, ToolContext, Cancelled; "
        "print(sorted({'zmq', 'msgspec', 'structlog', 'asyncio', 'uvloop'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
