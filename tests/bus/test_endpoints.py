from pathlib import Path

import pytest

from voicebus.bus import ids
from voicebus.bus.endpoints import PATH_LIMIT_BYTES, BadRunFolder, Endpoints

LONGEST = "transport-00.audio-out"


def test_every_socket_has_the_name_that_the_protocol_fixes() -> None:
    assert Endpoints("/run/v").every() == {
        "session-0.commands": "ipc:///run/v/session-0.commands",
        "session-0.events": "ipc:///run/v/session-0.events",
        "transport-0.link": "ipc:///run/v/transport-0.link",
        "transport-0.audio-in": "ipc:///run/v/transport-0.audio-in",
        "transport-0.audio-out": "ipc:///run/v/transport-0.audio-out",
        "tools.calls": "ipc:///run/v/tools.calls",
        "tools.workers": "ipc:///run/v/tools.workers",
        "session-0.state": "ipc:///run/v/session-0.state",
        "transport-0.state": "ipc:///run/v/transport-0.state",
        "dispatcher-0.state": "ipc:///run/v/dispatcher-0.state",
        "toolhost-0.state": "ipc:///run/v/toolhost-0.state",
        "health-0.state": "ipc:///run/v/health-0.state",
    }


def test_every_shard_transport_and_tool_host_has_its_own() -> None:
    every = Endpoints("/run/v").every(shards=2, transports=3, toolhosts=2)

    assert "session-1.commands" in every
    assert "transport-2.audio-out" in every
    assert "toolhost-1.state" in every
    assert len(set(every.values())) == len(every)


def test_a_relative_run_folder_does_not_depend_on_where_it_is_read() -> None:
    assert Endpoints("var/run").run_dir == Path.cwd() / "var/run"


def test_a_path_that_just_fits_is_taken_and_one_byte_more_is_refused() -> None:
    fitting = "/" + "x" * (PATH_LIMIT_BYTES - len(LONGEST) - 2)

    assert len(Endpoints(fitting).audio_out(10)) == len("ipc://") + PATH_LIMIT_BYTES
    with pytest.raises(BadRunFolder, match=r"too long .* \(101 bytes .* limit is 100\).*--run-dir"):
        Endpoints(fitting + "x")


def test_bytes_are_counted_not_letters() -> None:
    with pytest.raises(BadRunFolder):
        Endpoints("/" + "ü" * 50)


def test_a_run_folder_without_a_name_is_not_the_working_folder() -> None:
    with pytest.raises(BadRunFolder, match="no name"):
        Endpoints("")


def test_the_sockets_of_a_session_follow_from_its_id() -> None:
    endpoints = Endpoints("/run/v")

    assert endpoints.of_session(ids.session_id(3)) == (endpoints.commands(3), endpoints.events(3))
    with pytest.raises(ValueError, match="is no session id"):
        endpoints.of_session("s0-../../etc")
