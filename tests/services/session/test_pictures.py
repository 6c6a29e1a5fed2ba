"""The pictures in docs/session.md are what the core does."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_pictures_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("draw_session", DOCS / "draw_session.py")
    assert spec is not None
    assert spec.loader is not None
    draw_session = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw_session)
    page = (DOCS / "session.md").read_text("utf-8")

    assert draw_session.drawn(page) == page, "stale: run python docs/draw_session.py"
