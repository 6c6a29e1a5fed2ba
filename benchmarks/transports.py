"""One transport beside two: the same full-duplex sessions, alternately, in one run."""

from voicebus.benchmarks.capacity import measure
from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import Provider, Scale, cell


def run(scale: Scale) -> Result:
    """The largest number of sessions."""
    table = Table(
        "Transports: the same full-duplex sessions on one and on two",
        (
            "transports",
            "run",
            "sessions",
            "frames",
            "of",
            "out p50 ms",
            "out p99",
            "in p99",
            "busiest transport",
            "transports' cores",
            "session core",
            "generator",
            "client",
        ),
        note="Cores. Generator and client run on the same machine: on two cores a second transport "
        "has to take its share from them, so that this shows what it costs rather than what it "
        "brings.",
    )
    result = Result([table])
    sessions = max(scale.sessions)
    with Provider() as provider, cell(provider) as one, cell(provider, transports="2") as two:
        for run_number in range(scale.repeats):
            for count, stack in ((1, one), (2, two)):
                seen = measure(provider, stack, sessions, scale.seconds)
                carrying = [
                    used for name, used in seen.cores.items() if name.startswith("transport-")
                ]
                table.add(
                    *(count, run_number + 1, sessions, seen.out.frames, seen.made),
                    *(seen.out.p50, seen.out.p99, seen.heard.p99),
                    *(max(carrying), sum(carrying), seen.cores["session-0"]),
                    *(seen.cores["generator"], seen.cores["client"]),
                )
                result.note(f"transports.{count}.p99", seen.out.p99)
                result.note(f"transports.{count}.in.p99", seen.heard.p99)
                result.note(f"transports.{count}.busiest", max(carrying))
                result.note(f"transports.{count}.core", sum(carrying))
    return result
