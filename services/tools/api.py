"""What the author of a tool may use: `@tool`, `ToolContext`, `Cancelled`. Nothing here is needed.

A plain function with type hints and a docstring is a tool. This module imports the standard
library only, so that it costs the author's project nothing.
"""

import difflib
import logging
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, overload

from voicebus.services.tools.bounds import LONGEST_S, NAME

Effects = Literal["none", "idempotent", "once"]
OnInterrupt = Literal["cancel", "finish", "detach"]

P = ParamSpec("P")
R = TypeVar("R")

MARK = "__voicebus_tool__"
"""The attribute in which `@tool` leaves its Options on the function."""

POLL_EVERY_S = 0.002
"""How often at most a running tool looks for a cancel; the looks between cost about 0.1 us."""


class Cancelled(BaseException):
    """The caller interrupted, or the time is up: clean up and let it pass.

    A BaseException like `asyncio.CancelledError`, so that `except Exception` does not swallow it.
    """

    def __init__(self, reason: str = "cancelled") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `@tool` was told; None leaves it to the settings."""

    name: str | None = None
    description: str | None = None
    timeout_s: float | None = None
    """How long a call may take, from its start, before it is stopped and counted as timed out."""
    grace_s: float | None = None
    """How long the code may clean up after a cancel before its process is killed."""
    effects: Effects = "once"
    """What a second run would do: nothing (`none`), nothing more with the same
    `ctx.idempotency_key` (`idempotent`), or harm (`once`)."""
    on_interrupt: OnInterrupt = "cancel"
    """When the caller interrupts: stop it, let it finish, or let it finish and tell later."""
    concurrency: int | None = None
    """How many calls of this tool may run at the same time, over all hosts."""
    approval: bool = False
    """Ask before each call; a call that nobody approves is `denied`."""

    def __post_init__(self) -> None:
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(
                f"@tool(name={self.name!r}): a tool's name is 1 to 64 letters, digits, _ or -"
            )
        for field in ("timeout_s", "grace_s", "concurrency"):
            value = getattr(self, field)
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 < value <= LONGEST_S
            ):
                raise ValueError(
                    f"@tool({field}={value!r}): expected a number above 0 and at most {LONGEST_S}"
                )
        for field, known in (
            ("effects", ("none", "idempotent", "once")),
            ("on_interrupt", ("cancel", "finish", "detach")),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"@tool({field}={value!r}): expected one of {', '.join(known)}")


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    grace_s: float | None = None,
    effects: Effects = "once",
    on_interrupt: OnInterrupt = "cancel",
    concurrency: int | None = None,
    approval: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Mark a function (or a class whose instances can be called) as a tool; it stays what it is.

    Raises ValueError for an option that makes no sense.
    """
    known = Options.__dataclass_fields__
    for unknown in options.keys() - known.keys():
        near = difflib.get_close_matches(unknown, known, 1)
        raise ValueError(
            f"@tool has no option '{unknown}'; "
            + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}")
        )
    checked = Options(**options)

    def mark(target: Any) -> Any:
        setattr(target, MARK, checked)
        return target

    return mark if function is None else mark(function)


class ToolContext:
    """The running call, as its code sees it. A function that has a parameter of this type gets one.

    `ToolContext()` makes one that is never cancelled: enough to test a tool by itself.
    """

    def __init__(
        self,
        *,
        call_id: str = "",
        session_id: str = "",
        tool: str = "",
        attempt: int = 1,
        budget_s: float | None = None,
        poll: Callable[[], str | None] = lambda: None,
        wake_fds: Callable[[], list[int]] = lambda: [],
        tell: Callable[[str], None] = lambda _text: None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.call_id = call_id
        self.session_id = session_id
        self.tool = tool
        self.attempt = attempt
        """1, or more when an earlier attempt was lost with its process."""
        self.log = logging.getLogger(f"voicebus.tool.{tool or 'unnamed'}")
        self._ends_at = None if budget_s is None else time.monotonic() + budget_s
        self._poll = poll
        self._wake_fds = wake_fds
        self._tell = tell
        self._secrets = dict(secrets or {})
        self._reason: str | None = None
        self._look_at = 0.0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this call, and for no other call."""
        return f"{self.session_id}/{self.call_id}"

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None if there is none."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether this call should stop. Cheap enough for an inner loop."""
        if self._reason is None:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + POLL_EVERY_S
                self._reason = self._poll()
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why it should stop, once `cancelled` is true."""
        return self._reason

    def check(self) -> None:
        """Raises Cancelled if this call should stop. Cheap enough for an inner loop."""
        if self.cancelled:
            raise Cancelled(self._reason or "cancelled")

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise Cancelled as soon as the call should stop. Not for `async def`."""
        self._wait(seconds, None, writable=False)

    def wait(self, fd: Any, seconds: float, *, writable: bool = False) -> bool:
        """Whether `fd` (a number, socket or file) can be read (or written) within `seconds`.

        Raises Cancelled as soon as the call should stop. Not for `async def`.
        """
        return self._wait(seconds, fd, writable=writable)

    def progress(self, text: str) -> None:
        """Tell listeners how far this is. Costs microseconds, says nothing to the model."""
        self._tell(str(text))

    def secret(self, name: str) -> str:
        """What `[secrets]` in tools.toml gives this tool under that name. Raises LookupError."""
        try:
            return self._secrets[name]
        except KeyError:
            raise LookupError(
                f"the tool '{self.tool}' has no secret {name}; name a file for it, and this tool, "
                "in [secrets] of tools.toml"
            ) from None

    def cancel(self, reason: str) -> None:
        """Make `cancelled` true. For the runner, and for tests."""
        if self._reason is None:
            self._reason = reason

    def _wait(self, seconds: float, fd: Any, *, writable: bool) -> bool:
        ends_at = time.monotonic() + seconds
        watched = None if fd is None else fd if isinstance(fd, int) else fd.fileno()
        while True:
            # Look first: what woke us, or came before we slept, may be the cancel.
            if self._reason is None:
                self._reason = self._poll()
            self.check()
            left = max(0.0, ends_at - time.monotonic())
            # A wake-up may be another call's news; a short slice also covers a missed edge.
            poll = select.poll()
            for wake in self._wake_fds():
                poll.register(wake, select.POLLIN)
            if watched is not None:
                poll.register(watched, select.POLLOUT if writable else select.POLLIN)
            ready = poll.poll(min(left, 0.05) * 1000)
            if any(number == watched for number, _ in ready):
                return True
            if time.monotonic() >= ends_at:
                self.check()
                return False
