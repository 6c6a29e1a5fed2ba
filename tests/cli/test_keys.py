"""`voicebus keys`: files that only their owner can read, and clear words."""

import stat
from pathlib import Path

import pytest

from voicebus.bus import curve
from voicebus.cli.keys import keys
from voicebus.cli.problems import Problem
from voicebus.client.errors import ClientError
from voicebus.client.remote import read_keys
from voicebus.config import clients
from voicebus.config.loader import BadSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    keys("server", folder=made)
    return made


def test_a_client_s_keys_fit_the_server_s(folder: Path) -> None:
    keys("add", "kiosk", folder=folder)

    own = read_keys(folder / "issued" / "kiosk.toml")
    known = clients.clients(folder)
    assert own.public == curve.public_of(own.secret)
    assert own.server == curve.public_of(clients.server_key(folder))
    assert known[own.public] == clients.Client(name="kiosk", public=own.public)


def test_secrets_are_readable_by_their_owner_alone(folder: Path) -> None:
    keys("add", "kiosk", folder=folder)

    for path in (folder, *folder.rglob("*")):
        open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
        assert not open_to_others or path.name == "server.pub", path


def test_a_secret_is_in_no_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys("add", "kiosk", folder=folder)
    keys("list", folder=folder)

    own = read_keys(folder / "issued" / "kiosk.toml")
    said = capsys.readouterr()
    assert own.secret not in said.out + said.err + repr(own)
    assert clients.server_key(folder) not in said.out + said.err


def test_permissions_are_written_as_given(folder: Path) -> None:
    keys("add", "board", folder=folder, lanes="event,system", sessions="*", commands="list, replay")

    (board,) = clients.clients(folder).values()
    assert (board.lanes, board.sessions) == (("event", "system"), ("*",))
    assert board.commands == ("list", "replay")


def test_a_removed_client_leaves_nothing(folder: Path) -> None:
    keys("add", "kiosk", folder=folder)
    keys("remove", "kiosk", folder=folder)

    assert clients.clients(folder) == {}
    assert not list((folder / "issued").iterdir())


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("ad",), {}, "did you mean add"),
        (("add",), {}, "needs a NAME"),
        (("add", "../evil"), {}, "needs a NAME"),
        (("add", "kiosk"), {"lanes": "evnt"}, "did you mean event"),
        (("add", "kiosk"), {"commands": "list,replya"}, "no command 'replya' .did you mean replay"),
        (("remove", "kisok"), {}, "there is no client 'kisok'"),
        (("server",), {}, "is there already"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    folder: Path, arguments: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    with pytest.raises(Problem, match=said):
        keys(*arguments, folder=folder, **options)  # type: ignore[arg-type,misc]

    assert clients.clients(folder) == {}


def test_the_server_s_keys_come_first(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="begin with `voicebus keys server`"):
        keys("add", "kiosk", folder=tmp_path)


def test_a_wrong_key_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("server = 1")

    with pytest.raises(ClientError, match="is no key file of `voicebus keys add`"):
        read_keys(path)


def test_a_key_file_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"there is no key file .*keys add NAME"):
        read_keys(tmp_path / "x.toml")


def test_two_clients_with_one_key_are_an_error(folder: Path) -> None:
    keys("add", "one", folder=folder)
    one = folder / "clients" / "one.toml"
    (folder / "clients" / "two.toml").write_text(one.read_text())

    with pytest.raises(BadSettings, match="two has the same key as one"):
        clients.clients(folder)


def test_an_unknown_permission_is_told_with_the_nearest_name(folder: Path) -> None:
    keys("add", "one", folder=folder)
    path = folder / "clients" / "one.toml"
    path.write_text(path.read_text() + 'session = ["*"]\n')

    with pytest.raises(BadSettings, match="did you mean sessions"):
        clients.clients(folder)
