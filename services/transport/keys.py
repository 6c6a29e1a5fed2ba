"""The provider's key: read when it is needed, from a file or the environment, never kept."""

from collections.abc import Mapping
from typing import NamedTuple

VARIABLE = "OPENAI_API_KEY"


class NoKey(NamedTuple):
    """There is none. The text says what to set."""

    text: str


def read(key_file: str | None, environment: Mapping[str, str]) -> str | NoKey:
    """The key, from the file if one is named, else from the environment."""
    if key_file is None:
        key = environment.get(VARIABLE, "").strip()
        hint = f"set {VARIABLE}, or provider_key_file in section [transport]"
        where = VARIABLE
    else:
        hint = "put the key into it, mode 0600"
        where = f"the file {key_file}"
        try:
            # A Path for each call would fill Python's table of names, which never shrinks.
            with open(key_file, "rb") as file:
                key = str(file.read(), "utf-8").strip()
        except OSError as error:
            return NoKey(f"no provider key: {where}: {error.strerror}; {hint}")
        except UnicodeDecodeError:
            return NoKey(f"no provider key: {where} is not text; {hint}")
    if not key:
        return NoKey(f"no provider key: {where} is empty or missing; {hint}")
    if not key.isascii() or not key.isprintable() or " " in key:
        return NoKey(f"the provider key in {where} holds characters that no key has; check it")
    return key
