import os
import subprocess

import pytest

from voicebus.services.tools import confine


def test_tools_see_the_usual_variables_and_no_secrets() -> None:
    found = confine.environment(
        {
            "PATH": "/bin",
            "LC_ALL": "C",
            "OPENAI_API_KEY": "sk-1",
            "VOICEBUS_RUN": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "WEATHER_KEY": "z",
        },
        ["WEATHER_KEY"],
    )

    assert found == {"PATH": "/bin", "LC_ALL": "C", "WEATHER_KEY": "z"}


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "VOICEBUS_TRANSPORT_PROVIDER_KEY_FILE"])
def test_a_secret_stays_one_even_when_it_is_asked_for(name: str) -> None:
    assert confine.environment({name: "x"}, [name]) == {}


def test_who_has_ended_does_not_live_even_before_it_is_buried() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

    assert confine.living([os.getpid(), ended.pid]) == [os.getpid()]

    ended.wait()
    assert confine.living([ended.pid]) == []
