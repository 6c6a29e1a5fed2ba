"""What decides whether so many calls of a peer are measured, and that the peers' run works."""

import contextlib
from collections.abc import Iterator

import pytest

from voicebus.benchmarks.harness import QUICK, Broken, Provider, bare
from voicebus.benchmarks.peers import crowd
from voicebus.benchmarks.peers import run as peers
from voicebus.benchmarks.peers.calls import unfit


def test_calls_that_the_memory_holds_are_measured() -> None:
    assert unfit(100, each_mb=96, machine_mb=12_000) == ""


def test_calls_that_need_too_much_memory_are_named_with_the_sum() -> None:
    why = unfit(100, each_mb=102.4, machine_mb=10_240)

    assert why == "needs 10.0 GB of 10.0, 102 MB a call"


def test_a_peer_that_is_not_installed_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = "pipecat, not there"
    monkeypatch.setitem(crowd.PEERS, absent, crowd.Peer("not-there", "pipecat_client.py"))

    result = peers.run(QUICK, [absent])

    _, ages, costs, most, missing = result.tables
    assert {(row[0], row[2]) for row in ages.rows} == {
        (client, tools) for client in ("bare", "voicebus") for tools in ("idle", "2 loops")
    }
    assert [row[0] for row in costs.rows] == ["bare", "voicebus"]
    assert [row[0] for row in most.rows] == ["bare", "voicebus"]
    assert [row[0] for row in missing.rows] == [absent]


def test_what_goes_wrong_with_one_costs_no_figures_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def left_behind(*_: object, **__: object) -> Iterator[None]:
        yield
        raise AssertionError("a process was left behind")

    monkeypatch.setattr(peers, "cell", left_behind)
    monkeypatch.setattr(peers, "_processes", lambda stack: {})
    monkeypatch.setattr(peers, "_ours", lambda stack, provider=None, **how: None)

    result = peers.run(QUICK, [])

    assert {row[0] for row in result.tables[1].rows} == {"bare"}
    assert any("left behind" in row[1] for row in result.tables[-1].rows)


def test_a_client_that_has_died_is_broken_whatever_is_asked_of_it() -> None:
    with Provider() as provider:
        app = bare(provider)
        app.process.kill()
        app.process.wait()

        with pytest.raises(Broken):
            app.came()
        with pytest.raises(Broken):
            app.stop()
        app.end()
