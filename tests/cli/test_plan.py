import json
import socket
import sys
from pathlib import Path

import pytest

from voicebus.cli import plan
from voicebus.cli.plan import Plan, Wish
from voicebus.cli.problems import Problem
from voicebus.config.loader import BadSettings

URL = "wss://voice.example/v1/realtime"


def made(run_dir: Path, *, environment: dict[str, str] | None = None, **wish: object) -> Plan:
    return plan.make(Wish(run_dir=run_dir, environment=environment or {}, **wish))  # type: ignore[arg-type]


def test_without_address_and_key_the_simulator_is_the_provider(run_dir: Path) -> None:
    planned = made(run_dir)

    assert planned.simulator
    port = planned.environment["VOICEBUS_SIMULATOR_PORT"]
    assert planned.provider == f"ws://127.0.0.1:{port}/v1/realtime"
    assert planned.environment["VOICEBUS_TRANSPORT_PROVIDER_URL"] == planned.provider
    assert planned.environment["VOICEBUS_SIMULATOR"] == "true"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no port can be kept for another")
def test_the_simulators_port_is_kept_for_it_until_it_listens(run_dir: Path) -> None:
    planned = made(run_dir)
    assert planned.listens_at is not None

    with plan.reserving(planned), socket.socket() as somebody, socket.socket() as simulator:
        with pytest.raises(OSError, match="in use"):
            somebody.bind(planned.listens_at)
        simulator.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        simulator.bind(planned.listens_at)
        simulator.listen()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, None),
        ({}, URL),
        ({"VOICEBUS_TRANSPORT_PROVIDER_URL": URL}, None),
    ],
)
def test_with_an_address_or_a_key_the_simulator_stays_away(
    run_dir: Path, environment: dict[str, str], url: str | None
) -> None:
    planned = made(run_dir, environment=environment, provider_url=url)

    assert not planned.simulator
    assert planned.environment["VOICEBUS_SIMULATOR"] == "false"


def test_a_wish_for_the_simulator_is_stronger_than_a_key_which_it_never_gets(
    run_dir: Path,
) -> None:
    planned = made(run_dir, environment={"OPENAI_API_KEY": "sk-1"}, simulator=True)

    assert planned.simulator
    assert planned.provider.startswith("ws://127.0.0.1:")
    assert planned.key != "sk-1"


@pytest.mark.parametrize("url", ["nonsense", "ftp://voice.example/v1", "wss://", "ws://h:port/"])
def test_an_address_that_nobody_can_dial_is_refused_before_anything_starts(
    run_dir: Path, url: str
) -> None:
    with pytest.raises(Problem, match="--provider-url"):
        made(run_dir, provider_url=url)


def test_no_provider_at_all_is_a_problem(run_dir: Path) -> None:
    with pytest.raises(Problem, match="no provider"):
        made(run_dir, simulator=False)


def test_no_key_gets_into_the_environment(run_dir: Path) -> None:
    planned = made(run_dir, environment={"OPENAI_API_KEY": "sk-1"})

    assert planned.key == "sk-1"
    assert "sk-1" not in json.dumps(dict(planned.environment))
    assert "sk-1" not in repr(planned)
    assert planned.environment["VOICEBUS_TRANSPORT_PROVIDER_KEY_FILE"] == str(planned.key_file)


def test_a_key_file_is_stronger_than_the_environment(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" sk-2\n")

    planned = made(run_dir, environment={"OPENAI_API_KEY": "sk-1"}, provider_key_file=file)

    assert planned.key == "sk-2"


@pytest.mark.parametrize("text", ["", "  \n", "two words", "one\ntwo\n"])
def test_a_key_file_that_holds_no_key_is_a_problem(
    run_dir: Path, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "key"
    file.write_text(text)

    with pytest.raises(Problem, match="should hold the provider's key and nothing else"):
        made(run_dir, provider_key_file=file)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("sk-ключ", "OPENAI_API_KEY holds no provider's key: character 4 of 7 is none"),
        ("sk-1\u2013\u200b", "character 5 of 6 is none that a key can have"),
        ("sk 1", "OPENAI_API_KEY should hold the provider's key and nothing else"),
    ],
)
def test_a_key_that_no_header_takes_is_a_problem_that_does_not_show_it(
    run_dir: Path, key: str, why: str
) -> None:
    with pytest.raises(Problem, match=why) as problem:
        made(run_dir, environment={"OPENAI_API_KEY": key})

    assert key not in str(problem.value)
    assert made(run_dir, environment={"OPENAI_API_KEY": key}, simulator=True).key == "simulator"


def test_the_key_lies_in_a_file_for_its_owner(run_dir: Path) -> None:
    planned = made(run_dir, environment={"OPENAI_API_KEY": "sk-1"})

    plan.write_key(planned)

    assert planned.key_file.read_text() == "sk-1\n"
    assert planned.key_file.stat().st_mode & 0o777 == 0o600


