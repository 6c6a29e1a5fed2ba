"""The repository's links: the import name, and the one supervisord.conf."""

import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = {
    "src/voicebus/benchmarks": "../../benchmarks",
    "src/voicebus/bus": "../../bus",
    "src/voicebus/cli": "../../cli",
    "src/voicebus/client": "../../client",
    "src/voicebus/config": "../../config",
    "src/voicebus/services": "../../services",
    "config/supervisord.conf": "../supervisord.conf",
    "cli/example_tools": "../examples/tools",
    "cli/speech": "../examples/speech",
}


@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_the_links_are_there(link: str, target: str) -> None:
    path = ROOT / link
    repair = f"repair it with: ln -sfn {target} {link}"

    assert path.is_symlink(), f"{link} is no link; {repair}"
    assert str(path.readlink()) == target, f"{link} leads elsewhere; {repair}"
    assert path.exists(), f"{link} leads nowhere; {repair}"


def test_every_role_is_a_program_with_what_supervision_needs() -> None:
    conf = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    conf.read(ROOT / "supervisord.conf")
    programs = {
        name.removeprefix("program:"): conf[name]
        for name in conf.sections()
        if name.startswith("program:")
    }

    by_priority = sorted(programs, key=lambda name: int(programs[name]["priority"]))
    assert by_priority == [
        "simulator-0",
        "transport",
        "session",
        "dispatcher-0",
        "toolhost-0",
        "toolhost-1",
        "relay-0",
        "gateway-0",
        "recorder-0",
    ]
    for name, program in programs.items():
        assert program["stopsignal"] == "TERM"
        assert program["startretries"] == "1000000"
        assert program["killasgroup"] == "true"
        assert program.get("stopasgroup", "false") == "false"
        assert program["redirect_stderr"] == "true"
        process = program.get("process_name", name)
        assert program["stdout_logfile"] == f"%(ENV_VOICEBUS_RUN)s/{process}.log"
        assert program["serverurl"] == ""
    listener = conf["eventlistener:health-0"]
    assert listener["stdout_logfile"] == "NONE"  # supervisord's protocol, and nothing else
    assert "redirect_stderr" not in listener
    assert int(listener["priority"]) > max(int(one["priority"]) for one in programs.values())


def test_several_transports_and_session_processes_are_called_as_one_of_each_is() -> None:
    conf = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    conf.read(ROOT / "supervisord.conf")
    for role, count in (("transport", "TRANSPORTS"), ("session", "SHARDS")):
        program = conf[f"program:{role}"]

        assert program["process_name"] == f"{role}-%(process_num)d"
        assert program["numprocs"] == f"%(ENV_VOICEBUS_{count})s"
        assert program["command"].endswith("--instance %(process_num)d")


def test_nothing_names_a_registry() -> None:
    for name in ("Makefile", ".ci/run", "pyproject.toml"):
        text = (ROOT / name).read_text("utf-8")
        assert "index-url" not in text
        assert "find-links" not in text
        assert "pypi.org" not in text
