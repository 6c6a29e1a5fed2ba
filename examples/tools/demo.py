"""Example tools: two that answer at once, one that can be interrupted, and four that misbehave.

    voicebus up --tools examples/tools/demo.py

Each runs in a process of its own, so the misbehaving ones cost the caller nothing.
"""

import datetime
import json
import os
import time
import zoneinfo
from pathlib import Path
from typing import Any

from voicebus import Cancelled, ToolContext, tool

WEATHER: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "weather.json").read_text("utf-8")
)


@tool(effects="none", timeout_s=5)
def current_time(timezone: str = "UTC") -> dict[str, str]:
    """Tell the current date and time.

    Args:
        timezone: an IANA name such as Europe/Berlin
    """
    try:
        zone = zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone {timezone!r}; use a name such as Europe/Berlin") from None
    now = datetime.datetime.now(zone)
    return {"time": now.strftime("%H:%M"), "date": now.date().isoformat(), "timezone": timezone}


@tool(effects="none", timeout_s=5)
def get_weather(city: str) -> dict[str, Any]:
    """Look up today's weather in a city; temperatures are in degrees Celsius.

    Args:
        city: the city's English name
    """
    found = WEATHER.get(city.strip().lower())
    if found is None:
        known = ", ".join(one.title() for one in WEATHER)
        raise ValueError(f"no weather for {city!r}; known cities are: {known}")
    return {"city": city.strip().title(), **found}


@tool(effects="none", timeout_s=60)
def search_archive(ctx: ToolContext, query: str, seconds: float = 20.0) -> dict[str, Any]:
    """Search the archive thoroughly, which takes a while; it stops as soon as it is interrupted.

    Args:
        query: what to look for
        seconds: how long the search takes
    """
    began = time.monotonic()
    pages = 0
    tell_at = began
    try:
        while time.monotonic() - began < seconds:
            ctx.check()
            pages += 1
            if time.monotonic() >= tell_at:
                tell_at += 0.5
                ctx.progress(f"searched for {time.monotonic() - began:.1f} of {seconds:g} s")
    except Cancelled:
        _record(ctx, "search_archive", began)
        raise
    return {"query": query, "found": 3, "seconds": round(time.monotonic() - began, 1)}


def _record(ctx: ToolContext, name: str, began: float) -> None:
    """When the tool itself saw that it should stop, in Unix and in monotonic microseconds."""
    seen = {
        "tool": name,
        "call_id": ctx.call_id,
        "seen_us": time.time_ns() // 1000,
        "seen_monotonic_us": time.monotonic_ns() // 1000,
        "ran_ms": round((time.monotonic() - began) * 1000),
    }
    print(json.dumps(seen), flush=True)


@tool(effects="none", timeout_s=60)
def burn_cpu(seconds: float = 2.0) -> dict[str, float]:
    """Keep a core busy with a Python loop.

    Args:
        seconds: for how long
    """
    ends_at = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < ends_at:
        rounds += 1
    return {"seconds": seconds, "rounds": rounds}


@tool(effects="none", timeout_s=60)
def block_gil(seconds: float = 2.0) -> dict[str, float]:
    """Spend the time in one C call that never lets another Python thread run.

    Args:
        seconds: for how long
    """
    began = time.monotonic()
    # One C call, as all(), map() and iter() are C and so is what they call: it looks at the clock
    # until the time is over. A calibrated loop would end early when it was calibrated under load.
    all(map((began + seconds).__gt__, iter(time.monotonic, None)))
    return {"seconds": round(time.monotonic() - began, 2)}


@tool(effects="none", timeout_s=60)
def nap(seconds: float = 2.0) -> dict[str, float]:
    """Sleep without listening to anything.

    Args:
        seconds: for how long
    """
    time.sleep(seconds)
    return {"seconds": seconds}


@tool(effects="none", timeout_s=5)
def crash() -> None:
    """Crash the interpreter."""
    print("about to abort", flush=True)
    os.abort()
