"""Numbers as they are spoken, and back."""

import re

_SMALL_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS_WORDS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = _SMALL_WORDS.split()
_TENS = _TENS_WORDS.split()
_GROUPS = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_LARGEST = 10**12


def spoken(number: float) -> str:
    """The number in words: 21 is "twenty one", -0.5 is "minus zero point five"."""
    if number < 0:
        return f"minus {spoken(-number)}"
    if number >= _LARGEST or number != number:
        return str(number)
    whole = int(number)
    if number == whole:
        return _whole(whole)
    digits = f"{number:.3f}".rstrip("0").split(".")
    if len(digits) == 1 or not digits[1]:
        return _whole(round(number))
    return f"{_whole(int(digits[0]))} point {' '.join(_SMALL[int(one)] for one in digits[1])}"


def clock(hours: int, minutes: int) -> str:
    """A time of day in words: (14, 5) is "fourteen oh five", (9, 0) is "nine o'clock"."""
    if minutes == 0:
        return f"{spoken(hours)} o'clock"
    filler = "oh " if minutes < 10 else ""
    return f"{spoken(hours)} {filler}{spoken(minutes)}"


def in_words(text: str) -> str:
    """The text with times of day and numbers written as words."""
    text = re.sub(
        r"\b(?:\d{4}-\d\d-\d\d[T ])?(\d{1,2}):(\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?\b",
        lambda found: clock(int(found[1]), int(found[2])),
        text,
    )
    text = re.sub(r"\s*°\s*[CF]?\b", " degrees", text)
    return re.sub(
        r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w|\.\d)", lambda found: spoken(float(found[0])), text
    )


def found_in(text: str) -> list[int | float]:
    """The numbers in a text, in digits or in words, in their order."""
    found: list[int | float] = []
    words = re.findall(r"-?\d+(?:\.\d+)?|[a-z]+", text.lower().replace("-", " "))
    total: int | None = None
    for word in [*words, ""]:
        value = _value(word)
        if re.fullmatch(r"\d+(\.\d+)?", word):
            if total is not None:
                found.append(total)
                total = None
            found.append(float(word) if "." in word else int(word))
        elif value is not None:
            if word in ("hundred", "thousand", "million"):
                total = (total or 1) * value
            elif total is not None and _continues(total, value):
                total += value
            else:
                if total is not None:
                    found.append(total)
                total = value
        elif total is not None and word != "and":
            found.append(total)
            total = None
    return found


def _whole(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_SMALL[ones]}" if ones else "")
    for size, name in _GROUPS:
        if number >= size:
            count, rest = divmod(number, size)
            return f"{_whole(count)} {name}" + (f" {_whole(rest)}" if rest else "")
    raise AssertionError(number)


def _value(word: str) -> int | None:
    if word in _SMALL:
        return _SMALL.index(word)
    if word in _TENS and word != "_":
        return _TENS.index(word) * 10
    return {"hundred": 100, "thousand": 1000, "million": 10**6}.get(word)


def _continues(total: int, value: int) -> bool:
    """True for "twenty" + "one" and "two hundred" + "twelve"."""
    return (total > 9 and total % 10 == 0 and value < 10) or (
        total >= 100 and total % 100 == 0 and value < 100
    )
