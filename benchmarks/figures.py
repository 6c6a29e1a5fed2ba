"""Figures: percentiles, tables, and what a benchmark hands back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Ages(NamedTuple):
    """A distribution, in milliseconds."""

    frames: int
    """How many values there are."""
    p50: float
    p99: float
    max: float


def ages(values_ms: Iterable[float]) -> Ages:
    """Median, 99th percentile, and the largest."""
    values = sorted(values_ms)
    if not values:
        return Ages(0, float("nan"), float("nan"), float("nan"))
    return Ages(len(values), percentile(values, 50), percentile(values, 99), values[-1])


def percentile(values: Sequence[float], percent: float) -> float:
    """Of sorted values: the smallest that so many percent do not exceed."""
    return values[max(0, min(len(values) - 1, -(-len(values) * int(percent) // 100) - 1))]


def of_rows(rows: Iterable[tuple[int, int, int]], since_ns: int = 0, until_ns: int = 2**63) -> Ages:
    """Ages of what was made in a stretch of time."""
    return ages((got - made) / 1e6 for made, got, _ in rows if since_ns <= made < until_ns)


@dataclass
class Table:
    """Something to print."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: Any) -> None:
        """One more row."""
        self.rows.append(cells)


@dataclass
class Result:
    """What a benchmark found: tables for people, figures by name for the goals."""

    tables: list[Table] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    """Each name has one value per repetition."""

    def note(self, name: str, value: float) -> None:
        """A figure of one repetition."""
        self.figures.setdefault(name, []).append(value)
