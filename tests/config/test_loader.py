from pathlib import Path

import msgspec
import pytest

from voicebus.config import loader
from voicebus.config.loader import BadSettings, load, nearest
from voicebus.config.settings import (
    SECTIONS,
    CellSettings,
    SessionSettings,
    SimulatorSettings,
    ToolhostSettings,
    TransportSettings,
)


def settings_file(folder: Path, text: str) -> dict[str, str]:
    path = folder / "settings.toml"
    path.write_text(text)
    return {"VOICEBUS_CONFIG": str(path)}


def test_what_nobody_sets_has_its_default() -> None:
    assert load(SessionSettings, {}, {}) == (CellSettings(), SessionSettings())


def test_the_environment_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    environment = settings_file(
        tmp_path, "[session]\nmax_sessions = 1\nin_flight = 1\nring_events = 1\n"
    )
    environment |= {"VOICEBUS_SESSION_IN_FLIGHT": "2", "VOICEBUS_SESSION_RING_EVENTS": "2"}

    _, own = load(SessionSettings, environment, {"ring_events": "3"})

    assert (own.max_sessions, own.in_flight, own.ring_events) == (1, 2, 3)


def test_the_cell_has_the_short_variables() -> None:
    cell, _ = load(SessionSettings, {"VOICEBUS_RUN": "/run/v", "VOICEBUS_SHARDS": "2"}, {})

    assert (cell.run, cell.shards) == ("/run/v", 2)


def test_text_becomes_the_type_of_its_field() -> None:
    environment = {"VOICEBUS_TRANSPORT_HOLD_S": "1.5", "VOICEBUS_TRANSPORT_RING_BYTES": "4096"}

    _, own = load(TransportSettings, environment, {})

    assert (own.hold_s, own.ring_bytes) == (1.5, 4096)


def test_a_variable_that_is_set_but_empty_counts_as_unset() -> None:
    empty = {"VOICEBUS_RUN": "", "VOICEBUS_CONFIG": "", "VOICEBUS_SIMULATOR_PORT": ""}

    assert load(SimulatorSettings, empty, {}) == (CellSettings(), SimulatorSettings())


def test_variables_of_others_are_none_of_our_business() -> None:
    load(SessionSettings, {"VOICE": "x", "PATH": "y", "VOICEBUSY_RUN": "z"}, {})


def test_variables_that_only_supervisord_reads_are_known() -> None:
    load(SessionSettings, {"VOICEBUS_PYTHON": "/usr/bin/python3", "VOICEBUS_SIMULATOR": "true"}, {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[sesion]\n", r"unknown section \[sesion\] \(did you mean session\?\)"),
        ("[session]\nmax_session = 3\n", r"has no max_session \(did you mean max_sessions\?\)"),
        ("[session]\nmax_sessions = 'x'\n", r"max_sessions='x'|\[session\]='x'"),
        ("session = 3\n", r"session must be a section, \[session\]"),
        ("[session\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_nearest_that_exists(
    tmp_path: Path, text: str, told: str
) -> None:
    environment = settings_file(tmp_path, text)

    with pytest.raises(BadSettings, match=told) as refused:
        load(SessionSettings, environment, {})

    assert environment["VOICEBUS_CONFIG"] in str(refused.value)


def test_a_file_that_is_not_there_is_refused_and_says_who_named_it() -> None:
    with pytest.raises(BadSettings, match=r"/nowhere\.toml \(from VOICEBUS_CONFIG\): No such file"):
        load(SessionSettings, {"VOICEBUS_CONFIG": "/nowhere.toml"}, {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadSettings, match="is not TOML"):
        load(SessionSettings, {"VOICEBUS_CONFIG": str(path)}, {})


@pytest.mark.parametrize(
    ("name", "nearby"),
    [
        ("VOICEBUS_RUM", "VOICEBUS_RUN"),
        ("VOICEBUS_TRANSPORT_PROVIDER_UR", "VOICEBUS_TRANSPORT_PROVIDER_URL"),
        ("VOICEBUS_CONFG", "VOICEBUS_CONFIG"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(name: str, nearby: str) -> None:
    with pytest.raises(BadSettings, match=rf"{name} \(did you mean {nearby}\?\)"):
        load(SessionSettings, {name: "1"}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VOICEBUS_SIMULATOR_PORT", "99999"),
        ("VOICEBUS_SIMULATOR_PORT", "-1"),
        ("VOICEBUS_SIMULATOR_PORT", "http"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_variable_and_the_reason(
    name: str, value: str
) -> None:
    with pytest.raises(BadSettings, match=rf"{name}='{value}': Expected `int`"):
        load(SimulatorSettings, {name: value}, {})


def test_a_flag_that_does_not_fit_is_called_by_its_flag() -> None:
    with pytest.raises(BadSettings, match="--memory-mb='much': Expected `int`"):
        load(ToolhostSettings, {}, {"memory_mb": "much"})


@pytest.mark.parametrize("count", ["shards", "transports", "toolhosts"])
def test_there_is_no_cell_without_a_process_of_each_kind(count: str) -> None:
    with pytest.raises(BadSettings, match=f"VOICEBUS_{count.upper()}='0'"):
        load(CellSettings, {f"VOICEBUS_{count.upper()}": "0"}, {})


def test_what_is_near_to_nothing_gets_the_list_of_what_there_is() -> None:
    assert nearest("xyz", ["one", "two"]) == " (known: one, two)"


def test_the_file_that_comes_with_the_package_only_holds_defaults() -> None:
    text = loader.default_file().read_text("utf-8")
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line
        for line in text.splitlines()
    )
    table = msgspec.toml.decode(uncommented)

    assert set(table) == set(SECTIONS)
    for section, values in table.items():
        defaults = msgspec.to_builtins(SECTIONS[section]())
        assert values.items() <= defaults.items(), section


def test_no_two_settings_share_a_variable() -> None:
    names = [
        loader.variable(section, field)
        for section, settings in SECTIONS.items()
        for field in loader.fields_of(settings)
    ]

    assert len(names) == len(set(names))
    assert not set(names) & loader.RESERVED
