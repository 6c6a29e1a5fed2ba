from pathlib import Path

import pytest

from voicebus.config.loader import BadSettings
from voicebus.services.tools import settings


def test_the_file_that_comes_with_the_package_is_all_defaults() -> None:
    assert settings.load(None).limits == settings.ToolLimits()


def test_files_and_folders_are_found_from_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "tools.toml"
    file.write_text('[tools]\nmodules = ["a/b.py:c", "pkg.mod"]\npath = ["lib"]\n')

    found = settings.load(file).tools

    assert found.modules == [f"{tmp_path}/a/b.py:c", "pkg.mod"]
    assert found.path == [f"{tmp_path}/lib"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool]\n", "did you mean tools?"),
        ("[limits]\ntimeout = 3\n", "did you mean timeout_s?"),
        ("[limits]\ntimeout_s = 'x'\n", "timeout_s"),
        ("[limits]\ntimeout_s = inf\n", "timeout_s"),
        ("[limits]\ngrace_s = nan\n", "grace_s"),
        ("[limits]\nasync_calls = 0\n", "async_calls"),
        ("[mcp.files]\nurl = 'a'\nconcurrency = 0\n", "concurrency"),
        ("[limits\n", "is not TOML"),
        ("[tools]\nenvironment = ['OPENAI_API_KEY']\n", "OPENAI_API_KEY"),
        ("[secrets]\nA = {file = 'a', tool = ['x']}\n", "did you mean tools?"),
        ("[secrets]\nA = 'a'\n", "Expected `object`"),
        ("[mcp.files]\nprefix = 'a'\n", "needs a command or a url"),
        ("[mcp.files]\ncomand = 'a'\n", "did you mean command?"),
        ("[mcp.files]\ncommand = ' '\n", "[mcp.files] command is empty"),
        ("[mcp.files]\ncommand = 'npx \"x'\n", "cannot be split into words: No closing quot"),
        ("[mcp.files]\nurl = 'localhost:80'\n", "url 'localhost:80' must begin with http://"),
        ("[mcp.files]\nurl = 'http://a'\nenvironment = ['VOICEBUS_RUN']\n", "tools never get"),
        ("[secrets]\nOPENAI_API_KEY = {file = 'a', tools = ['x']}\n", "OPENAI_API_KEY"),
    ],
)
def test_what_does_not_fit_is_named_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tools.toml"
    file.write_text(text)

    with pytest.raises(BadSettings) as refused:
        settings.load(file)

    assert str(file) in str(refused.value)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot read the tool settings"):
        settings.load(tmp_path / "none.toml")


def test_secrets_come_from_files_that_only_their_owner_can_read(tmp_path: Path) -> None:
    (tmp_path / "weather.key").write_text("w-123\n")
    (tmp_path / "weather.key").chmod(0o600)
    file = tmp_path / "tools.toml"
    file.write_text('[secrets]\nWEATHER_KEY = { file = "weather.key", tools = ["a", "b"] }\n')

    found = settings.read_secrets(settings.load(file))

    assert found == {"a": {"WEATHER_KEY": "w-123"}, "b": {"WEATHER_KEY": "w-123"}}


@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [
        (0o640, "x", "others can read .*chmod 600"),
        (0o600, " ", "is empty"),
        (None, "", "cannot read .*No such file"),
    ],
)
def test_a_secret_that_cannot_be_one_is_refused(
    tmp_path: Path, mode: int | None, text: str, said: str
) -> None:
    if mode is not None:
        (tmp_path / "key").write_text(text)
        (tmp_path / "key").chmod(mode)
    file = tmp_path / "tools.toml"
    file.write_text('[secrets]\nKEY = { file = "key", tools = ["a"] }\n')

    with pytest.raises(BadSettings, match=said):
        settings.read_secrets(settings.load(file))
