"""`python -P -m voicebus.benchmarks [NAME …]`: run benchmarks, print tables, keep the figures."""

import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from voicebus.benchmarks import goals, machine, report
from voicebus.benchmarks.figures import Result
from voicebus.benchmarks.harness import FIRST, QUICK, Broken, Scale, put_first

NAMES = (
    "floor", "stall", "latency", "capacity", "interrupt", "tools", "recovery", "startup",
    "growth", "listeners", "chaos",
)  # fmt: skip
NAMED_ONLY = ("transports", "peers")
"""Measured when asked for: on a machine of two cores the first shows little."""
RESULTS = Path("benchmarks/results")


def main() -> int:
    """Exit code 1 when a benchmark could not be run; a missed goal is no failure."""
    parser = argparse.ArgumentParser(prog="voicebus bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, *NAMED_ONLY, []], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a second of each: do they work?")
    parser.add_argument("--out", type=Path, default=RESULTS / "latest", help="where figures go")
    parser.add_argument("--sessions", type=int, help="the most sessions to try")
    parser.add_argument("--repeats", type=int, help="how often each is measured")
    parser.add_argument("--calls", type=int, help="how many calls under random kills")
    parser.add_argument(
        "--first", action="store_true", help="before other programs of this machine (root, Linux)"
    )
    options = parser.parse_args()
    if options.first:
        os.environ[FIRST] = "1"
        put_first(os.getpid())
    scale = QUICK if options.quick else Scale()
    if options.sessions:
        few = tuple(n for n in scale.sessions if n < options.sessions)
        most = options.sessions
        scale = Scale(**{**vars(scale), "sessions": (*few, most), "most": most})
    if options.repeats:
        scale = Scale(**{**vars(scale), "repeats": options.repeats})
    if options.calls:
        scale = Scale(**{**vars(scale), "calls": options.calls})
    about = {**machine.about(), "before_others": bool(options.first)}
    for name, value in about.items():
        print(f"{name:12} {value}")
    results: dict[str, Result] = {}
    broken = False
    began = time.monotonic()
    for name in options.names or NAMES:
        print(f"\n== {name} ({time.monotonic() - began:.0f} s)", flush=True)
        where = "peers.run" if name == "peers" else name
        module = importlib.import_module(f"voicebus.benchmarks.{where}")
        try:
            results[name] = module.run(scale)
        except Exception as error:
            if not isinstance(error, Broken):
                traceback.print_exc()
            print(f"voicebus bench: {name}: {error}", file=sys.stderr)
            broken = True
            continue
        for table in results[name].tables:
            print("\n" + report.text(table), flush=True)
    figures = {name: value for one in results.values() for name, value in one.figures.items()}
    table = goals.table(figures)
    near = goals.near(figures)
    if near.rows:
        results["near"] = Result([near])
        print("\n" + report.text(near))
    if scale.repeats > 1:
        print("\n" + report.text(report.noise(figures)))
    print("\n" + report.text(table))
    about["took_s"] = round(time.monotonic() - began)
    path = report.save(options.out, about, results, table)
    print(f"figures: {path} ({about['took_s']} s)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
