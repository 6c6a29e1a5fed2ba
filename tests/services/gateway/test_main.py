from pathlib import Path
from typing import Any

import pytest

from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway import main
from voicebus.services.runtime import CannotStart

KEY = "0123456789abcdef"


def told(**settings: Any) -> str:
    with pytest.raises(CannotStart) as refused:
        main.check(GatewaySettings(**settings))
    return str(refused.value)


def test_what_is_missing_or_wrong_is_said_before_it_listens(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert "bind is not set" in told()
    assert "key_file" in told(bind="0.0.0.0")
    assert "No such file" in told(bind="0.0.0.0", key_file=str(key))
    key.write_text(KEY)
    key.chmod(0o644)
    assert "chmod 600" in told(bind="0.0.0.0", key_file=str(key))
    key.chmod(0o600)
    key.write_text("short")
    assert "at least 16 characters" in told(bind="0.0.0.0", key_file=str(key))
    assert "is no origin" in told(bind="127.0.0.1", origins="voice.example.org")
    assert "belong together" in told(bind="127.0.0.1", tls_cert="c.pem")
    assert "there is no dance (known: " in told(bind="127.0.0.1", commands="ping dance")
    assert "did you mean voice?" in told(bind="127.0.0.1", config_fields="model voise")
    pem = str(tmp_path / "no.pem")
    assert "tls_cert='" in told(bind="127.0.0.1", tls_cert=pem, tls_key=str(key))
    assert "tls_key='" in told(bind="127.0.0.1", tls_cert=str(key), tls_key=pem)
    assert "No such file" in told(bind="127.0.0.1", session_file=str(tmp_path / "none.toml"))
    key.write_text("= 1")
    assert "is not TOML" in told(bind="127.0.0.1", session_file=str(key))
    key.write_text('instruction = "Be brief."')
    assert "did you mean instructions?" in told(bind="127.0.0.1", session_file=str(key))


def test_what_callers_may_is_read_from_the_settings(tmp_path: Path) -> None:
    key, session = tmp_path / "key", tmp_path / "session.toml"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    session.write_text('instructions = "Be brief."\n')

    policy, allowed = main.check(
        GatewaySettings(
            bind="0.0.0.0",
            key_file=str(key),
            session_file=str(session),
            commands="send_text close",
            config_fields="voice",
        )
    )

    assert policy.key == KEY
    assert allowed.commands == {"send_text", "close"}
    assert allowed.fields == {"voice"}
    assert allowed.fixed == {"instructions": "Be brief."}


def test_the_secret_of_the_tokens_outlives_the_process_and_is_its_owners_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gateway.secret"
    first = main.own_secret(path)

    assert main.own_secret(path) == first
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"cut")
    assert len(main.own_secret(path)) == 32
