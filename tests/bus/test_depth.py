import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.depth import is_deep


def nested(levels: int) -> bytes:
    return b'{"a":[' * (levels // 2) + b"[]" * (levels % 2) + b"]}" * (levels // 2)


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_the_limit_is_allowed_and_one_more_is_not(limit: int) -> None:
    assert not is_deep(nested(limit), limit)
    assert is_deep(nested(limit + 1), limit)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500,
        '"' + "[" * 500,
        "\\" + "[{" * 500,
        '\\"' + "[" * 500 + '"',
        '\\\\"[',
        "[\\",
        '"',
        "",
    ],
)
def test_brackets_in_texts_are_no_levels(text: str) -> None:
    many = [{"k" + text: text, "x": [text]}] * 200

    assert not is_deep(json.dumps(many).encode(), 3)
    assert is_deep(json.dumps(many).encode(), 2)


values = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\a', max_size=6) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet='[]{}"\\a', max_size=4), inner, max_size=3)
    ),
)


def depth(value: object) -> int:
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(values, st.integers(0, 8))
def test_it_says_what_counting_says(value: object, limit: int) -> None:
    assert is_deep(json.dumps(value).encode(), limit) is (depth(value) > limit)
