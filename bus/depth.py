"""How deep JSON is nested: everybody who hands it on has a stack that ends. Pure."""

from array import array
from itertools import accumulate

DEPTH_LIMIT = 128
"""Of any header."""
VALUE_DEPTH_LIMIT = 100
"""Of what others hand us to be handed on: less, since it travels inside other messages."""

_NEITHER_QUOTE_NOR_BRACKET = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One level in and one out, as signed bytes."""


def is_deep(json: bytes, limit: int) -> bool:
    """Whether valid JSON is nested deeper than this.

    Counting brackets settles it for nearly all messages; for the rest, texts are taken out first.
    """
    if json.count(b"[") + json.count(b"{") <= limit:
        return False
    plain = json.replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a text
    pieces = plain.translate(None, _NEITHER_QUOTE_NOR_BRACKET).replace(b'""', b"").split(b'"')
    steps = array("b", b"".join(pieces[::2]).translate(_STEPS))
    return max(accumulate(steps), default=0) > limit
