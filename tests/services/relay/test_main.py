"""The relay opens no door that is not guarded."""

import os
from pathlib import Path

import pytest

from voicebus.bus import curve
from voicebus.config.settings import RelaySettings
from voicebus.services.relay import main
from voicebus.services.relay.owners import Owners
from voicebus.services.runtime import CannotStart


@pytest.mark.parametrize("bind", ["0.0.0.0", "*", "10.0.0.5", "::", "example.org"])
def test_without_curve_it_listens_to_this_machine_only(bind: str) -> None:
    with pytest.raises(CannotStart, match="curve is off: everybody who can reach it"):
        main.check(RelaySettings(bind=bind, curve=False))


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_on_this_machine_it_may_go_without(bind: str) -> None:
    assert main.check(RelaySettings(bind=bind, curve=False)) is None


def test_it_wants_to_know_where_to_listen() -> None:
    with pytest.raises(CannotStart, match="bind is not set"):
        main.check(RelaySettings())


def test_with_curve_it_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(
        CannotStart, match=r"server\.key: No such file .*; make it with `voicebus keys"
    ):
        main.check(RelaySettings(bind="10.0.0.5", keys=str(tmp_path)))


def test_a_key_that_others_may_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    path.write_text(curve.new_keys()[1])
    path.chmod(0o644)

    with pytest.raises(CannotStart, match="others may read"):
        main.check(RelaySettings(bind="10.0.0.5", keys=str(tmp_path)))

    path.chmod(0o600)
    assert main.check(RelaySettings(bind="10.0.0.5", keys=str(tmp_path))) == path.read_text()


def test_who_opened_what_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "owners"
    Owners(path).add("alice", "s0-1")

    again = Owners(path)

    assert again.of("alice") == {"s0-1"}
    assert again.of("bob") == set()


def test_a_start_touches_no_file_that_is_as_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "owners"
    Owners(path).add("alice", "s0-1")
    os.utime(path, (1, 1))

    Owners(path)

    assert path.stat().st_mtime == 1  # on a full disk, what is written anew is gone


def test_a_line_that_a_kill_has_cut_short_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "owners"
    path.write_text("alice s0-1\nalice s0-")
    Owners(path).add("bob", "s0-3")

    assert Owners(path).of("bob") == {"s0-3"}
    assert "s0-1" in Owners(path).of("alice")


def test_who_opened_what_is_known_also_where_it_cannot_be_written(tmp_path: Path) -> None:
    owners = Owners(tmp_path / "a folder that is not there" / "owners")

    with pytest.raises(OSError, match="No such file"):
        owners.add("alice", "s0-1")

    assert owners.of("alice") == {"s0-1"}
