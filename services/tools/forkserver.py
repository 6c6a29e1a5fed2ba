"""Imports the tool modules once, then forks a runner whenever the host asks: ready in milliseconds.

It holds no ZeroMQ context and no thread of its own, so that forks are clean. It is the runners'
parent: it reports how each ended and keeps the process id until the host says that the runner's
whole group is gone, so that no signal can hit a stranger.
"""

import argparse
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from voicebus.bus.messages import work
from voicebus.services.tools import confine, pipe, runner, toolbox

CLEAR_ROUNDS = 100
CLEAR_PAUSE_S = 0.01
FORK_ROUNDS = 100
FORK_PAUSE_S = 0.01


def serve(
    control: socket.socket, tools: dict[str, toolbox.Tool], limits: runner.Limits
) -> Callable[[], None] | None:
    """Fork on demand until the host is gone. In a forked child: returns what it is to run."""
    server = os.getpid()
    children: dict[int, int] = {}  # number -> pid
    reported: set[int] = set()
    splitter = pipe.Splitter()
    waiting: list[int] = []  # descriptors that came, in order
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    confine.adopt_orphans()
    own = set(confine.children())  # what the tool modules started when they were imported
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 4096)
        _report_the_dead(control, children, reported)
        _end_orphans(own.union(children.values()))
        if control.fileno() not in ready:
            continue  # recv_fds does not pass its flags on: it would wait, and no death be told
        try:
            data, descriptors, _, _ = socket.recv_fds(control, 65536, 12)
        except ConnectionError:
            data = b""
        if not data:
            _clear_away(children)
            return None
        waiting += descriptors
        for body in splitter.feed(data):
            order = pipe.ORDERS.decode(body)
            if isinstance(order, pipe.Reap):
                _reap(children, reported, order.number)
                continue
            mine, waiting = waiting[:3], waiting[3:]
            pid = fork(lambda: _end_orphans(own.union(children.values())))
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (wake_read, wake_write, *waiting):
                    os.close(fd)
                control.close()
                return lambda: runner.main(
                    tools, limits, is_async=order.is_async, descriptors=mine, parent=server
                )
            for fd in mine:
                os.close(fd)
            children[order.number] = pid
            # The host may have died since it gave this order; its end is read next, and then all
            # that runners have started is cleared away.
            with contextlib.suppress(OSError):
                control.sendall(pipe.pack(pipe.Spawned(number=order.number, pid=pid)))


def fork(clear_away: Callable[[], None]) -> int:
    """As os.fork, tried for a second where the system has no process left: the tool that took them
    all is being ended, and what it leaves has to be reaped first. Raises OSError."""
    for _ in range(FORK_ROUNDS):
        with contextlib.suppress(BlockingIOError):
            return os.fork()
        clear_away()
        time.sleep(FORK_PAUSE_S)
    return os.fork()


def _report_the_dead(control: socket.socket, children: dict[int, int], reported: set[int]) -> None:
    for number, pid in children.items():
        if number in reported:
            continue
        ended = _ended(pid)
        if ended is None:
            continue
        reported.add(number)
        news = pipe.Exited(number=number, pid=pid, exit_code=ended[0], signal=ended[1])
        with contextlib.suppress(OSError):
            control.sendall(pipe.pack(news))


def _ended(pid: int) -> tuple[int | None, int | None] | None:
    """Exit code or signal, leaving the zombie where the system allows it."""
    try:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            gone, status = os.waitpid(pid, os.WNOHANG)
            if not gone:
                return None
            code = os.waitstatus_to_exitcode(status)
            return (code, None) if code >= 0 else (None, -code)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    if found.si_code == os.CLD_EXITED:
        return found.si_status, None
    return None, found.si_status


def _end_orphans(expected: set[int]) -> None:
    """What a runner leaves behind comes to us when it ends, whatever group or session it is in.

    Its own children come next, when it has ended, and the signal that tells it brings us here.
    """
    for pid in set(confine.children()) - expected:
        confine.kill([pid])
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _clear_away(children: dict[int, int]) -> None:
    """The host is gone: end all runners, and all that they started."""
    for pid in children.values():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    # What the dead had started is ours a moment later. Some may be beyond our reach.
    for _ in range(CLEAR_ROUNDS):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = confine.descendants(os.getpid())
        if not found:
            return
        confine.kill(found)
        time.sleep(CLEAR_PAUSE_S)


def _reap(children: dict[int, int], reported: set[int], number: int) -> None:
    pid = children.pop(number, None)
    reported.discard(number)
    if pid is not None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def specs(tools: dict[str, toolbox.Tool], limits: runner.Limits) -> list[work.ToolSpec]:
    """The tools in the words of the bus."""
    return [
        work.ToolSpec(
            name=one.name,
            description=one.signature.description,
            parameters=one.signature.parameters,
            effects=one.options.effects,
            on_interrupt=one.options.on_interrupt,
            timeout_s=one.options.timeout_s or limits.timeout_s,
            grace_s=one.options.grace_s or limits.grace_s,
            concurrency=one.options.concurrency,
            approval=one.options.approval,
        )
        for one in tools.values()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The process. It speaks to its parent only, over the descriptor `--control`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--limits", required=True)
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("specs", nargs="*")
    arguments = parser.parse_args(argv)
    confine.die_with_parent()
    confine.name_process("vb-forkserver")
    os.umask(0o077)
    # Tools may well start threads when imported; forking is what this process is for.
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    control = socket.socket(fileno=arguments.control)
    os.set_inheritable(arguments.control, False)
    limits = runner.Limits.parse(arguments.limits)
    news: pipe.News
    try:
        tools = toolbox.load(arguments.specs, arguments.path)
    except toolbox.ToolboxError as error:
        control.sendall(pipe.pack(pipe.Refused(why=str(error))))
        sys.exit(1)
    news = pipe.Loaded(
        tools=specs(tools, limits),
        async_tools=[one.name for one in tools.values() if one.is_async],
    )
    control.sendall(pipe.pack(news))
    gc.collect()
    gc.freeze()
    # From now on it looks at the control socket all the time and ends by itself when the host is
    # gone: then it can take with it what its runners have started.
    confine.die_with_parent(really=False)
    child = serve(control, tools, limits)
    if child is not None:
        child()


if __name__ == "__main__":
    main()