def test_tools_are_found_wherever_the_tool_host_runs(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)

    planned = made(run_dir, tools=("mine.py", "mine.py:add", "./mine.py", "package.module:run"))

    assert planned.environment["VOICEBUS_TOOLHOST_TOOLS"].split() == [
        f"{tmp_path}/mine.py",
        f"{tmp_path}/mine.py:add",
        f"{tmp_path}/mine.py",
        "package.module:run",
    ]


def test_without_tools_of_ones_own_there_are_the_examples(run_dir: Path) -> None:
    [example] = made(run_dir).environment["VOICEBUS_TOOLHOST_TOOLS"].split()

    assert Path(example).is_file()
    assert example.endswith("examples/tools/demo.py")


def test_a_wish_is_stronger_than_the_environment(run_dir: Path) -> None:
    environment = {"VOICEBUS_SESSION_MODEL": "one", "VOICEBUS_TRANSPORT_PROVIDER_URL": "ws://one"}

    planned = made(run_dir, environment=environment, model="two", provider_url="ws://two")

    assert planned.environment["VOICEBUS_SESSION_MODEL"] == "two"
    assert planned.provider == "ws://two"


def test_two_run_folders_share_neither_journal_nor_port(run_dir: Path, tmp_path: Path) -> None:
    one, two = made(run_dir).environment, made(tmp_path).environment

    assert one["VOICEBUS_DATA"] == f"{run_dir}/data"
    assert two["VOICEBUS_DATA"] == f"{tmp_path}/data"
    assert one["VOICEBUS_SIMULATOR_PORT"] != two["VOICEBUS_SIMULATOR_PORT"]


def test_a_data_folder_of_ones_choice_is_kept(run_dir: Path) -> None:
    planned = made(run_dir, environment={"VOICEBUS_DATA": "/var/lib/voicebus"})

    assert planned.environment["VOICEBUS_DATA"] == "/var/lib/voicebus"


def test_a_port_of_ones_choice_that_is_in_use_is_a_problem(run_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        with pytest.raises(Problem, match=f"port {port} on 127.0.0.1.* is in use"):
            made(run_dir, environment={"VOICEBUS_SIMULATOR_PORT": port})


def test_a_port_of_ones_choice_is_kept(run_dir: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    planned = made(run_dir, environment={"VOICEBUS_SIMULATOR_PORT": port})

    assert planned.environment["VOICEBUS_SIMULATOR_PORT"] == port


def test_settings_of_every_role_are_checked_before_anything_starts(run_dir: Path) -> None:
    with pytest.raises(BadSettings, match="VOICEBUS_TOOLHOST_RUNNERS='many'"):
        made(run_dir, environment={"VOICEBUS_TOOLHOST_RUNNERS": "many"})


def test_the_numbers_of_transports_and_shards_reach_supervisord_and_every_process(
    run_dir: Path,
) -> None:
    planned = made(run_dir, environment={"VOICEBUS_SHARDS": "2", "VOICEBUS_TRANSPORTS": "3"})

    assert planned.environment["VOICEBUS_SHARDS"] == "2"
    assert planned.environment["VOICEBUS_TRANSPORTS"] == "3"
    assert made(run_dir).environment["VOICEBUS_TRANSPORTS"] == "1"


@pytest.mark.parametrize("name", ["VOICEBUS_SHARDS", "VOICEBUS_TRANSPORTS"])
def test_more_processes_than_a_cell_is_made_for_are_refused(run_dir: Path, name: str) -> None:
    with pytest.raises(BadSettings, match=f"{name}='33': Expected `int` <= 32"):
        made(run_dir, environment={name: "33"})


def test_a_second_tool_host_is_refused_with_what_to_do_instead(run_dir: Path) -> None:
    with pytest.raises(Problem, match=r"ask for 2 tool hosts.*runners"):
        made(run_dir, environment={"VOICEBUS_TOOLHOSTS": "2"})


def test_the_processes_run_in_the_same_python(run_dir: Path) -> None:
    assert made(run_dir).environment["VOICEBUS_PYTHON"] == sys.executable


def test_a_deep_checkout_gets_a_short_run_folder_unless_one_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)

    planned = plan.make(Wish(environment={}))

    assert len(str(planned.run_dir)) < 60
    assert planned.run_dir == plan.make(Wish(environment={})).run_dir
    assert planned.environment["VOICEBUS_DATA"] == f"{deep}/var/data"


@pytest.mark.parametrize(
    ("settings", "page"),
    [
        ({}, None),
        ({"BIND": "127.0.0.1"}, "http://127.0.0.1:8080/"),
        ({"BIND": "[::1]", "PORT": "81"}, "http://[::1]:81/"),
        ({"BIND": "0.0.0.0", "TLS_CERT": "c.pem"}, "https://localhost:8080/"),
    ],
)
def test_who_opens_the_gateway_is_told_where_its_page_is(
    run_dir: Path, settings: dict[str, str], page: str | None
) -> None:
    environment = {f"VOICEBUS_GATEWAY_{name}": value for name, value in settings.items()}

    assert made(run_dir, environment=environment).page == page
