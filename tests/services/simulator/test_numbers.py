"""Numbers as they are spoken, and back."""

import pytest

from voicebus.services.simulator import numbers


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (21, "twenty one"),
        (-4, "minus four"),
        (100, "one hundred"),
        (1999, "one thousand nine hundred ninety nine"),
        (2_000_000, "two million"),
        (21.5, "twenty one point five"),
        (0.05, "zero point zero five"),
        (21.0, "twenty one"),
        (0.9999, "one"),
    ],
)
def test_a_number_is_spoken(number: float, words: str) -> None:
    assert numbers.spoken(number) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("at 14:05", "at fourteen oh five"),
        ("2026-11-23T09:00:00+01:00", "nine o'clock"),
        ("-3.5°C", "minus three point five degrees"),
        ("gpt4 and v2.1 stay", "gpt4 and v2.1 stay"),
        ("10 of 12.", "ten of twelve."),
    ],
)
def test_numbers_in_a_text_become_words(text: str, words: str) -> None:
    assert numbers.in_words(text) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("for twenty five seconds", [25]),
        ("two dice with six sides", [2, 6]),
        ("two hundred and twelve", [212]),
        ("3.5 or 7", [3.5, 7]),
        ("none", []),
    ],
)
def test_numbers_are_found_in_digits_and_words(text: str, found: list[float]) -> None:
    assert numbers.found_in(text) == found


@pytest.mark.parametrize("number", [0, 7, 13, 20, 21, 99, 100, 212, 999])
def test_what_is_spoken_is_found_again(number: int) -> None:
    assert numbers.found_in(numbers.spoken(number)) == [number]
