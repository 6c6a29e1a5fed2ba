"""No test leaves a journal open: from Python 3.13 on, a database nobody closed is a warning."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicebus.services.session import journal


@pytest.fixture(autouse=True)
def _journals_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[sqlite3.Connection] = []
    connect = journal._connect

    def remembered(path: Path) -> sqlite3.Connection:
        opened.append(connect(path))
        return opened[-1]

    monkeypatch.setattr(journal, "_connect", remembered)
    yield
    for one in opened:
        one.close()
