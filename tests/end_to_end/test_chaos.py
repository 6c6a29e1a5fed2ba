"""A short form of `make chaos`: each fault comes at random, and nothing is lost or repeated."""

import json

from typer.testing import CliRunner

from voicebus.cli import main


def test_random_faults_lose_nothing_and_repeat_nothing() -> None:
    words = ["chaos", "--minutes", "0.3", "--seed", "20", "--sessions", "3", "--json"]

    done = CliRunner().invoke(main.build(words), words)

    report = json.loads(done.stdout)
    assert report["lost_or_repeated"] == []
    assert done.exit_code == 0
    assert report["faults_done"] >= 3
    assert report["faults_done"] == sum(one["times"] for one in report["by_kind"].values())
    for one in report["by_kind"].values():
        assert 0 <= one["ready_median_s"] <= one["ready_max_s"]
        assert one["served_max_s"] >= 0
        assert one["gap_max_s"] >= 0
    assert report["turns"] > 5
    assert report["calls"] > 0
    assert report["conversations_by_gateway"] > 0
    assert sum(report["recordings"][name] for name in ("whole", "with_named_gaps")) > 0
