"""What `voicebus chaos` finds afterwards, and what it tells of it."""

from pathlib import Path

from voicebus.cli.chaos import Result, _commands, summary
from voicebus.cli.chaos_faults import Fault
from voicebus.cli.chaos_talk import Tally
from voicebus.services.session.archive import Archive
from voicebus.services.session.journal import Commit, Journal

SID = "s0-01m8brxw7vcsn4b7yt93xhkedq"
LEDGER = b'{"seq":2,"heads":{},"down_n":1,"up_n":0}'


def _commanded(id: str) -> bytes:
    return f'{{"input":"Commanded","command_id":"{id}"}}'.encode()


def test_a_command_that_was_done_twice_or_not_at_all_is_told(tmp_path: Path) -> None:
    inputs = [_commanded("once"), _commanded("twice"), b'{"input":"Tick"}', _commanded("twice")]
    journal = Journal(tmp_path / "session-0.db")
    journal.write(
        [Commit(session_id=SID, created_us=1, ledger=LEDGER, inputs=[*enumerate(inputs, 1)])]
    )
    journal.close()
    tally = Tally(sent={SID: ["once", "twice", "never"], "s1-elsewhere": ["other"]})

    with Archive(journal.path) as archive:
        found = _commands(archive, tally)

    assert found == [
        f"{SID}: command twice was done 2 times",
        f"{SID}: command never was done 0 times",
    ]


def test_each_kind_of_fault_has_its_worst_figures() -> None:
    result = Result(seed=1, sessions=1)
    result.done = [
        Fault("kill transport", "transport-0", 7, 1.0, 1.0, well_s=0.5, served_s=1.0, gap_s=0.25),
        Fault("kill transport", "transport-1", 8, 2.0, 2.0, well_s=1.5, served_s=0.5, gap_s=2.5),
        Fault("kill health", "health-0", 9, 3.0, 3.0, well_s=0.25, served_s=0.75),
    ]

    assert summary(result)["faults_done"] == 3
    assert summary(result)["by_kind"] == {
        "kill health": {
            "times": 1,
            "ready_median_s": 0.25,
            "ready_max_s": 0.25,
            "served_max_s": 0.75,
            "gap_max_s": 0.0,
        },
        "kill transport": {
            "times": 2,
            "ready_median_s": 1.0,
            "ready_max_s": 1.5,
            "served_max_s": 1.0,
            "gap_max_s": 2.5,
        },
    }
