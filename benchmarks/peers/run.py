"""The peers' benchmark: stalls, latency, cost and capacity, against the same provider."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import psutil

from voicebus.benchmarks import capacity, stall
from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import App, Provider, Scale, bare, cell, ours
from voicebus.benchmarks.peers import calls
from voicebus.benchmarks.peers.crowd import PEERS, Crowd, start, versions
from voicebus.cli.testing import Stack


def run(scale: Scale, names: Sequence[str] = tuple(PEERS)) -> Result:
    """Those that are installed; the others are named with the reason."""
    stalls = Table("Age of sound at the application while a tool runs", stall.COLUMNS)
    tables = calls.tables()
    result = Result([stalls, tables.ages, tables.costs, tables.most])

    def one(
        name: str,
        begin: Callable[..., App],
        *,
        together: bool = True,
        has_stalls: bool = True,
        beside: Callable[[], dict[str, int]] = dict,
    ) -> None:
        print(name, file=sys.stderr, flush=True)
        with _noted(name, tables.absent):
            if has_stalls:
                stall.cases(stalls, result, provider, name, begin, scale)
            with Crowd(provider, name, partial(begin, talk=True), together=together) as crowd:
                calls.measure(tables, result, provider, crowd, scale, beside)

    with Provider() as provider:
        one("bare", partial(_bare, provider))
        for name in names:
            together = PEERS[name].together
            one(name, partial(start, provider, name), together=together, has_stalls=not together)
        with (
            _noted("voicebus", tables.absent),
            cell(provider, session_max_sessions=capacity.LIMIT) as stack,
        ):
            one("voicebus", partial(_ours, stack), beside=partial(_processes, stack))
    stalls.note = f"versions: {json.dumps(versions())}. Columns as in `make bench`."
    if tables.absent.rows:
        result.tables.append(tables.absent)
    return result


def _bare(provider: Provider, sessions: int = 1, *, talk: bool = False) -> App:
    return bare(provider, talk=talk, sessions=sessions)


def _ours(stack: Stack, sessions: int = 1, *, talk: bool = False) -> App:
    return ours(stack, talk=talk, sessions=sessions, style="" if sessions <= 20 else "light")


@contextlib.contextmanager
def _noted(name: str, absent: Table) -> Iterator[None]:
    """Whatever goes wrong with one client costs no other one's figures."""
    try:
        yield
    except Exception as error:
        absent.add(name, f"{type(error).__name__}: {error}".replace("\n", " ")[:400])


def _processes(stack: Stack) -> dict[str, int]:
    """All that make up Voicebus now, by name."""
    pid = stack.supervisor.pid()
    found = {"supervisord": pid} if pid is not None else {}
    for name, number in stack.pids().items():
        found[name] = number
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(number).children(recursive=True)
            found |= {f"{name}-child-{child.pid}": child.pid for child in children}
    return found
