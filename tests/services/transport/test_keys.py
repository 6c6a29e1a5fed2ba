from pathlib import Path

from voicebus.services.transport.keys import NoKey, read


def test_the_file_goes_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")

    assert read(str(tmp_path / "key"), {"OPENAI_API_KEY": "from-env"}) == "from-file"
    assert read(None, {"OPENAI_API_KEY": " from-env "}) == "from-env"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    missing = read(str(tmp_path / "none"), {"OPENAI_API_KEY": "x"})
    (tmp_path / "empty").write_text("\n")
    empty = read(str(tmp_path / "empty"), {})
    unset = read(None, {})

    assert isinstance(missing, NoKey)
    assert str(tmp_path / "none") in missing.text
    assert "No such file" in missing.text
    assert isinstance(empty, NoKey)
    assert "empty" in empty.text
    assert isinstance(unset, NoKey)
    assert "OPENAI_API_KEY" in unset.text


def test_a_key_that_cannot_be_one_is_refused_without_being_repeated(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\r\nX-Evil: 1")
    found = read(str(tmp_path / "key"), {})

    assert isinstance(found, NoKey)
    assert "sk-1" not in found.text
